"""DLPA's model-free rivals: P-DQN, PADDPG, HHQN, HyAR-TD3 and HyAR-DDPG, and who is first at 80% of the way to DLPA's final score.

    python -m experiments.dlpa_rivals             # Platform, 5 members: experiments/results/dlpa_rivals_platform.json
    python -m experiments.dlpa_rivals --env hard-move-4 --steps 50000
    python -m experiments.dlpa_rivals --table     # the results of an environment, and who is first in every one, as markdown

Steps are counted from nothing: the random steps before learning (500; HyAR 10,000, its authors 5,000 episodes; DLPA 50 episodes) are among
them. The level is 80% of the way from random play to DLPA's final score, both of experiments/results/dlpa_<environment>.json: scores are
negative in half of the environments, where a share of the score itself means nothing.
Published (HyAR, table 2, Platform, means of 5 runs of 200,000 steps): P-DQN 0.93, PADDPG 0.36, HHQN 0.46, HyAR-DDPG 0.87, HyAR-TD3 0.98.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from causal_jax import history
from causal_jax.algorithms import ALGORITHMS, algorithm_module
from causal_jax.cli import configure
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve
from causal_jax.types import UserError
from experiments.dlpa import BENCHMARKS, KINDS, score
from experiments.records import RESULTS, stated

RIVALS: dict[str, dict[str, float]] = {  # algorithm -> Hyper fields
    "pdqn": {}, "paddpg": {}, "hhqn": {}, "hyar-td3": {}, "hyar-ddpg": {"lr": 1e-3, "actor_lr": 1e-4},
}  # fmt: skip
PUBLISHED = {"pdqn": 0.93, "paddpg": 0.36, "hhqn": 0.46, "hyar-ddpg": 0.87, "hyar-td3": 0.98}  # Platform
SHARE = 0.8
RANDOM_EPISODES = 50  # of DLPA, before it learns


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    env: str = "platform"
    """Environment."""
    methods: tuple[str, ...] = tuple(RIVALS)
    """Algorithms; those of an earlier call stay in the results file."""
    members: int = 5
    """Seeds."""
    steps: int = 20_000
    """Steps of a member after the random ones."""
    evaluations: int = 40
    """Evaluations spread over a run."""
    episodes: int = 50
    """Episodes per evaluation and member."""
    folder: str = "runs"
    """Where the run folders go."""
    table: bool = False
    """Print the results and train nothing."""


def results_file(env: str, method: str = "dlpa_rivals") -> Path:
    """Where results of an environment are kept."""
    return RESULTS / f"{method}_{env.replace('-', '_')}.json"


def own(env: str) -> dict[str, Any]:
    """DLPA's results with the best `score` on an environment. Raises: UserError if there are none."""
    paths = [results_file(f"{env}{kind}", "dlpa") for kind in KINDS]
    if not (rows := [json.loads(path.read_text()) for path in paths if path.exists()]):
        raise UserError(f"env = {env!r}: DLPA has no results; run python -m experiments.dlpa study --envs {env} first")
    return max(rows, key=score)


def level_of(row: dict[str, Any]) -> float:
    """What is to be reached, from DLPA's results: SHARE of the way from random play to DLPA's final score."""
    start = row["references"]["random"]["return"]
    return start + SHARE * (score(row) - start)


def first_reached(steps: Any, returns: np.ndarray, level: float) -> list[int | None]:
    """The steps [E] at which each member's evaluations [M, E] first are at `level`; None where they never are."""
    return [int(steps[np.argmax(row >= level)]) if (row >= level).any() else None for row in np.asarray(returns)]


def train(options: Options, method: str) -> dict[str, Any]:
    """One rival: its curve, final and best scores."""
    module = algorithm_module(method)
    config, hyper = module.Config(**ALGORITHMS[method].preset), module.Hyper(**RIVALS[method])
    settings = Settings(
        algorithm=method, env=options.env, members=options.members, steps=options.steps, evaluations=options.evaluations,
        eval_episodes=options.episodes, folder=options.folder, name=f"{options.env}-{method}-{options.steps}",
    )  # fmt: skip
    run = history.load_run(train_run(resolve(settings, config, hyper), resume=True))
    steps, returns = run.curve("eval.greedy.return")
    steps = np.asarray(steps) + config.random_steps
    final, best = returns[:, -1], returns.max(axis=1)
    return {
        "final": {"mean": round(float(final.mean()), 3), "std": round(float(final.std()), 3), "members": np.round(final, 3).tolist()},
        "best": {"mean": round(float(best.mean()), 3), "members": np.round(best, 3).tolist()},
        "random_steps": config.random_steps,
        "steps": steps.tolist(),
        "returns": np.round(returns, 3).tolist(),
        "seconds": run.info.get("seconds"),
        "command": stated(
            "dlpa_rivals",
            env=options.env,
            methods=method,
            members=options.members,
            steps=options.steps,
            evaluations=options.evaluations,
            episodes=options.episodes,
        ),
    }


def rivals(options: Options) -> dict[str, Any]:
    """Train the rivals and add them to the results file, one after the other; returns its content."""
    for method in options.methods:
        if method not in RIVALS:
            raise UserError(f"methods = {method!r}: must be among {', '.join(RIVALS)}")
    RESULTS.mkdir(exist_ok=True)
    path = results_file(options.env)
    found = json.loads(path.read_text()) if path.exists() else {}
    for method in options.methods:
        found[method] = train(options, method)
        path.write_text(json.dumps(found) + "\n")
    return found


def rows_of(env: str) -> dict[str, dict[str, Any]]:
    """DLPA's results and its rivals': method -> {"steps", "returns", "final", "seconds"}, random steps among the steps."""
    dlpa = own(env)
    before = round(RANDOM_EPISODES * dlpa["references"]["random"]["length"])
    rows = {"dlpa": dlpa | {"steps": [before + x for x in dlpa["steps"]], "returns": dlpa["curves"]["return"]}}
    return rows | (json.loads(results_file(env).read_text()) if results_file(env).exists() else {})


def table(env: str) -> str:
    """The results as markdown: mean +- deviation over members of the last evaluation; steps to the level of every member, - for never."""
    level = level_of(own(env))
    lines = [f"| method | steps | final return | published | steps to {level:.2f}, per member | train s |", "|" + "---|" * 6]
    for method, row in rows_of(env).items():
        reached = ", ".join("-" if x is None else f"{x:,.0f}" for x in first_reached(row["steps"], np.asarray(row["returns"]), level))
        known = f"{PUBLISHED[method]:.2f}" if env == "platform" and method in PUBLISHED else ""
        final = "{mean:.2f} ± {std:.2f}".format(**row["final"])
        lines.append(f"| {method} | {row['steps'][-1]:,.0f} | {final} | {known} | {reached} | {row['seconds']['train']:,.0f} |")
    return "\n".join(lines)


def overview() -> str:
    """Steps of the median member to the level, every environment and method, and how many members got there, as markdown."""
    methods = ("dlpa", *RIVALS)
    lines = ["| environment | level | " + " | ".join(methods) + " |", "|" + "---|" * (2 + len(methods))]
    for env in BENCHMARKS:
        if not results_file(env).exists():
            continue
        rows, level = rows_of(env), level_of(own(env))
        cells = []
        for method in methods:
            if method not in rows:
                cells.append("not run")
                continue
            steps, returns = rows[method]["steps"], np.asarray(rows[method]["returns"])
            first = sorted(float("inf") if x is None else x for x in first_reached(steps, returns, level))
            middle = first[len(first) // 2]
            text = f"{middle:,.0f}" if np.isfinite(middle) else f"> {steps[-1]:,.0f}"
            cells.append(f"{text} ({sum(map(np.isfinite, first))} of {len(first)})")
        lines.append(f"| {env} | {level:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Train, or print the table. Raises: UserError for an environment or a method that is not among those compared."""
    if options.env not in BENCHMARKS:
        raise UserError(f"env = {options.env!r}: must be among {', '.join(BENCHMARKS)}")
    if not options.table:
        rivals(options)
    print(table(options.env), overview(), sep="\n\n")


if __name__ == "__main__":
    configure()
    try:
        main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
    except UserError as error:
        raise SystemExit(str(error)) from None
