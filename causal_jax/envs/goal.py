"""Goal and Hard Goal: move the ball past a goalie by kicks with parameters (gym-goal; Masson et al. 2016; Hard Goal: HyAR, ICLR 2022).

An action is (k, z): a choice and its parameters in [-1, 1], as DLPA's and HyAR's wrappers present it. Goal: k = 0 kicks to a point and lets
the player follow until the ball rests at its feet, x in [0, 40], y in [-15, 15]; k = 1 and 2 shoot at a place y in [-7.01, 7.01] of the
goal line. Hard Goal: k = 0 as before, k = 1..5 and again 6..10 shoot at the parts of the goal line. A step is one whole action, up to some
hundred substeps (goal_physics.py). It ends the episode with a goal (reward 50), the ball held by the goalie or off the field (minus the
ball's distance to the goal); else it pays 0. Step number `max_steps` moves nothing and pays that distance: here that is a terminal.

The observation, float32 [17], is the state without the time, the unit vector from goalie to ball, and where the goalie-ball line
crosses the goal line, all of it scaled so that the usual range is [-1, 1] (angles are not wrapped and may leave it).

`variant`: in `authors` (the default, for the published numbers and tests/data/pamdp) a kick's second parameter is never read, the ball goes
to (x, x), and Hard Goal's middle shots all go to 1.402, as HyAR's script has the interval [0.2, 0.2]. In `fixed` the ball goes to (x, y),
the middle shots cover [-1.402, 1.402]. In both a Hard Goal shot with z = -1 goes to the upper end of its part.
`noise_scale` multiplies all noise; 0 gives the mean dynamics. Departures: goal_physics.py, and an action is over after 1000 substeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs import goal_physics as physics
from causal_jax.envs.base import Environment
from causal_jax.envs.goal_physics import GOAL_HALF_WIDTH, HALF_WIDTH, LENGTH, Counts, GoalState
from causal_jax.fields import option
from causal_jax.spaces import Box, Hybrid
from causal_jax.types import Action, Key

MAX_SUBSTEPS = 1000
EVENTS = ("stopped", "goal", "saved", "ball_out", "time_limit")
STOPPED, GOAL, SAVED, OUT, TIME_LIMIT = range(5)
REWARD = 50.0  # of a goal
SHOT_X = 20.4  # shots aim behind the goal line
START_DISTANCE = 1.599999999999  # of the ball from the player
GOALIE_X = 14.5  # where the goalie starts, on the line from the ball to the middle of the goal
KICK_LOW, KICK_HIGH = np.asarray([0, -HALF_WIDTH], np.float32), np.asarray([2 * LENGTH, HALF_WIDTH], np.float32)
CENTRES, HALVES = (-0.8, -0.4, 0.2, 0.4, 0.8), (0.2, 0.2, 0.0, 0.2, 0.2)  # of Hard Goal's parts of the goal line, as HyAR wrote them
FIXED = {2: (0.0, 0.2)}  # part -> centre, half width

_RUNNER_LOW, _RUNNER_HIGH = (0.0, -HALF_WIDTH, -1.0, -1.0, -np.pi), (LENGTH, HALF_WIDTH, 1.0, 1.0, np.pi)
LOW = np.asarray([*_RUNNER_LOW, *_RUNNER_LOW, 0, -HALF_WIDTH, -3, -3, -1, -1, -GOAL_HALF_WIDTH], np.float32)
HIGH = np.asarray([*_RUNNER_HIGH, *_RUNNER_HIGH, LENGTH, HALF_WIDTH, 3, 3, 1, 1, 2 * GOAL_HALF_WIDTH], np.float32)
NAMES = tuple(field.name for field in dataclasses.fields(GoalState) if field.name != "time")


@struct.dataclass
class GoalParams:
    """One world, all scalars."""

    noise_scale: jax.Array  # [] what all noise is multiplied by
    max_steps: jax.Array  # [] int32


@dataclasses.dataclass(frozen=True)
class Goal(Environment):
    """The environment. The action is (k int [], z float [2]); the observation float32 [17]."""

    hard: bool = False
    """Eleven choices instead of three."""
    variant: str = option("authors", choices=("authors", "fixed"))
    """The published programs as they are, or with their slips mended."""
    noise_scale: float = option(1.0, low=0)
    """What all noise is multiplied by."""
    max_steps: int = option(100, low=1)
    """Length of an episode in actions; the last one moves nothing."""

    @property
    def default_params(self) -> GoalParams:
        """The published world."""
        return GoalParams(noise_scale=jnp.asarray(self.noise_scale, jnp.float32), max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def action_space(self, params: GoalParams) -> Hybrid:
        """A kick with two parameters; two shots, or ten, with one."""
        return Hybrid((2, *[1] * (10 if self.hard else 2)))

    def observation_space(self, params: GoalParams) -> Box:
        """Unbounded: the ball may be behind the line, and angles are not wrapped."""
        return Box(-jnp.inf, jnp.inf, (len(LOW),))

    def observe(self, state: GoalState) -> jax.Array:
        """The observation [17] of a state."""
        values = [jnp.asarray(getattr(state, name)) for name in NAMES]
        dx, dy = state.ball_x - state.goalie_x, state.ball_y - state.goalie_y
        distance = jnp.hypot(dx, dy)
        unit = [d / jnp.where(distance > 0, distance, 1) for d in (dx, dy)]
        crossing = state.ball_y + dy / jnp.where(dx != 0, dx, 1) * (LENGTH - state.ball_x)
        crossing = jnp.where(dx != 0, crossing, jnp.where(dy > 0, -GOAL_HALF_WIDTH, GOAL_HALF_WIDTH))
        seen = jnp.stack([*values, *unit, jnp.clip(crossing, LOW[-1], HIGH[-1])])
        return (2 * (seen - LOW) / (HIGH - LOW) - 1).astype(jnp.float32)

    def unscale(self, obs: jax.Array) -> GoalState:
        """The state that an observation [17] shows, with time 0."""
        values = LOW + (HIGH - LOW) * (obs + 1) / 2
        return GoalState(**{name: values[i] for i, name in enumerate(NAMES)}, time=jnp.zeros((), jnp.int32))

    def raw(self, action: Action, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array]:
        """(x, y) that an action wants the ball at, in field units, clipped to its range. dtype: of the result, and of Hard Goal's map."""
        k, z = jnp.asarray(action[0]), jnp.asarray(action[1])
        along = z[0]
        if self.hard:
            parts = [FIXED.get(i, part) if self.variant == "fixed" else part for i, part in enumerate(zip(CENTRES, HALVES, strict=True))]
            centre, half = jnp.asarray(parts, dtype)[(k - 1) % len(parts)]
            z = z.astype(dtype)
            along = centre - half * z[0]
        kick = jnp.clip(_scaled(z, KICK_LOW, KICK_HIGH, dtype), KICK_LOW, KICK_HIGH)
        shot = _scaled(along, np.float32(-GOAL_HALF_WIDTH), np.float32(GOAL_HALF_WIDTH), dtype)
        shot = jnp.clip(shot, -GOAL_HALF_WIDTH, GOAL_HALF_WIDTH)
        return jnp.where(k == 0, kick[0], SHOT_X), jnp.where(k == 0, kick[0] if self.variant == "authors" else kick[1], shot)

    def reset_env(self, key: Key, params: GoalParams) -> tuple[jax.Array, GoalState]:
        """The player anywhere on the left line, the ball before it: (obs, state). The key is consumed."""
        state = start(HALF_WIDTH * jax.random.uniform(key, (), jnp.float32, -1.0, 1.0))
        return self.observe(state), state

    def step_env(
        self, key: Key, state: GoalState, action: Action, params: GoalParams
    ) -> tuple[jax.Array, GoalState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] bool, info). The key is consumed.

        info: "success" bool []: a goal. "substeps" int32 []. "event" int32 []: index into EVENTS. The counters of `Counts`, int32 [].
        """
        dtype = _dtype(state)

        def units(t: jax.Array) -> jax.Array:
            return jax.random.uniform(jax.random.fold_in(key, t), (6,), dtype, -1.0, 1.0)

        return self._step(units, state, action, params)

    def step_given(
        self, units: jax.Array, state: GoalState, action: Action, params: GoalParams
    ) -> tuple[jax.Array, GoalState, jax.Array, jax.Array, dict[str, Any]]:
        """`step_env` with the noise given: units [T, 6], draws in [-1, 1] of each substep, three of the player, three of the goalie.

        The three are the angle's, x's and y's of an acceleration. If an action needs more than T substeps, the last row is used again.
        """
        return self._step(lambda t: units[jnp.minimum(t, len(units) - 1)], state, action, params)

    def _step(
        self, units: Callable[[jax.Array], jax.Array], state: GoalState, action: Action, params: GoalParams
    ) -> tuple[jax.Array, GoalState, jax.Array, jax.Array, dict[str, Any]]:
        dtype = _dtype(state)
        state = GoalState(**{name: jnp.asarray(getattr(state, name), dtype) for name in NAMES}, time=jnp.asarray(state.time, jnp.int32) + 1)
        target, kick = self.raw(action, dtype), jnp.asarray(action[0]) == 0
        noise_scale = jnp.asarray(params.noise_scale, dtype)
        Carry = tuple[GoalState, jax.Array, jax.Array, jax.Array, Counts]

        def body(carry: Carry) -> Carry:
            state, t, _, _, counts = carry
            state, happened = physics.substep(state, target, units(t), noise_scale)
            over, event = _event(state, kick)
            return state, t + 1, ~over, event, jax.tree.map(lambda n, is_one: n + is_one, counts, happened)

        zero = jnp.zeros((), jnp.int32)
        begin = (state, zero, state.time < params.max_steps, jnp.full((), TIME_LIMIT), Counts(*[zero] * len(Counts._fields)))
        state, substeps, _, event, counts = jax.lax.while_loop(lambda carry: carry[2] & (carry[1] < MAX_SUBSTEPS), body, begin)
        terminated = event != STOPPED
        lost = jnp.where(terminated, -physics.goal_distance(state), 0)
        reward = jnp.where(event == GOAL, REWARD, lost).astype(dtype)
        info = {"success": event == GOAL, "substeps": substeps, "event": event, **counts._asdict()}
        return self.observe(state), state, reward, terminated, info

    def is_truncated(self, state: GoalState, params: GoalParams) -> jax.Array:
        """bool []: never, the time limit is a terminal."""
        return jnp.zeros((), bool)

    def render(self, state: GoalState, params: GoalParams, size: int = 240) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, about 0.7 size, 3]; see `goal_picture.draw`. Not jittable."""
        from causal_jax.envs import goal_picture

        return goal_picture.draw(jax.tree.map(float, state), size)


def start(y: jax.Array) -> GoalState:
    """The start with the player at (0, y), float []."""
    zero = jnp.zeros_like(y)
    facing = jnp.arctan2(-y, jnp.full_like(y, LENGTH))
    ball_x, ball_y = START_DISTANCE * jnp.cos(facing), y + START_DISTANCE * jnp.sin(facing)
    goalie_x, goalie_y = jnp.full_like(y, GOALIE_X), ball_y * (LENGTH - GOALIE_X) / (LENGTH - ball_x)
    goalie_o = jnp.arctan2(ball_y - goalie_y, ball_x - goalie_x)
    return GoalState(
        zero, y, zero, zero, facing, goalie_x, goalie_y, zero, zero, goalie_o, ball_x, ball_y, zero, zero, jnp.zeros((), jnp.int32)
    )


def _scaled(unit: jax.Array, low: Any, high: Any, dtype: Any) -> jax.Array:
    """`unit` in [-1, 1] scaled to [low, high], as `dtype`; every operation rounds to the type of `unit`, whatever is fused under jit."""
    product = ((high - low) * (unit + 1).astype(dtype)).astype(unit.dtype)
    return (product.astype(dtype) / 2 + low).astype(unit.dtype).astype(dtype)


def _event(state: GoalState, kick: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the action is over, with what event of EVENTS); STOPPED while it is not."""
    rest = kick & physics.at_rest(state)
    conditions = [physics.in_net(state), physics.caught(state), physics.out(state)]
    event = jnp.select(conditions, [jnp.full((), code) for code in (GOAL, SAVED, OUT)], STOPPED)
    return (event != STOPPED) | rest, event


def _dtype(state: GoalState) -> Any:
    """float32; float64 in tests, where a state is given so."""
    return jnp.result_type(jnp.float32, *[jnp.asarray(getattr(state, name)).dtype for name in NAMES])
