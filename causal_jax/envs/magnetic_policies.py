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

    random: uniform actions. idle: none. chase: straight to where the ball is. one_step: straight to where the ball will be after this step,
    by the true force law: what a perfect model and a horizon of one are worth. lookahead: to the first place on the ball's path, by the
    true force law, where the end effector can be in time.
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

    def one_step(key: Key, obs: jax.Array) -> jax.Array:
        return towards(obs, after(obs, obs[BALL]))

    def lookahead(key: Key, obs: jax.Array) -> jax.Array:
        def ahead(ball: jax.Array, t: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            ball = after(obs, ball)
            in_time = jnp.max(jnp.abs(jnp.append(ball, TABLE_Z) - obs[EEF])) <= params.action_scale * (t + 1)
            return ball, (ball, in_time)

        last, (path, in_time) = jax.lax.scan(ahead, obs[BALL], jnp.arange(env.max_steps))
        return towards(obs, jnp.where(jnp.any(in_time), path[jnp.argmax(in_time)], last))

    return {act.__name__: act for act in (random, idle, chase, one_step, lookahead)}
