"""Policies for Goal and Hard Goal that learn nothing: the rows beside every table.

Each is `act(key, obs [17]) -> (k, z [2])` for one observation, and reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from causal_jax.envs.goal import Goal, GoalParams
from causal_jax.types import Action, Key

Act = Callable[[Key, jax.Array], Action]

CORNER = 0.85  # of half the goal's width


def policies(env: Goal, params: GoalParams) -> dict[str, Act]:
    """name -> act(key, obs [17]) -> (k int32 [], z float32 [2]).

    random: uniform actions. shoot: at once, at the corner that the goalie is further from.
    """

    def random(key: Key, obs: jax.Array) -> Action:
        return env.action_space(params).sample(key)

    def shoot(key: Key, obs: jax.Array) -> Action:
        state = env.unscale(obs)
        side = jnp.where(state.goalie_y > 0, -1.0, 1.0)
        if env.hard:  # the outermost parts of the goal line; their middle is +-0.8
            return jnp.where(side < 0, 1, 5).astype(jnp.int32), jnp.stack([-side * (CORNER - 0.8) / 0.2, jnp.zeros(())])
        return jnp.ones((), jnp.int32), jnp.stack([CORNER * side, jnp.zeros(())])

    return {"random": random, "shoot": shoot}
