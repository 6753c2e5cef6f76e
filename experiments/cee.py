"""CEE (arXiv 2501.14543) on the maze: PPO, NPM, NPM-Random, CEE, CEE-WOC, the oracle and a control, on the same seeds.

    python -m experiments.cee demo    # what `make train` does: PPO, NPM and CEE on maze-n6, one report
    python -m experiments.cee maze    # n = 4, 6, 8, every method, 8 members, 500k steps: experiments/results/cee_maze.json and curves
    python -m experiments.cee exits   # beside the goal: in how many places the exact masks leave an action that enters it
    python -m experiments.cee table   # the table of those results as markdown

Hyperparameters are those of the authors' phase 2 (stable-baselines3's defaults, entropy 0.2): 2048 steps per update, here from 16
environments instead of one. The paper prints curves but no table for the maze; what it claims is the order CEE > NPM > PPO.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import gallery, history, make, rollout, statistics
from causal_jax.algorithms import ALGORITHMS, effect_model, ppo
from causal_jax.causal import effects, inverse
from causal_jax.cli import configure
from causal_jax.runs import load_run, train_run
from causal_jax.settings import Settings, resolve
from experiments.records import RESULTS, command, curve, figure

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

    what: tyro.conf.Positional[Literal["demo", "maze", "exits", "table"]]
    """demo: three methods on one maze and their report; maze: the study; exits: exact masks beside the goal; table: the study's results."""
    n: tuple[int, ...] = ()
    """Actuators of the mazes; default 6 (demo), 4 6 8 (maze)."""
    methods: tuple[str, ...] = ()
    """Labels of the methods; default PPO NPM CEE (demo), all (maze)."""
    members: int = 0
    """Seeds; default 4 (demo), 8 (maze)."""
    steps: int = 0
    """Environment steps of a member; default 200000 (demo), 500000 (maze)."""
    effect_steps: int = 0
    """Environment steps of phase 1; default: until its learning rates have decayed."""
    evaluations: int = 20
    """Evaluations spread over a run."""
    folder: str = "runs"
    """Where the run folders go."""
    resume: bool = True
    """Go on with what is in the folders."""


def slug(label: str) -> str:
    """A label as a folder name."""
    return label.lower().replace(", ", "-").replace(" ", "-")


def run_folder(options: Options, n: int, label: str) -> Path:
    """Where a method's run on one maze goes."""
    return Path(options.folder) / f"maze-n{n}-{slug(label)}"


def train(options: Options, n: int, label: str, effects_run: str) -> Path:
    """One method on one maze; returns its run folder."""
    name, fields = METHODS[label]
    settings = Settings(
        algorithm=name, env=f"maze-n{n}", members=options.members, steps=options.steps, evaluations=options.evaluations,
        eval_episodes=8, effects=effects_run, name=run_folder(options, n, label).name,
        folder=options.folder,
    )  # fmt: skip
    config = ppo.Config(**{**PAPER, **ALGORITHMS[name].preset, **fields})
    return train_run(resolve(settings, config, ppo.Hyper(ent_coef=0.2)), resume=options.resume)


def fit_effects(options: Options, n: int) -> str:
    """Phase 1 on one maze, shared by all methods; returns the name of its run."""
    config = effect_model.thorough() if options.what == "maze" and n == 6 else effect_model.Config()
    per_update = effect_model.steps_per_update(config)
    steps = options.effect_steps or effect_model.default_steps(config)
    config = dataclasses.replace(config, decay_steps=-(-steps // per_update))
    settings = Settings(
        algorithm="effects", env=f"maze-n{n}", members=options.members, steps=steps, name=f"maze-n{n}-effects", folder=options.folder,
        evaluations=4,
    )  # fmt: skip
    train_run(resolve(settings, config), resume=options.resume)
    return settings.name


def grouping(folder: Path, num_states: int = 2000) -> dict[str, Any]:
    """How well the learned N-matrix agrees with the oracle's on states that the random policy visits, per member.

    `action_accuracy` is the share of (state, action) whose group is exactly the oracle's set of actions; `diagonal_error` the mean
    absolute error of the causal effect in nats against the oracle with the same floor; `kept` the share of
    actions on which CEE's mask agrees.
    """
    loaded = load_run(folder)
    run, model = loaded.resolved, effect_model.model(loaded.run.state)
    space = run.env.action_space(run.env_params)

    def visit(key: Any) -> Any:
        def act(key: Any, obs: Any) -> Any:
            return space.sample(key), {}

        key_start, key = jax.random.split(key)
        return rollout.unroll(key, run.env, run.env_params, act, rollout.start(key_start, run.env, run.env_params), num_states // 20)[1]

    rows = jax.vmap(visit)(jax.random.split(jax.random.key(1), 20))
    states = rows.obs.reshape(-1, rows.obs.shape[-1])

    def compare(model: Any, obs: Any) -> Any:
        learned = inverse.n_matrix(model, obs)
        exact = effects.oracle_n_matrix(*run.env.successors(obs, run.env_params), floor=model.floor)
        groups = [effects.group(effects.similarity(n), 0.5) for n in (learned, exact)]
        kept = [effects.survivors(jnp.diagonal(n), g, 0.8) for n, g in zip((learned, exact), groups, strict=True)]
        error = jnp.mean(jnp.abs(jnp.diagonal(learned) - jnp.diagonal(exact)))
        return {**effects.agreement(*groups), "kept": jnp.mean(kept[0] == kept[1]), "diagonal_error": error}

    def member(model: Any) -> Any:
        return jax.tree.map(jnp.mean, jax.lax.map(lambda obs: compare(model, obs), states, batch_size=64))

    scores = jax.jit(lambda models: jax.lax.map(member, models))(model)
    return {name: {"mean": round(float(x.mean()), 4), "members": np.round(x, 4).tolist()} for name, x in jax.device_get(scores).items()}


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
        "curve": curve(steps, **{"return": returns, "success": success}),
    }


def study(options: Options) -> None:
    """Every method on every maze; the results file is written after each run."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "cee_maze.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() and options.resume else {}
    for n in options.n:
        effects_run = fit_effects(options, n) if any(map(needs_effects, options.methods)) else ""
        if effects_run:
            results.setdefault(f"maze-n{n}", {})["grouping"] = grouping(Path(options.folder) / effects_run)
        for label in options.methods:
            folder = train(options, n, label, effects_run if needs_effects(label) else "")
            results.setdefault(f"maze-n{n}", {})[label] = summary(folder)
            results[f"maze-n{n}"]["budget"] = {"members": options.members, "steps": options.steps}
            results[f"maze-n{n}"]["command"] = command("cee")
            path.write_text(json.dumps(results, indent=1) + "\n")
            figure(results[f"maze-n{n}"], RESULTS / f"cee_maze_n{n}.png")


def exits(n: int, places: int = 1500) -> dict[str, float]:
    """Over random places within 0.05 of the goal's box from which some action enters it: where a kept one does, and what the masks keep."""
    env, params = make(f"maze-n{n}")
    box = np.asarray(params.goal)
    obs = np.random.default_rng(0).uniform(box[:2] - 0.05, box[2:] + 0.05, (places, 2))

    def one(obs: Any) -> tuple[Any, ...]:
        successors, enters = env.successors(obs, params)
        kept, _ = effects.fallback(effects.unique(successors))
        of_all = effects.select("cee-woc", jax.random.key(0), effects.oracle_n_matrix(successors))
        return enters.any(), (enters & kept).any(), kept.sum(), of_all.any()

    near, entered, kept, some = map(np.asarray, jax.jit(lambda obs: jax.lax.map(one, obs))(jnp.asarray(obs, jnp.float32)))
    found = {"a kept action enters": entered[near].mean(), "actions kept": kept[near].mean(), "CEE-WOC keeps any": some[near].mean()}
    return {name: round(float(x), 3) for name, x in found.items()}


def table() -> str:
    """The study's results as markdown, IQM [95% interval] over members; no published numbers exist for the maze."""
    results = json.loads((RESULTS / "cee_maze.json").read_text())
    lines = [
        "| maze | method | final return | success | area under curve | steps to 90% success (median; members) | train s |",
        "|" + "---|" * 7,
    ]
    for maze, methods in results.items():
        for label in METHODS:
            row = methods.get(label) if isinstance(methods, dict) else None
            if row is None:
                continue
            first = sorted(math.inf if x is None else x for x in row["steps_to_90"])
            median = first[(len(first) - 1) // 2]
            cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*row[name]) for name in ("final_return", "area_under_curve")]
            success = "{:.0%} [{:.0%}, {:.0%}]".format(*row["final_success"])
            reached = f"{'-' if math.isinf(median) else f'{median:,.0f}'} ({row['members_to_90']} of {len(first)})"
            lines.append(f"| {maze} | {label} | {cells[0]} | {success} | {cells[1]} | {reached} | {row['seconds']['train']:.0f} |")
    return "\n".join(lines)


def demo(options: Options) -> None:
    """Three methods on one maze, and the report that compares them."""
    for n in options.n:
        effects_run = fit_effects(options, n)
        folders = [train(options, n, label, effects_run if needs_effects(label) else "") for label in options.methods]
        print(f"report: {gallery.report(folders, Path(options.folder) / f'maze-n{n}')}")


def main(options: Options) -> None:
    """Fill in the defaults and run."""
    if options.what == "table":
        print(table())
        return
    if options.what == "exits":
        for n in options.n or (4, 6, 8):
            print(f"maze-n{n}: {exits(n)}")
        return
    small = options.what == "demo"
    steps = options.steps or (200_000 if small else 500_000)
    filled = dataclasses.replace(
        options,
        n=options.n or ((6,) if small else (4, 6, 8)),
        methods=options.methods or (("PPO", "NPM", "CEE") if small else tuple(METHODS)),
        members=options.members or (4 if small else 8),
        steps=steps,
    )
    (demo if small else study)(filled)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
