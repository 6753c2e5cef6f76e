"""Catch Point and Hard Move: a particle with inertia is to reach a target point (HyAR, arXiv 2109.05490; DLPA, arXiv 2404.03037).

Speed v <- 0.75 v + 0.1 u, place p <- p + 0.1 v, both starts uniform in the square [-1, 1]^2, 25 steps. The reward is -D, D the squared
distance to the target after the step, and 20 more on success, which ends the episode; success asks for D <= 0.04.

Catch Point: 0 moves with the force u = 2 (sin pi z, cos pi z), 1 catches with u = 0: drifting goes on, and whoever is not near enough has
missed. After 11 misses the next step pays 0 and terminates, whatever it is.
Hard Move n: an action switches n actuators on or off, most significant bit = actuator 0, east; u = 2 z motion, motion as in the maze
(the sum of the active unit vectors over the largest such norm). 2^n choices of one parameter each, not clipped; being near is success.

Kept from DLPA's program: the last two observations of Catch Point count misses, up to the tenth, and steps; catching inside the range after
11 misses pays nothing. Departures: float32 (float64 where the state is); the limit of 25 steps is a truncation.
Some targets are out of reach in 25 steps: 3% in Catch Point, 15, 7, 5 and 4% in Hard Move 4 to 10. Returns of the policies of
`particle_policies`, random and straight (8,192 episodes, standard errors 0.3 and 0.2): catch-point -27.5, 8.8; hard-move-4 -32.5, 5.2;
-6 -32.4, 7.5; -8 -32.5, 8.2; -10 -32.5, 8.5.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs import maze
from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.spaces import Box, Hybrid
from causal_jax.types import Action, Key, UserError

MOVE, CATCH = range(2)
CATCH_EVENTS = ("moved", "caught", "missed_catch", "exhausted")
MOVE_EVENTS = ("moved", "reached")
DT, KEPT, FORCE = 0.1, 0.75, 2.0  # seconds a step; the share of the speed that drag leaves; the largest force (the mass is 1)
NEAR = 0.2**2  # squared distance
BONUS, MAX_MISSES, MISSES_SEEN = 20.0, 11, 10
PLACES = ("agent_x", "agent_y", "agent_vx", "agent_vy", "target_x", "target_y")


@struct.dataclass
class MoveState:
    """Floats []: places and speeds; `t` int32 []: steps taken."""

    agent_x: jax.Array
    agent_y: jax.Array
    agent_vx: jax.Array
    agent_vy: jax.Array
    target_x: jax.Array
    target_y: jax.Array
    t: jax.Array


@struct.dataclass
class CatchState(MoveState):
    """`trials` int32 []: missed catches. What is observed of the counters: valid_time = -1 + min(trials, 10) / 6, timestep = -1 + t / 12.

    `over` bool []: the last step ended the episode, which the rest does not tell; not of a state that is set by hand.
    """

    trials: jax.Array
    valid_time: jax.Array
    timestep: jax.Array
    over: jax.Array | bool = False


@struct.dataclass
class ParticleParams:
    """One world, all scalars."""

    noise_scale: jax.Array  # nothing reads it: these two are free of noise, and their family is asked for its mean dynamics by this name
    max_steps: jax.Array  # int32


def _drift(state: Any, force_x: Any, force_y: Any) -> Any:
    """The particle a step later, under a force."""
    vx, vy = KEPT * state.agent_vx + DT * force_x, KEPT * state.agent_vy + DT * force_y
    return state.replace(agent_x=state.agent_x + DT * vx, agent_y=state.agent_y + DT * vy, agent_vx=vx, agent_vy=vy, t=state.t + 1)


def _sin_cos(x: Any) -> tuple[Any, Any]:
    """sin and cos of x [] in radians, by their series on a quarter of the circle.

    On a CPU the compiler's own are so dear that the whole step takes 1.55 times as long with them.
    """
    quarter = jnp.round(x * (2 / np.pi))
    x = x - quarter * (np.pi / 2)
    quarter = quarter.astype(jnp.int32) & 3
    series = [[(-1) ** i / math.factorial(2 * i + odd) for i in range(8)] for odd in (1, 0)]
    sin, cos = (functools.reduce(lambda sum, c: sum * x**2 + c, terms[::-1]) for terms in series)
    a, b = jnp.where(quarter % 2 == 1, cos, x * sin), jnp.where(quarter % 2 == 1, x * sin, cos)
    return jnp.where(quarter >= 2, -a, a), jnp.where((quarter == 1) | (quarter == 2), -b, b)


def _distance(state: Any) -> Any:
    """[]: squared distance to the target."""
    return (state.agent_x - state.target_x) ** 2 + (state.agent_y - state.target_y) ** 2


def _seen(state: Any) -> list[Any]:
    """The four observations that both have: speed and offset of the target."""
    return [state.agent_vx, state.agent_vy, state.target_x - state.agent_x, state.target_y - state.agent_y]


def _floats(state: Any) -> Any:
    """The state with places and speeds, as they may be set by hand, of one floating point type."""
    dtype = jnp.result_type(jnp.float32, state.agent_x, state.agent_y)
    return state.replace(**{name: jnp.asarray(getattr(state, name), dtype) for name in PLACES})


def _start(key: Key) -> dict[str, jax.Array]:
    x = jax.random.uniform(key, (4,), jnp.float32, -1.0, 1.0)
    names = ("agent_x", "agent_y", "target_x", "target_y")
    rest = jnp.zeros((), jnp.float32)
    return {**{name: x[i] for i, name in enumerate(names)}, "agent_vx": rest, "agent_vy": rest, "t": jnp.zeros((), jnp.int32)}


@dataclasses.dataclass(frozen=True)
class _Particle(Environment):
    """What both share. The observation is float32, not normalised."""

    max_steps: int = option(25, low=1)
    """Time limit in steps."""

    @property
    def default_params(self) -> ParticleParams:
        """The published world."""
        return ParticleParams(jnp.zeros((), jnp.float32), jnp.asarray(self.max_steps, jnp.int32))


@dataclasses.dataclass(frozen=True)
class CatchPoint(_Particle):
    """Catch Point. Action `(k, z [1])`: move at the angle pi z from north, or catch. Observation float32 [6]."""

    def action_space(self, params: ParticleParams) -> Hybrid:
        """Move with one parameter, catch with none."""
        return Hybrid((1, 0))

    def observation_space(self, params: ParticleParams) -> Box:
        """Speed [2], offset of the target [2], misses, steps; unbounded."""
        return Box(-jnp.inf, jnp.inf, (6,))

    def _observe(self, state: CatchState) -> jax.Array:
        return jnp.stack([*_seen(state), state.valid_time, state.timestep]).astype(jnp.float32)

    def reset_env(self, key: Key, params: ParticleParams) -> tuple[jax.Array, CatchState]:
        """A start: (obs, state). The key is consumed."""
        none = jnp.full((), -1.0, jnp.float32)
        state = CatchState(**_start(key), trials=jnp.zeros((), jnp.int32), valid_time=none, timestep=none, over=jnp.zeros((), bool))
        return self._observe(state), state

    def step_env(
        self, key: Key, state: CatchState, action: Action, params: ParticleParams
    ) -> tuple[jax.Array, CatchState, jax.Array, jax.Array, dict[str, Any]]:
        """One step: (obs, state, reward [], terminated [] bool, info). Nothing is drawn: the key is not read.

        info: "success" bool []: caught. "substeps" int32 []: 1. "event" int32 []: see CATCH_EVENTS.
        """
        state = _floats(state)
        dtype = state.agent_x.dtype
        angle = (jnp.float32(np.pi) * jnp.asarray(action[1], jnp.float32)[0]).astype(dtype)
        catching, exhausted = jnp.asarray(action[0]) == CATCH, state.trials >= MAX_MISSES
        force = jnp.where(catching, 0.0, FORCE).astype(dtype)
        sin, cos = _sin_cos(angle)
        state = _drift(state, force * sin, force * cos)
        distance = _distance(state)
        caught = catching & (distance <= NEAR) & ~exhausted
        missed = catching & ~caught & ~exhausted
        reward = jnp.where(exhausted, 0.0, jnp.where(caught, BONUS, 0.0) - distance)
        terminated = caught | (reward == 0)
        late = jnp.where(missed & (state.trials < MISSES_SEEN), 1 / 6, 0.0)
        valid_time, timestep = (x.astype(dtype) + more for x, more in ((state.valid_time, late), (state.timestep, 1 / 12)))
        counters = {"valid_time": valid_time.astype(jnp.float32), "timestep": timestep.astype(jnp.float32), "over": terminated}
        state = dataclasses.replace(state, trials=state.trials + missed, **counters)
        event = jnp.where(exhausted, 3, jnp.where(caught, 1, jnp.where(missed, 2, 0))).astype(jnp.int32)
        return self._observe(state), state, reward, terminated, {"success": caught, "substeps": jnp.int32(1), "event": event}

    def is_truncated(self, state: CatchState, params: ParticleParams) -> jax.Array:
        """bool []: the time limit is reached, and nothing else ended the episode."""
        return (state.t >= params.max_steps) & ~state.over

    def render(self, state: CatchState, params: ParticleParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `particle_picture.draw`. Not jittable."""
        from causal_jax.envs import particle_picture

        return particle_picture.draw(jax.tree.map(np.asarray, state), None, size)


@dataclasses.dataclass(frozen=True)
class HardMove(_Particle):
    """Hard Move. Action `(k, z [1])`: which of the n actuators are on, and their strength. Observation float32 [4]."""

    n: int = option(4, low=4, high=16)
    """Number of actuators, even; there are 2^n choices."""

    def __post_init__(self) -> None:
        if self.n % 2:
            raise UserError(f"n = {self.n}: must be even")

    def action_space(self, params: ParticleParams) -> Hybrid:
        """2^n choices of one parameter each."""
        return Hybrid((1,) * 2**self.n)

    def observation_space(self, params: ParticleParams) -> Box:
        """Speed [2], offset of the target [2]; unbounded."""
        return Box(-jnp.inf, jnp.inf, (4,))

    @property
    def actuators(self) -> np.ndarray:
        """float64 [n, 2]: the motion of each actuator alone; the motion of action k is the sum over its bits, the highest first."""
        return maze.motions(self.n)[2 ** np.arange(self.n - 1, -1, -1)]

    def motion(self, k: Any, dtype: Any = jnp.float32) -> tuple[Any, Any]:
        """(x, y), [] each: the motion of action k. By its bits: no table of 2^n rows is kept."""
        on = [((k >> (self.n - 1 - j)) & 1).astype(dtype) for j in range(self.n)]
        x, y = (sum(on[j] * float(self.actuators[j, axis]) for j in range(self.n)) for axis in range(2))
        return x, y

    def reset_env(self, key: Key, params: ParticleParams) -> tuple[jax.Array, MoveState]:
        """A start: (obs, state). The key is consumed."""
        state = MoveState(**_start(key))
        return jnp.stack(_seen(state)), state

    def step_env(
        self, key: Key, state: MoveState, action: Action, params: ParticleParams
    ) -> tuple[jax.Array, MoveState, jax.Array, jax.Array, dict[str, Any]]:
        """One step: (obs, state, reward [], terminated [] bool, info). Nothing is drawn: the key is not read.

        info: "success" bool []: reached. "substeps" int32 []: 1. "event" int32 []: see MOVE_EVENTS.
        """
        state = _floats(state)
        dtype = state.agent_x.dtype
        strength = FORCE * jnp.asarray(action[1], dtype)[0]
        x, y = self.motion(jnp.asarray(action[0]), dtype)
        state = _drift(state, strength * x, strength * y)
        distance = _distance(state)
        reached = distance <= NEAR
        info = {"success": reached, "substeps": jnp.int32(1), "event": reached.astype(jnp.int32)}
        return jnp.stack(_seen(state)).astype(jnp.float32), state, jnp.where(reached, BONUS, 0.0) - distance, reached, info

    def is_truncated(self, state: MoveState, params: ParticleParams) -> jax.Array:
        """bool []: the time limit is reached, and nothing else ended the episode."""
        return (state.t >= params.max_steps) & (_distance(state) > NEAR)

    def render(self, state: MoveState, params: ParticleParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `particle_picture.draw`. Not jittable."""
        from causal_jax.envs import particle_picture

        return particle_picture.draw(jax.tree.map(np.asarray, state), self.actuators, size)
