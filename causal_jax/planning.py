"""One planning loop, `plan`: draw plans from a distribution, score them, fit the distribution to the good ones, repeat.

A family of plans is a `Proposal`: `categorical` (discrete actions) and `gaussian` (real ones). How scores become weights is apart:
`elite` makes the loop the cross-entropy method (Rubinstein 1999; FCDL's model_based.py), `soft` makes it MPPI (Williams et al. 2017).
Written for one planning problem; the caller vmaps. Reproduce FCDL's planner: categorical, elite(32), 64 samples, 5 iterations, horizon 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.types import Key

Theta = Any  # a proposal's parameters
Plans = Any  # a pytree with leading axes [P, H]


class Proposal(NamedTuple):
    """A family of plans over H steps.

    sample(key, theta, num) -> plans [num, H, ...]; the key is consumed. fit(theta, plans, weights [num]) -> theta, weights >= 0 with a
    positive sum. mode(theta) -> one plan [H, ...], the likeliest.
    """

    sample: Callable[[Key, Theta, int], Plans]
    fit: Callable[[Theta, Plans, jax.Array], Theta]
    mode: Callable[[Theta], Plans]


def plan(
    key: Key,
    theta: Theta,
    value: Callable[[Plans], jax.Array],
    proposal: Proposal,
    weigh: Callable[[jax.Array], jax.Array],
    *,
    iterations: int,
    samples: int,
) -> tuple[Theta, Plans]:
    """Improve `theta` and return it with its likeliest plan: (theta, plan [H, ...]). The key is consumed.

    Args: theta: where to begin. value: plans [samples, H, ...] -> scores [samples], higher is better. weigh: scores -> weights [samples].
    """

    def body(theta: Theta, key: Key) -> tuple[Theta, None]:
        plans = proposal.sample(key, theta, samples)
        return proposal.fit(theta, plans, weigh(value(plans))), None

    theta, _ = jax.lax.scan(body, theta, jax.random.split(key, iterations))
    return theta, proposal.mode(theta)


def elite(num: int) -> Callable[[jax.Array], jax.Array]:
    """scores [P] -> weights [P]: 1 for the `num` highest, 0 for the rest; of equal scores the first drawn win."""

    def weigh(scores: jax.Array) -> jax.Array:
        best = jax.lax.top_k(scores, num)[1]
        return jnp.zeros(scores.shape).at[best].set(1.0)

    return weigh


def soft(temperature: float | jax.Array) -> Callable[[jax.Array], jax.Array]:
    """scores [P] -> weights [P] proportional to exp(scores / temperature), summing to 1. temperature > 0, in units of the scores."""
    return lambda scores: jax.nn.softmax(scores / temperature)


def uniform_theta(num_choices: int, horizon: int) -> jax.Array:
    """Every choice alike in every step: probabilities [horizon, num_choices]."""
    return jnp.full((horizon, num_choices), 1.0 / num_choices)


def categorical() -> Proposal:
    """Independent choices in each step: theta [H, A] probabilities, plans int32 [P, H]. A choice that no weight chose cannot return."""

    def sample(key: Key, theta: jax.Array, num: int) -> jax.Array:
        # by inverse CDF: one draw instead of A. Below the total, so that a choice of probability 0 is never drawn.
        edges = jnp.cumsum(theta, axis=-1)
        u = jax.random.uniform(key, (num, theta.shape[0], 1)) * edges[:, -1:]
        return jnp.sum(u >= edges[:, :-1], axis=-1).astype(jnp.int32)

    def fit(theta: jax.Array, plans: jax.Array, weights: jax.Array) -> jax.Array:
        chosen = jax.nn.one_hot(plans, theta.shape[-1])
        return jnp.einsum("p,pha->ha", weights / jnp.sum(weights), chosen)

    return Proposal(sample, fit, lambda theta: jnp.argmax(theta, axis=-1).astype(jnp.int32))


class Normal(NamedTuple):
    """theta of `gaussian`: mean and std, both [H, D], in units of the action."""

    mean: jax.Array
    std: jax.Array


def gaussian(low: jax.Array | float = -jnp.inf, high: jax.Array | float = jnp.inf, least_std: float = 0.0) -> Proposal:
    """Independent normal actions, clipped to [low, high] (scalars or [D]): theta a `Normal`, plans float [P, H, D].

    least_std: floor of a fitted standard deviation, so that the search does not stop early.
    """

    def sample(key: Key, theta: Normal, num: int) -> jax.Array:
        noise = jax.random.normal(key, (num, *theta.mean.shape))
        return jnp.clip(theta.mean + theta.std * noise, low, high)

    def fit(theta: Normal, plans: jax.Array, weights: jax.Array) -> Normal:
        share = weights / jnp.sum(weights)
        mean = jnp.einsum("p,phd->hd", share, plans)
        variance = jnp.einsum("p,phd->hd", share, jnp.square(plans - mean))
        return Normal(mean, jnp.maximum(jnp.sqrt(variance), least_std))

    return Proposal(sample, fit, lambda theta: jnp.clip(theta.mean, low, high))
