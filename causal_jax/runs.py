"""A run from its settings to its folder: `train_run` resolves names, fits phase 1 where a mask needs it, trains, logs and saves.

A run folder is runs/<name>/{run.json, results.jsonl, ckpt/, effects/, policy/, report.html, *.png}; run.json alone says how to repeat it.
Nothing is written before every name, type, range and size has been checked; a folder that another process trains in is refused.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import guard, hosts, memory, mesh, rollout, training
from causal_jax.algorithms import algorithm_module
from causal_jax.checkpoint import Checkpoints
from causal_jax.logs import Jsonl, Progress, Wandb
from causal_jax.settings import Resolved, Settings, check_resumable, describe, find_effects, load_settings, read_about, resolve, write_json
from causal_jax.types import Diverged, Terminated, UserError

Say = Callable[[str], None]
WORLDS = 0x3041D5  # the root seed of the worlds that members draw; apart from the members' own


def time_limit(env_params: Any) -> int:
    """The time limit that an environment's params tell, in steps; 1000 where they tell none."""
    for name in ("max_steps", "max_steps_in_episode"):
        if hasattr(env_params, name):
            return int(getattr(env_params, name))
    return 1000


def evaluator(run: Resolved) -> Callable[..., Any] | None:
    """(key, state, task) -> {"greedy" | "sampled" + suffix: {"return", "length", "success"}}, means over the evaluated episodes.

    Suffixes name configs to act by and worlds to act in; "model": what the algorithm measures of its own model.
    """
    settings, module = run.settings, run.module
    configs = module.evaluations(run.config) if hasattr(module, "evaluations") else {"": run.config}
    algorithms = {suffix: module.build(run.env, run.env_params, config) for suffix, config in configs.items()}
    max_steps = settings.eval_steps or time_limit(run.env_params)
    modes = getattr(module, "EVALUATION_MODES", ("greedy", "sampled"))
    at_once = module.episodes_at_once(run.config) if hasattr(module, "episodes_at_once") else settings.eval_episodes
    measure = module.measure(run.env, run.env_params, run.config) if hasattr(module, "measure") else None
    num_seats = module.seats(run.config) if hasattr(module, "seats") else 0

    def evaluate(key: jax.Array, state: Any, task: Any) -> Any:
        results = {}
        worlds = module.worlds(run.env, task.env_params) if hasattr(module, "worlds") else {"": task.env_params}
        several = jax.tree.map(lambda *x: jnp.stack(x), *worlds.values()) if len(worlds) > 1 else None  # one program for all worlds
        for (suffix, algorithm), mode in itertools.product(algorithms.items(), modes):
            key, key_mode = jax.random.split(key)
            keys = jax.random.split(key_mode, (num_seats, settings.eval_episodes) if num_seats else settings.eval_episodes)

            def play(key: jax.Array, env_params: Any, state: Any = state, algorithm: Any = algorithm, mode: str = mode) -> rollout.Episode:
                return rollout.evaluate(key, run.env, env_params, rollout.actor(algorithm, state, mode == "greedy"), max_steps)

            def play_all(env_params: Any, play: Any = play, keys: jax.Array = keys) -> rollout.Episode:
                if at_once < settings.eval_episodes:
                    return jax.lax.map(functools.partial(play, env_params=env_params), keys, batch_size=at_once)
                return jax.vmap(play, (0, None))(keys, env_params)

            def play_seat(keys: jax.Array, i: jax.Array, play: Any = play) -> rollout.Episode:
                of_seat, world = module.seat(state, i)
                return jax.vmap(play, (0, None, None))(keys, world, of_seat)

            if num_seats:  # several learners, each in its own world
                played = jax.tree.map(lambda x: x.reshape(1, -1), jax.vmap(play_seat)(keys, jnp.arange(num_seats)))
            elif several is not None:
                played = jax.vmap(play_all)(several)
            else:
                played = jax.tree.map(lambda x: x[None], play_all(task.env_params))
            episode = jax.tree.map(lambda x: x.astype(float).mean(axis=1), played)
            for i, world in enumerate(worlds):
                results[mode + suffix + world] = {
                    "return": episode.total[i], "length": episode.length[i], "success": episode.success[i]
                }  # fmt: skip
        if measure is not None:
            results["model"] = measure(key, state, task)
        return results

    return evaluate if algorithms else None


def own_worlds(env: Any, seeds: Sequence[int]) -> Any:
    """Params [M, ...]: the world of every member, drawn by its seed and the environment's option `seed` where it has one."""
    root = jax.random.key(WORLDS ^ getattr(env, "seed", 0))
    return jax.vmap(lambda seed: env.draw_params(jax.random.fold_in(root, seed)))(jnp.asarray(seeds, jnp.uint32))


def make_task(run: Resolved, say: Say = print) -> tuple[Any, Any]:
    """The task of a run and its vmap axes: what the algorithm makes of the environment, or its params; loads or fits the effect model of

    phase 1 where the mask needs one."""
    module, settings = run.module, run.settings
    if hasattr(module, "make_task"):
        task, axes = module.make_task(run.env, run.env_params, run.config, run.seeds, settings.worlds == "own")
        return task, axes
    env_params, axis = (own_worlds(run.env, run.seeds), 0) if run.own_worlds else (run.env_params, None)
    if not (hasattr(module, "needs_effects") and module.needs_effects(run.config)):
        return module.Task(env_params), None if axis is None else module.Task(axis)
    folder = find_effects(settings)
    if folder is None:
        phase1_module = algorithm_module("effects")
        config = phase1_module.Config()
        steps = settings.effect_steps or phase1_module.default_steps(config)
        config = dataclasses.replace(config, decay_steps=-(-steps // phase1_module.steps_per_update(config)))
        phase1 = Settings(
            algorithm="effects", env=settings.env, env_options=settings.env_options, members=settings.members, seed=settings.seed,
            steps=steps, name="effects", folder=str(run.folder), mesh=settings.mesh, worlds=settings.worlds,
        )  # fmt: skip
        folder = train_run(resolve(phase1, config), resume=True, say=say)
    loaded = load_run(folder)
    if loaded.resolved.settings.env != settings.env:
        raise UserError(f"effects = {str(folder)!r}: was fitted on {loaded.resolved.settings.env}, this run is on {settings.env}")
    members = np.arange(run.num_members) % settings.members % loaded.resolved.num_members  # the same models for every point of a sweep
    model = jax.tree.map(lambda x: x[members], mesh.fetch(loaded.resolved.module.model(loaded.run.state)))
    return module.Task(env_params, model), module.Task(axis, 0)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder. The lock dies with its process. Raises: UserError when another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"run = {str(folder)!r}: in use by process {file.read().strip() or '?'}; wait for it or choose another --name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def train_run(run: Resolved, *, resume: bool = False, say: Say = print) -> Path:
    """Train what was resolved, to the end, in its run folder; returns the folder.

    Raises: UserError when the folder holds another run, is in use, its checkpoints cannot be read, or the memory would not do;
      Diverged when a member diverges (see Settings.on_nan); Terminated after SIGTERM, at the end of the chunk.
    """
    folder = run.folder
    if not hosts.first():
        say = _say_nothing

    def check() -> None:
        if (folder / "run.json").exists():
            if not resume:
                raise UserError(f"name = {folder.name!r}: {folder} exists; continue it with --resume, or choose another --name")
            check_resumable(run, read_about(folder))

    hosts.once(check)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as held, guard.terminable() as asked_to_stop:
            hosts.once(lambda: held.enter_context(locked(folder)))
            return _train(run, folder, say, asked_to_stop)
    except Exception as error:
        begun = isinstance(error, Diverged | Terminated) or (folder / "effects").exists() or list(folder.glob("ckpt/*/*"))
        if missing and not begun and hosts.first():
            _forget(missing)
        raise


def _forget(folders: list[Path]) -> None:
    """Remove a run folder in which there is nothing to continue, and those of its parents that were made for it and are empty."""
    shutil.rmtree(folders[0], ignore_errors=True)
    for parent in folders[1:]:
        with suppress(OSError):  # another run is in it by now
            parent.rmdir()


def _say_nothing(line: str) -> None:
    """The voice of every process but the first."""


def _begin(run: Resolved, folder: Path) -> dict[str, Any]:
    """Write run.json, and what it holds: a resumed run goes on in the chunks it began with, and its seconds add up."""
    about = describe(run)
    if (folder / "run.json").exists():
        before = read_about(folder)
        about |= {name: before[name] for name in ("chunk_updates", "seconds", "diverged") if name in before}
    write_json(folder / "run.json", about)
    return about


def placement(run: Resolved, num_bytes: int) -> tuple[jax.sharding.Mesh, int]:
    """(the devices of a run whose states have so many bytes, how many bytes it may use).

    Without `mesh` in the settings members are copied to several devices only where there is room for it.
    """
    num = run.num_members
    devices = mesh.make_mesh(num, run.settings.mesh, mesh.batch_sizes(run.module, run.config))
    limit = int(run.settings.memory_limit * 2**30) or memory.available(list(devices.local_devices)) * jax.process_count()
    if not run.settings.mesh and 8 * mesh.copies(devices, num) * num_bytes > limit:
        devices = mesh.make_mesh(num, f"pop={mesh.even(num, len(jax.devices()))}")
    return devices, limit


def _train(run: Resolved, folder: Path, say: Say, asked_to_stop: Callable[[], bool]) -> Path:
    steps_per_update = run.module.steps_per_update(run.config)
    about = hosts.once(lambda: _begin(run, folder))
    task, task_axes = make_task(run, say)
    shapes = jax.eval_shape(lambda: training.start(run.algorithm, run.seeds, run.hyper, task, task_axes).state)
    devices, limit = placement(run, memory.size_of(shapes))
    memory.check(mesh.copies(devices, run.num_members) * memory.size_of(shapes), limit)
    state = training.start(run.algorithm, run.seeds, run.hyper, task, task_axes, devices)
    task = mesh.shard_task(task, task_axes, devices)
    checkpoints = Checkpoints(folder / "ckpt")
    if hosts.first():
        checkpoints.clean()
    restored = checkpoints.restore(state, say=say)
    state = state if restored is None else restored
    t = int(state.t)
    if t >= run.num_updates:
        say(f"{folder}: complete at {t * steps_per_update:,} steps per member")
        checkpoints.close()
        return folder
    if t:
        say(f"{folder}: resumed at {t * steps_per_update:,} steps per member")
    first = hosts.first()
    results = Jsonl(folder / "results.jsonl", t, about["chunk_updates"]) if first else None
    progress = Progress(folder.name, run.num_updates * steps_per_update, run.num_members, say) if first else None
    wandb = Wandb(about, folder, grouped="wandb-grouped" in run.settings.log, say=say) if first and run.settings.log else None
    best, saved = checkpoints.best_score(), t
    seconds = {**about.get("seconds", {}), "train": results.seconds if results else 0.0}
    gone = {int(m): guard.Divergence(*where) for m, where in about.pop("diverged", {}).items() if where[0] <= t}
    about |= {"diverged": {str(m): where for m, where in gone.items()}} if gone else {}
    evaluate = evaluator(run)

    def on_estimate(num_bytes: int) -> None:
        say(f"{folder.name}: will need about {memory.text(num_bytes)} of {memory.text(limit)}, compiling")
        memory.check(num_bytes, limit)

    def on_compiled(compiled: training.Compiled) -> None:
        seconds["compile"] = compiled.seconds
        say(f"{folder.name}: {run.num_members} members, compiled in {compiled.seconds:.1f} s, needs {memory.text(compiled.bytes)}")
        if hosts.any_of(asked_to_stop()):
            stop(t)

    def stop(t: int) -> None:
        told = f"checkpoint at {t * steps_per_update:,} steps per member" if t else "before the first checkpoint"
        raise Terminated(f"terminated, {told}; continue with --resume")

    def on_chunk(chunk: training.Chunk) -> None:
        nonlocal best, saved
        stopping = hosts.any_of(asked_to_stop())  # asked once: a signal that comes from here on ends the next chunk
        seconds["train"] += chunk.seconds
        updates = max((len(x) for x in chunk.metrics.values()), default=0)
        means = {name: _mean(x) for name, x in chunk.metrics.items()}
        new = {m: where for m, where in guard.divergences(chunk.t, chunk.metrics, chunk.finite).items() if m not in gone}
        gone.update(new)
        means, evaluation = guard.excluded(means, list(gone)), chunk.evaluation and guard.excluded(chunk.evaluation, list(gone))
        row = {"t": chunk.t, "steps": chunk.t * steps_per_update, "seconds": seconds["train"], "metrics": means, "eval": evaluation}
        if results is not None:
            results.write(row)
        if new:
            told_diverged(chunk.t, new)
        score = _score(evaluation, means)
        due = chunk.t > 0 and (
            stopping or chunk.t == run.num_updates or -(-chunk.t // about["chunk_updates"]) % run.settings.checkpoint_every == 0
        )
        if chunk.t and score > best and (due if evaluate is None else evaluation is not None):
            best = score
            checkpoints.save(chunk.run, "best", score)
        if due:
            checkpoints.save(chunk.run, "last")
            saved = chunk.t
        rate = updates * steps_per_update * run.num_members / chunk.seconds if chunk.seconds else 0.0
        if progress is not None:
            progress.write(row["steps"], rate, score)
        if wandb is not None:
            wandb.write(row)
        if stopping:
            stop(chunk.t)

    def told_diverged(t: int, new: dict[int, guard.Divergence]) -> None:
        told = "; ".join(
            f"member {m} (seed {run.seeds[m]}) diverged in update {where.update} "
            f"({(where.update - 1) * steps_per_update:,} to {where.update * steps_per_update:,} steps): {where.what}"
            for m, where in list(new.items())[:3]
        )
        told += f"; and {len(new) - 3} more" if len(new) > 3 else ""
        if run.settings.on_nan == "stop" or len(gone) == run.num_members:
            advice = "" if len(gone) == run.num_members else "; --resume --on-nan skip-member goes on without"
            last = f"the last good checkpoint, at {saved * steps_per_update:,} steps, stays" if saved else "there is no checkpoint yet"
            raise Diverged(f"{told}; {last}{advice}")
        about["diverged"] = {str(m): where for m, where in gone.items()}
        hosts.once(lambda: write_json(folder / "run.json", about))  # before the checkpoint: who reads that knows who is gone
        say(f"{folder.name}: {told}; going on without")

    try:
        training.fit(
            run.algorithm, state, task, run.num_updates, chunk_updates=about["chunk_updates"], evaluate=evaluate,
            evaluate_every=run.settings.evaluate_every, task_axes=task_axes, on_estimate=on_estimate, on_compiled=on_compiled,
            on_chunk=on_chunk,
        )  # fmt: skip
    finally:
        for part in (progress, results, checkpoints, wandb):
            if part is not None:
                part.close()
    hosts.once(lambda: write_json(folder / "run.json", {**about, "seconds": seconds}))
    return folder


def _mean(x: np.ndarray) -> np.ndarray:
    """Mean over the updates of a chunk [updates, M] -> [M], leaving out NaN (updates in which no episode ended)."""
    count = np.sum(~np.isnan(x), axis=0)
    return np.where(count > 0, np.nansum(x, axis=0) / np.maximum(count, 1), np.nan)


def _score(evaluation: Any, means: dict[str, np.ndarray]) -> float:
    """The number that decides which checkpoint is best: the mean return of the evaluated (else the training) episodes."""
    played = evaluation.get("sampled", evaluation.get("greedy")) if evaluation else None
    values = np.asarray(played["return"] if played else means.get("episode_return", [np.nan]))
    return float(np.nanmean(values)) if not np.all(np.isnan(values)) else float("-inf")


class Loaded(NamedTuple):
    """A run folder read back: what it is, its task, and its checkpoint."""

    resolved: Resolved
    task: Any
    task_axes: Any
    run: training.Run


def load_run(folder: Path, kind: str = "last", say: Say = print) -> Loaded:
    """Read a run folder back for evaluation, reports and play. kind: "last" or "best".

    Raises: UserError when it is no run folder or has no readable checkpoint.
    """
    folder = Path(folder)
    settings, config, hyper = load_settings(read_about(folder))
    settings = dataclasses.replace(settings, folder=str(folder.parent), name=folder.name)
    run = resolve(settings, config, hyper, train=False)
    task, axes = make_task(run, say)
    checkpoints = Checkpoints(folder / "ckpt")
    example = training.start(run.algorithm, run.seeds, run.hyper, task, axes)
    restored = checkpoints.restore(example if jax.process_count() == 1 else mesh.everywhere(example), kind, say)
    checkpoints.close()
    if restored is None:
        raise UserError(f"run = {str(folder)!r}: has no checkpoint yet")
    return Loaded(run, task, axes, restored)
