"""A run from its settings to its folder: `train_run` resolves names, fits phase 1 where a mask needs it, trains, logs and saves.

A run folder is runs/<name>/{run.json, results.jsonl, ckpt/, effects/, policy/, report.html, *.png}; run.json alone says how to repeat it.
Nothing is written before every name, type, range and size has been checked; a folder that another process trains in is refused.
"""

from __future__ import annotations

import ast
import dataclasses
import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from causal_jax import mesh, rollout, training
from causal_jax.algorithms import ALGORITHMS, algorithm_module
from causal_jax.checkpoint import Checkpoints
from causal_jax.envs import make
from causal_jax.fields import option, validate
from causal_jax.logs import Jsonl, Progress, Wandb
from causal_jax.types import Algorithm, UserError

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one run is, apart from the algorithm's own Config and Hyper."""

    algorithm: Annotated[str, tyro.conf.Suppress] = "ppo"
    """Name of the algorithm (causal-jax list algorithms)."""
    env: str = "maze-n6"
    """Name of the environment (causal-jax list envs)."""
    env_options: tuple[str, ...] = ()
    """Options of the environment, as name=value."""
    members: int = option(4, low=1)
    """Seeds per combination of swept values; every member trains in the same program."""
    seed: int = option(0, low=0)
    """Seed of the first member; the others count up."""
    steps: int = option(500_000, low=1)
    """Environment steps of each member (rounded up to whole updates)."""
    evaluations: int = option(10, low=1)
    """Evaluations, log rows and checkpoints spread over the run."""
    eval_episodes: int = option(16, low=1)
    """Episodes per evaluation and member."""
    eval_steps: int = option(0, low=0)
    """Longest evaluated episode; 0: the environment's time limit, or 1000."""
    effects: str = ""
    """Run (name or folder) whose effect model masks the actions; empty: fit one first, into the run's own folder."""
    effect_steps: int = option(200_000, low=1)
    """Environment steps of phase 1 where it is fitted here."""
    name: str = ""
    """Name of the run folder; empty: <algorithm>-<env>."""
    folder: str = "runs"
    """Where run folders live."""
    devices: int = option(0, low=0)
    """Devices to shard the members over; 0: as many as divide them."""
    log: tuple[str, ...] = option((), choices=("wandb", "wandb-grouped"))
    """Loggers beside the console and results.jsonl: wandb (one run a member) or wandb-grouped (one run of means)."""


MAY_CHANGE = ("steps", "devices", "log", "folder", "name", "effects")  # what a resumed run need not repeat


class Resolved(NamedTuple):
    """Settings made real: nothing is trained or written yet."""

    settings: Settings
    config: Any
    swept: dict[str, tuple[float, ...]]
    hyper: Any
    seeds: list[int]
    points: list[dict[str, float]]
    env: Any
    env_params: Any
    module: Any
    algorithm: Algorithm
    num_updates: int
    chunk_updates: int

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.folder) / (self.settings.name or f"{self.settings.algorithm}-{self.settings.env.replace(':', '-')}")

    @property
    def num_members(self) -> int:
        """Members of the population."""
        return len(self.seeds)


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """("max_steps=100", "image=True") -> {"max_steps": 100, "image": True}. Raises: UserError for a pair without "="."""
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"env_options = {pair!r}: must be name=value")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return options


def resolve(settings: Settings, config: Any = None, hyper: Any = None) -> Resolved:
    """Check everything and build the algorithm. config, hyper: the algorithm's (None: its defaults); hyper's fields may be sequences.

    Raises: UserError, one line, for the first thing that is wrong.
    """
    module = algorithm_module(settings.algorithm)
    validate(settings)
    config = config if config is not None else module.Config(**ALGORITHMS[settings.algorithm].preset)
    hyper = hyper if hyper is not None else module.Hyper()
    swept = {name: tuple(np.atleast_1d(np.asarray(values, object)).tolist()) for name, values in vars(hyper).items()}
    for name, values in swept.items():
        for value in values:
            validate(module.Hyper(**{name: value}), "hyper.")
    env, env_params = make(settings.env, **parse_options(settings.env_options))
    algorithm = module.build(env, env_params, config)
    population, seeds, points = training.grid(hyper, range(settings.seed, settings.seed + settings.members))
    num_updates = -(-settings.steps // module.steps_per_update(config))
    chunk_updates = -(-num_updates // settings.evaluations)
    return Resolved(settings, config, swept, population, seeds, points, env, env_params, module, algorithm, num_updates, chunk_updates)


def time_limit(env_params: Any) -> int:
    """The time limit that an environment's params tell, in steps; 1000 where they tell none."""
    for name in ("max_steps", "max_steps_in_episode"):
        if hasattr(env_params, name):
            return int(getattr(env_params, name))
    return 1000


def evaluator(run: Resolved) -> Callable[..., Any] | None:
    """(key, state, task) -> {"greedy" | "sampled" + suffix: {"return", "length", "success"}}, means over the evaluated episodes."""
    settings, module = run.settings, run.module
    configs = module.evaluations(run.config) if hasattr(module, "evaluations") else {"": run.config}
    acts = {suffix: module.build(run.env, run.env_params, config).act for suffix, config in configs.items()}
    max_steps = settings.eval_steps or time_limit(run.env_params)

    def evaluate(key: jax.Array, state: Any, task: Any) -> Any:
        results = {}
        for suffix, act in acts.items():
            for greedy in (True, False):
                key, key_mode = jax.random.split(key)
                keys = jax.random.split(key_mode, settings.eval_episodes)

                def play(key: jax.Array, act: Any = act, greedy: bool = greedy) -> rollout.Episode:
                    return rollout.evaluate(key, run.env, task.env_params, lambda k, obs: act(k, state, obs, greedy), max_steps)

                episode = jax.tree.map(lambda x: x.astype(float).mean(), jax.vmap(play)(keys))
                means = {"return": episode.total, "length": episode.length, "success": episode.success}
                results[("greedy" if greedy else "sampled") + suffix] = means
        return results

    return evaluate if acts else None


def make_task(run: Resolved, say: Say = print) -> tuple[Any, Any]:
    """The task of a run and its vmap axes; loads or fits the effect model of phase 1 where the mask needs one."""
    module, settings = run.module, run.settings
    if not (hasattr(module, "needs_effects") and module.needs_effects(run.config)):
        return module.Task(run.env_params), None
    if settings.effects:
        folder = Path(settings.effects)
        folder = folder if (folder / "run.json").exists() else Path(settings.folder) / settings.effects
        if not (folder / "run.json").exists():
            raise UserError(
                f"effects = {settings.effects!r}: no such run, neither {settings.effects}/run.json nor {folder}/run.json exists"
            )
    else:
        phase1 = Settings(
            algorithm="effects", env=settings.env, env_options=settings.env_options, members=settings.members, seed=settings.seed,
            steps=settings.effect_steps, name="effects", folder=str(run.folder), devices=settings.devices,
        )  # fmt: skip
        folder = train_run(resolve(phase1), resume=True, say=say)
    loaded = load_run(folder)
    if loaded.resolved.settings.env != settings.env:
        raise UserError(f"effects = {str(folder)!r}: was fitted on {loaded.resolved.settings.env}, this run is on {settings.env}")
    members = np.arange(run.num_members) % loaded.resolved.num_members
    model = jax.tree.map(lambda x: x[members], loaded.resolved.module.model(loaded.run.state))
    return module.Task(run.env_params, model), module.Task(None, 0)


def describe(run: Resolved) -> dict[str, Any]:
    """What run.json holds."""
    versions = {name: metadata.version(name) for name in ("causal_jax", "jax", "jaxlib", "flax", "optax", "numpy") if _installed(name)}
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "name": run.folder.name,
        "settings": dataclasses.asdict(run.settings),
        "config": dataclasses.asdict(run.config),
        "hyper": {name: list(values) for name, values in run.swept.items()},
        "algorithm": run.settings.algorithm,
        "env": run.settings.env,
        "members": run.num_members,
        "seeds": run.seeds,
        "points": run.points,
        "steps": run.num_updates * run.module.steps_per_update(run.config),
        "chunk_updates": run.chunk_updates,
        "versions": {"python": sys.version.split()[0], **versions},
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "git": revision.stdout.strip() if revision.returncode == 0 else "",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def read_about(folder: Path) -> dict[str, Any]:
    """The run.json of a run folder. Raises: UserError when there is none or it cannot be read."""
    try:
        return dict(json.loads((folder / "run.json").read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"run = {str(folder)!r}: has no readable run.json ({type(error).__name__})") from None


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


def check_resumable(run: Resolved, about: dict[str, Any]) -> None:
    """Raises: UserError naming the first field in which a run differs from the folder it should continue."""
    now = json.loads(json.dumps(describe(run)))
    for part in ("settings", "config", "hyper"):
        for field, value in now[part].items():
            before = about[part].get(field)
            if value != before and not (part == "settings" and field in MAY_CHANGE):
                raise UserError(f"{field} = {value}: the run in {run.folder} has {before}; resume with the same, or choose another --name")


def train_run(run: Resolved, *, resume: bool = False, say: Say = print) -> Path:
    """Train what was resolved, to the end, in its run folder; returns the folder.

    Raises: UserError when the folder holds another run, is in use, or its checkpoints cannot be read.
    """
    folder = run.folder
    if (folder / "run.json").exists():
        if not resume:
            raise UserError(f"name = {folder.name!r}: {folder} exists; continue it with --resume, or choose another --name")
        check_resumable(run, read_about(folder))
    with locked(folder):
        return _train(run, folder, say)


def _train(run: Resolved, folder: Path, say: Say) -> Path:
    steps_per_update = run.module.steps_per_update(run.config)
    about = describe(run)
    if (folder / "run.json").exists():
        about["chunk_updates"] = read_about(folder)["chunk_updates"]
    write_json(folder / "run.json", about)
    task, task_axes = make_task(run, say)
    state = training.start(run.algorithm, run.seeds, run.hyper, task, task_axes)
    state = mesh.shard_run(state, mesh.population_mesh(run.num_members, run.settings.devices))
    checkpoints = Checkpoints(folder / "ckpt")
    restored = checkpoints.restore(state, say=say)
    state = state if restored is None else restored
    t = int(state.t)
    if t >= run.num_updates:
        say(f"{folder}: complete at {t * steps_per_update:,} steps per member")
        checkpoints.close()
        return folder
    if t:
        say(f"{folder}: resumed at {t * steps_per_update:,} steps per member")
    results = Jsonl(folder / "results.jsonl", t)
    progress = Progress(folder.name, run.num_updates * steps_per_update, run.num_members, say)
    wandb = Wandb(about, folder, grouped="wandb-grouped" in run.settings.log, say=say) if run.settings.log else None
    best = checkpoints.best_score()
    seconds = {"train": 0.0}

    def on_compiled(compiled: training.Compiled) -> None:
        seconds["compile"] = compiled.seconds
        say(f"{folder.name}: {run.num_members} members, compiled in {compiled.seconds:.1f} s, needs {compiled.bytes / 2**20:.0f} MiB")

    def on_chunk(chunk: training.Chunk) -> None:
        nonlocal best
        seconds["train"] += chunk.seconds
        updates = max((len(x) for x in chunk.metrics.values()), default=0)
        means = {name: _mean(x) for name, x in chunk.metrics.items()}
        row = {"t": chunk.t, "steps": chunk.t * steps_per_update, "seconds": seconds["train"], "metrics": means, "eval": chunk.evaluation}
        results.write(row)
        score = _score(chunk, means)
        if chunk.t and score > best:
            best = score
            checkpoints.save(chunk.run, "best", score)
        if chunk.t:
            checkpoints.save(chunk.run, "last")
        rate = updates * steps_per_update * run.num_members / chunk.seconds if chunk.seconds else 0.0
        progress.write(row["steps"], rate, score)
        if wandb is not None:
            wandb.write(row)

    try:
        training.fit(
            run.algorithm, state, task, run.num_updates, chunk_updates=about["chunk_updates"], evaluate=evaluator(run),
            task_axes=task_axes, on_compiled=on_compiled, on_chunk=on_chunk,
        )  # fmt: skip
    finally:
        progress.close()
        results.close()
        checkpoints.close()
        if wandb is not None:
            wandb.close()
    write_json(folder / "run.json", {**about, "seconds": seconds})
    return folder


def _mean(x: np.ndarray) -> np.ndarray:
    """Mean over the updates of a chunk [updates, M] -> [M], leaving out NaN (updates in which no episode ended)."""
    count = np.sum(~np.isnan(x), axis=0)
    return np.where(count > 0, np.nansum(x, axis=0) / np.maximum(count, 1), np.nan)


def _score(chunk: training.Chunk, means: dict[str, np.ndarray]) -> float:
    """The number that decides which checkpoint is best: the mean return of the evaluated (else the training) episodes."""
    if chunk.evaluation:
        return float(np.mean(chunk.evaluation["sampled"]["return"]))
    values = np.asarray(means.get("episode_return", [np.nan]))
    return float(np.nanmean(values)) if not np.all(np.isnan(values)) else float("-inf")


class Loaded(NamedTuple):
    """A run folder read back: what it is, its task, and its checkpoint."""

    resolved: Resolved
    task: Any
    task_axes: Any
    run: training.Run


def load_settings(about: dict[str, Any]) -> tuple[Settings, Any, Any]:
    """(settings, config, hyper) of a run.json; hyper's fields are the tuples of swept values."""

    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}

    settings = Settings(**tuples(about["settings"]))
    module = algorithm_module(settings.algorithm)
    return settings, module.Config(**tuples(about["config"])), module.Hyper(**tuples(about["hyper"]))


def load_run(folder: Path, kind: str = "last", say: Say = print) -> Loaded:
    """Read a run folder back for evaluation, reports and play. kind: "last" or "best".

    Raises: UserError when it is no run folder or has no readable checkpoint.
    """
    folder = Path(folder)
    settings, config, hyper = load_settings(read_about(folder))
    settings = dataclasses.replace(settings, folder=str(folder.parent), name=folder.name)
    run = resolve(settings, config, hyper)
    task, axes = make_task(run, say)
    checkpoints = Checkpoints(folder / "ckpt")
    restored = checkpoints.restore(training.start(run.algorithm, run.seeds, run.hyper, task, axes), kind, say)
    checkpoints.close()
    if restored is None:
        raise UserError(f"run = {str(folder)!r}: has no checkpoint yet")
    return Loaded(run, task, axes, restored)
