"""The maze of NPM (arXiv 2312.06258) and CEE (arXiv 2501.14543): a point in the unit square moved by n actuators, 2^n actions.

An action switches each actuator on or off (binary, most significant bit = actuator 0, east); its motion is the sum of the active
unit vectors over the largest such norm. One step is up to four sub-steps of `motion * step_unit`; a blocked sub-step ends the step,
reaching the goal ends the episode. Rewards: `step_reward` per step, plus `goal_reward` at the goal.

Kept from the authors' program (numbers: tests/data/maze.npz):
- the end of the episode is tested after the counter is raised and before the motion: step number `max_steps` moves nothing and pays
  0 (a timeout returns 499 * -0.05 = -24.95), and so does a step from inside the goal;
- all regions include their borders;
- the observation of the goal step lags one sub-step behind the true position `state.pos`.
Departures: float32 instead of float64; each sub-step is `start + k * displacement` (one rounding instead of k: fewer disagreements
on borders); the time limit is a truncation (`is_truncated`), not a terminal; the second goal box, which pays 0 and does nothing, is
left out; the picture of `image=True` is drawn by our own rules.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.spaces import Box, Discrete
from causal_jax.types import Action, Key, UserError

NUM_SUBSTEPS = 4  # int(0.2 / 0.045)
IMAGE_SIZE = 100  # pixels; the side of the unit square

_GREY, _GREEN, _BLUE, _RED = (90, 90, 90), (60, 170, 80), (150, 190, 235), (215, 50, 45)


@struct.dataclass
class MazeState:
    """`pos` float32 [2]: the true position (x, y); `t` int32 []: steps taken."""

    pos: jax.Array
    t: jax.Array


@struct.dataclass
class MazeParams:
    """One world, all arrays, so the worlds of a population may differ. Boxes are (x1, y1, x2, y2) in units of the square's side."""

    motions: jax.Array  # [2^n, 2], norm <= 1
    obstacles: jax.Array  # [2, 4]
    goal: jax.Array  # [4]
    start: jax.Array  # [2]
    step_unit: jax.Array  # [] length of the longest sub-step
    goal_reward: jax.Array  # []
    step_reward: jax.Array  # [] per step
    max_steps: jax.Array  # [] int32


@functools.cache
def motions(n: int) -> np.ndarray:
    """Motion of each action, float64 [2^n, 2]: the sum of the active actuators over the largest norm of such a sum.

    Actuator k points at the angle 2 pi k / n; its components are rounded to 3 decimals, as in the authors' program.
    """
    angles = 2 * np.pi * np.arange(n) / n
    movement = np.round(np.stack([np.cos(angles), np.sin(angles)], 1), 3)
    active = (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1
    total = active @ movement
    return np.asarray(total / np.linalg.norm(total, axis=1).max())


def _inside(x: Any, y: Any, box: Any) -> Any:
    """Is (x, y) in the box (x1, y1, x2, y2)? Borders count. Works on numpy and jax arrays of one shape."""
    return (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])


def _free(x: Any, y: Any, params: MazeParams) -> Any:
    """Is (x, y) in the unit square, borders included, and in no obstacle?"""
    return _inside(x, y, (0.0, 0.0, 1.0, 1.0)) & ~_inside(x, y, params.obstacles[0]) & ~_inside(x, y, params.obstacles[1])


def _draw(xp: Any, size: int, pos: Any, params: MazeParams, start: bool) -> Any:
    """The maze as uint8 [size, size, 3] with module `xp` (numpy or jax.numpy); y points up, the agent is a red disc."""
    centre = (xp.arange(size) + 0.5) / size
    x, y = centre[None, :], centre[::-1, None]
    layers = [(_inside(x, y, params.goal), _GREEN)]
    layers += [(_inside(x, y, params.obstacles[i]), _GREY) for i in range(2)]
    if start:
        layers.append(((x - params.start[0]) ** 2 + (y - params.start[1]) ** 2 <= 0.015**2, _BLUE))
    layers.append(((x - pos[0]) ** 2 + (y - pos[1]) ** 2 <= 0.02**2, _RED))
    image = xp.full((size, size, 3), 255, xp.uint8)
    for region, colour in layers:
        image = xp.where(region[..., None], xp.asarray(colour, xp.uint8), image)
    return image


@dataclasses.dataclass(frozen=True)
class Maze(Environment):
    """The maze with `n` actuators. The observation is (x, y) as float32 [2], or a picture, uint8 [100, 100, 3], with `image`."""

    n: int = option(6, low=1, high=10)
    """Number of actuators; there are 2^n actions."""
    image: bool = False
    """Observe a picture instead of the coordinates."""
    max_steps: int = option(500, low=1)
    """Time limit in steps; the last one moves nothing."""

    @property
    def default_params(self) -> MazeParams:
        """The published world."""
        f = functools.partial(jnp.asarray, dtype=jnp.float32)
        return MazeParams(
            motions=f(motions(self.n)),
            obstacles=f([[0.0, 0.25, 0.5, 0.3], [0.5, 0.25, 0.55, 0.8]]),
            goal=f([0.25, 0.45, 0.3, 0.5]),
            start=f([0.25, 0.1]),
            step_unit=f(0.045),
            goal_reward=f(100.0),
            step_reward=f(-0.05),
            max_steps=jnp.asarray(self.max_steps, jnp.int32),
        )

    def action_space(self, params: MazeParams) -> Discrete:
        """2^n actions."""
        return Discrete(2**self.n)

    def observation_space(self, params: MazeParams) -> Box:
        """Coordinates in the unit square, or a picture."""
        return Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), jnp.uint8) if self.image else Box(0.0, 1.0, (2,))

    def _observe(self, pos: jax.Array, params: MazeParams) -> jax.Array:
        return _draw(jnp, IMAGE_SIZE, pos, params, start=False) if self.image else pos

    def reset_env(self, key: Key, params: MazeParams) -> tuple[jax.Array, MazeState]:
        """The start, always the same: (obs, state). The key is not needed."""
        state = MazeState(pos=params.start, t=jnp.zeros((), jnp.int32))
        return self._observe(state.pos, params), state

    def step_env(
        self, key: Key, state: MazeState, action: Action, params: MazeParams
    ) -> tuple[jax.Array, MazeState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] bool, info). info["success"] bool []: the goal was reached in this step.

        The action is an int [] in [0, 2^n). The key is not needed.
        """
        t = state.t + 1
        alive = (t < params.max_steps) & ~_inside(state.pos[0], state.pos[1], params.goal)
        pos, seen, inside = _move(state.pos, params.motions[action] * params.step_unit, alive, params)
        success = alive & inside
        reward = jnp.where(alive, params.step_reward + jnp.where(inside, params.goal_reward, 0.0), 0.0)
        return self._observe(seen, params), MazeState(pos=pos, t=t), reward, inside, {"success": success}

    def is_truncated(self, state: MazeState, params: MazeParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def successors(self, obs: jax.Array, params: MazeParams) -> tuple[jax.Array, jax.Array]:
        """What every action does from the position shown by `obs`, the step counter being 0.

        Args: obs: float [2]. Returns: next true positions float32 [2^n, 2] (no lag at the goal), terminated bool [2^n].
        Raises: UserError for picture observations, which do not show the exact position.
        """
        if self.image:
            raise UserError("image = True: successors needs the vector observation, image = False")
        pos = jnp.asarray(obs, jnp.float32)
        alive = (params.max_steps > 1) & ~_inside(pos[0], pos[1], params.goal)
        dx, dy = (params.motions * params.step_unit).T

        # a loop over the sub-steps, where `_move` unrolls them: XLA would fuse them into every pair of actions that a caller compares
        def substep(k: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            x, y, moving = carry
            cx, cy = pos[0] + (k + 1) * dx, pos[1] + (k + 1) * dy
            taken = moving & _free(cx, cy, params)
            return jnp.where(taken, cx, x), jnp.where(taken, cy, y), taken & ~_inside(cx, cy, params.goal)

        start = (jnp.broadcast_to(pos[0], dx.shape), jnp.broadcast_to(pos[1], dy.shape), jnp.broadcast_to(alive, dx.shape))
        x, y, _ = jax.lax.fori_loop(0, NUM_SUBSTEPS, substep, start)
        return jnp.stack([x, y], axis=1), _inside(x, y, params.goal)

    def render(self, state: MazeState, params: MazeParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; walls grey, goal green, start blue, agent red. Not jittable."""
        state, params = jax.tree.map(np.asarray, (state, params))
        return np.asarray(_draw(np, size, state.pos, params, start=True))


def _move(pos: jax.Array, displacement: jax.Array, alive: jax.Array, params: MazeParams) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Up to four sub-steps of `displacement` [2] from `pos` [2] if `alive` []: (position, position observed, inside the goal [])."""
    x0, y0, dx, dy = pos[0], pos[1], displacement[0], displacement[1]
    x, y, seen_x, seen_y, moving = x0, y0, x0, y0, alive
    for k in range(1, NUM_SUBSTEPS + 1):
        cx, cy = x0 + k * dx, y0 + k * dy
        taken = moving & _free(cx, cy, params)
        reached = taken & _inside(cx, cy, params.goal)
        seen_x, seen_y = jnp.where(reached, x, jnp.where(taken, cx, seen_x)), jnp.where(reached, y, jnp.where(taken, cy, seen_y))
        x, y = jnp.where(taken, cx, x), jnp.where(taken, cy, y)
        moving = taken & ~reached
    return jnp.stack([x, y]), jnp.stack([seen_x, seen_y]), _inside(x, y, params.goal)
