"""FCDL (arXiv 2406.03234) on Chemical: FCDL, its rivals and its ceilings on the same seeds, beside the published numbers.

    python -m experiments.fcdl demo       # what `make train-fcdl` does: FCDL and NCD on the fork, one report with the graphs per code
    python -m experiments.fcdl chemical   # fork and chain, preset fast, 8 members: experiments/results/fcdl_chemical_fast.json
    python -m experiments.fcdl drift      # the variant on which standing still does not win, 5 members: fcdl_drift_fast.json
    python -m experiments.fcdl chemical --preset full   # the authors' schedule: 16,100 iterations of 10 environments
    python -m experiments.fcdl table      # the results as markdown

Preset fast: 1,000 random-policy episodes (25,000 steps), then 1,000 updates at width 64 and learning rate 1e-3; plans only to be tested.
Preset full: the authors' (width 128, learning rate 1e-4, 1,000 random iterations, then act, step and update 15,100 times).
Every seed draws its own mechanisms, as in the paper; methods are compared on the same ones.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from causal_jax import gallery, history, make, rollout, statistics
from causal_jax.algorithms import ALGORITHMS, fcdl
from causal_jax.cli import configure
from causal_jax.envs import chemical_policies
from causal_jax.runs import own_worlds, train_run
from causal_jax.settings import Settings, resolve
from causal_jax.types import UserError
from experiments.records import RESULTS, command

METHODS = {  # label -> algorithm
    "FCDL": "fcdl", "NCD": "ncd", "Oracle": "oracle-graph", "Oracle-local": "oracle-local", "Modular": "modular", "MLP": "mlp",
    "CDL": "cdl", "GNN": "gnn", "NPS": "nps", "GRADER": "grader",
}  # fmt: skip
STUDIED = ("FCDL", "NCD", "Oracle", "Oracle-local", "Modular", "MLP", "CDL")  # the others only if asked for: a GNN is twenty times as dear
ENVS = {"chemical": ("chemical-full-fork", "chemical-full-chain"), "drift": ("chemical-full-fork-drift", "chemical-full-chain-drift")}
PRESETS: dict[str, tuple[dict[str, Any], dict[str, float], int]] = {  # name -> (Config fields, Hyper fields, iterations)
    "fast": ({"schedule": "offline", "width": 64, "hidden": (512,) * 3, "init_steps": 2500, "capacity": 1000}, {"lr": 1e-3}, 1000),
    "full": ({}, {}, 15_100),
}
WORLDS = ("", "-n2", "-n4", "-n6")
PUBLISHED: dict[str, dict[str, dict[str, tuple[float, float]]]] = {  # V1 tables 1 and 2: mean and standard deviation of 8 seeds
    "chemical-full-fork": {
        "MLP": {"return": (19.00, 0.83), "return-n2": (6.49, 0.48), "return-n4": (5.93, 0.71), "return-n6": (6.84, 1.17),
                "accuracy_id": (88.31, 1.58), "accuracy_n2": (31.11, 1.69), "accuracy_n4": (30.44, 2.28), "accuracy_n6": (32.39, 1.76)},
        "Modular": {"return": (18.55, 1.00), "return-n2": (6.05, 0.70), "return-n4": (5.65, 0.50), "return-n6": (6.43, 1.00),
                    "accuracy_id": (89.24, 1.52), "accuracy_n2": (26.53, 3.45), "accuracy_n4": (24.73, 5.61), "accuracy_n6": (26.73, 8.31)},
        "GNN": {"return": (18.60, 1.19), "return-n2": (6.61, 0.92), "return-n4": (6.15, 0.74), "return-n6": (6.95, 0.78),
                "accuracy_id": (88.81, 1.44), "accuracy_n2": (36.29, 3.45), "accuracy_n4": (25.80, 3.48), "accuracy_n6": (21.58, 3.44)},
        "NPS": {"return": (7.71, 1.22), "return-n2": (5.82, 0.83), "return-n4": (5.75, 0.57), "return-n6": (5.54, 0.80),
                "accuracy_id": (58.34, 2.08), "accuracy_n2": (40.56, 4.61), "accuracy_n4": (26.81, 4.37), "accuracy_n6": (23.02, 4.27)},
        "GRADER": {"return": (18.65, 0.98), "return-n2": (9.27, 1.31), "return-n4": (8.79, 0.65), "return-n6": (10.61, 1.31),
                   "accuracy_id": (87.75, 1.64), "accuracy_n2": (37.93, 1.06), "accuracy_n4": (38.94, 1.63), "accuracy_n6": (45.74, 2.25)},
        "CDL": {"return": (18.95, 1.40), "return-n2": (9.37, 1.33), "return-n4": (8.23, 0.40), "return-n6": (9.50, 1.18),
                "accuracy_id": (89.22, 1.67), "accuracy_n2": (35.59, 1.85), "accuracy_n4": (35.82, 1.40), "accuracy_n6": (42.22, 1.39)},
        "Oracle": {"return": (19.64, 1.18), "return-n2": (7.83, 0.87), "return-n4": (8.04, 0.62), "return-n6": (9.66, 0.21),
                   "accuracy_id": (89.63, 1.62), "accuracy_n2": (33.87, 1.34), "accuracy_n4": (36.48, 1.80), "accuracy_n6": (42.47, 0.75)},
        "NCD": {"return": (19.30, 0.95), "return-n2": (10.95, 1.63), "return-n4": (9.11, 0.63), "return-n6": (10.32, 0.93),
                "accuracy_id": (90.07, 1.22), "accuracy_n2": (41.60, 5.08), "accuracy_n4": (37.47, 2.13), "accuracy_n6": (42.27, 1.82)},
        "FCDL": {"return": (19.28, 0.87), "return-n2": (15.27, 2.53), "return-n4": (14.73, 1.68), "return-n6": (13.62, 2.56),
                 "accuracy_id": (89.46, 1.40), "accuracy_n2": (66.44, 12.22), "accuracy_n4": (58.49, 10.20), "accuracy_n6": (49.09, 4.77)},
    },
    "chemical-full-chain": {
        "MLP": {"return": (17.91, 0.87), "return-n2": (7.39, 0.65), "return-n4": (6.63, 0.58), "return-n6": (6.78, 0.93),
                "accuracy_id": (84.38, 1.31), "accuracy_n2": (28.66, 3.65), "accuracy_n4": (26.52, 4.26), "accuracy_n6": (24.15, 4.17)},
        "Modular": {"return": (17.37, 1.63), "return-n2": (6.61, 0.63), "return-n4": (7.01, 0.55), "return-n6": (7.04, 1.07),
                    "accuracy_id": (85.92, 1.15), "accuracy_n2": (25.24, 4.68), "accuracy_n4": (24.94, 4.81), "accuracy_n6": (25.09, 5.91)},
        "GNN": {"return": (16.97, 1.85), "return-n2": (6.89, 0.28), "return-n4": (6.38, 0.28), "return-n6": (6.56, 0.53),
                "accuracy_id": (85.41, 1.84), "accuracy_n2": (29.22, 3.39), "accuracy_n4": (23.28, 4.98), "accuracy_n6": (20.53, 6.96)},
        "NPS": {"return": (8.20, 0.54), "return-n2": (6.92, 1.03), "return-n4": (6.88, 0.79), "return-n6": (6.80, 0.39),
                "accuracy_id": (58.48, 2.81), "accuracy_n2": (38.73, 2.63), "accuracy_n4": (27.69, 4.28), "accuracy_n6": (24.45, 3.84)},
        "GRADER": {"return": (17.71, 0.54), "return-n2": (8.69, 0.56), "return-n4": (8.75, 0.80), "return-n6": (10.14, 0.33),
                   "accuracy_id": (84.24, 1.22), "accuracy_n2": (36.82, 3.12), "accuracy_n4": (37.41, 2.84), "accuracy_n6": (43.48, 4.14)},
        "CDL": {"return": (17.95, 0.83), "return-n2": (8.71, 0.55), "return-n4": (8.65, 0.38), "return-n6": (10.23, 0.50),
                "accuracy_id": (86.85, 1.47), "accuracy_n2": (34.90, 1.59), "accuracy_n4": (36.52, 1.72), "accuracy_n6": (42.06, 1.29)},
        "Oracle": {"return": (17.79, 0.76), "return-n2": (8.47, 0.69), "return-n4": (8.85, 0.78), "return-n6": (10.29, 0.37),
                   "accuracy_id": (85.76, 1.56), "accuracy_n2": (34.63, 1.78), "accuracy_n4": (38.31, 2.48), "accuracy_n6": (42.87, 2.08)},
        "NCD": {"return": (18.27, 0.27), "return-n2": (9.60, 1.52), "return-n4": (8.86, 0.23), "return-n6": (10.32, 0.37),
                "accuracy_id": (85.63, 1.01), "accuracy_n2": (40.04, 6.21), "accuracy_n4": (37.47, 2.98), "accuracy_n6": (41.19, 1.66)},
        "FCDL": {"return": (17.22, 0.61), "return-n2": (13.36, 3.60), "return-n4": (12.35, 3.23), "return-n6": (12.00, 1.21),
                 "accuracy_id": (86.07, 1.62), "accuracy_n2": (60.34, 12.10), "accuracy_n4": (56.64, 9.40), "accuracy_n6": (53.29, 6.63)},
    },
}  # fmt: skip
REFERENCES = ("random", "idle", "goal9", "persistence_lowest", "persistence_random", "root0")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["demo", "chemical", "drift", "table"]]
    """demo: two methods on the fork and their report; chemical, drift: the studies; table: their results as markdown."""
    preset: Literal["fast", "full"] = "fast"
    """Offline on random data, or the authors' schedule."""
    envs: tuple[str, ...] = ()
    """Environments; default fork and chain."""
    methods: tuple[str, ...] = ()
    """Labels of the methods; default FCDL NCD (demo), all but GNN, NPS and GRADER."""
    members: int = 0
    """Seeds, each with its own mechanisms; default 4 (demo), 8 (chemical), 5 (drift)."""
    iterations: int = 0
    """Updates (fast), or time steps after the random ones (full); default 600 (demo), the preset's."""
    evaluations: int = 2
    """Evaluations spread over a run."""
    episodes: int = 10
    """Episodes per evaluation and world."""
    folder: str = "runs"
    """Where the run folders go."""


def settings_of(
    options: Options, env: str, label: str, rates: dict[str, float] | None = None, **fields: Any
) -> tuple[Settings, fcdl.Config, fcdl.Hyper]:
    """The run of one method (FCDL for a label that names none) on one environment.

    rates, fields: of its Hyper and its Config, over the preset's.
    """
    config_fields, hyper_fields, iterations = PRESETS[options.preset]
    name = METHODS.get(label, "fcdl")
    config = fcdl.Config(**{**ALGORITHMS[name].preset, **config_fields, **fields})
    iterations = options.iterations or iterations
    kind = f"demo-{options.preset}" if options.what == "demo" else options.preset  # a demo is shorter: no study may take it for its own
    settings = Settings(
        algorithm=name, env=env, members=options.members, steps=iterations * config.num_envs, evaluations=options.evaluations,
        eval_episodes=options.episodes, name=f"{env}-{kind}-{label.lower()}", folder=options.folder,
    )  # fmt: skip
    return settings, config, fcdl.Hyper(**{**hyper_fields, **(rates or {})})


def train(options: Options, env: str, label: str) -> Path:
    """One method on one environment; returns its run folder."""
    return train_run(resolve(*settings_of(options, env, label)), resume=True)


def references(options: Options, env_id: str, episodes: int = 64) -> dict[str, dict[str, list[float]]]:
    """What needs no learning, in the members' own worlds: policy -> {"return<world>": mean of every member}."""
    env, _ = make(env_id)
    params = own_worlds(env, range(options.members))
    acts = {name: act for name, act in chemical_policies.policies(env).items() if name in REFERENCES and (env.drift or name != "root0")}
    names: dict[str, Any] = {name: lambda params, act=act: act for name, act in acts.items()}
    if env.drift:
        names["lookahead"] = lambda params: chemical_policies.lookahead(env, params)

    def play(key: jax.Array, params: Any, act: Any) -> jax.Array:
        return rollout.evaluate(key, env, params, act(params), 25).total

    def member(params: Any, seed: jax.Array, act: Any) -> dict[str, jax.Array]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), seed), episodes)
        worlds = fcdl.worlds(env, params)
        return {f"return{world}": jax.vmap(lambda key, p=p: play(key, p, act))(keys).mean() for world, p in worlds.items()}

    found = {}
    for name, act in names.items():
        rows = jax.jit(jax.vmap(lambda p, seed, act=act: member(p, seed, act)))(params, np.arange(options.members))
        found[name] = {world: np.round(np.asarray(x), 3).tolist() for world, x in rows.items()}
    return found


def summary(folder: Path) -> dict[str, Any]:
    """Every evaluated quantity of a run at its end: {"final": {name: {"estimate": IQM and 95% interval, "members": [...]}}, ...}."""
    run = history.load_run(folder)
    names = {}
    for quantity in run.quantities():
        if quantity.startswith("eval.greedy") and quantity.endswith((".return", ".success")):
            world, kind = quantity.removeprefix("eval.greedy").rsplit(".", 1)
            names[quantity] = f"{kind}{world}"
        elif quantity.startswith("eval.model."):
            names[quantity] = quantity.removeprefix("eval.model.")
    final, curves = {}, {}
    for quantity, name in sorted(names.items(), key=lambda item: item[1]):
        steps, values = run.curve(quantity)
        if not np.all(np.isfinite(values[:, -1])):
            continue
        final[name] = {
            "estimate": [round(float(x), 4) for x in statistics.bootstrap_interval(values[:, -1])],
            "members": np.round(values[:, -1], 4).tolist(),
            "best": round(float(np.nanmax(values.mean(axis=0))), 4),
        }
        trained = values[:, np.asarray(steps) > 0]  # the first evaluation may be that of the fresh model
        if trained.shape[1] >= 3:
            final[name]["last3"] = round(float(trained[:, -3:].mean()), 4)
        curves[name] = np.round(np.nanmean(values, axis=0), 4).tolist()
    return {"final": final, "curves": {"steps": np.asarray(steps).tolist(), **curves}, "seconds": run.info.get("seconds")}


def study(options: Options) -> None:
    """Every method on every environment; the results file is written after each run."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"fcdl_{options.what}_{options.preset}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for env in options.envs:
        at = results.setdefault(env, {})
        at["references"] = references(options, env)
        for label in options.methods:
            at[label] = {
                **summary(train(options, env, label)),
                "budget": {"members": options.members, "iterations": options.iterations or PRESETS[options.preset][2]},
                "command": command("fcdl"),
            }
            path.write_text(json.dumps(results, indent=1) + "\n")


COLUMNS = {
    "return": ("train", 1), "return-n2": ("n=2", 1), "return-n4": ("n=4", 1), "return-n6": ("n=6", 1),
    "accuracy_id": ("ID acc. %", 100), "accuracy_n2": ("n=2 %", 100), "accuracy_n4": ("n=4 %", 100), "accuracy_n6": ("n=6 %", 100),
    "f1_local": ("F1 ID", 1), "f1_n2": ("F1 n=2", 1), "shd_local": ("SHD ID", 1), "shd_n2": ("SHD n=2", 1),
    "success": ("success train %", 100), "success-n2": ("success n=2 %", 100), "success-n6": ("success n=6 %", 100),
}  # fmt: skip


def table(path: Path) -> str:
    """A results file as markdown: IQM [95% interval] over members, the published mean +- std under it, "not run" where ours is missing."""
    results, lines = json.loads(path.read_text()), []
    for env, rows in results.items():
        lines += [
            f"\n**{env}**\n",
            "| method | " + " | ".join(name for name, _ in COLUMNS.values()) + " |",
            "|" + "---|" * (len(COLUMNS) + 1),
        ]
        for name, worlds in rows["references"].items():
            cells = [f"{np.mean(worlds[column]):.1f}" if column in worlds else "" for column in COLUMNS]
            lines.append(f"| *{name.replace('_', ' ')}* | " + " | ".join(cells) + " |")
        for label in dict.fromkeys((*METHODS, *PUBLISHED.get(env, {}))):
            cells, published = [], PUBLISHED.get(env, {}).get(label)
            for column, (_, scale) in COLUMNS.items():
                known = rows[label]["final"].get(column) if label in rows else None
                digits = 0 if scale == 100 else 2 if column.startswith("f1") else 1
                cells.append(
                    "" if known is None else "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*np.multiply(known["estimate"], scale), d=digits)
                )
            if label in rows:
                lines.append(f"| {label} | " + " | ".join(cells) + " |")
            if published:
                cells = ["{:.1f} ± {:.1f}".format(*published[column]) if column in published else "" for column in COLUMNS]
                lines.append(f"| {label}, published{'' if label in rows else '; not run'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def demo(options: Options) -> None:
    """FCDL and NCD on the fork, and the report that compares them."""
    folders = [train(options, env, label) for env in options.envs for label in options.methods]
    print(f"report: {gallery.report(folders, Path(options.folder) / 'chemical-fork')}")


def main(options: Options) -> None:
    """Fill in the defaults and run. Raises: UserError for a method that is not there."""
    for label in options.methods:
        if label not in METHODS:
            raise UserError(f"methods = {label!r}: must be among {', '.join(METHODS)}")
    if options.what == "table":
        for path in sorted(path for preset in PRESETS for path in RESULTS.glob(f"fcdl_*_{preset}.json")):
            print(f"\n{path.name}{table(path)}")
        return
    small = options.what == "demo"
    filled = dataclasses.replace(
        options,
        envs=options.envs or (("chemical-full-fork",) if small else ENVS[options.what]),
        methods=options.methods or (("FCDL", "NCD") if small else STUDIED),
        members=options.members or {"demo": 4, "chemical": 8, "drift": 5}[options.what],
        iterations=options.iterations or (600 if small else 0),
    )
    (demo if small else study)(filled)


if __name__ == "__main__":
    configure()
    try:
        main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
    except UserError as error:
        raise SystemExit(str(error)) from None
