"""CEE (arXiv 2501.14543) on MiniGrid: PPO, NPM, NPM-Random, CEE with learned and exact N, on the same seeds, from the symbolic observation.

    python -m experiments.cee_minigrid demo     # what `make train-cee` does: phase 1 and CEE on unlockpickup, a report, a GIF
    python -m experiments.cee_minigrid study    # every method: experiments/results/cee_minigrid.json and curves, written as they come
    python -m experiments.cee_minigrid trap     # what the terminal frame decides, exactly: experiments/results/cee_minigrid_trap.json
    python -m experiments.cee_minigrid table    # the results as markdown

Phase 2 has the authors' hyperparameters (stable-baselines3's defaults, entropy 0.2, 500k steps), 2048 steps an update from 16 environments.
Phase 1 departs from them. A uniform policy from the task's own start opens the door in one episode of a hundred and never holds the box:
N then says that pick-up and toggle do nothing there, CEE masks them, and no policy can succeed ("CEE, N from the task's starts"). Here
phase 1 starts its episodes, of 32 steps, in random states (layout=anywhere): N is a model of what actions do, not of the task.
The terminal-frame trap: in the authors' picture the box is gone after pick-up and after toggle, so with true last frames both actions have
the same successor, and CEE and NPM mask the pick-up that wins. Either the end itself is part of the successor (what `successors` does), or
the observation shows what is carried (what the symbolic one does, and phase 1 learns from).
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro

from causal_jax import gallery, history
from causal_jax.algorithms import ALGORITHMS, effect_model, ppo
from causal_jax.causal import effects, inverse
from causal_jax.cli import configure
from causal_jax.envs import make
from causal_jax.envs.minigrid_search import Graph, reachable, shortest
from causal_jax.runs import load_run, train_run
from causal_jax.settings import Settings, resolve
from experiments.cee import METHODS as MAZE_METHODS
from experiments.cee import PAPER, slug, summary
from experiments.records import RESULTS, command, figure

STARTS = {"anywhere": ("layout=anywhere", "max_steps=32"), "own": ()}  # how the episodes of phase 1 start
METHODS: dict[str, tuple[str, dict[str, Any], str]] = {  # label -> algorithm, Config fields, phase 1
    "CEE": ("cee", {}, "anywhere"),
    "PPO": ("ppo", {}, ""),
    "NPM": ("npm", {}, "anywhere"),
    "NPM-Random": ("npm-random", {}, "anywhere"),
    "CEE, oracle N": ("cee", {"n_values": "oracle"}, ""),
    "CEE, N from the task's starts": ("cee", {}, "own"),
    "CEE-WOC": ("cee-woc", {}, "anywhere"),
    "no duplicate successors": (*MAZE_METHODS["no duplicate successors"], ""),
}
PHASE_1 = effect_model.Config(num_frequencies=0, warmup_steps=256, capacity=32_768)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["demo", "study", "trap", "table"]]
    """demo: phase 1 and CEE; study: every method; trap: exact masks with and without the end; table: the study as markdown."""
    task: str = "unlockpickup"
    """Name of the task, without "minigrid-"."""
    methods: tuple[str, ...] = ()
    """Labels of the methods; default CEE (demo), all but the last two (study)."""
    members: int = 0
    """Seeds; default 2 (demo), 4 (study)."""
    steps: int = 0
    """Environment steps of a member in phase 2; default 250000 (demo, so that it ends within 5 minutes), 500000 (study)."""
    effect_steps: int = 1_200_000
    """Environment steps of phase 1; with 800000 one member of four masked the only unlocking there is."""
    evaluations: int = 20
    """Evaluations spread over a run."""
    folder: str = "runs"
    """Where the run folders go."""


def fit_effects(options: Options, starts: str) -> str:
    """Phase 1, shared by all methods that read it; returns the name of its run."""
    updates = -(-options.effect_steps // effect_model.steps_per_update(PHASE_1))
    settings = Settings(
        algorithm="effects", env=f"minigrid-{options.task}", env_options=STARTS[starts], members=options.members,
        steps=options.effect_steps, name=f"minigrid-{options.task}-effects-{starts}", folder=options.folder, evaluations=4,
        checkpoint_every=4,
    )  # fmt: skip
    train_run(resolve(settings, dataclasses.replace(PHASE_1, decay_steps=updates)), resume=True)
    return settings.name


def train(options: Options, label: str) -> Path:
    """One method; returns its run folder."""
    name, fields, starts = METHODS[label]
    settings = Settings(
        algorithm=name, env=f"minigrid-{options.task}", members=options.members, steps=options.steps, evaluations=options.evaluations,
        eval_episodes=16, effects=fit_effects(options, starts) if starts else "", name=f"minigrid-{options.task}-{slug(label)}",
        folder=options.folder,
    )  # fmt: skip
    config = ppo.Config(**{**PAPER, **ALGORITHMS[name].preset, **fields})
    return train_run(resolve(settings, config, ppo.Hyper(ent_coef=0.2)), resume=True)


def exact(task: str, selection: str, with_end: bool, effect: str) -> tuple[Graph, np.ndarray]:
    """(every reachable state, the exact kept set bool [S, 7] there). with_end: the end of the episode is part of a successor."""
    env, params = make(f"minigrid-{task}", effect=effect)
    graph = reachable(env, params)

    def one(state: Any) -> Any:
        after, ends = env.successors(env.observe(state), params)
        return effects.select(selection, jax.random.key(0), effects.oracle_n_matrix(after, ends if with_end else None))

    return graph, np.asarray(jax.jit(jax.vmap(one))(graph.states))


def mask_quality(task: str, folder: Path) -> dict[str, Any]:
    """How the learned masks of a phase 1 compare with the exact ones over every reachable state of the task, per member.

    same: share of states whose kept set is the exact one; kept: share of the exactly kept (state, action) that are kept; shortest: steps
    of a shortest solution by kept actions alone (None: there is none; 18 without a mask on unlockpickup), for CEE and NPM.
    """
    graph, wanted = exact(task, "cee", with_end=True, effect="state")
    loaded = load_run(folder)
    models = effect_model.model(loaded.run.state)
    env = loaded.resolved.env

    def kept(model: Any) -> Any:
        def one(state: Any) -> Any:
            n_matrix = inverse.n_matrix(model, env.observe(state))
            return [effects.select(selection, jax.random.key(0), n_matrix) for selection in ("cee", "npm")]

        return jax.lax.map(one, graph.states, batch_size=2048)

    cee, npm = jax.device_get(jax.jit(lambda models: jax.lax.map(kept, models))(models))
    return {
        "states": len(wanted),
        "same": [round(float((member == wanted).all(1).mean()), 4) for member in cee],
        "kept": [round(float(member[wanted].mean()), 4) for member in cee],
        "shortest_cee": [shortest(graph, member) for member in cee],
        "shortest_npm": [shortest(graph, member) for member in npm],
        "seconds": history.load_run(folder).info.get("seconds"),
        "steps": loaded.resolved.num_updates * effect_model.steps_per_update(loaded.resolved.config),
    }


def study(options: Options) -> None:
    """Every method on the task; the results file is written after each run."""
    path = RESULTS / "cee_minigrid.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows = results.setdefault(options.task, {})
    for label in options.methods:
        starts = METHODS[label][2]
        if starts:
            folder = Path(options.folder) / fit_effects(options, starts)
            if options.task == "unlockpickup":  # the others have too many reachable states
                rows.setdefault("phase 1", {})[starts] = mask_quality(options.task, folder)
        rows[label] = {
            **summary(train(options, label)),
            "members": options.members, "steps": options.steps, "effect_steps": options.effect_steps if starts else 0,
            "command": command("cee_minigrid"),
        }  # fmt: skip
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{label}: success {rows[label]['final_success']}, steps to 90% {rows[label]['steps_to_90']}", flush=True)
        figure(rows, RESULTS / f"cee_minigrid_{options.task}.png")


def trap(options: Options) -> None:
    """The exact masks of every reachable state, with and without the end of the episode as part of the successor."""
    rows = []
    for effect, with_end in (("picture", False), ("picture", True), ("state", False)):
        for selection in ("cee", "npm"):
            graph, kept = exact(options.task, selection, with_end, effect)
            sizes, counts = np.unique(kept.sum(1), return_counts=True)
            sizes_told = dict(zip(sizes.tolist(), counts.tolist(), strict=True))
            rows.append({"method": selection, "successor": effect, "end": with_end, "kept": sizes_told, "shortest": shortest(graph, kept)})
            print(rows[-1], flush=True)
    content = {"task": options.task, "states": len(graph.ends), "shortest": shortest(graph), "rows": rows}
    (RESULTS / "cee_minigrid_trap.json").write_text(json.dumps(content, indent=1) + "\n")


def table() -> str:
    """The study's results as markdown, interquartile mean [95% interval] over members; no published numbers exist."""
    results = json.loads((RESULTS / "cee_minigrid.json").read_text())
    lines = [
        "| task | method | final return | success | area under curve | steps to 90% success (median; members) | train s |",
        "|" + "---|" * 7,
    ]
    for task, methods in results.items():
        for label in METHODS:
            row = methods.get(label)
            if row is None:
                continue
            first = sorted(math.inf if x is None else x for x in row["steps_to_90"])
            median = first[(len(first) - 1) // 2]
            cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*row[name]) for name in ("final_return", "area_under_curve")]
            success = "{:.0%} [{:.0%}, {:.0%}]".format(*row["final_success"])
            reached = f"{'-' if math.isinf(median) else f'{median:,.0f}'} ({row['members_to_90']} of {len(first)})"
            lines.append(f"| {task} | {label} | {cells[0]} | {success} | {cells[1]} | {reached} | {row['seconds']['train']:.0f} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Fill in the defaults and run."""
    small = options.what == "demo"
    options = dataclasses.replace(
        options,
        methods=options.methods or (("CEE",) if small else tuple(METHODS)[:-2]),
        members=options.members or (2 if small else 4),
        steps=options.steps or (250_000 if small else 500_000),
    )
    if options.what == "table":
        print(table())
    elif options.what == "trap":
        trap(options)
    elif options.what == "study":
        study(options)
    else:
        print(f"report: {gallery.report([train(options, label) for label in options.methods])}")


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
