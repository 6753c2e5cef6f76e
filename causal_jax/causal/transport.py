"""Transport: what a policy is worth in a world that was never visited, by what is believed of the parameter theta in which worlds differ.

CCRL (arXiv 2401.18012, section 3.4): theta is a balancing score. Given theta, a policy's outcome does not depend on which world it was
measured in, if worlds differ by theta alone (its Assumption 1); so V(pi | e*) = sum over theta of V(pi | theta) P(theta | e*), where
V(pi | theta) comes from visited worlds. The paper's formulas could not be had: these are the g-formula (Rosenbaum & Rubin 1983) on a grid
of thetas, and its sampling error. P(theta | e*) comes from a few transitions of e* (`log_likelihood`, `belief`) or from a known
population of worlds (`spread`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Estimate(NamedTuple):
    """value []: estimated mean return, in the returns' unit. error []: its standard error from the episodes, theta's belief taken as exact.

    effective []: how many thetas of the grid carry the belief, 1 / sum of squares: near 1 where e* is known well.
    """

    value: jax.Array
    error: jax.Array
    effective: jax.Array


def log_likelihood(
    theta: Float[Array, "G Q"],
    x: Float[Array, "S D"],
    y: Float[Array, "S E"],
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    noise: float,
) -> Float[Array, "G"]:
    """log P(transitions of e* | theta) for every theta of the grid, up to a constant: y = predict(x, theta) + N(0, noise^2), per row.

    Args: x, y: cause and effect of S transitions. predict: (x [D], theta [Q]) -> [E]. noise: standard deviation, in the unit of y.
    """

    def one(theta: jax.Array) -> jax.Array:
        return -0.5 * jnp.sum(jnp.square((y - jax.vmap(predict, (0, None))(x, theta)) / noise))

    return jax.vmap(one)(theta)


def belief(log_likelihood: Float[Array, "G"], log_prior: Float[Array, "G"] | float = 0.0) -> Float[Array, "G"]:
    """P(theta | e*) over the grid, sums to 1: Bayes' rule with a log prior (0: every theta of the grid alike)."""
    return jax.nn.softmax(log_likelihood + log_prior)


def spread(grid: Float[Array, "G"], theta: Float[Array, "S"]) -> Float[Array, "G"]:
    """P(theta | e*) over a rising grid from draws of theta: each draw falls on its two neighbours, so V is interpolated linearly.

    Draws outside the grid count as its ends: nothing is extrapolated.
    """
    right = jnp.clip(jnp.searchsorted(grid, theta, side="right"), 1, grid.shape[0] - 1)
    share = jnp.clip((theta - grid[right - 1]) / (grid[right] - grid[right - 1]), 0.0, 1.0)
    mass = jnp.zeros_like(grid).at[right].add(share).at[right - 1].add(1.0 - share)
    return mass / theta.shape[0]


def value(returns: Float[Array, "G E"], belief: Float[Array, "G"]) -> Estimate:
    """The policy's value in e*: sum_g belief_g mean_e returns_ge.

    Args: returns: of E >= 2 episodes of the policy under every theta of the grid, float; belief: P(theta | e*), sums to 1.
    """
    variance = jnp.var(returns, axis=1, ddof=1) / returns.shape[1]
    estimate = jnp.sum(belief * jnp.mean(returns, axis=1))
    return Estimate(estimate, jnp.sqrt(jnp.sum(jnp.square(belief) * variance)), 1.0 / jnp.sum(jnp.square(belief)))
