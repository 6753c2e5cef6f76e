"""DLPA (arXiv 2404.03037) on its benchmarks: learning curves and a final table beside the published numbers.

    python -m experiments.dlpa demo                 # what `make train-dlpa` does: two members on Platform and their report
    python -m experiments.dlpa study                # preset cpu, 5 members: experiments/results/dlpa_<environment>.json and a curve
    python -m experiments.dlpa study --preset gpu   # longer runs, evaluation in parallel
    python -m experiments.dlpa table                # the results as markdown
    python -m experiments.dlpa presets              # experiments/presets/<environment>-dlpa.json, for causal-jax train --preset

Structure, horizon and reward networks are the authors' for Platform, Goal and Hard Move 8, for the others those of an independent
reproduction (a guess of its own for Hard Goal and Catch Point).
Budgets are environment steps after the 50 random episodes, 25 updates each. A CPU step (plan and updates) took 50 to 100 ms on one core.
Published: DLPA's scores as an independent reproduction quotes them, mean and spread; the authors' only public curve is Platform's.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from causal_jax import gallery, history, make, plots, rollout, statistics
from causal_jax.algorithms import dlpa
from causal_jax.cli import configure
from causal_jax.evaluation import evaluate_run
from causal_jax.runs import time_limit, train_run
from causal_jax.settings import Settings, resolve
from causal_jax.types import UserError
from experiments.records import RESULTS, stated

SEQUENTIAL = {"structure": "sequential", "horizon": 8, "reward": "linear"}
MOVE = {"structure": "parallel", "horizon": 5, "reward": "linear", "reward_nets": 2, "bounded": False, "window_block": 0}
BENCHMARKS: dict[str, tuple[dict[str, Any], int, int]] = {  # environment -> (Config fields, steps on a CPU, on a GPU)
    "platform": ({"shared": True, "least_std": 0.1}, 1000, 5000),  # shared: with which the authors made their curve
    "goal": (SEQUENTIAL, 3000, 20_000),
    "hard-goal": (SEQUENTIAL, 3000, 20_000),
    "catch-point": ({**SEQUENTIAL, "reward_nets": 2, "bounded": False}, 3000, 20_000),
    "hard-move-4": (MOVE, 3000, 20_000),
    "hard-move-6": (MOVE, 3000, 20_000),
    "hard-move-8": (MOVE, 3000, 30_000),
    "hard-move-10": (MOVE, 1000, 40_000),
}
PUBLISHED = {  # mean and spread
    "platform": (0.92, 0.05), "goal": (28.75, 6.91), "hard-goal": (28.38, 2.88), "catch-point": (7.56, 4.86),
    "hard-move-4": (6.29, 5.74), "hard-move-6": (8.48, 5.45), "hard-move-8": (7.80, 6.27), "hard-move-10": (6.35, 9.97),
}  # fmt: skip
AUTHORS_CURVE = {"steps": [0, 250, 500, 750, 1000], "return": [0.292, 0.418, 0.915, 0.782, 0.982]}  # Platform, one seed
SUFFIX = {"definition": "", "authors": "_authors"}
GROUNDED = {"lr": 1e-3, "state_weight": 1000.0}
RATES: dict[str, dict[str, float]] = {"explored": {**GROUNDED, "epsilon": 0.1}, "grounded": GROUNDED, "authors": {}}
OURS_MOVE = {"state_only": "outcomes", "residual": True}
OURS_GOAL = {"end_epsilon": 0.5, "average": 0.002}  # else a member may shoot at once, at -6, for the whole run
OURS: dict[str, dict[str, Any]] = {  # changes that go with explored: Hyper's, or Config's
    "platform": {"state_weight": 20.0, "state_only": "ends", "end_epsilon": 0.5, "average": 0.002},  # rewards are at most 1 there
    "goal": OURS_GOAL,
    "hard-goal": OURS_GOAL,
    "hard-move-4": OURS_MOVE,
    "hard-move-6": OURS_MOVE,
    "hard-move-8": {**OURS_MOVE, "code": "bits"},  # 256 actions, each seen ten times in 2,500 steps
    "hard-move-10": {**OURS_MOVE, "code": "bits"},
}
KINDS = [mode + rates + preset for mode in SUFFIX.values() for rates in ("", "_grounded", "_explored") for preset in ("", "_gpu")]
REFERENCE_EPISODES = 1000
PRESETS = Path(__file__).parent / "presets"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["demo", "study", "table", "presets"]]
    """demo: Platform and its report; study: learning curves and results; table: the results as markdown; presets: the files that
    causal-jax train --preset reads."""
    preset: Literal["cpu", "gpu"] = "cpu"
    """The budget, how many evaluated episodes are planned for at once (1, 64), and whether plans that have ended are left out (cpu)."""
    mode: Literal["definition", "authors"] = "definition"
    """The loss as defined, or as the authors' code has it (results in dlpa_<environment>_authors.json)."""
    rates: Literal["best", "explored", "grounded", "authors"] = "best"
    """Step size, weights of the losses and random actions. authors: theirs; the network of states then learns mostly from the errors of
    rewards and ends, which see its predictions. grounded: it learns from states. explored: that, one action of ten at random in training,
    and what else an environment asks for (OURS). best: explored, but the authors' in their mode. Results:
    dlpa_<environment>_<rates>.json, without a name for the authors'."""
    envs: tuple[str, ...] = ()
    """Environments; default platform (demo), all (study)."""
    members: int = 0
    """Seeds; default 2 (demo), 5 (study)."""
    steps: int = 0
    """Environment steps of a member after the random episodes; default 1,000 (demo), the preset's (study)."""
    evaluations: int = 0
    """Evaluations spread over a run; default 2 (demo), 4 (study)."""
    episodes: int = 0
    """Episodes per evaluation and member; default 20 (demo), 50 (study)."""
    test_episodes: int = 0
    """study: fresh episodes of each member's last policy, for a mean with a small standard error ("test" in the results file)."""
    folder: str = "runs"
    """Where the run folders go."""


def rates_of(options: Options) -> str:
    """explored, grounded or authors."""
    return options.rates if options.rates != "best" else "authors" if options.mode == "authors" else "explored"


def kind_of(options: Options) -> str:
    """What the names of runs and results tell of the settings."""
    rates = rates_of(options)
    return SUFFIX[options.mode] + ("" if rates == "authors" else f"_{rates}")


def checked(envs: tuple[str, ...]) -> tuple[str, ...]:
    """The same. Raises: UserError for one that is no benchmark."""
    for env in envs:
        if env not in BENCHMARKS:
            raise UserError(f"envs = {env!r}: must be among {', '.join(BENCHMARKS)}")
    return envs


def algorithm_of(env: str, rates: str, mode: str = "definition", preset: str = "cpu") -> tuple[dlpa.Config, dlpa.Hyper]:
    """The settings of the algorithm on one environment; rates: a key of RATES."""
    changes = {**RATES[rates], **(OURS.get(env, {}) if rates == "explored" else {})}
    hyper = dlpa.Hyper(**{name: changes.pop(name) for name in tuple(changes) if name in dlpa.Hyper.__dataclass_fields__})
    device = {"episodes_at_once": 64, "block": 0} if preset == "gpu" else {}
    return dlpa.Config(**{**BENCHMARKS[env][0], **changes, **device}, mode=mode), hyper


def preset(env: str) -> dict[str, Any]:
    """The content of a preset: the study of one environment on a CPU, in its best settings; only what is not the default."""
    config, hyper = algorithm_of(env, "explored")
    told = {"algorithm": "dlpa", "env": env, "members": 5, "steps": BENCHMARKS[env][1], "evaluations": 4, "eval_episodes": 50}
    return {
        "settings": {**told, "name": f"dlpa-{env}"},
        "config": {name: value for name, value in vars(config).items() if value != getattr(dlpa.Config(), name)},
        "hyper": {name: [value] for name, value in vars(hyper).items() if value != getattr(dlpa.Hyper(), name)},
    }


def settings_of(options: Options, env: str) -> Settings:
    """The settings of a run, defaults filled in. A demo has a folder of its own, which a study does not take up."""
    _, cpu, gpu = BENCHMARKS[env]
    small = options.what == "demo"
    return Settings(
        algorithm="dlpa", env=env, members=options.members or (2 if small else 5), folder=options.folder,
        name=f"{env}-dlpa{kind_of(options).replace('_', '-')}-{options.preset}" + ("-demo" if small else ""),
        steps=options.steps or (1000 if small else cpu if options.preset == "cpu" else gpu),
        evaluations=options.evaluations or (2 if small else 4), eval_episodes=options.episodes or (20 if small else 50),
    )  # fmt: skip


def train(options: Options, env: str) -> Path:
    """DLPA on one environment; returns its run folder."""
    config, hyper = algorithm_of(env, rates_of(options), options.mode, options.preset)
    config = dataclasses.replace(config, break_every=dlpa.break_steps(config))  # told: a run from before the default goes on if it is equal
    return train_run(resolve(settings_of(options, env), config, hyper), resume=True)


def command(options: Options, env: str) -> str:
    """What repeats the study of one environment."""
    run = settings_of(options, env)
    return stated(
        "dlpa", "study", envs=env, preset=options.preset, mode=options.mode, rates=rates_of(options), members=run.members,
        steps=run.steps, evaluations=run.evaluations, episodes=run.eval_episodes,
        **({"test-episodes": options.test_episodes} if options.test_episodes else {}),
    )  # fmt: skip


def references(env_id: str) -> dict[str, dict[str, float]]:
    """What needs no learning, means over 1,000 episodes: policy -> {"return", "length", "success"}."""
    env, params = make(env_id)
    found = {}
    for name, act in gallery.POLICIES[type(env)](env, params).items():
        play = jax.jit(jax.vmap(lambda key, act=act: rollout.evaluate(key, env, params, act, time_limit(params))))
        played = play(jax.random.split(jax.random.key(1), REFERENCE_EPISODES))
        values = {"return": played.total, "length": played.length, "success": played.success}
        found[name] = {quantity: round(float(np.mean(x)), 3) for quantity, x in values.items()}
    return found


def summary(folder: Path) -> dict[str, Any]:
    """The curve of every member, the mean and deviation over members of the last and of each member's best evaluation, and the time."""
    run = history.load_run(folder)
    curves = {name: run.curve(f"eval.greedy.{name}") for name in ("return", "length", "success")}
    steps, returns = curves["return"]
    final, best = returns[:, -1], returns.max(axis=1)
    return {
        "final": {"mean": round(float(final.mean()), 3), "std": round(float(final.std()), 3), "members": np.round(final, 3).tolist()},
        "best": {"mean": round(float(best.mean()), 3), "std": round(float(best.std()), 3), "members": np.round(best, 3).tolist()},
        "steps": np.asarray(steps).tolist(),
        "curves": {name: np.round(values, 3).tolist() for name, (_, values) in curves.items()},
        "seconds": run.info.get("seconds"),
    }


def test(folder: Path, members: int, episodes: int) -> dict[str, Any]:
    """Fresh episodes of every member's last policy: the mean return and its standard error, by the members' differences, and success."""
    played = evaluate_run(folder, episodes)["greedy"]
    (mean, std), (success, _) = played["return"], played["success"]
    error = std / max(members - 1, 1) ** 0.5
    return {"episodes": episodes, "mean": round(mean, 3), "error": round(error, 3), "success": round(success, 3)}


def draw(env: str, row: dict[str, Any], references: dict[str, Any], path: Path) -> None:
    """The members' mean with its interval, the references, the published score and on Platform the authors' curve."""
    levels = {name: values["return"] for name, values in references.items()} | {"published": PUBLISHED[env][0]}
    lines: dict[str, Any] = {
        "DLPA": {"steps": row["steps"], "estimate": statistics.curve_interval(row["curves"]["return"], statistics.mean)}
    }
    if env == "platform":
        values = AUTHORS_CURVE["return"]
        lines["authors, one seed"] = {"steps": AUTHORS_CURVE["steps"], "estimate": (values, values, values), "band": False}
    plots.curves([(f"{env}: return", lines, levels)], path)


def study(options: Options, envs: tuple[str, ...]) -> None:
    """Every environment; its results file is written when its run is over."""
    RESULTS.mkdir(exist_ok=True)
    for env in envs:
        folder = train(options, env)
        row = {"published": PUBLISHED[env], "references": references(env), **summary(folder), "command": command(options, env)}
        if options.test_episodes:
            row["test"] = test(folder, settings_of(options, env).members, options.test_episodes)
        name = f"dlpa_{env.replace('-', '_')}{kind_of(options)}" + ("" if options.preset == "cpu" else "_gpu")
        (RESULTS / f"{name}.json").write_text(json.dumps(row) + "\n")
        draw(env, row, row["references"], RESULTS / f"{name}.png")


def score(row: dict[str, Any]) -> float:
    """The mean return of the last policies: of the fresh episodes, or where there are none of the last evaluation."""
    return row.get("test", row["final"])["mean"]


def table() -> str:
    """The results files as markdown: mean +- standard deviation over members of the last evaluation; fresh episodes +- standard error."""
    lines = ["| environment | steps | DLPA | fresh episodes | published | random | scripted | train s |", "|" + "---|" * 8]
    for env in BENCHMARKS:
        for kind in KINDS:
            path = RESULTS / f"dlpa_{env.replace('-', '_')}{kind}.json"
            if not path.exists():
                continue
            row = json.loads(path.read_text())
            known = [f"{policy['return']:.2f}" for policy in row["references"].values()]
            found, published = "{mean:.2f} ± {std:.2f}".format(**row["final"]), "{:.2f} ± {:.2f}".format(*row["published"])
            fresh = "{mean:.2f} ± {error:.2f}".format(**row["test"]) if "test" in row else ""
            label = env + kind.removesuffix("_gpu").replace("_", ", ")
            cells = (label, f"{row['steps'][-1]:,.0f}", found, fresh, published, *known, f"{row['seconds']['train']:,.0f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Fill in the defaults and run. Raises: UserError for an environment that is no benchmark, or what a run raises."""
    envs = checked(options.envs)
    if options.what == "table":
        print(table())
    elif options.what == "presets":
        for env in envs or BENCHMARKS:
            (PRESETS / f"{env}-dlpa.json").write_text(json.dumps(preset(env), indent=1) + "\n")
    elif options.what == "study":
        study(options, envs or tuple(BENCHMARKS))
    else:
        for env in envs or ("platform",):
            folder = train(options, env)
            print(f"report: {gallery.report([folder])}")
            if hasattr(make(env)[0], "render"):
                print(f"an episode: {gallery.play(folder)}")


if __name__ == "__main__":
    configure()
    try:
        main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
    except UserError as error:
        raise SystemExit(str(error)) from None
