"""FCDL (arXiv 2406.03234) on Magnetic: learned and true graphs on the same random data, beside the published returns.

    python -m experiments.fcdl_magnetic          # six methods, 4 members: experiments/results/fcdl_magnetic.json, then the table
    python -m experiments.fcdl_magnetic table    # the results as markdown
    python -m experiments.fcdl_magnetic --reg 1 --methods FCDL NCD   # a sparsity weight that counts beside the likelihood's large gradients
    python -m experiments.fcdl_magnetic --small  # see that it runs, in --folder

Every method learns from the random policy's episodes (offline) and plans one step ahead when it is tested, in the training world and in the
one in which nothing attracts and the box is off the table. Variables have no order: FCDL and NCD learn every edge between different
variables and from the action. The environment is faithful in structure only (`envs/magnetic.py`), and the published schedule is not this
one (200,000 steps, all but the first 2,000 planned): compare who breaks in the test, not the numbers.
The results file is written after each method; a method that it holds with the same budget is not trained again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from causal_jax import make, rollout
from causal_jax.algorithms import ALGORITHMS, fcdl
from causal_jax.cli import configure
from causal_jax.envs import magnetic_policies
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve
from causal_jax.types import UserError
from experiments import fcdl as chemical
from experiments.records import RESULTS, command

METHODS = ("FCDL", "NCD", "Oracle", "Oracle-local", "Modular", "MLP")
FIELDS = {  # published: one step of planning, predictors of five layers, an MLP of 4 x 512; a standard deviation, as the paper says
    "schedule": "offline", "horizon": 1, "width": 64, "num_hidden": 3, "hidden": (512,) * 4, "learn_std": True, "init_steps": 2500,
    "capacity": 1000, "batch_size": 128,  # half the published batch: as good an update on this little data, at half the price
}  # fmt: skip
LEARNED = {"FCDL": {"learn_upper": True, "learn_action": True}, "NCD": {"learn_upper": True, "learn_action": True}}
SMALL = {"width": 8, "hidden": (16,), "batch_size": 32, "init_steps": 250, "capacity": 100, "num_candidates": 8, "num_elites": 4}
LR = 1e-3
REG = fcdl.Hyper().reg
PUBLISHED = {  # V1 table 1: return in training and in the test, mean and standard deviation of 8 seeds; GRADER was not run
    "FCDL": ((8.52, 0.74), (4.81, 3.01)), "NCD": ((8.48, 0.70), (1.31, 0.77)), "Oracle": ((8.42, 0.86), (0.95, 0.55)),
    "Modular": ((8.45, 0.80), (0.88, 0.52)), "MLP": ((8.37, 0.74), (0.86, 0.45)), "CDL": ((8.75, 0.69), (1.10, 0.67)),
    "GNN": ((8.53, 0.83), (0.92, 0.51)), "NPS": ((3.13, 1.00), (0.91, 0.69)),
}  # fmt: skip
COLUMNS = {  # ID: recorded states, by whether the local graph is in force (not both red) or the global one (both red)
    "return": "train", "return-test": "test", "success": "success %", "success-test": "test %",
    "accuracy_test": "RMSE test, mm", "f1_local": "F1 ID, local", "f1_global": "F1 ID, global", "f1_test": "F1 test",
    "shd_local": "SHD ID, local", "shd_global": "SHD ID, global", "shd_test": "SHD test",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["study", "table"]] = "study"
    """study: train and test every method; table: the results as markdown."""
    methods: tuple[str, ...] = ()
    """Labels of the methods; default all."""
    members: int = 4
    """Seeds: initialisations, and the random data."""
    iterations: int = 8000
    """Updates; after 1,500 nothing separates FCDL from NCD."""
    reg: float = REG
    """Weight of the sparsity term of FCDL and NCD; another than the published one gets run folders and a results file of its own."""
    episodes: int = 10
    """Episodes per evaluation and world."""
    folder: str = "runs"
    """Where the run folders go."""
    small: bool = False
    """Width 8, 2 members, 25 updates, 100 random episodes; the results go to --folder."""


def suffix(options: Options) -> str:
    """What a sparsity weight that is not the published one adds to names."""
    return "" if options.reg == REG else f"-reg-{options.reg:g}"


def settings_of(options: Options, label: str) -> tuple[Settings, fcdl.Config, fcdl.Hyper]:
    """The run of one method. Raises: UserError for a label that names none."""
    if label not in METHODS:
        raise UserError(f"methods = {label!r}: must be one of {', '.join(METHODS)}")
    name = chemical.METHODS[label]
    name_of_run = f"magnetic-study-{label.lower()}-{options.iterations}{suffix(options)}"
    config = fcdl.Config(**{**ALGORITHMS[name].preset, **FIELDS, **LEARNED.get(label, {}), **(SMALL if options.small else {})})
    settings = Settings(
        algorithm=name, env="magnetic", env_options=("physics=closed",), members=options.members, evaluations=1,
        steps=options.iterations * config.num_envs, eval_episodes=options.episodes, name=name_of_run, folder=options.folder,
    )  # fmt: skip
    return settings, config, fcdl.Hyper(lr=LR, reg=options.reg)


def references(episodes: int) -> dict[str, dict[str, float]]:
    """What needs no learning: policy -> {"return<world>", "success<world>": mean over the episodes}."""
    env, params = make("magnetic", physics="closed")
    found: dict[str, dict[str, float]] = {}
    for at, world in fcdl.worlds(env, params).items():
        for name, act in magnetic_policies.policies(env, world).items():
            keys = jax.random.split(jax.random.key(1), episodes)
            played = jax.jit(jax.vmap(lambda key, act=act, world=world: rollout.evaluate(key, env, world, act, 25)))(keys)
            values = {"return": played.total, "success": played.success.astype(float)}
            found.setdefault(name, {}).update({f"{kind}{at}": round(float(x.mean()), 3) for kind, x in values.items()})
    return found


def results_file(options: Options) -> Path:
    """Where the results are."""
    return (Path(options.folder) if options.small else RESULTS) / f"fcdl_magnetic{suffix(options)}.json"


def read(path: Path) -> dict[str, Any]:
    """A results file; empty where there is none yet."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def study(options: Options) -> None:
    """Every method; the results file is written after each, its rows in the order of METHODS."""
    path = results_file(options)
    path.parent.mkdir(parents=True, exist_ok=True)
    budget = {"members": options.members, "iterations": options.iterations, "episodes": options.episodes}
    for label in options.methods or METHODS:
        settings, config, hyper = settings_of(options, label)
        rows = read(path)
        if rows.get(label, {}).get("budget") == budget:
            continue
        told = chemical.summary(train_run(resolve(settings, config, hyper), resume=True))
        rows[label] = {**told, "budget": budget, "command": command("fcdl_magnetic")}
        rows.setdefault("references", references(64 if options.small else 4096))
        path.write_text(json.dumps({name: rows[name] for name in ("references", *METHODS) if name in rows}, indent=1) + "\n")


def cell(name: str, estimate: Any) -> str:
    """IQM [95% interval] of a column, or a number alone; accuracies (minus mean squared errors, m^2) as root mean squared errors in mm."""
    numbers = np.atleast_1d(np.asarray(estimate, float))
    digits = 1
    if name.startswith("accuracy"):
        numbers = 1e3 * np.sqrt(np.maximum(-numbers, 0.0))[[0, 2, 1]]  # the lowest accuracy is the largest error
    elif name.startswith("success"):
        numbers, digits = 100 * numbers, 0
    elif not name.startswith("shd"):
        digits = 2
    told = [f"{x:,.{digits}f}" for x in numbers]
    return told[0] if len(told) == 1 else f"{told[0]} [{told[1]}, {told[2]}]"


def table(path: Path) -> str:
    """The results as markdown: IQM [95% interval] over members, under it the published mean and standard deviation of 8 seeds."""
    rows = read(path)
    lines = ["| method | " + " | ".join(COLUMNS.values()) + " |", "|" + "---|" * (len(COLUMNS) + 1)]

    def line(label: str, values: dict[str, str]) -> None:
        lines.append(f"| {label} | " + " | ".join(values.get(name, "") for name in COLUMNS) + " |")

    for name, values in rows.get("references", {}).items():
        line(f"*{name}*", {column: cell(column, x) for column, x in values.items()})
    for label in dict.fromkeys((*METHODS, *PUBLISHED)):
        if label in rows:
            final = rows[label]["final"]
            line(label, {column: cell(column, final[column]["estimate"]) for column in COLUMNS if column in final})
        if label in PUBLISHED:
            train, test = ("{:.2f} ± {:.2f}".format(*pair) for pair in PUBLISHED[label])
            line(f"{label}, published" + ("" if label in rows else "; not run"), {"return": train, "return-test": test})
    return "\n".join(lines)


def main(options: Options) -> None:
    """Fill in what --small stands for, and run."""
    if options.small:
        options = dataclasses.replace(options, members=2, iterations=25, episodes=2)
    if options.what == "study":
        study(options)
    print(table(results_file(options)))


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
