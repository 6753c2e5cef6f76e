"""Point mass of the DeepMind Control suite (Tassa et al. 2018), in closed form: two torques, each one of `levels` values.

A mass of 0.3 kg slides in a square and is to rest on a target of radius 0.015 m in its middle. Every control step of 0.02 s is one
implicit Euler step of MuJoCo: v' = v + 0.02 (0.1 u - v) / 0.32 = 0.9375 v + 0.00625 u, x' = x + 0.02 v', u in [-1, 1]^2. The reward is
read after the step: near (ctrl + 4) / 5, near = 1 on the target and 10^-((d - 0.015) / 0.015)^2 outside, ctrl = mean(1 - u^2). An episode
is 1000 steps long and none ends earlier: a time limit, to be bootstrapped through. The observation is [x, y, vx, vy].

`hard` is the suite's task of that name: what a torque pushes at is a random direction, drawn anew for every episode and not observed. The
two directions are then no longer the axes, so both torques move both coordinates: blocks that interact, a negative control for AD-RL.
Departures from MuJoCo (recorded trajectories: tests/data/point_mass.npz): away from the walls none but float32. The walls are soft limits
there; here the mass stops at 0.29 m and loses its outward velocity (a step differs by 2 mm at most, where the reward is 0). The suite draws
the second direction until it is not too parallel to the first; here its angle is drawn from the same distribution at once.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.causal.intervention import Blocks
from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.spaces import Box, Factored
from causal_jax.types import Action, Key, UserError

DT = 0.02  # seconds a step
MASS, DAMPING, GEAR = 0.3, 1.0, 0.1
MAX_COSINE = 0.9  # of the angle between the two directions of the hard task

_GROUND, _LINE, _WALL, _TARGET, _MASS, _TRAIL = (
    (238, 240, 243),
    (222, 226, 231),
    (120, 126, 134),
    (60, 170, 80),
    (215, 50, 45),
    (38, 110, 196),
)


@struct.dataclass
class PointMassState:
    """`pos`, `vel` float32 [2] in m, m/s; `t` int32 []: steps taken; `gains` [2, 2], row = torque (hard task only, else None)."""

    pos: jax.Array
    vel: jax.Array
    t: jax.Array
    gains: jax.Array | None


@struct.dataclass
class PointMassParams:
    """One world, all scalars."""

    decay: jax.Array  # share of the velocity that is left after a step
    push: jax.Array  # m/s: what a torque of 1 adds to the velocity in a step
    wall: jax.Array  # m: |x|, |y| are at most this
    target: jax.Array  # m: radius of the target
    max_steps: jax.Array  # int32


def reward(pos: jax.Array, torque: jax.Array, target: jax.Array | float = 0.015) -> jax.Array:
    """Reward [] in [0, 1] of being at `pos` [2] (m, after the step) having applied `torque` [2] in [-1, 1]. Source: dm_control."""
    distance = jnp.sqrt(jnp.sum(pos**2))
    near = jnp.where(distance <= target, 1.0, jnp.exp(-math.log(10.0) * ((distance - target) / target) ** 2))
    return near * (jnp.mean(1.0 - torque**2) + 4.0) / 5.0


@dataclasses.dataclass(frozen=True)
class PointMass(Environment):
    """The environment. The action is int [2], one of `levels` torques per axis; the observation float32 [4]."""

    costly_reset = True

    levels: int = option(9, low=2, high=1001)
    """Torques per axis, evenly from -1 to 1; an odd number has 0 among them."""
    hard: bool = False
    """The directions that the torques push at are drawn for every episode."""
    max_steps: int = option(1000, low=1)
    """Time limit in steps; no episode ends earlier."""

    @property
    def default_params(self) -> PointMassParams:
        """The suite's world."""
        inertia = MASS + DT * DAMPING  # damping is implicit
        return PointMassParams(
            decay=jnp.float32(1 - DT * DAMPING / inertia),
            push=jnp.float32(DT * GEAR / inertia),
            wall=jnp.float32(0.29),
            target=jnp.float32(0.015),
            max_steps=jnp.asarray(self.max_steps, jnp.int32),
        )

    @property
    def noop(self) -> tuple[int, int]:
        """The level of each block that applies no torque. Raises: UserError where `levels` is even and there is none."""
        if self.levels % 2 == 0:
            raise UserError(f"levels = {self.levels}: must be odd for one of them to be no torque")
        return (self.levels // 2,) * 2

    @property
    def blocks(self) -> Blocks:
        """The two torques: x affects {x, vx}, y affects {y, vy}."""
        return Blocks.of((self.levels,) * 2, self.noop)

    @property
    def owner(self) -> tuple[int, ...]:
        """The torque that moves each observed variable; none where both do (the hard task)."""
        return () if self.hard else (0, 1, 0, 1)

    def action_space(self, params: PointMassParams) -> Factored:
        """One level per axis."""
        return Factored((self.levels, self.levels))

    def observation_space(self, params: PointMassParams) -> Box:
        """Position and velocity; bounded, but not by numbers worth dividing by."""
        return Box(-jnp.inf, jnp.inf, (4,))

    def torque(self, action: Action) -> jax.Array:
        """float32 [2] in [-1, 1] of a level per axis, int [2]."""
        return jnp.asarray(action, jnp.float32) * (2.0 / (self.levels - 1)) - 1.0

    def reset_env(self, key: Key, params: PointMassParams) -> tuple[jax.Array, PointMassState]:
        """At rest, anywhere: (obs, state). The key is consumed."""
        key_pos, key_gains = jax.random.split(key)
        pos = params.wall * jax.random.uniform(key_pos, (2,), minval=-1.0, maxval=1.0)
        state = PointMassState(pos, jnp.zeros(2), jnp.zeros((), jnp.int32), random_gains(key_gains) if self.hard else None)
        return jnp.concatenate([pos, state.vel]), state

    def step_env(
        self, key: Key, state: PointMassState, action: Action, params: PointMassParams
    ) -> tuple[jax.Array, PointMassState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] False, info). info["success"] bool []: the mass is on the target.

        Action int [2]. Nothing is drawn: the key is not read.
        """
        torque = self.torque(action)
        force = torque if state.gains is None else torque @ state.gains
        vel = params.decay * state.vel + params.push * force
        free = state.pos + DT * vel
        pos = jnp.clip(free, -params.wall, params.wall)
        vel = jnp.where(pos == free, vel, 0.0)
        state = PointMassState(pos, vel, state.t + 1, state.gains)
        on_target = jnp.sum(pos**2) <= params.target**2
        return jnp.concatenate([pos, vel]), state, reward(pos, torque, params.target), jnp.zeros((), bool), {"success": on_target}

    def is_truncated(self, state: PointMassState, params: PointMassParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def render(self, state: PointMassState, params: PointMassParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; target green, mass red, its velocity a blue tail. Not jittable."""
        pos, vel, wall, target = (np.asarray(x, float) for x in (state.pos, state.vel, params.wall, params.target))
        side = 2 * wall + 0.06
        axis = ((np.arange(size) + 0.5) / size - 0.5) * side
        xy = np.stack([np.broadcast_to(axis[None, :], (size, size)), np.broadcast_to(axis[::-1, None], (size, size))], -1)
        image = np.full((size, size, 3), _GROUND, np.uint8)
        image[(np.abs((xy + 0.05) % 0.1 - 0.05) < side / size / 2).any(-1)] = _LINE
        image[(np.abs(xy) > wall + 0.01).any(-1)] = _WALL
        image[np.hypot(*np.moveaxis(xy, -1, 0)) <= target] = _TARGET
        tail = -1.5 * vel  # where it was 1.5 s ago, had it gone straight
        along = np.clip(((xy - pos) @ tail) / max(float(tail @ tail), 1e-12), 0, 1)
        image[np.hypot(*np.moveaxis(xy - pos - along[..., None] * tail, -1, 0)) <= 0.003] = _TRAIL
        image[np.hypot(*np.moveaxis(xy - pos, -1, 0)) <= 0.01] = _MASS
        return image


def random_gains(key: Key) -> jax.Array:
    """Two random unit vectors [2, 2], |cosine| of their angle at most 0.9. The key is consumed. Source: dm_control's hard task."""
    key_first, key_between, key_side = jax.random.split(key, 3)
    first = jax.random.uniform(key_first, maxval=2 * math.pi)
    least = math.acos(MAX_COSINE)
    between = jax.random.uniform(key_between, minval=least, maxval=math.pi - least)
    angles = jnp.stack([first, first + between * jax.random.rademacher(key_side, (), jnp.float32)])
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
