"""One planning loop, `plan`: draw plans from a distribution, score them, fit the distribution to the good ones, repeat.

A family of plans is a `Proposal`: `categorical` (discrete actions), `gaussian` (real ones); those for hybrid actions are in
hybrid_planning.py. How scores become weights is apart: `elite` makes the loop the cross-entropy method (Rubinstein 1999; FCDL's
model_based.py), `soft` makes it MPPI (Williams et al. 2017), `soft_elite` is what TD-MPC and DLPA make of both (Hansen et al. 2022).
Written for one planning problem; the caller vmaps. Reproduce FCDL's planner: categorical, elite(32), 64 samples, 5 iterations, horizon 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.noise import standard_normal
from causal_jax.types import Key

Theta = Any  # a proposal's parameters
Plans = Any  # a pytree with leading axes [P, H]
FEW = 64  # choices that are drawn by comparing with every edge


class Proposal(NamedTuple):
    """A family of plans over H steps.

    sample(key, theta, num) -> plans [num, H, ...]; the key is consumed. fit(theta, plans, weights [num]) -> theta, weights >= 0 with a
    positive sum. mode(theta) -> one plan [H, ...], the likeliest.
    """

    sample: Callable[[Key, Theta, int], Plans]
    fit: Callable[[Theta, Plans, jax.Array], Theta]
    mode: Callable[[Theta], Plans]


class Iterations(NamedTuple):
    """What each iteration learned from, E plans out of those it drew: plans [I, E, H, ...], their scores and weights [I, E]."""

    plans: Plans
    scores: jax.Array
    weights: jax.Array


def plan(
    key: Key,
    theta: Theta,
    value: Callable[[Key, Plans], jax.Array],
    proposal: Proposal,
    weigh: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    *,
    iterations: int,
    samples: int,
) -> tuple[Theta, Iterations]:
    """Improve `theta`; returns it with what the iterations were fitted to. The key is consumed.

    Args: theta: where to begin. value: (key, plans [samples, H, ...]) -> scores [samples], higher is better; the key may be consumed.
      weigh: scores [samples] -> (rows int [E], weights [E]), the plans to fit to.
    """

    def body(theta: Theta, key: Key) -> tuple[Theta, Iterations]:
        key_sample, key_value = jax.random.split(key)
        plans = proposal.sample(key_sample, theta, samples)
        scores = value(key_value, plans)
        rows, weights = weigh(scores)
        plans = jax.tree.map(lambda x: x[rows], plans)
        return proposal.fit(theta, plans, weights), Iterations(plans, scores[rows], weights)

    return jax.lax.scan(body, theta, jax.random.split(key, iterations))


def elite(num: int) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """scores [P] -> (rows [num], weights [num]): the `num` highest, weight 1 each; of equal scores the first drawn win."""
    return lambda scores: (jax.lax.top_k(scores, num)[1], jnp.ones(num))


def soft(temperature: float | jax.Array) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """scores [P] -> (all rows, weights [P] proportional to exp(scores / temperature), sum 1). temperature > 0, in units of the scores."""
    return lambda scores: (jnp.arange(scores.shape[0]), jax.nn.softmax(scores / temperature))


def soft_elite(num: int, sharpness: float | jax.Array) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """scores [P] -> (rows [num], weights [num]): the `num` highest, best first, with exp(sharpness * (score - best)); the best weighs 1."""

    def weigh(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        best, rows = jax.lax.top_k(scores, num)
        return rows, jnp.exp(sharpness * (best - best[0]))

    return weigh


def draw(key: Key, probs: jax.Array, num: int) -> jax.Array:
    """`num` draws from every row of probs [H, A] (need not sum to 1): int32 [num, H], none of probability 0. The key is consumed.

    By inverse CDF, one uniform number a draw; many choices are searched by bisection.
    """
    edges = jnp.cumsum(probs, axis=-1)
    u = jax.random.uniform(key, (num, probs.shape[0])) * edges[:, -1]  # below the total: what has probability 0 is never drawn
    if probs.shape[-1] <= FEW:
        return jnp.sum(u[..., None] >= edges[:, :-1], axis=-1).astype(jnp.int32)
    search = jax.vmap(lambda edges, u: jnp.searchsorted(edges, u, side="right", method="scan_unrolled"), (0, 1), 1)
    return search(edges[:, :-1], u).astype(jnp.int32)


def uniform_theta(num_choices: int, horizon: int) -> jax.Array:
    """Every choice alike in every step: probabilities [horizon, num_choices]."""
    return jnp.full((horizon, num_choices), 1.0 / num_choices)


def categorical() -> Proposal:
    """Independent choices in each step: theta [H, A] probabilities, plans int32 [P, H]. A choice that no weight chose cannot return."""

    def fit(theta: jax.Array, plans: jax.Array, weights: jax.Array) -> jax.Array:
        chosen = jax.nn.one_hot(plans, theta.shape[-1])
        return jnp.einsum("p,pha->ha", weights / jnp.sum(weights), chosen)

    return Proposal(draw, fit, lambda theta: jnp.argmax(theta, axis=-1).astype(jnp.int32))


class Normal(NamedTuple):
    """theta of `gaussian`: mean and std, both [H, D], in units of the action."""

    mean: jax.Array
    std: jax.Array


def gaussian(low: jax.Array | float = -jnp.inf, high: jax.Array | float = jnp.inf, least_std: float = 0.0) -> Proposal:
    """Independent normal actions, clipped to [low, high] (scalars or [D]): theta a `Normal`, plans float [P, H, D].

    least_std: floor of a fitted standard deviation, so that the search does not stop early.
    """

    def sample(key: Key, theta: Normal, num: int) -> jax.Array:
        noise = standard_normal(key, (num, *theta.mean.shape))
        return jnp.clip(theta.mean + theta.std * noise, low, high)

    def fit(theta: Normal, plans: jax.Array, weights: jax.Array) -> Normal:
        share = weights / jnp.sum(weights)
        mean = jnp.einsum("p,phd->hd", share, plans)
        variance = jnp.einsum("p,phd->hd", share, jnp.square(plans - mean))
        return Normal(mean, jnp.maximum(jnp.sqrt(variance), least_std))

    return Proposal(sample, fit, lambda theta: jnp.clip(theta.mean, low, high))
