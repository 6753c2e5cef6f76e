"""Policies for both sepsis simulators that learn nothing: the rows beside every table. Each is `act(key, obs [D]) -> action int [K]`.

Exact values of the simulator at gamma 0.99 without a time limit: random -0.7591, untreated -0.7292, all treatments -0.1261, optimal 0.7363;
of ICU-Sepsis at gamma 1: random 0.7801, untreated 0.7824, the shipped expert 0.7818, optimal 0.8751.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.envs.icu_sepsis import ICUSepsis
from causal_jax.envs.sepsis import SIZES, SepsisSim, icu_sepsis_mdp
from causal_jax.mdp import Array
from causal_jax.types import Key

Act = Callable[[Key, jax.Array], jax.Array]


def state_index(env: SepsisSim | ICUSepsis, params: Any, obs: jax.Array) -> jax.Array:
    """int32 []: the row of the exact tables that an observation [D] is of."""
    if isinstance(env, SepsisSim):
        ends = np.cumsum(SIZES)[:-1]
        values = jnp.stack([jnp.argmax(part) for part in jnp.split(obs, ends)])
        return env.index(values)
    return jnp.argmin(jnp.sum((params.features - obs) ** 2, axis=-1)).astype(jnp.int32)


def follow(env: SepsisSim | ICUSepsis, params: Any, policy: Array) -> Act:
    """The policy of a table: joint actions int [S], or probabilities of them [S, A], over the states of the exact tables."""
    levels, table = jnp.asarray(env.blocks.levels, jnp.int32), jnp.asarray(policy)

    def act(key: Key, obs: jax.Array) -> jax.Array:
        row = table[state_index(env, params, obs)]
        return levels[row if table.ndim == 1 else jax.random.categorical(key, jnp.log(row))]

    return act


def policies(env: SepsisSim | ICUSepsis, params: Any) -> dict[str, Act]:
    """name -> act(key, obs [D]) -> int32 [K].

    random: all levels alike. untreated: no-ops. treated (simulator): everything on. expert (ICU-Sepsis): the policy that is shipped with
    it. The optimal one: `follow` what `algorithms.tabular.value_iteration` finds.
    """
    noop, full = (jnp.asarray(x, jnp.int32) for x in (env.noop, [size - 1 for size in env.blocks.sizes]))
    found: dict[str, Act] = {"random": lambda key, obs: env.action_space(params).sample(key), "untreated": lambda key, obs: noop}
    if isinstance(env, SepsisSim):
        return {**found, "treated": lambda key, obs: full}
    expert = icu_sepsis_mdp(env.inadmissible).expert
    assert expert is not None
    return {**found, "expert": follow(env, params, expert)}
