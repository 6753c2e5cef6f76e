"""Pendulum with wind: gym's pendulum, a uniform rod, under a constant horizontal force of its own strength (CCRL, arXiv 2401.18012).

The wind F acts at the middle of the rod: w' = clip(w + dt (3 g / (2 l) sin th + 3 u / (m l^2) + 3 F / (2 m l) cos th), -8, 8),
th' = th + dt w'; th = 0 is upright and grows counter-clockwise, so the wind F > 0 blows to the left of the picture. Constants, reward
-(wrap(th)^2 + 0.1 w^2 + 0.001 u^2) of the state before the step, start th ~ U(-pi, pi), w ~ U(-1, 1) and 200 steps are gym's. At
F = 2 the pendulum stands upright with a torque of 1. sparse: 1 - 0.001 u^2 where cos th > 0.95 and |w| < 1, else -0.001 u^2, from
hanging, th = pi +- 0.1, w = 0. The paper names task and wind; equations, groups and the sparse form are ours.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment, Worlds, draw_worlds
from causal_jax.fields import option
from causal_jax.spaces import Box
from causal_jax.types import Action, Key

DT, MAX_TORQUE, MAX_SPEED = 0.05, 2.0, 8.0
GROUPS = {"three": (-2.0, 0.0, 2.0), "four": (-3.0, -1.0, 1.0, 3.0)}  # winds; at 4 the torque could not hold the pendulum upright


@struct.dataclass
class PendulumState:
    """`theta` [] in radians, not wrapped; `speed` [] in radians a second; `t` int32 []: steps taken."""

    theta: jax.Array
    speed: jax.Array
    t: jax.Array


@struct.dataclass
class PendulumParams:
    """`wind` [] in N, `gravity`, `mass`, `length` []. `max_steps` int32 []."""

    wind: jax.Array
    gravity: jax.Array
    mass: jax.Array
    length: jax.Array
    max_steps: jax.Array


def wrap(angle: jax.Array) -> jax.Array:
    """An angle in [-pi, pi)."""
    return jnp.mod(angle + math.pi, 2 * math.pi) - math.pi


@dataclasses.dataclass(frozen=True)
class PendulumWind(Environment):
    """The environment; obs [3] = (cos th, sin th, w), action [1] = torque u in [-2, 2]. Its arithmetic has the dtype of the params."""

    sparse: bool = False
    """The sparse reward, from hanging."""
    groups: str = option("three", choices=tuple(GROUPS))
    """Which winds `draw_worlds` draws from: -2, 0, 2 or -3, -1, 1, 3."""
    wind: float = option(0.0, above=-4, below=4)
    """Wind of the one world that a single learner lives in, in N."""
    gravity: float = option(10.0, above=0)
    """g, in m / s^2."""
    mass: float = option(1.0, above=0)
    """m, in kg."""
    length: float = option(1.0, above=0)
    """l, in m."""
    spread: float = option(1.0, low=0)
    """Factor on the groups' winds; 0 with jitter 0: identical worlds."""
    jitter: float = option(0.1, low=0)
    """Half width of the uniform scatter within a group, in N."""
    max_steps: int = option(200, low=1)
    """Length of an episode."""

    @property
    def default_params(self) -> PendulumParams:
        """The options as params."""
        floats = {name: jnp.asarray(getattr(self, name), jnp.float32) for name in ("wind", "gravity", "mass", "length")}
        return PendulumParams(**floats, max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def draw_worlds(self, key: Key, params: PendulumParams, num: int) -> Worlds:
        """`num` worlds that differ in wind; see `base.draw_worlds`. The key is consumed."""
        return draw_worlds(key, params, "wind", [self.spread * wind for wind in GROUPS[self.groups]], self.jitter, num)

    def evidence(self, obs: jax.Array, action: Action, next_obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x [4] = obs and torque, y [1] = change of the speed, usable bool []: the speed was not clipped) of one transition."""
        return jnp.concatenate([obs, action]), next_obs[2:] - obs[2:], jnp.abs(next_obs[2]) < MAX_SPEED

    def action_space(self, params: PendulumParams) -> Box:
        """float [1] in [-2, 2]."""
        return Box(-MAX_TORQUE, MAX_TORQUE, (1,))

    def observation_space(self, params: PendulumParams) -> Box:
        """float [3]."""
        high = np.asarray([1.0, 1.0, MAX_SPEED], np.float32)
        return Box(-high, high, (3,))

    def _observe(self, state: PendulumState) -> jax.Array:
        return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.speed])

    def reset_env(self, key: Key, params: PendulumParams) -> tuple[jax.Array, PendulumState]:
        """A start: (obs [3], state). The key is consumed."""
        u = jax.random.uniform(key, (2,), params.wind.dtype, -1.0)
        theta, speed = (math.pi + 0.1 * u[0], 0.0 * u[1]) if self.sparse else (math.pi * u[0], u[1])
        state = PendulumState(theta=theta, speed=speed, t=jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(
        self, key: Key, state: PendulumState, action: Action, params: PendulumParams
    ) -> tuple[jax.Array, PendulumState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs [3], state, reward [], terminated [] False, {"success": upright and slow}). Action float [1].

        Nothing is drawn: the key is not read.
        """
        u, th, w = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE), state.theta, state.speed
        upright = (jnp.cos(th) > 0.95) & (jnp.abs(w) < 1.0)
        effort = 0.001 * jnp.square(u)
        reward = upright - effort if self.sparse else -(jnp.square(wrap(th)) + 0.1 * jnp.square(w) + effort)
        g, m, l = params.gravity, params.mass, params.length
        pull = 1.5 * g / l * jnp.sin(th) + 3.0 * u / (m * l**2) + 1.5 * params.wind / (m * l) * jnp.cos(th)
        speed = jnp.clip(w + DT * pull, -MAX_SPEED, MAX_SPEED)
        state = PendulumState(theta=th + DT * speed, speed=speed, t=state.t + 1)
        return self._observe(state), state, reward, jnp.zeros((), bool), {"success": upright}

    def is_truncated(self, state: PendulumState, params: PendulumParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def render(self, state: PendulumState, params: PendulumParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `worlds_picture.pendulum`. Not jittable."""
        from causal_jax.envs import worlds_picture

        return worlds_picture.pendulum(float(state.theta), float(params.wind), size)


def energy(state: PendulumState, params: PendulumParams) -> jax.Array:
    """Energy [] in J of the rod without wind and torque, 0 at rest at the height of the pivot; kept by the dynamics up to O(dt)."""
    m, l = params.mass, params.length
    return m * l**2 / 6 * jnp.square(state.speed) + m * params.gravity * l / 2 * jnp.cos(state.theta)
