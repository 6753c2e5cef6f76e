"""Tests of independence on statistics of a fixed size: p-values of contingency tables and of partial correlations. No host callbacks.

Pearson 1900; Fisher 1924. Textbook forms, in float32: p-values are right to about 1e-5, and 0 below 1e-38.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

RIDGE = 1e-5  # added to correlations before they are inverted: variables that determine one another stay finite


def chi_squared(table: Float[Array, "K V W"]) -> Float[Array, ""]:
    """The p of Pearson's test of independence within strata, summed: table [K, V, W] of counts -> []. 1 without degrees of freedom.

    A stratum has (rows that occur - 1)(columns that occur - 1) degrees of freedom. No correction for continuity.
    """
    row, column, total = jnp.sum(table, axis=2), jnp.sum(table, axis=1), jnp.sum(table, axis=(1, 2))
    expected = row[:, :, None] * column[:, None] / jnp.maximum(total, 1.0)[:, None, None]
    statistic = jnp.sum(jnp.where(expected > 0, jnp.square(table - expected) / jnp.where(expected > 0, expected, 1.0), 0.0))
    freedom = jnp.sum(jnp.maximum(jnp.sum(row > 0, axis=1) - 1, 0) * jnp.maximum(jnp.sum(column > 0, axis=1) - 1, 0)).astype(jnp.float32)
    return jnp.where(freedom > 0, jax.scipy.special.gammaincc(jnp.maximum(freedom, 1.0) / 2.0, statistic / 2.0), 1.0)


def partial_correlations(squares: Float[Array, "D D"], number: Float[Array, ""], num_targets: int) -> Float[Array, "T S"]:
    """The p of Fisher's z test that a source and a target are uncorrelated given all other sources, for every pair, [T, S].

    z = atanh(r) sqrt(number - S - 2) is compared with the standard normal, two-sided. 1 where one of the two never varied.
    Args: squares: [S + T, S + T] sums of products of deviations from the mean, the T targets last. number: [] samples behind them.
    """
    size = squares.shape[0] - num_targets
    scale = jnp.sqrt(jnp.diagonal(squares))
    varies = scale > 1e-6 * jnp.maximum(jnp.max(scale), 1e-6)
    scale = jnp.where(varies, scale, 1.0)
    correlation = jnp.where(varies & varies[:, None], squares / scale / scale[:, None], 0.0)
    correlation = jnp.where(jnp.eye(len(scale), dtype=bool), 1.0 + RIDGE, correlation)

    def one(target: jax.Array) -> jax.Array:
        chosen = jnp.concatenate([jnp.arange(size), target[None]])
        precision = jnp.linalg.inv(correlation[chosen][:, chosen])
        r = -precision[-1, :-1] / jnp.sqrt(precision[-1, -1] * jnp.diagonal(precision)[:-1])
        z = jnp.arctanh(jnp.clip(r, -0.999999, 0.999999)) * jnp.sqrt(jnp.maximum(number - size - 2.0, 0.0))
        return jnp.where(varies[target] & varies[:size], jax.scipy.special.erfc(jnp.abs(z) / math.sqrt(2.0)), 1.0)

    return jax.vmap(one)(size + jnp.arange(num_targets))
