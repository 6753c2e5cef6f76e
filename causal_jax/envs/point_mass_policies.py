"""Policies for the point mass that learn nothing: the rows beside every table. Each is `act(key, obs [4]) -> action int [2]`.

Returns over 1000 steps, from 100 recorded starts of the proportional-derivative policy: 715 with 2 levels, 865 with 3, 890 with 5,
890.5 with 9, 890.7 with 17 and 33. Bang-bang pays 0.8 at most per step; beyond 5 levels there is nothing to gain but search.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from causal_jax.envs.point_mass import PointMass, PointMassParams
from causal_jax.types import Key

Act = Callable[[Key, jax.Array], jax.Array]


def policies(env: PointMass, params: PointMassParams) -> dict[str, Act]:
    """name -> act(key, obs [4]) -> int32 [2].

    random: all levels alike. pd: the level nearest to clip(-(40 position + 12 velocity)); it supposes that torques push along the axes,
    which is so in the easy task only.
    """

    def random(key: Key, obs: jax.Array) -> jax.Array:
        return env.action_space(params).sample(key)

    def pd(key: Key, obs: jax.Array) -> jax.Array:
        torque = jnp.clip(-(40.0 * obs[:2] + 12.0 * obs[2:]), -1.0, 1.0)
        return jnp.round((torque + 1.0) * (env.levels - 1) / 2.0).astype(jnp.int32)

    return {act.__name__: act for act in (random, pd)}
