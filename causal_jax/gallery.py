"""From run folders to a report with pictures, and the GIF of a policy: what `causal-jax report` and `causal-jax play` do.

`report` gives report.py's curves and tables their reference rows (random, and what the environment knows better) and adds the pictures
that need the model: the mask where there is one to draw (gallery_maze.py), the graphs of a dynamics model (gallery_fcdl.py), and an
episode of every environment that can `render` itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import gallery_ccrl, gallery_fcdl, gallery_maze, history, plots, rollout, runs, spaces
from causal_jax import report as reports
from causal_jax.envs import (
    chemical_policies,
    goal_policies,
    magnetic_policies,
    particle_policies,
    platform_policies,
    point_mass_policies,
    sepsis_policies,
)
from causal_jax.envs.chemical import Chemical
from causal_jax.envs.goal import Goal
from causal_jax.envs.magnetic import Magnetic
from causal_jax.envs.minigrid import Minigrid
from causal_jax.envs.particle import CatchPoint, HardMove
from causal_jax.envs.platform import Platform
from causal_jax.envs.point_mass import PointMass
from causal_jax.envs.sepsis import ICUSepsis, SepsisSim
from causal_jax.evaluation import member_of
from causal_jax.page import Section
from causal_jax.types import Action, Key, Obs, UserError

REFERENCE_EPISODES = 64
CHEMICAL_ROWS = ("idle", "goal9", "persistence_lowest", "persistence_random")
POLICIES: dict[type, Any] = {  # environment -> (env, params) -> {name: act(key, obs) -> action}, "random" among them
    Magnetic: magnetic_policies.policies,
    Platform: platform_policies.policies,
    Goal: goal_policies.policies,
    CatchPoint: particle_policies.policies,
    HardMove: particle_policies.policies,
    PointMass: point_mass_policies.policies,
    SepsisSim: sepsis_policies.policies,
    ICUSepsis: sepsis_policies.policies,
}


def report(folders: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write report.html and its pictures for one run, or a comparison of several; returns its path.

    Args: folders: run folders; out: where to write, default the run folder, or the first run's parent for several.
    Raises: UserError when a folder holds no run, or the runs have no return in common. A run without a readable checkpoint is reported
      without its pictures, and the report says why.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    if not paths:
        raise UserError("runs: missing, name at least one run folder")
    place = Path(out) if out is not None else paths[0] if len(paths) == 1 else paths[0].parent
    names = [path.resolve().name for path in paths]
    labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    found = {label: history.load_run(path) for label, path in zip(labels, paths, strict=True)}
    place.mkdir(parents=True, exist_ok=True)
    sections, loaded = [], {}
    for label, path in zip(labels, paths, strict=True):
        try:
            loaded[label] = runs.load_run(path, say=lambda line: None)
        except UserError as error:
            sections.append(Section(f"No pictures: {label}", str(error)))
    several = len(paths) > 1
    for label, run in loaded.items():
        sections += pictures(run, place, label, f"{_file_name(label)}-" if several else "")
    return reports.report_runs(found, place, sections=sections, references=references(list(loaded.values())))


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")


def pictures(loaded: runs.Loaded, place: Path, label: str, prefix: str = "") -> list[Section]:
    """The sections of one run that need its model, for member 0 of the last checkpoint; files are place/<prefix><what>.png|gif."""
    sections = gallery_maze.sections(loaded, place, label, prefix) if gallery_maze.has_mask(loaded) else []
    sections += gallery_fcdl.sections(loaded, place, label, prefix) if gallery_fcdl.has_model(loaded) else []
    sections += gallery_ccrl.sections(loaded, place, label, prefix) if gallery_ccrl.has_learners(loaded) else []
    if hasattr(loaded.resolved.env, "render"):
        greedy = "sampled" not in getattr(loaded.resolved.module, "EVALUATION_MODES", ("sampled",))
        images, total = episode(loaded, member=0, seed=0, greedy=greedy)
        image = plots.gif(images, place / f"{prefix}policy.gif")
        text = f"One episode of member 0, actions {'greedy' if greedy else 'sampled'}: return {total:.2f} in {len(images) - 1} steps."
        sections.append(Section(f"The learned policy: {label}", text, [image]))
    return sections


def references(loaded: Sequence[runs.Loaded]) -> dict[str, dict[str, float]]:
    """Rows that need no learning, where all runs are of one environment: name -> {"return", "success"}, means over 64 episodes.

    Always the uniformly random policy, for the maze and MiniGrid what is known about them, for Chemical and those in POLICIES the scripted
    policies.
    """
    if len({(run.resolved.settings.env, run.resolved.settings.env_options) for run in loaded}) != 1:
        return {}
    run = loaded[0].resolved
    space = spaces.from_gymnax(run.env.action_space(run.env_params))
    max_steps = run.settings.eval_steps or runs.time_limit(run.env_params)

    def measure_all(acts: dict[str, Any]) -> dict[str, dict[str, float]]:
        """All policies by one program: compiling an environment costs more than playing it."""
        like = jax.eval_shape(lambda: space.sample(jax.random.key(0)))

        def play(key: Key, env_params: Any, which: jax.Array) -> rollout.Episode:
            def act(key: Key, obs: Obs) -> Action:
                branches = [
                    lambda key, obs, act=act: jax.tree.map(lambda x, y: x.astype(y.dtype), act(key, obs), like) for act in acts.values()
                ]
                return jax.lax.switch(which, branches, key, obs)

            return rollout.evaluate(key, run.env, env_params, act, max_steps)

        keys = jax.random.split(jax.random.key(0), REFERENCE_EPISODES)
        play_all = jax.vmap(play, (0, None, None))
        if run.own_worlds:  # the mean over the worlds of all members
            play_all = jax.vmap(play_all, (None, 0, None))
        program, rows = jax.jit(play_all), {}
        for i, name in enumerate(acts):
            played = program(keys, loaded[0].task.env_params, jnp.asarray(i))
            rows[name] = {"return": float(np.mean(played.total)), "success": float(np.mean(played.success))}
        return rows

    acts: dict[str, Any] = {"random": lambda key, obs: space.sample(key)}
    if isinstance(run.env, Chemical):
        acts |= {name: act for name, act in chemical_policies.policies(run.env).items() if name in CHEMICAL_ROWS}
    if type(run.env) in POLICIES:
        acts |= {name: act for name, act in POLICIES[type(run.env)](run.env, run.env_params).items() if name != "random"}
    if isinstance(run.env, Minigrid) and run.env.observation == "symbolic":
        acts["random + CEE mask"] = gallery_maze.kept_uniform(run)
    rows = measure_all(acts)
    if gallery_maze.is_maze(run):
        rows |= gallery_maze.references(run, lambda act: measure_all({"": act})[""])
    if isinstance(run.env, Minigrid) and (run.env.layout, run.env.bonus) == ("fixed", "none"):
        rows["shortest solution"] = {"return": run.env.best_return(run.env_params), "success": 1.0}
    if not any(row["success"] for row in rows.values()):  # the environment may not tell success at all
        rows = {name: {"return": row["return"]} for name, row in rows.items()}
    return rows


def episode(loaded: runs.Loaded, member: int, seed: int, greedy: bool) -> tuple[list[np.ndarray], float]:
    """The frames of one whole episode, uint8 [H, W, 3], the start and every step until it is over, and its return in task units.

    Raises: UserError when the environment cannot render, or there is no such member.
    """
    run = loaded.resolved
    env = run.env
    if not hasattr(env, "render"):
        raise UserError(f"env = {run.settings.env!r}: has no render, so there is nothing to play")
    state, task = member_of(loaded, member)

    player = rollout.actor(run.algorithm, state, greedy)

    def body(carry: tuple[Any, ...], key: Key) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        obs, env_state, alive, memory = carry
        key_act, key_step = jax.random.split(key)
        action, memory = player.act(key_act, obs, memory)
        obs, env_state, reward, terminated, _ = env.step_env(key_step, env_state, action, task.env_params)
        done = jnp.asarray(terminated, bool) | jnp.asarray(env.is_truncated(env_state, task.env_params), bool)
        return (obs, env_state, alive & ~done, memory), (env_state, alive, reward)

    def play(key: Key) -> tuple[Any, Any, jax.Array, jax.Array]:
        key_reset, key_steps = jax.random.split(key)
        obs, start = env.reset_env(key_reset, task.env_params)
        keys = jax.random.split(key_steps, run.settings.eval_steps or runs.time_limit(task.env_params))
        _, (states, alive, reward) = jax.lax.scan(body, (obs, start, jnp.ones((), bool), player.memory), keys)
        return start, states, alive, reward

    start, states, alive, reward = jax.device_get(jax.jit(play)(jax.random.key(seed)))
    length = int(alive.sum())
    visited = [start, *(jax.tree.map(lambda x, t=t: x[t], states) for t in range(length))]
    params = jax.device_get(task.env_params)
    return [env.render(env_state, params) for env_state in visited], float(reward[:length].sum())


def play(folder: Path | str, member: int = 0, seed: int = 0, greedy: bool = True) -> Path:
    """Write play.gif, one whole episode of a member of the last checkpoint, into the run folder; returns its path.

    Raises: UserError when the environment cannot render, there is no such member or checkpoint.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed = {seed}: must be 0 <= seed < 2^32")
    images, _ = episode(runs.load_run(Path(folder)), member, seed, greedy)
    return plots.gif(images, Path(folder) / "play.gif")
