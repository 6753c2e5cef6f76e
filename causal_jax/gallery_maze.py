"""What the pictures of a mask need to know about the maze: where to look, which actions are kept there, and the reference rows.

The mask over the maze, the groups of actions and the N-matrix at three places (the start, the place with the fewest different
outcomes, the place nearest to the goal), with the exact ones beside those that were learned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import plots_causal, runs
from causal_jax.causal import effects, inverse
from causal_jax.envs.maze import NUM_SUBSTEPS, Maze
from causal_jax.evaluation import member_of
from causal_jax.page import Section
from causal_jax.settings import Resolved
from causal_jax.types import Key, Obs

CELLS = 24  # places per side of the maze


class Masked(NamedTuple):
    """The mask at one place: N-matrix [A, A] nats, group of each action [A], allowed [A] bool, all_masked []."""

    n_matrix: jax.Array
    labels: jax.Array
    allowed: jax.Array
    all_masked: jax.Array


def is_maze(run: Resolved) -> bool:
    """A maze with coordinates for observations."""
    return isinstance(run.env, Maze) and not run.env.image


def has_mask(loaded: runs.Loaded) -> bool:
    """A maze whose policy is masked."""
    return is_maze(loaded.resolved) and getattr(loaded.resolved.config, "selection", "all") != "all"


def places(params: Any) -> np.ndarray:
    """Free places of the maze on a grid: float32 [P, 2]."""
    centre = (np.arange(CELLS) + 0.5) / CELLS
    grid = np.stack(np.meshgrid(centre, centre), axis=-1).reshape(-1, 2)
    blocked = np.zeros(len(grid), bool)
    for x0, y0, x1, y1 in [*np.asarray(params.obstacles), np.asarray(params.goal)]:
        blocked |= (grid[:, 0] >= x0) & (grid[:, 0] <= x1) & (grid[:, 1] >= y0) & (grid[:, 1] <= y1)
    return grid[~blocked].astype(np.float32)


def map_spec(params: Any) -> plots_causal.MapSpec:
    """The maze as plots_causal draws it."""

    def rectangle(box: Any) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = (float(x) for x in box)
        return x0, x1, y0, y1

    start = float(params.start[0]), float(params.start[1])
    return {"obstacles": [rectangle(box) for box in params.obstacles], "goal": rectangle(params.goal), "start": start}


def masks(loaded: runs.Loaded, member: int) -> dict[str, Callable[[Key, Obs], Masked]]:
    """How one member's policy is masked: {"learned" (where N is learned) and "exact": (key, obs [2]) -> Masked}."""
    run = loaded.resolved
    config, env = run.config, run.env
    task = member_of(loaded, member)[1]
    hyper = jax.tree.map(lambda x: x[member], loaded.run.hyper)

    learns = run.module.needs_effects(config)
    floor = task.effects.floor if learns else 1e-8  # where both are shown, on one scale

    def exact(obs: Obs) -> jax.Array:
        next_obs, terminated = env.successors(obs, task.env_params)
        return effects.oracle_n_matrix(next_obs, terminated, floor=floor)

    def learned(obs: Obs) -> jax.Array:
        n_matrix: jax.Array = inverse.n_matrix(task.effects, obs)
        return n_matrix

    def masked(source: Callable[[Obs], jax.Array]) -> Callable[[Key, Obs], Masked]:
        def at(key: Key, obs: Obs) -> Masked:
            n_matrix = source(obs)
            if config.selection == "unique":
                kept = effects.unique(env.successors(obs, task.env_params)[0])
            else:
                kept = effects.select(
                    config.selection, key, n_matrix, mode=config.mode, epsilon=hyper.epsilon, tau=hyper.tau,
                    temperature=hyper.temperature, woc_threshold=hyper.woc_threshold,
                )  # fmt: skip
            return Masked(n_matrix, effects.group(effects.similarity(n_matrix, config.mode), hyper.epsilon), *effects.fallback(kept))

        return at

    return {**({"learned": masked(learned)} if learns else {}), "exact": masked(exact)}


def sections(loaded: runs.Loaded, place: Path, label: str, prefix: str = "", member: int = 0) -> list[Section]:
    """The mask over the maze, the groups of actions and the N-matrices of one masked run; PNGs go to `place`."""
    run = loaded.resolved
    params = member_of(loaded, member)[1].env_params
    sources = masks(loaded, member)
    grid = places(params)
    successors = jax.jit(jax.vmap(run.env.successors, (0, None)))

    kept: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name, at in sources.items():

        def allowed(obs: Obs, at: Any = at) -> tuple[jax.Array, jax.Array]:
            one = at(jax.random.key(0), obs)
            return one.allowed, one.all_masked

        kept[name], everything = jax.device_get(jax.jit(lambda obs, f=allowed: jax.lax.map(f, obs, batch_size=32))(grid))
        if everything.any():
            notes.append(f" {name}: nothing was kept at {everything.mean():.0%} of the places, where all actions are allowed.")
    shown: Any = {f"{name} N-values": mask for name, mask in kept.items()} if len(kept) > 1 else kept["exact"]
    image = plots_causal.mask_map(grid, shown, params.motions, map_spec(params), place / f"{prefix}mask.png")
    text = f"How many of the {params.motions.shape[0]} actions are kept where, and which way the kept ones move.{''.join(notes)}"
    made = [Section(f"The mask over the maze: {label}", text, [image])]

    ends = np.round(np.asarray(successors(grid, params)[0]), 4)
    outcomes = [len(np.unique(end, axis=0)) for end in ends]
    gap = np.linalg.norm(grid - np.asarray(params.goal).reshape(2, 2).mean(axis=0), axis=1)
    wheres = ("at the start", "in a corner", "beside the goal")
    states = np.stack([np.asarray(params.start), grid[np.argmin(outcomes)], grid[np.argmin(gap)]])
    found = {name: jax.device_get(jax.jit(jax.vmap(at, (None, 0)))(jax.random.key(0), states)) for name, at in sources.items()}
    first = next(iter(sources))
    motions = (np.asarray(successors(states, params)[0]) - states[:, None]) / (NUM_SUBSTEPS * float(params.step_unit))
    images, panels = [], []
    for i, (where, obs) in enumerate(zip(wheres, states, strict=True)):
        path = place / f"{prefix}groups-{where.rsplit(' ', 1)[-1]}.png"
        mask = jax.tree.map(lambda x, i=i: x[i], found[first])
        title = f"{where.capitalize()} ({obs[0]:.2f}, {obs[1]:.2f})"
        images.append(plots_causal.action_groups(mask.labels, motions[i], path, mask.allowed, title))
        panels.append((title, mask.n_matrix, mask.labels))
    text = "Actions by where they lead (1: a whole free step), coloured by group; a group's actions should lead to one place."
    made.append(Section(f"The groups of actions, {first} N-values: {label}", text, images))

    oracle = list(found["exact"].n_matrix) if first == "learned" else None

    image = plots_causal.n_matrices(panels, place / f"{prefix}n-matrix.png", oracle)
    beside = "learned, and exact from the enumerated successors" if oracle else "exact, from the enumerated successors"
    text = f"N(s, a, b): how much likelier action b is made by the transition that a causes; {beside}. Actions are sorted by group."
    made.append(Section(f"The N-matrix at three places: {label}", text, [image]))
    return made


def shortest_path(env: Maze, params: Any) -> int | None:
    """Steps of a shortest path from the start to the goal; None where there is none within the time limit.

    A breadth-first search over positions; positions that agree to 2 decimals count as one.
    """
    rows = 256
    successors = jax.jit(jax.vmap(env.successors, (0, None)))
    frontier = np.asarray(params.start, np.float32)[None]
    seen = {tuple(place) for place in np.round(frontier, 2).tolist()}
    for length in range(1, int(params.max_steps)):
        reached = []
        for begin in range(0, len(frontier), rows):
            part = frontier[begin : begin + rows]
            after, inside = jax.device_get(successors(np.resize(part, (rows, 2)), params))
            if inside[: len(part)].any():
                return length
            reached.append(after[: len(part)].reshape(-1, 2))
        flat = np.concatenate(reached)
        rounded, index = np.unique(np.round(flat, 2), axis=0, return_index=True)
        new = [i for place, i in zip(map(tuple, rounded.tolist()), index.tolist(), strict=True) if place not in seen]
        if not new:
            return None
        frontier = flat[new]
        seen |= {tuple(place) for place in rounded.tolist()}
    return None


def kept_uniform(run: Resolved) -> Callable[[Key, Obs], jax.Array]:
    """act(key, obs): uniform over the actions that CEE keeps with exact N-values, in an environment that has `successors`."""

    def act(key: Key, obs: Obs) -> jax.Array:
        key_mask, key_action = jax.random.split(key)
        kept = effects.select("cee", key_mask, effects.oracle_n_matrix(*run.env.successors(obs, run.env_params)))
        return jax.random.categorical(key_action, jnp.where(effects.fallback(kept)[0], 0.0, -jnp.inf))

    return act


def references(run: Resolved, measure: Callable[[Any], dict[str, float]]) -> dict[str, dict[str, float]]:
    """The maze's own reference rows: uniform over the actions that CEE keeps with exact N-values, and a shortest path.

    Args: measure: (act(key, obs) -> action) -> {"return", "success"}.
    """
    env, params = run.env, run.env_params
    rows = {"random + CEE mask": measure(kept_uniform(run))} if env.n <= 8 else {}  # 2^9 actions would take minutes
    length = shortest_path(env, params)
    if length is not None:
        total = float(params.goal_reward) + length * float(params.step_reward)
        rows["shortest path"] = {"return": total, "success": 1.0}
    return rows
