"""CEE (arXiv 2501.14543) on the maze: PPO, NPM, NPM-Random, CEE, CEE-WOC, the oracle and a control, on the same seeds.

    python -m experiments.cee demo    # what `make train` does: PPO, NPM and CEE on maze-n6, one report
    python -m experiments.cee maze    # n = 4, 6, 8, every method, 8 members, 500k steps: experiments/results/cee_maze.json

Hyperparameters are those of the authors' phase 2 (stable-baselines3's defaults, entropy 0.2): 2048 steps per update, here from 16
environments instead of one. The paper prints curves but no table for the maze; what it claims is the order CEE > NPM > PPO.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from causal_jax import history, statistics
from causal_jax.algorithms import ALGORITHMS, algorithm_module, ppo
from causal_jax.cli import use_compilation_cache
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve

RESULTS = Path(__file__).parent / "results"
PAPER = {"num_envs": 16, "num_steps": 128, "num_epochs": 10, "num_minibatches": 32}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # label -> algorithm, Config fields
    "PPO": ("ppo", {}),
    "NPM": ("npm", {}),
    "NPM-Random": ("npm-random", {}),
    "CEE": ("cee", {}),
    "CEE-WOC": ("cee-woc", {}),
    "CEE, oracle N": ("cee", {"n_values": "oracle"}),
    "no duplicate successors": ("ppo", {"selection": "unique"}),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["demo", "maze"]]
    """demo: three methods on one maze and their report; maze: the study."""
    n: tuple[int, ...] = ()
    """Actuators of the mazes; default 6 (demo), 4 6 8 (maze)."""
    methods: tuple[str, ...] = ()
    """Labels of the methods; default PPO NPM CEE (demo), all (maze)."""
    members: int = 0
    """Seeds; default 4 (demo), 8 (maze)."""
    steps: int = 0
    """Environment steps of a member; default 200000 (demo), 500000 (maze)."""
    effect_steps: int = 0
    """Environment steps of phase 1; default 200000 (demo), 500000 (maze)."""
    evaluations: int = 20
    """Evaluations spread over a run."""
    folder: str = "runs"
    """Where the run folders go."""
    resume: bool = True
    """Go on with what is in the folders."""


def slug(label: str) -> str:
    """A label as a folder name."""
    return label.lower().replace(", ", "-").replace(" ", "-")


def train(options: Options, n: int, label: str, effects: str) -> Path:
    """One method on one maze; returns its run folder."""
    name, fields = METHODS[label]
    settings = Settings(
        algorithm=name, env=f"maze-n{n}", members=options.members, steps=options.steps, evaluations=options.evaluations,
        eval_episodes=8, effects=effects, name=f"maze-n{n}-{slug(label)}", folder=options.folder,
    )  # fmt: skip
    config = ppo.Config(**{**PAPER, **ALGORITHMS[name].preset, **fields})
    return train_run(resolve(settings, config, ppo.Hyper(ent_coef=0.2)), resume=options.resume)


def fit_effects(options: Options, n: int) -> str:
    """Phase 1 on one maze, shared by all methods; returns the name of its run."""
    module = algorithm_module("effects")
    settings = Settings(
        algorithm="effects", env=f"maze-n{n}", members=options.members, steps=options.effect_steps, name=f"maze-n{n}-effects",
        folder=options.folder,
    )  # fmt: skip
    train_run(resolve(settings, module.Config(), module.Hyper()), resume=options.resume)
    return settings.name


def needs_effects(label: str) -> bool:
    """Whether a method reads the effect model of phase 1."""
    name, fields = METHODS[label]
    return ppo.needs_effects(ppo.Config(**{**ALGORITHMS[name].preset, **fields}))


def summary(folder: Path) -> dict[str, Any]:
    """The numbers of one run: IQM and 95% interval over members of what the study compares, and the curves."""
    run = history.load_run(folder)
    steps, returns = run.curve("eval.sampled.return")
    _, success = run.curve("eval.sampled.success")
    quantities = {
        "final_return": returns[:, -1],
        "final_success": success[:, -1],
        "area_under_curve": statistics.area_under_curve(steps, returns),
        "final_return_greedy": run.curve("eval.greedy.return")[1][:, -1],
    }
    estimates = {name: list(map(float, statistics.bootstrap_interval(values))) for name, values in quantities.items()}
    first = statistics.steps_to(steps, success, 0.9)
    per_member = {name: np.round(values, 3).tolist() for name, values in quantities.items()}
    return {
        **estimates,
        "members_to_90": int(np.isfinite(first).sum()),
        "steps_to_90": [None if not np.isfinite(x) else int(x) for x in first],
        "per_member": per_member,
        "seconds": run.info.get("seconds"),
        "curve": {"steps": np.asarray(steps).tolist(), "return_iqm": np.round(statistics.curve_interval(returns).value, 3).tolist()},
    }


def study(options: Options) -> None:
    """Every method on every maze; the results file is written after each run."""
    path = RESULTS / "cee_maze.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() and options.resume else {}
    for n in options.n:
        effects = fit_effects(options, n) if any(map(needs_effects, options.methods)) else ""
        for label in options.methods:
            folder = train(options, n, label, effects if needs_effects(label) else "")
            results.setdefault(f"maze-n{n}", {})[label] = summary(folder)
            results["command"] = "python -m experiments.cee maze"
            path.write_text(json.dumps(results, indent=1) + "\n")


def demo(options: Options) -> None:
    """Three methods on one maze, and the report that compares them."""
    from causal_jax.gallery import report

    for n in options.n:
        effects = fit_effects(options, n)
        folders = [train(options, n, label, effects if needs_effects(label) else "") for label in options.methods]
        print(f"report: {report(folders, Path(options.folder) / f'maze-n{n}')}")


def main(options: Options) -> None:
    """Fill in the defaults and run."""
    small = options.what == "demo"
    steps = options.steps or (200_000 if small else 500_000)
    filled = dataclasses.replace(
        options,
        n=options.n or ((6,) if small else (4, 6, 8)),
        methods=options.methods or (("PPO", "NPM", "CEE") if small else tuple(METHODS)),
        members=options.members or (4 if small else 8),
        steps=steps,
        effect_steps=options.effect_steps or (200_000 if small else 500_000),
    )
    (demo if small else study)(filled)


if __name__ == "__main__":
    use_compilation_cache()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
