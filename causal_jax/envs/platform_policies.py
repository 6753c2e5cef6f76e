"""Policies for Platform that learn nothing: the rows beside every table.

Each is `act(key, obs [9]) -> (k, z [1])` for one observation, and reads nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from causal_jax.envs.platform import HOP, RANGES, RUN, Platform, PlatformParams, features
from causal_jax.types import Action, Key

Act = Callable[[Key, jax.Array], Action]

HOP_PER_PIXEL = 2.148  # a hop's parameter per pixel that it carries on average
RUN_UP = 140.0  # pixels from landing to the edge: two runs
ONE_RUN = 70.0  # pixels, the most that a run takes


def policies(env: Platform, params: PlatformParams) -> dict[str, Act]:
    """name -> act(key, obs [9]) -> (k int32 [], z float32 [1]).

    random: uniform actions. scripted: hops over an enemy that is ahead, to land two runs before the edge; runs while there is room; hops as
    far as it can: about nine moves.
    """

    def random(key: Key, obs: jax.Array) -> Action:
        return env.action_space(params).sample(key)

    def scripted(key: Key, obs: jax.Array) -> Action:
        x, _, enemy_x, _, width, next_width, _, left, _ = features(obs)
        room = left + width - x
        ahead, last = enemy_x > x, next_width == 0
        k = jnp.where(ahead | last | (room < ONE_RUN), HOP, RUN).astype(jnp.int32)
        raw = jnp.where(ahead & ~last, HOP_PER_PIXEL * (room - RUN_UP), RANGES[HOP])
        return k, jnp.where(k == HOP, jnp.clip(2 * raw / RANGES[HOP] - 1, -1.0, 1.0), 1.0)[None]

    return {"random": random, "scripted": scripted}
