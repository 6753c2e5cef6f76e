"""Policies for Chemical that learn nothing: the rows beside every table.

Each is `act(key, obs) -> action` for one observation, and reads nothing else: a noisy one-hot colour still shows where it is not 0.
The persistence planners suppose that only the object that is set will change. On the published tasks they beat every published number;
under drift they cannot, since what counts there cannot be set. `lookahead` alone knows the mechanisms and the graph in force.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from causal_jax.envs.chemical import Chemical, ChemicalParams, mechanism_probs
from causal_jax.types import Key

Act = Callable[[Key, jax.Array], jax.Array]


def policies(env: Chemical) -> dict[str, Act]:
    """name -> act(key, obs [2 N C + N]) -> int32 []; names as in the reference data (tests/data/chemical_refs.json).

    random: all actions alike. random_nonroot: all that do not set the root. idle: the last object to the colour it has, which changes
    nothing (under drift: nothing is set). goal9: the last object to its target, and idle once it is there. persistence_lowest,
    persistence_random: the lowest, or any, of the unmatched objects that count to its target; goal9 when all match. root0: the root
    to colour 0 in every step, for who knows nothing but which context the tests are about.
    """
    num_objects, num_colours = env.num_objects, env.num_colours
    last = num_objects - 1

    def colours(obs: jax.Array) -> jax.Array:
        return jnp.argmax(jnp.abs(env.read(obs).features), -1).astype(jnp.int32)

    def unmatched(obs: jax.Array) -> jax.Array:
        seen = env.read(obs)
        return seen.match & (colours(obs) != seen.target)

    def to_target(obs: jax.Array, node: jax.Array | int) -> jax.Array:
        return node * num_colours + env.read(obs).target[node]

    def random(key: Key, obs: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, num_objects * num_colours)

    def random_nonroot(key: Key, obs: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), num_colours, num_objects * num_colours)

    def idle(key: Key, obs: jax.Array) -> jax.Array:
        return last * num_colours + colours(obs)[last]

    def goal9(key: Key, obs: jax.Array) -> jax.Array:
        return to_target(obs, last)

    def persistence_lowest(key: Key, obs: jax.Array) -> jax.Array:
        wrong = unmatched(obs)
        return to_target(obs, jnp.where(jnp.any(wrong), jnp.argmax(wrong), last))

    def persistence_random(key: Key, obs: jax.Array) -> jax.Array:
        wrong = unmatched(obs)
        chosen = jnp.argmax(jnp.where(wrong, jax.random.uniform(key, (num_objects,)), -1.0))
        return to_target(obs, jnp.where(jnp.any(wrong), chosen, last))

    def root0(key: Key, obs: jax.Array) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    acts = (random, random_nonroot, idle, goal9, persistence_lowest, persistence_random, root0)
    return {act.__name__: act for act in acts}


def lookahead(env: Chemical, params: ChemicalParams) -> Act:
    """Under drift: the action with the best expected reward in the next step, by the true mechanisms and the graph in force.

    What knowing the causes is worth one step ahead; planning further ahead would be worth more. Without drift the expectation of a step
    has no closed form, and the persistence planner is near the optimum.
    """
    num_objects, num_colours = env.num_objects, env.num_colours

    def act(key: Key, obs: jax.Array) -> jax.Array:
        seen = env.read(obs)
        colours = jnp.argmax(jnp.abs(seen.features), -1).astype(jnp.int32)

        def expected(action: jax.Array) -> jax.Array:
            is_set = (jnp.arange(num_objects) == action // num_colours) & env.settable
            before = jnp.where(is_set, action % num_colours, colours)
            probs = mechanism_probs(params, before, env.parents_in_force(before[0]))
            hits = jnp.take_along_axis(probs, seen.target[:, None], -1)[:, 0]
            return jnp.sum(jnp.where(seen.match, hits, 0.0))

        return jnp.argmax(jax.vmap(expected)(jnp.arange(num_objects * num_colours))).astype(jnp.int32)

    return act
