"""Policies for Goal and Hard Goal that learn nothing: the rows beside every table.

Each is `act(key, obs [17]) -> (k, z [2])` for one observation, and reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from causal_jax.envs.goal import Goal, GoalParams
from causal_jax.envs.goal_physics import GOAL_HALF_WIDTH, LENGTH
from causal_jax.types import Action, Key

Act = Callable[[Key, jax.Array], Action]

SPLIT = 3.5  # starts below this y pull upwards
AT_START, AT_FIRST_TARGET = 0.05, 2.7  # x of a player that has not moved, of a ball at its first target
FIRST, SECOND = (1.0, 5.0), (4.0, 1.0)  # where the ball is kicked to, x = y, from a low and from a high start
AIM = 5.0  # |y| of the shot


def policies(env: Goal, params: GoalParams) -> dict[str, Act]:
    """name -> act(key, obs [17]) -> (k int32 [], z float32 [2]).

    random: uniform actions. scripted: two short kicks along the diagonal, which pull the goalie to one side, then a shot across; for the
    variant `authors`.
    """

    def random(key: Key, obs: jax.Array) -> Action:
        return env.action_space(params).sample(key)

    def scripted(key: Key, obs: jax.Array) -> Action:
        state = env.unscale(obs)
        begin, near = state.player_x < AT_START, state.ball_x < AT_FIRST_TARGET
        low = jnp.where(begin, state.player_y < SPLIT, jnp.sin(state.player_o) > 0)
        kick_to = jnp.where(begin, jnp.where(low, *FIRST), jnp.where(low, *SECOND))
        side = jnp.where(low, 1.0, -1.0)
        if env.hard:  # the outermost parts of the goal line, whose z runs backwards
            k, z = jnp.where(low, 5, 1), -side * (AIM / GOAL_HALF_WIDTH - 0.8) / 0.2
        else:
            k, z = jnp.ones((), jnp.int32), side * AIM / GOAL_HALF_WIDTH
        shoot = ~begin & (low != near)
        return jnp.where(shoot, k, 0).astype(jnp.int32), jnp.stack([jnp.where(shoot, z, kick_to / LENGTH - 1), jnp.zeros(())])

    return {"random": random, "scripted": scripted}
