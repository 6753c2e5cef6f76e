"""Gaussian mixtures by expectation maximisation, the number of components by BIC, and how well two clusterings agree.

Full covariances, k-means++ starts, the best of several by likelihood, all in one program of fixed length that vmaps (gmmx, the JAX package
for this, fits with a Python loop that stops when it has converged, so it serves neither under jit nor under vmap). From the same start
the steps are scikit-learn's. Used by CCRL (arXiv 2401.18012) on one theta per agent: 20 points, so covariances have a floor.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causal_jax.types import Key

FLOOR = 1e-2  # of variances, standardised points: with 1e-3, BIC cuts a group of 7 points in two in one of 12 draws, with this in 0 of 60


class Mixture(NamedTuple):
    """weights [K], means [K, D], covariances [K, D, D]; log_likelihood []: the mean over points, before the last step."""

    weights: Float[Array, "K"]
    means: Float[Array, "K D"]
    covariances: Float[Array, "K D D"]
    log_likelihood: Float[Array, ""]


def log_joint(mixture: Mixture, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """log(weight_k N(x_n; mean_k, covariance_k))."""

    def one(weight: jax.Array, mean: jax.Array, covariance: jax.Array) -> jax.Array:
        lower = jnp.linalg.cholesky(covariance)
        white = jax.scipy.linalg.solve_triangular(lower, (x - mean).T, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(lower)))
        return jnp.log(weight) - 0.5 * jnp.sum(jnp.square(white), axis=0) - log_det - 0.5 * x.shape[1] * math.log(2 * math.pi)

    return jax.vmap(one)(mixture.weights, mixture.means, mixture.covariances).T


def responsibilities(mixture: Mixture, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """Probability of every component given the point; rows sum to 1."""
    return jax.nn.softmax(log_joint(mixture, x), axis=1)


def maximise(x: Float[Array, "N D"], r: Float[Array, "N K"], floor: float) -> Mixture:
    """The M step: the mixture that responsibilities r make of x; `floor` is added to the diagonal of the covariances."""
    total = jnp.sum(r, axis=0) + 10 * jnp.finfo(x.dtype).eps
    means = r.T @ x / total[:, None]
    centred = x - means[:, None]
    covariances = jnp.einsum("nk,knd,kne->kde", r, centred, centred) / total[:, None, None] + floor * jnp.eye(x.shape[1], dtype=x.dtype)
    return Mixture(total / jnp.sum(total), means, covariances, jnp.zeros((), x.dtype))


def step(mixture: Mixture, x: Float[Array, "N D"], floor: float) -> Mixture:
    """One step of EM, which never lowers the likelihood (but for the floor)."""
    joint = log_joint(mixture, x)
    likelihood = jnp.mean(jax.scipy.special.logsumexp(joint, axis=1))
    return maximise(x, jax.nn.softmax(joint, axis=1), floor)._replace(log_likelihood=likelihood)


def plus_plus(key: Key, x: Float[Array, "N D"], num: int) -> Float[Array, "K D"]:
    """`num` starting centres, each a point drawn by its squared distance to those before. key: consumed. Source: Arthur 2007."""
    keys = jax.random.split(key, num)
    first = x[jax.random.randint(keys[0], (), 0, x.shape[0])]
    centres = jnp.broadcast_to(first, (num, x.shape[1]))
    for k in range(1, num):
        distance = jnp.min(jnp.sum(jnp.square(x[:, None] - centres[None, :k]), axis=2), axis=1)
        centres = centres.at[k].set(x[jax.random.categorical(keys[k], jnp.log(distance + 1e-12))])
    return centres


def fit(key: Key, x: Float[Array, "N D"], num: int, restarts: int = 10, steps: int = 100, floor: float = FLOOR) -> Mixture:
    """The most likely of `restarts` mixtures of `num` components after `steps` steps each. key: consumed."""

    def one(key: jax.Array) -> Mixture:
        centres = plus_plus(key, x, num)
        near = jnp.argmin(jnp.sum(jnp.square(x[:, None] - centres), axis=2), axis=1)
        start = maximise(x, jax.nn.one_hot(near, num, dtype=x.dtype), floor)
        return jax.lax.fori_loop(0, steps, lambda _, mixture: step(mixture, x, floor), start)

    every = jax.vmap(one)(jax.random.split(key, restarts))
    return jax.tree.map(lambda leaf: leaf[jnp.argmax(every.log_likelihood)], every)


def bic(mixture: Mixture, num_points: int) -> Float[Array, ""]:
    """Bayesian information criterion of a mixture of `num_points` points; smaller is better. Source: Schwarz 1978."""
    num, dim = mixture.means.shape
    freedom = num - 1 + num * dim + num * dim * (dim + 1) // 2
    return -2 * num_points * mixture.log_likelihood + freedom * math.log(num_points)


def assign(key: Key, x: Float[Array, "N D"], num: int, most: int = 6) -> tuple[Float[Array, "N C"], Int[Array, ""]]:
    """Soft clusters of x: (responsibilities, with C = `num` columns, number of components []).

    num 0: the number among 1 .. `most` by BIC, C = `most` columns of which the last are then zero. key: consumed.
    """
    if num:
        return responsibilities(fit(key, x, num), x), jnp.asarray(num, jnp.int32)
    tables, scores = [], []
    for k, key_k in zip(range(1, most + 1), jax.random.split(key, most), strict=True):
        mixture = fit(key_k, x, k)
        tables.append(jnp.pad(responsibilities(mixture, x), ((0, 0), (0, most - k))))
        scores.append(bic(mixture, x.shape[0]))
    best = jnp.argmin(jnp.stack(scores))
    return jnp.stack(tables)[best], (best + 1).astype(jnp.int32)


def adjusted_rand(a: Int[Array, "N"], b: Int[Array, "N"]) -> Float[Array, ""]:
    """Agreement of two labellings beyond chance: 1 the same up to names, 0 as by chance. Labels are in 0 .. N - 1.

    Source: Hubert & Arabie 1985, as scikit-learn's adjusted_rand_score.
    """
    size = a.shape[0]
    table = jax.nn.one_hot(a, size).T @ jax.nn.one_hot(b, size)
    pairs, rows, columns = (jnp.sum(n * (n - 1) / 2) for n in (table, jnp.sum(table, axis=1), jnp.sum(table, axis=0)))
    expected = rows * columns / max(size * (size - 1) / 2, 1)
    most = (rows + columns) / 2
    return jnp.where(most == expected, 1.0, (pairs - expected) / jnp.where(most == expected, 1.0, most - expected))


def rank_correlation(a: Float[Array, "N"], b: Float[Array, "N"]) -> Float[Array, ""]:
    """Spearman's rank correlation of values without ties, in [-1, 1]."""
    ranks = [jnp.argsort(jnp.argsort(v)).astype(jnp.float32) for v in (a, b)]
    x, y = (r - jnp.mean(r) for r in ranks)
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))
