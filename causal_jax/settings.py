"""What a run is, before anything is trained: settings checked and made real, and run.json, which alone says how to repeat it.

`resolve` checks every name, type, range and size and builds the algorithm; it writes nothing. `describe` is the content of run.json,
`load_settings` reads it back, `check_resumable` compares the two.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from causal_jax import mesh, training
from causal_jax.algorithms import ALGORITHMS, algorithm_module
from causal_jax.envs import make
from causal_jax.fields import option, validate
from causal_jax.types import Algorithm, UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one run is, apart from the algorithm's own Config and Hyper."""

    algorithm: Annotated[str, tyro.conf.Suppress] = "ppo"
    """Name of the algorithm (causal-jax list algorithms)."""
    env: str = "maze-n6"
    """Name of the environment (causal-jax list envs)."""
    env_options: tuple[str, ...] = ()
    """Options of the environment, as name=value."""
    worlds: str = option("own", choices=("own", "shared"))
    """Worlds drawn at random (draw_params) and data sets that are generated: own, one for each seed, or one shared by all members."""
    members: int = option(4, low=1)
    """Seeds per combination of swept values; every member trains in the same program."""
    seed: int = option(0, low=0)
    """Seed of the first member; the others count up."""
    seeds: tuple[int, ...] = option((), low=0)
    """Seed of every member, all points of swept values included; empty: they count up from seed, the same for every point."""
    combine: str = option("product", choices=("product", "zip"))
    """How swept values make points: product (every combination), or zip (the i-th values belong together)."""
    steps: int = option(500_000, low=1, high=2**62)
    """Environment steps of each member (rounded up to whole updates)."""
    evaluations: int = option(10, low=1)
    """Chunks that the run is cut into: after each comes a log row, and unless said otherwise an evaluation and a checkpoint."""
    evaluate_every: int = option(1, low=1)
    """Chunks between two evaluations."""
    checkpoint_every: int = option(1, low=1)
    """Chunks between two checkpoints."""
    eval_episodes: int = option(16, low=1)
    """Episodes per evaluation and member."""
    eval_steps: int = option(0, low=0)
    """Longest evaluated episode; 0: the environment's time limit, or 1000."""
    effects: str = ""
    """Run (name or folder) whose effect model masks the actions; empty: fit one first, into the run's own folder."""
    effect_steps: int = option(0, low=0)
    """Environment steps of phase 1 where it is fitted here; 0: as long as its learning rates take to decay."""
    name: str = ""
    """Name of the run folder; empty: <algorithm>-<env>."""
    folder: str = "runs"
    """Where run folders live."""
    mesh: str = ""
    """Devices, e.g. pop=4,data=2: members lie along pop, environments and minibatches along data; empty: as many as shorten the run."""
    on_nan: str = option("stop", choices=("stop", "skip-member"))
    """A member that diverges (NaN or infinity): stop the run, keeping its last good checkpoint, or go on without the member."""
    memory_limit: float = option(0.0, low=0.0)
    """GiB that the run may need; 0: the memory of the machine or of its devices."""
    log: tuple[str, ...] = option((), choices=("wandb", "wandb-grouped"))
    """Loggers beside the console and results.jsonl: wandb (one run a member) or wandb-grouped (one run of means)."""


MAY_CHANGE = (  # what a resumed run need not repeat
    "steps", "mesh", "log", "folder", "name", "effects", "evaluate_every", "checkpoint_every", "on_nan", "memory_limit",
)  # fmt: skip


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
    def own_worlds(self) -> bool:
        """Whether every member has a world of its own."""
        return self.settings.worlds == "own" and hasattr(self.env, "draw_params")

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


def find_effects(settings: Settings) -> Path | None:
    """The run folder of the effect model that settings name; None where they name none. Raises: UserError when there is none."""
    if not settings.effects:
        return None
    places = [Path(settings.effects), Path(settings.folder) / settings.effects]
    for folder in places:
        if (folder / "run.json").exists():
            return folder
    raise UserError(f"effects = {settings.effects!r}: no such run, neither {places[0]} nor {places[1]} has a run.json")


def resolve(settings: Settings, config: Any = None, hyper: Any = None, *, train: bool = True) -> Resolved:
    """Check everything and build the algorithm. config, hyper: the algorithm's (None: its defaults); hyper's fields may be sequences.

    train: whether it will be trained here; else the mesh, maybe one of another machine, is not checked.

    Raises: UserError, one line, for the first thing that is wrong.
    """
    module = algorithm_module(settings.algorithm)
    validate(settings)
    for field in ("name", "folder", "effects", "env"):
        if not getattr(settings, field).isprintable():
            raise UserError(f"{field} = {getattr(settings, field)!r}: must hold printable characters only")
    if "/" in settings.name or settings.name in (".", ".."):
        raise UserError(f"name = {settings.name!r}: must be the name of a folder; --folder says where it lives")
    config = config if config is not None else module.Config(**ALGORITHMS[settings.algorithm].preset)
    hyper = hyper if hyper is not None else module.Hyper()
    swept = swept_values(module, hyper)
    env, env_params = make(settings.env, **parse_options(settings.env_options))
    algorithm = module.build(env, env_params, config)
    find_effects(settings)
    population, seeds, points = training.grid(hyper, range(settings.seed, settings.seed + settings.members), settings.combine)
    if settings.seeds:
        if len(settings.seeds) != len(seeds):
            raise UserError(f"seeds = {len(settings.seeds)} seeds: must be {len(seeds)}, one for each member of every point")
        seeds = list(settings.seeds)
    if train:
        mesh.make_mesh(len(seeds), settings.mesh, mesh.batch_sizes(module, config))
    num_updates = -(-settings.steps // module.steps_per_update(config))
    if num_updates >= 2**31:
        raise UserError(f"steps = {settings.steps}: must be less than 2^31 updates of {module.steps_per_update(config):,} steps")
    chunk_updates = -(-num_updates // settings.evaluations)
    return Resolved(settings, config, swept, population, seeds, points, env, env_params, module, algorithm, num_updates, chunk_updates)


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


def read_about(folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The run.json of a run folder (or another file of its kind). Raises: UserError when there is none or it cannot be read."""
    try:
        content = json.loads((folder / name).read_text())
        if not isinstance(content, dict):
            raise ValueError("no object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"run = {str(folder)!r}: has no readable {name} ({type(error).__name__})") from None


def check_resumable(run: Resolved, about: dict[str, Any]) -> None:
    """Raises: UserError naming the first field in which a run differs from the folder it should continue."""
    now = json.loads(json.dumps(describe(run)))
    defaults = {"settings": Settings(), "config": type(run.config)(), "hyper": None}  # of fields that are younger than the run
    defaults = json.loads(json.dumps({part: dataclasses.asdict(values) if values else {} for part, values in defaults.items()}))
    for part in ("settings", "config", "hyper"):
        for field, value in now[part].items():
            before = about[part].get(field, defaults[part].get(field))
            if value != before and not (part == "settings" and field in MAY_CHANGE):
                raise UserError(f"{field} = {value}: the run in {run.folder} has {before}; resume with the same, or choose another --name")


def load_settings(about: dict[str, Any]) -> tuple[Settings, Any, Any]:
    """(settings, config, hyper) of a run.json; hyper's fields are the tuples of swept values."""

    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}

    try:
        known = {name: value for name, value in about["settings"].items() if name != "devices"}  # written before there was `mesh`
        settings = Settings(**tuples(known))
        module = algorithm_module(settings.algorithm)
        config, hyper = module.Config(**tuples(about["config"])), module.Hyper(**tuples(about["hyper"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"run.json: is not one of this program ({error})") from None
    validate(settings)
    validate(config)
    swept_values(module, hyper)
    return settings, config, hyper


def swept_values(module: Any, hyper: Any) -> dict[str, tuple[Any, ...]]:
    """The values of every field of a Hyper, which may be one or several. Raises: UserError for one of another type or out of range."""
    swept = {name: tuple(np.atleast_1d(np.asarray(values, object)).tolist()) for name, values in vars(hyper).items()}
    for name, values in swept.items():
        for value in values:
            validate(module.Hyper(**{name: value}), "hyper.")
    return swept
