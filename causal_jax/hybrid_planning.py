"""Proposals for plans of hybrid actions: which discrete action k in each step, and which parameters z go with it.

DLPA (arXiv 2404.03037; its authors' DLPA.py): every action has normals of its own for its parameters, fitted to the elites that chose it.
`table` is that planner: probabilities [H, K] and normals for all parameters of all actions. `joint` is its ablation, one set of normals
whatever the action; `uniform` is random shooting. `sampled` is ours, for up to 2^16 actions and more: nothing of it has an axis of K.
Of all parameters only those of the drawn action are drawn; the authors draw all and look at the same. Actions live in the unit box,
z in [-1, 1]; normals start at mean 0 and deviation START_STD and are clipped, so 62% of the first draws lie on a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.noise import standard_normal
from causal_jax.planning import Proposal, draw
from causal_jax.spaces import Hybrid
from causal_jax.types import Key

START_STD = 2.0
TINY = 1e-18  # what the authors' two constants of 1e-9 amount to together
PROPOSALS = ("table", "joint", "sampled", "uniform")

Plans = tuple[jax.Array, jax.Array]  # (k int32 [P, H], z float [P, H, Z]), zero padded


class Table(NamedTuple):
    """theta of `table`: probs [H, K]; mean and std [H, C] of all parameters side by side, C = sum(sizes). `joint`: C = Z, shared."""

    probs: jax.Array
    mean: jax.Array
    std: jax.Array


class Atoms(NamedTuple):
    """theta of `sampled`: the elites' actions in each step, k int32 [H, E] with probabilities [H, E] (sum `share` or 0), the mean and std

    [H, E, Z] of the parameters of each, and bits [H, B], how often each binary digit of k is 1.
    """

    k: jax.Array
    probs: jax.Array
    mean: jax.Array
    std: jax.Array
    bits: jax.Array


class HybridProposal(NamedTuple):
    """A Proposal with where a plan starts: `start` theta, `shift(theta)` one step on, with the deviations of `start` (warm start)."""

    proposal: Proposal
    start: Any
    shift: Callable[[Any], Any]


def spread(plans: Plans, weights: jax.Array, k: jax.Array) -> jax.Array:
    """Weighted deviation [Z] of the first parameters of the plans that begin with action k []: plans [E, H, ...], weights [E]."""
    weight = jnp.where(plans[0][:, 0] == k, weights, 0.0)[:, None]
    first, total = plans[1][:, 0], jnp.sum(weight) + TINY
    mean = jnp.sum(weight * first, axis=0) / total
    return jnp.sqrt(jnp.sum(weight * jnp.square(first - mean), axis=0) / total)


def _shifted(start: Any, kept: tuple[str, ...]) -> Callable[[Any], Any]:
    """Move the named fields one step on, the last step as at the start; the other fields as at the start."""

    def shift(theta: Any) -> Any:
        on = {name: jnp.concatenate([getattr(theta, name)[1:], getattr(start, name)[-1:]]) for name in kept}
        return start._replace(**on)

    return shift


def table(space: Hybrid, horizon: int, momentum: float = 0.1, least_std: float = 0.0, joint: bool = False) -> HybridProposal:
    """A distribution over the actions of each step, and normals for every action's parameters (joint: one for all actions).

    fit: the weighted share of every action among the elites; mean and deviation of an action's parameters over the elites that chose it,
    unchanged where none did. Then theta keeps `momentum` of what it was. least_std: floor of a fitted deviation (the authors have none);
    `spread`, of which the noise of training is made, does not know it.
    """
    num, width = space.n, space.num_parameters
    columns = width if joint else space.num_all

    def slots(k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(column int [..., Z], exists [..., Z])."""
        index, exists = space.slots(k)
        return (jnp.broadcast_to(jnp.arange(width), index.shape), exists) if joint else (index, exists)

    def of(values: jax.Array, index: jax.Array) -> jax.Array:
        """values [H, C] at index [P, H, Z]."""
        return jax.vmap(lambda row, at: row[at], (0, 1), 1)(values, index)

    def sample(key: Key, theta: Table, count: int) -> Plans:
        key_k, key_z = jax.random.split(key)
        k = draw(key_k, theta.probs, count)
        index, exists = slots(k)
        z = of(theta.mean, index) + of(theta.std, index) * standard_normal(key_z, index.shape)
        return k, jnp.where(exists, jnp.clip(z, -1.0, 1.0), 0.0)

    def fit(theta: Table, plans: Plans, weights: jax.Array) -> Table:
        k, z = plans
        step = jnp.arange(horizon)
        index, exists = slots(k)
        cell = jnp.where(exists, step[:, None] * columns + index, horizon * columns)  # [E, H, Z], the last one for no parameter

        def total(x: jax.Array) -> jax.Array:
            x = jnp.broadcast_to(x, cell.shape)
            return jax.ops.segment_sum(x.ravel(), cell.ravel(), horizon * columns + 1)[:-1].reshape(horizon, columns)

        share = jnp.broadcast_to((weights / jnp.sum(weights))[:, None], k.shape)
        probs = jax.ops.segment_sum(share.ravel(), (step * num + k).ravel(), horizon * num).reshape(horizon, num)
        weight = weights[:, None, None]
        mass, chosen = total(weight) + TINY, total(jnp.ones(())) > 0
        mean = total(weight * z) / mass
        std = jnp.sqrt(total(weight * jnp.square(z - of(mean, index))) / mass)
        fitted = Table(
            probs, jnp.where(chosen, mean, theta.mean), jnp.where(chosen, jnp.maximum(std, least_std), theta.std)
        )  # fmt: skip
        return jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, theta, fitted)

    def mode(theta: Table) -> Plans:
        k = jnp.argmax(theta.probs, axis=-1).astype(jnp.int32)
        index, exists = slots(k)
        return k, jnp.where(exists, jnp.clip(jnp.take_along_axis(theta.mean, index, axis=-1), -1.0, 1.0), 0.0)

    shape = (horizon, columns)
    start = Table(jnp.full((horizon, num), 1.0 / num), jnp.zeros(shape), jnp.full(shape, START_STD))
    return HybridProposal(Proposal(sample, fit, mode), start, _shifted(start, ("probs", "mean")))


def sampled(space: Hybrid, horizon: int, elites: int, momentum: float = 0.1, least_std: float = 0.0) -> HybridProposal:
    """The same idea without a table: each step's distribution lives on the elites' own actions, at a price that K does not enter.

    With probability 1 - momentum an action is one of the last elites' (by weight), with parameters from the normal of the elites that
    chose the same action in this step, smoothed with what that action had before (its start, if it was no elite's). Else, and in the first
    iteration always, it is new: half the time every action alike, half the time its binary digits are drawn one by one, as often 1 as in
    the elites (modulo K: where K is no power of 2 some actions come from two numbers). Where digits mean something, such as actuators,
    that joins good ones; where not, it is a mutation. The parameters of a new action are drawn as at the start. Unlike `table` no action
    is ever locked out. fit must be given `elites` plans.
    """
    width, digits = space.num_parameters, max(1, math.ceil(math.log2(space.n)))
    place = jnp.arange(digits)

    def sample(key: Key, theta: Atoms, count: int) -> Plans:
        key_atom, key_source, key_bits, key_z, key_fair = jax.random.split(key, 5)
        source = jax.random.uniform(key_source, (count, horizon, 2))
        atom = draw(key_atom, theta.probs, count)  # [P, H]
        bits = jax.random.uniform(key_bits, (count, horizon, digits)) < theta.bits
        joined = jnp.sum(bits << place, axis=-1).astype(jnp.int32) % space.n
        fair = jax.random.randint(key_fair, (count, horizon), 0, space.n, dtype=jnp.int32)
        fresh = jnp.where(source[..., 1] < 0.5, fair, joined)
        known = source[..., 0] < jnp.sum(theta.probs, axis=-1)
        of = jax.vmap(lambda row, at: row[at], (0, 1), 1)  # [H, E, ...] at [P, H]
        k = jnp.where(known, of(theta.k, atom), fresh)
        mean = jnp.where(known[..., None], of(theta.mean, atom), 0.0)
        std = jnp.where(known[..., None], of(theta.std, atom), START_STD)
        z = jnp.clip(mean + std * standard_normal(key_z, mean.shape), -1.0, 1.0)
        return k, jnp.where(space.slots(k)[1], z, 0.0)

    def fit(theta: Atoms, plans: Plans, weights: jax.Array) -> Atoms:
        share = weights / jnp.sum(weights)

        def step(old: Atoms, k: jax.Array, z: jax.Array) -> Atoms:  # one step: k [E], z [E, Z]
            same = jnp.where(k[:, None] == k, weights, 0.0)  # [E, E]
            total = jnp.sum(same, axis=-1, keepdims=True) + TINY
            mean = same @ z / total
            std = jnp.sqrt(jnp.sum(same[..., None] * jnp.square(z[None] - mean[:, None]), axis=1) / total)
            match = k[:, None] == old.k
            before, known = jnp.argmax(match, axis=-1), jnp.any(match & (old.probs > 0), axis=-1)[:, None]
            mean = momentum * jnp.where(known, old.mean[before], 0.0) + (1.0 - momentum) * mean
            std = momentum * jnp.where(known, old.std[before], START_STD) + (1.0 - momentum) * jnp.maximum(std, least_std)
            bits = share @ (k[:, None] >> place & 1)
            return Atoms(k, (1.0 - momentum) * share, mean, std, momentum * old.bits + (1.0 - momentum) * bits)

        return jax.vmap(step, (0, 1, 1))(theta, plans[0], plans[1])

    def mode(theta: Atoms) -> Plans:
        best = jnp.argmax(theta.probs, axis=-1)
        k = jnp.take_along_axis(theta.k, best[:, None], axis=1)[:, 0]
        return k, jnp.where(space.slots(k)[1], jnp.clip(theta.mean[jnp.arange(horizon), best], -1.0, 1.0), 0.0)

    shape = (horizon, elites)
    empty, normals = jnp.zeros(shape), jnp.zeros((*shape, width))
    start = Atoms(jnp.zeros(shape, jnp.int32), empty, normals, normals + START_STD, jnp.full((horizon, digits), 0.5))
    return HybridProposal(Proposal(sample, fit, mode), start, _shifted(start, ("k", "probs", "mean", "bits")))


def uniform(space: Hybrid, horizon: int) -> HybridProposal:
    """Random shooting: actions and parameters drawn evenly, nothing is fitted. theta is empty; it has no mode to speak of."""

    def sample(key: Key, theta: tuple[()], count: int) -> Plans:
        key_k, key_z = jax.random.split(key)
        k = jax.random.randint(key_k, (count, horizon), 0, space.n, dtype=jnp.int32)
        z = jax.random.uniform(key_z, (count, horizon, space.num_parameters), minval=-1.0)
        return k, jnp.where(space.slots(k)[1], z, 0.0)

    def mode(theta: tuple[()]) -> Plans:
        return jnp.zeros(horizon, jnp.int32), jnp.zeros((horizon, space.num_parameters))

    return HybridProposal(Proposal(sample, lambda theta, plans, weights: theta, mode), (), lambda theta: theta)


def proposal_of(space: Hybrid, config: Any, momentum: Any) -> HybridProposal:
    """The distribution of plans that a config names (its proposal, horizon, num_elites and least_std; see dlpa.Config)."""
    if config.proposal == "uniform":
        return uniform(space, config.horizon)
    if config.proposal == "sampled":
        return sampled(space, config.horizon, config.num_elites, momentum, config.least_std)
    return table(space, config.horizon, momentum, config.least_std, config.proposal == "joint")
