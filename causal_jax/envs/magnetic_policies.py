"""Policies for Magnetic that learn nothing: the rows beside every table.

Each is `act(key, obs [11]) -> action [3]` for one observation.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from causal_jax.envs.magnetic import BALL, BOX, EEF, NUM_ACTIONS, TABLE_Z, Magnetic, MagneticParams, attracted, both_red
from causal_jax.types import Key

Act = Callable[[Key, jax.Array], jax.Array]


def policies(env: Magnetic, params: MagneticParams) -> dict[str, Act]:
    """name -> act(key, obs [11]) -> float32 [3] in [-1, 1]; all but random and idle know how far an action moves.

    random: uniform actions. idle: none. chase: straight to where the ball is. lookahead: straight to where the ball will be after this
    step, by the true force law: what a perfect model and a horizon of one are worth. (To plan the whole way, meeting the ball anywhere on
    its path, returned the same: measured, and not kept.)
    """

    def towards(obs: jax.Array, ball: jax.Array) -> jax.Array:
        return jnp.clip((jnp.append(ball, TABLE_Z) - obs[EEF]) / params.action_scale, -1.0, 1.0)

    def after(obs: jax.Array, ball: jax.Array) -> jax.Array:
        return jnp.where(both_red(obs), attracted(ball, obs[BOX], params), ball)

    def random(key: Key, obs: jax.Array) -> jax.Array:
        return env.action_space(params).sample(key)

    def idle(key: Key, obs: jax.Array) -> jax.Array:
        return jnp.zeros(NUM_ACTIONS)

    def chase(key: Key, obs: jax.Array) -> jax.Array:
        return towards(obs, obs[BALL])

    def lookahead(key: Key, obs: jax.Array) -> jax.Array:
        return towards(obs, after(obs, obs[BALL]))

    return {act.__name__: act for act in (random, idle, chase, lookahead)}
