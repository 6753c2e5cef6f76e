"""Worlds of real size that differ: a brax environment whose gravity, masses or friction are the published ones times a factor.

`brax-worlds:<name>` with `vary`, one factor per learner by `draw_worlds`: non-identical worlds for concurrent learners (CCRL, arXiv
2401.18012, has small tasks only; this is ours). The factors are params, so a population of worlds is one program. Gravity scales
brax's gravity vector, mass the mass and inertia of every link, friction the friction of every geom. Factors of 1 are `brax:<name>`.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax.envs.adapters import Brax
from causal_jax.envs.base import Worlds, draw_worlds
from causal_jax.fields import option
from causal_jax.types import Action, Key, Obs


@struct.dataclass
class BraxWorldParams:
    """`gravity`, `mass`, `friction` []: factors on the published values. `max_steps` int32 []."""

    gravity: jax.Array
    mass: jax.Array
    friction: jax.Array
    max_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class BraxWorlds(Brax):
    """A brax environment, one of whose properties differs between worlds."""

    backend: str = option("generalized", choices=("generalized", "spring", "positional"))
    """brax's physics; mjx reads its masses elsewhere and is left out."""
    vary: str = option("gravity", choices=("gravity", "mass", "friction"))
    """What `draw_worlds` varies."""
    factors: tuple[float, ...] = option((0.5, 1.0, 1.5), above=0.0)
    """The groups' factors."""
    jitter: float = option(0.05, low=0.0)
    """Half width of the uniform scatter within a group."""

    @property
    def default_params(self) -> BraxWorldParams:  # type: ignore[override]
        """The published world."""
        one = jnp.ones(())
        return BraxWorldParams(gravity=one, mass=one, friction=one, max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def draw_worlds(self, key: Key, params: BraxWorldParams, num: int) -> Worlds:
        """`num` worlds that differ in `vary`; see `base.draw_worlds`. The key is consumed."""
        return draw_worlds(key, params, self.vary, self.factors, self.jitter, num)

    def evidence(self, obs: Obs, action: Action, next_obs: Obs) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x = obs and action, y = change of the obs, usable bool [] True) of one transition."""
        return jnp.concatenate([obs, action]), next_obs - obs, jnp.ones((), bool)

    def world(self, params: Any) -> Any:
        """The brax environment with this world's physics."""
        env = copy.copy(self.env)
        inertia = env.sys.link.inertia.replace(mass=env.sys.link.inertia.mass * params.mass, i=env.sys.link.inertia.i * params.mass)
        env.sys = env.sys.replace(
            gravity=env.sys.gravity * params.gravity,
            link=env.sys.link.replace(inertia=inertia),
            geom_friction=env.sys.geom_friction * params.friction,
        )
        return env
