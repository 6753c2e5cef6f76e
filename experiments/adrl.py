"""AD-RL (arXiv 2504.21326): DQN, DecQN and AD-DQN on the point mass, and the report of a short demo. Offline: experiments/adrl_offline.py.

    python -m experiments.adrl demo      # what `make train-adrl` does: DQN, DecQN and AD-DQN at 9 levels, one report
    python -m experiments.adrl online    # return against the size of the action space, 9, 17, 33 levels: results/adrl_online.json
    python -m experiments.adrl long      # the best of them for 300,000 steps: results/adrl_long.json
    python -m experiments.adrl switches  # every switch of AD-DQN at 9 levels: results/adrl_switches.json
    python -m experiments.adrl table     # those results as markdown

The paper's settings and numbers were not at hand; what it claims is that AD-DQN learns faster than DecQN, the more so the more levels, and
that the average, linear and two-layer mixers often beat relu. All methods share trunk, rates, data and seeds here: 8 environments, one
update per 8 steps, 20,000 random steps first (without them the target is rarely found), layer normalisation, Adam 5e-4.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from causal_jax import gallery, history, statistics
from causal_jax.algorithms import ALGORITHMS, factored_q
from causal_jax.cli import configure
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve
from experiments.records import RESULTS, command, curve, figure

COMMON: dict[str, Any] = {
    "num_envs": 8, "num_steps": 1, "hidden": (128, 128), "layer_norm": True, "batch_size": 128, "capacity": 200_000, "init_steps": 20_000,
    "target_every": 25, "model_hidden": (128, 128),
}  # fmt: skip
RATES = {"lr": 5e-4}
MIXERS = ("average", "linear", "linear2", "relu", "monotone")
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {  # label -> algorithm, Config fields, Hyper fields
    "DQN": ("dqn", {}, {}),
    "DecQN": ("decqn", {}, {}),
    **{f"AD-DQN {mixer}": ("ad-dqn", {"mixer": mixer, "aug": "none"}, {}) for mixer in MIXERS},
    **{f"AD-DQN {mixer}, models": ("ad-dqn", {"mixer": mixer, "aug": "noop"}, {}) for mixer in MIXERS},
    **{f"AD-DQN {mixer}, lam 0": ("ad-dqn", {"mixer": mixer, "aug": "off"}, {}) for mixer in MIXERS[1:]},  # average: DecQN
}
SWITCHES: dict[str, tuple[str, dict[str, Any], dict[str, float]]] = {
    "mixer only (lam 0)": ("ad-dqn", {"aug": "off"}, {}),  # the linear one
    "lam 0.1": ("ad-dqn", {"aug": "none"}, {"lam": 0.1}),
    "models, lam 0.1": ("ad-dqn", {"aug": "noop"}, {"lam": 0.1}),
    "half models, half real": ("ad-dqn", {"aug": "noop+real"}, {}),
    "models of single blocks": ("ad-dqn", {"aug": "noop", "model": "block"}, {}),
    "models, offset b(s)": ("ad-dqn", {"aug": "noop", "offset": True}, {}),
    "projected training only, models": ("ad-dqn", {"aug": "noop", "grad_through_mixer": False}, {}),
    "projected training only, real": ("ad-dqn", {"aug": "none", "grad_through_mixer": False}, {}),
    "one coin for all blocks": ("ad-dqn", {"aug": "none", "exploration": "joint"}, {}),
    "single Q target": ("ad-dqn", {"aug": "none", "double": False}, {}),
}
LONG = ("DecQN", "AD-DQN linear, lam 0", "models, lam 0.1")
REACHED, EPISODE = 600.0, 1000  # return; steps of an episode


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["demo", "online", "long", "switches", "table"]]
    """demo: three methods and their report; online, long, switches: the studies; table: their results as markdown."""
    levels: tuple[int, ...] = ()
    """Levels of a torque; default 9 (demo, switches), 9 17 33 (online, long)."""
    methods: tuple[str, ...] = ()
    """Labels of the methods; default DQN DecQN AD-DQN linear (demo), the best (long), all."""
    members: int = 0
    """Seeds; default 3 (demo), 10."""
    steps: int = 0
    """Environment steps of a member after the random ones; default 60000 (demo), 280000 (long), 180000."""
    evaluations: int = 18
    """Evaluations spread over a run."""
    hard: bool = False
    """The suite's hard task, whose torques push in random directions: the blocks' effects interact."""
    folder: str = "runs"
    """Where the run folders go."""


def slug(label: str) -> str:
    """A label as a folder name."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in label.lower()).replace("--", "-")


def env_of(options: Options, levels: int) -> str:
    """The environment's name."""
    return f"point-mass-{'hard-' if options.hard else ''}{levels}"


def name_of(options: Options, levels: int, label: str) -> str:
    """The run's name."""
    return f"{env_of(options, levels)}-{slug(label)}{'-long' if options.what == 'long' else ''}"


def train(options: Options, levels: int, label: str) -> Path:
    """One method at one number of levels; returns its run folder."""
    name, fields, rates = {**METHODS, **SWITCHES}[label]
    config = factored_q.Config(**{**COMMON, **ALGORITHMS[name].preset, **fields})
    settings = Settings(
        algorithm=name, env=env_of(options, levels), members=options.members, steps=options.steps, evaluations=options.evaluations,
        eval_episodes=10, checkpoint_every=options.evaluations, name=name_of(options, levels, label), folder=options.folder,
    )  # fmt: skip
    return train_run(resolve(settings, config, factored_q.Hyper(**{**RATES, **rates})), resume=True)


def summary(folder: Path) -> dict[str, Any]:
    """IQM and 95% interval over members: return at the end, mean of the last three evaluations, area, steps to a return of 600."""
    run = history.load_run(folder)
    steps, returns = run.curve("eval.greedy.return")
    steps, returns = np.asarray(steps)[1:], returns[:, 1:]  # without the untrained policy
    first = statistics.steps_to(steps, returns, REACHED)
    quantities = {
        "final": returns[:, -1],
        "last3": returns[:, -3:].mean(axis=1),
        "best": returns.max(axis=1),
        "area": statistics.area_under_curve(steps, returns),
    }
    return {
        **{name: np.round([*statistics.bootstrap_interval(values)], 2).tolist() for name, values in quantities.items()},
        "steps_to_600": [int(x) if math.isfinite(x) else None for x in first],
        "members": {name: np.round(values, 1).tolist() for name, values in quantities.items()},
        "curve": curve(steps, 1, **{"return": returns}),
        "seconds": run.info.get("seconds"),
    }


def study(options: Options) -> None:
    """Every method at every number of levels; the results file is written after each run."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"adrl_{options.what}{'_hard' if options.hard else ''}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for levels in options.levels:
        for label in options.methods:
            found = summary(train(options, levels, label))
            found |= {"budget": {"members": options.members, "steps": options.steps + COMMON["init_steps"]}, "command": command("adrl")}
            results.setdefault(str(levels), {})[label] = found
            path.write_text(json.dumps(results, indent=1) + "\n")
            figure(results[str(levels)], path.with_name(f"{path.stem}_{levels}.png"))


def episodes_to(first: list[float | None], budget: int) -> str:
    """Episodes until a return of 600: median of the members [95% bootstrap interval]; one that never gets there counts as the budget."""
    episodes = np.asarray([budget if x is None else x for x in first]) / EPISODE
    value, low, high = statistics.bootstrap_interval(episodes, lambda x, axis: np.quantile(x, 0.5, axis=axis, method="inverted_cdf"))
    late = ">" if value >= budget / EPISODE else ""
    return f"{late}{value:.0f} [{low:.0f}, {high:.0f}] ({len(first) - first.count(None)} of {len(first)})"


def table(path: Path) -> str:
    """A results file as markdown, IQM [95% interval] over members; no published numbers are known."""
    lines = [  # budget: members, environment steps of each
        "| levels | method | best evaluation | last 3 | last | area under curve | episodes to 600 (members) | budget | train s |",
        "|" + "---|" * 9,
    ]
    for levels, rows in json.loads(path.read_text()).items():
        for label, row in rows.items():
            cells = ["{:.0f} [{:.0f}, {:.0f}]".format(*row[name]) for name in ("best", "last3", "final", "area")]
            reached = episodes_to(row["steps_to_600"], row["budget"]["steps"])
            budget = f"{row['budget']['members']}, {row['budget']['steps'] // 1000}k"
            lines.append(f"| {levels} | {label} | {' | '.join(cells)} | {reached} | {budget} | {row['seconds']['train']:.0f} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Fill in the defaults and run."""
    if options.what == "table":
        for path in [path for kind in ("online", "long", "switches") for path in sorted(RESULTS.glob(f"adrl_{kind}*.json"))]:
            print(f"\n{path.name}\n\n{table(path)}")
        return
    demo = options.what == "demo"
    methods = {"demo": ("DQN", "DecQN", "AD-DQN linear"), "online": tuple(METHODS), "long": LONG, "switches": tuple(SWITCHES)}[options.what]
    filled = dataclasses.replace(
        options,
        levels=options.levels or ((9, 17, 33) if options.what in ("online", "long") else (9,)),
        methods=options.methods or methods,
        members=options.members or (3 if demo else 10),
        steps=options.steps or {"demo": 60_000, "long": 280_000}.get(options.what, 180_000),
        evaluations=min(options.evaluations, 6) if demo else options.evaluations,
    )
    if not demo:
        study(filled)
        return
    folders = [train(filled, levels, label) for levels in filled.levels for label in filled.methods]
    print(f"report: {gallery.report(folders, Path(filled.folder) / 'point-mass')}")


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
