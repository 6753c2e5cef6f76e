"""MiniGrid and BabyAI tasks of CEE (arXiv 2501.14543) and NPM (arXiv 2312.06258): seven actions, of which most do nothing most of the time.

Tasks: `minigrid-unlockpickup` (fetch the key, open the door, drop the key, pick the box up), `-gotolocal`, `-putnextlocal`,
`-gotodooropenr2-<object>` and `-gotor3-<object>` (face the object), `-keycorridors3r3` (the ball behind the locked door). Success pays
1 - 0.9 t / max_steps and ends the episode; nothing else pays, unless `bonus` says so. Each has one fixed layout, as published, but
keycorridors3r3's, which is ours (`layout="random"` draws one per episode).
Files: minigrid_physics (codes, actions), _layouts, _views (symbolic vector, 7 x 7 view), _picture (RGB, renderer).

Kept from the authors' program (numbers: tests/data/minigrid.npz): all semantics of minigrid_physics; "go to" is tested after every action
on the cell in front, turns and failed actions too; "put next" only when a drop took effect; success and time limit may coincide.
Departures: float32 rewards; the time limit is a truncation, not a terminal; visits of the position bonus are counted by each environment
for itself (the authors have one environment).
`successors` compares what the authors' picture shows, in which picking a box up and destroying it look alike (`effect="state"` tells
them apart). Its flag `terminated` makes the successful pick-up unique: without it CEE masks both, and unlockpickup cannot be solved.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs import minigrid_layouts as layouts
from causal_jax.envs import minigrid_physics as physics
from causal_jax.envs import minigrid_picture as picture
from causal_jax.envs import minigrid_views as views
from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.spaces import Box, Discrete
from causal_jax.types import Action, Key, Obs, UserError


@struct.dataclass
class MinigridState:
    """`grid` uint8 [W, H, 3] (type, colour, state), `agent` uint8 [3] (x, y, direction), `carry` uint8 [2] (type, colour), `t` int32 [].

    `visits`: int32 [W, H], steps that ended in each cell, over all episodes of this environment; None without a bonus.
    """

    grid: jax.Array
    agent: jax.Array
    carry: jax.Array
    t: jax.Array
    visits: jax.Array | None = None


@struct.dataclass
class MinigridParams:
    """One world: the layout at the start, what is wanted as (type, colour), the time limit in steps, the size of the bonus."""

    grid: jax.Array  # uint8 [W, H, 3]
    agent: jax.Array  # uint8 [3]
    target: jax.Array  # int32 [2]
    fixed: jax.Array  # int32 [2], the object beside which the target is put
    max_steps: jax.Array  # int32 []
    bonus_scale: jax.Array  # float32 []


@dataclasses.dataclass(frozen=True)
class Minigrid(Environment):
    """A task on a grid of cells; `task` is its name without "minigrid-"."""

    task: str
    observation: str = option("symbolic", choices=("symbolic", "cells", "view", "rgb"))
    """symbolic: a vector of everything; cells: codes of the whole map; view: of the 7 x 7 cells ahead; rgb: the map, 8 pixels a cell."""
    layout: str = option("fixed", choices=("fixed", "random", "anywhere"))
    """The authors' layout; a random one of the same kind in every episode; or one with things and agent anywhere, doors in any state."""
    bonus: str = option("none", choices=("none", "add", "only"))
    """Position bonus: add bonus_scale / sqrt(visits of the cell), or pay only 1 / sqrt(visits) and end at the time limit alone."""
    effect: str = option("picture", choices=("picture", "state"))
    """What `successors` compares: what the picture shows, or what is carried too."""
    max_steps: int = option(0, low=0)
    """Time limit in steps; 0: the task's own."""

    @property
    def _layout(self) -> layouts.Layout:
        return layouts.layouts()[self.task]

    @property
    def costly_reset(self) -> bool:  # type: ignore[override]
        """Random layouts are drawn only when an episode of the batch has ended."""
        return self.layout != "fixed"

    @property
    def default_params(self) -> MinigridParams:
        """The published world."""
        layout = self._layout
        return MinigridParams(
            grid=jnp.asarray(layout.grid()),
            agent=jnp.asarray(layout.agent, jnp.uint8),
            target=jnp.asarray(layout.target, jnp.int32),
            fixed=jnp.asarray(layout.fixed, jnp.int32),
            max_steps=jnp.asarray(self.max_steps or layout.max_steps, jnp.int32),
            bonus_scale=jnp.asarray(layout.bonus, jnp.float32),
        )

    def action_space(self, params: MinigridParams) -> Discrete:
        """left, right, forward, pickup, drop, toggle, done."""
        return Discrete(len(physics.ACTIONS))

    def observation_space(self, params: MinigridParams) -> Box:
        """The symbolic vector, the 7 x 7 view of codes, or the picture."""
        width, height = self._layout.size
        if self.observation == "symbolic":
            return Box(0.0, 1.0, (views.symbolic_size((width, height)),))
        if self.observation == "cells":
            return Box(0, views.AGENT, (width, height, 3), jnp.uint8)
        if self.observation == "view":
            return Box(0, physics.BOX, (views.VIEW, views.VIEW, 3), jnp.uint8)
        return Box(0, 255, (picture.TILE * height, picture.TILE * width, 3), jnp.uint8)

    def observe(self, state: MinigridState) -> jax.Array:
        """What the agent sees of a state, see `observation`."""
        if self.observation == "rgb":
            return picture.image(state.grid, state.agent)
        see = {"symbolic": views.symbolic, "cells": views.cells, "view": views.egocentric}[self.observation]
        return see(state.grid, state.agent, state.carry)

    def reset_env(self, key: Key, params: MinigridParams) -> tuple[jax.Array, MinigridState]:
        """A start: (obs, state). The key is consumed by random layouts; a fixed one needs none."""
        grid, agent, carry = params.grid, params.agent, jnp.zeros(2, jnp.uint8)
        if self.layout != "fixed":
            grid, agent, carry = layouts.random_start(key, self._layout, anywhere=self.layout == "anywhere")
        visits = None if self.bonus == "none" else jnp.zeros(grid.shape[:2], jnp.int32)
        state = MinigridState(grid, agent, carry, jnp.zeros((), jnp.int32), visits)
        return self.observe(state), state

    def _success(self, params: MinigridParams, action: jax.Array, outcome: physics.Outcome, grid: jax.Array, had: jax.Array) -> jax.Array:
        """bool []: the task is done. grid: before the action (only the cell in front of the agent changes); had: carried before."""
        goal = self._layout.goal
        if goal == layouts.GO_TO:
            kind, colour = outcome.ahead
        elif goal == layouts.PICK_UP:
            kind, colour = outcome.carry
        else:
            kind, colour = had[0].astype(jnp.int32), had[1].astype(jnp.int32)
        found = (kind == params.target[0]) & (colour == params.target[1])
        if goal == layouts.PICK_UP:
            return found & (action == physics.PICKUP) & (had[0] == 0)
        if goal == layouts.PUT_NEXT:
            return found & outcome.dropped & physics.beside(grid, params.fixed, outcome.fx, outcome.fy)
        return found

    def step_env(
        self, key: Key, state: MinigridState, action: Action, params: MinigridParams
    ) -> tuple[Obs, MinigridState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] bool, info). info["success"] bool []: the task was done in this step.

        The action is an int [] in [0, 7). The key is not needed.
        """
        outcome = physics.act(state.grid, state.agent, state.carry, jnp.asarray(action))
        success = self._success(params, action, outcome, state.grid, state.carry)
        t = jnp.asarray(state.t, jnp.int32) + 1
        reward = jnp.where(success, 1.0 - 0.9 * t.astype(jnp.float32) / params.max_steps.astype(jnp.float32), 0.0)
        terminated, visits = success, state.visits
        if visits is not None:
            visits = visits.at[outcome.x, outcome.y].add(1)
            rare = jax.lax.rsqrt(visits[outcome.x, outcome.y].astype(jnp.float32))
            reward = rare if self.bonus == "only" else reward + params.bonus_scale * rare
            terminated = jnp.zeros_like(success) if self.bonus == "only" else success
        agent = jnp.stack([outcome.x, outcome.y, outcome.direction]).astype(jnp.uint8)
        state = MinigridState(physics.write(state.grid, outcome), agent, jnp.stack(outcome.carry).astype(jnp.uint8), t, visits)
        return self.observe(state), state, reward, terminated, {"success": success}

    def step(
        self, key: Key, state: MinigridState, action: Action, params: Any = None
    ) -> tuple[Obs, MinigridState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step`; visits are counted on over episodes."""
        obs, new, reward, terminated, truncated, info = super().step(key, state, action, params)
        if state.visits is not None:
            params = self.default_params if params is None else params
            new = new.replace(visits=self.step_env(key, state, action, params)[1].visits)  # the same step again, which XLA finds out
        return obs, new, reward, terminated, truncated, info

    def is_truncated(self, state: MinigridState, params: MinigridParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def successors(self, obs: jax.Array, params: MinigridParams) -> tuple[jax.Array, jax.Array]:
        """What every action does in the state that `obs` shows, the step counter being 0.

        Args: obs: the symbolic vector. Returns: what may differ between the next states, float32 [7, 8] (agent's x, y, direction; type,
        colour and state of the cell that is in front before the action; what is carried, 0 for effect="picture"), and terminated bool [7].
        Raises: UserError for other observations, which do not show the whole state.
        """
        if self.observation != "symbolic":
            raise UserError(f"observation = {self.observation!r}: successors needs the symbolic observation, which shows the whole state")
        grid, agent, carry = views.from_symbolic(obs, params.grid)

        def after(action: jax.Array) -> tuple[jax.Array, jax.Array]:
            outcome = physics.act(grid, agent, carry, action)
            held = [jnp.where(self.effect == "state", held, 0) for held in outcome.carry]
            return (
                jnp.stack([outcome.x, outcome.y, outcome.direction, *outcome.cell, *held]).astype(jnp.float32),
                self._success(params, action, outcome, grid, carry),
            )

        return jax.vmap(after)(jnp.arange(len(physics.ACTIONS)))

    def standing(self, obs: jax.Array, params: MinigridParams) -> jax.Array:
        """The row that `successors` has for an action without any effect, float32 [8]."""
        return self.successors(obs, params)[0][physics.DONE]

    def best_return(self, params: MinigridParams) -> float:
        """The return of a shortest solution of the fixed layout (found by search over all states, see minigrid_search)."""
        return 1.0 - 0.9 * self._layout.shortest / int(params.max_steps)

    def render(self, state: MinigridState, params: MinigridParams, size: int = 24) -> np.ndarray:
        """A picture for the eye, on the host, `size` pixels a cell; the strip below shows what is carried. Not jittable."""
        grid, agent, carry = (np.asarray(x) for x in (state.grid, state.agent, state.carry))
        return picture.render(grid, agent, carry, size)
