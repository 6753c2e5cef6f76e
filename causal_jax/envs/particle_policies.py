"""Policies for Catch Point and Hard Move that learn nothing: the rows beside every table.

Each is `act(key, obs) -> (k, z [1])` for one observation, and reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.envs.particle import CATCH, DT, KEPT, MOVE, NEAR, CatchPoint, HardMove, ParticleParams
from causal_jax.types import Action, Key

Act = Callable[[Key, jax.Array], Action]


def policies(env: CatchPoint | HardMove, params: ParticleParams) -> dict[str, Act]:
    """name -> act(key, obs) -> (k int32 [], z float32 [1]).

    random: uniform actions. straight: full force towards the target, whatever the speed; Catch Point: catches as soon as drifting for one
    step ends near enough, Hard Move: all actuators on that point at the target rather than away from it.
    """

    def random(key: Key, obs: jax.Array) -> Action:
        return env.action_space(params).sample(key)

    def catch_straight(key: Key, obs: jax.Array) -> Action:
        speed, offset = obs[:2], obs[2:4]
        caught = jnp.sum((offset - DT * KEPT * speed) ** 2) <= NEAR
        angle = jnp.arctan2(offset[0], offset[1]) / np.pi
        return jnp.where(caught, CATCH, MOVE).astype(jnp.int32), jnp.where(caught, 0.0, angle)[None]

    def move_straight(key: Key, obs: jax.Array) -> Action:
        assert isinstance(env, HardMove)
        on = jnp.asarray(env.actuators, jnp.float32) @ obs[2:4] > 0
        return jnp.sum(on * 2 ** np.arange(env.n - 1, -1, -1)).astype(jnp.int32), jnp.ones(1)

    return {"random": random, "straight": catch_straight if isinstance(env, CatchPoint) else move_straight}
