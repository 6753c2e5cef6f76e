"""What the CEE paper (arXiv 2501.14543) leaves open: a tau that adapts, one phase instead of two, real-valued actions, states never seen.

    python -m experiments.cee_questions tau       # actions with 1 and 4 copies, exact N: fixed tau, a ramp, tau learned
    python -m experiments.cee_questions online    # inverse model, N-network and policy in one loop, against PPO: the maze
    python -m experiments.cee_questions gotolocal # the same on MiniGrid
    python -m experiments.cee_questions bank      # 33 torques of a pendulum in the place of a real number, masked by effect
    python -m experiments.cee_questions ood       # masks of a phase 1 where it was fitted and elsewhere, against the exact ones
    python -m experiments.cee_questions table     # experiments/results/cee_questions.json as markdown

Every row is a population of members, same seeds for every method, written as it comes. Returns are those of the episodes that end while the
policy trains, sampled, so with everything that its mask and its exploration do to it: the mean over a twentieth of the run is a point of a
curve, the last point "at the end", the mean of all "over the run". PPO is lighter than the paper's: 4 passes of 8 minibatches, lr 1e-3.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import plots, rollout, statistics
from causal_jax.algorithms import effect_model, ppo
from causal_jax.causal import effects, inverse
from causal_jax.cli import configure
from causal_jax.envs import make
from causal_jax.training import grid, train
from experiments.records import RESULTS

POINTS = 20
SIZES = {"num_envs": 16, "num_steps": 128, "num_epochs": 4, "num_minibatches": 8}
ONLINE: dict[str, Any] = {"n_values": "online"}
Case = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]  # environment, its options, Config fields, Hyper fields


def _tau(m: int) -> dict[str, Case]:
    def case(fields: dict[str, Any], hyper: dict[str, Any] | None = None) -> Case:
        return "alias:maze-n4", {"m": m}, {"n_values": "oracle", **fields}, {"ent_coef": 0.2, **(hyper or {})}

    return {
        f"m = {m}, PPO": case({}),
        f"m = {m}, NPM": case({"selection": "npm"}),
        f"m = {m}, CEE, tau 0.8": case({"selection": "cee"}),
        f"m = {m}, CEE, tau ramps to 0.8": case({"selection": "cee", "tau_rule": "ramp"}),
        f"m = {m}, CEE, tau learned": case({"selection": "cee", "tau_rule": "learned"}),
    }


def _online(env: str, fields: dict[str, Any]) -> dict[str, Case]:
    two: dict[str, Any] = {"ent_coef": 0.2}
    return {
        f"{env}, PPO": (env, {}, {}, two),
        f"{env}, NPM, one phase": (env, {}, {**ONLINE, **fields, "selection": "npm"}, two),
        f"{env}, CEE, one phase": (env, {}, {**ONLINE, **fields, "selection": "cee"}, two),
        f"{env}, CEE, one phase, leak 0": (env, {}, {**ONLINE, **fields, "selection": "cee"}, {**two, "leak": 0.0}),
    }


def _bank() -> dict[str, Case]:
    hyper, normal = {"gamma": 0.95}, {"normalize_obs": True}
    bank: tuple[str, dict[str, Any]] = ("bank:pendulum-wind", {"k": 33})
    learned = {**normal, **ONLINE, "effect_frequencies": 2}
    return {
        "PPO, a real number": ("pendulum-wind", {}, normal, hyper),
        "PPO, 33 torques": (*bank, normal, hyper),
        "NPM, 33 torques": (*bank, {**learned, "selection": "npm"}, hyper),
        "CEE, 33 torques, tau 0.8": (*bank, {**learned, "selection": "cee"}, hyper),
        "CEE, 33 torques, tau learned": (*bank, {**learned, "selection": "cee", "tau_rule": "learned"}, hyper),
    }


STUDIES: dict[str, tuple[dict[str, Case], int]] = {  # rows, and updates of 2,048 steps
    "tau": ({**_tau(4), **_tau(1)}, 40),
    "online": (_online("maze-n6", {"effect_frequencies": 6}), 40),
    "gotolocal": (_online("minigrid-gotolocal", {}), 40),
    "bank": (_bank(), 100),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["tau", "online", "gotolocal", "bank", "ood", "table"]]
    """The question; gotolocal: as online, on MiniGrid; table: all results as markdown."""
    members: int = 4
    """Seeds."""
    updates: int = 0
    """Updates of 2,048 environment steps; 0: the study's own."""
    methods: tuple[str, ...] = ()
    """Beginnings of the labels to run; default all."""
    effect_steps: int = 200_000
    """ood: environment steps of phase 1."""


def play(case: Case, members: int, updates: int) -> dict[str, Any]:
    """Train a population of one case; its row of the results."""
    name, options, fields, values = case
    env, params = make(name, **options)
    algorithm = ppo.build(env, params, ppo.Config(**{**SIZES, **fields}))
    hyper, seeds, _ = grid(ppo.Hyper(**{"lr": 1e-3, **values}), seeds=range(members))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    program = jax.jit(jax.vmap(functools.partial(train, algorithm=algorithm, num_updates=updates), in_axes=(0, 0, None)))
    began = time.perf_counter()
    metrics = jax.device_get(program(keys, hyper, ppo.Task(params))[1])
    seconds = time.perf_counter() - began

    def curve(name: str) -> Any:
        """[members, POINTS]: means over parts of the run; a part without a finished episode repeats the one before."""
        count = np.where(np.isnan(metrics[name]), 0.0, metrics["num_episodes"] if name.startswith("episode") else 1.0)
        total = np.where(count > 0, np.nan_to_num(metrics[name]) * count, 0.0)
        parts = [(t.sum(1), c.sum(1)) for t, c in zip(*(np.array_split(x, POINTS, axis=1) for x in (total, count)), strict=True)]
        values = np.stack([np.where(c > 0, t / np.maximum(c, 1e-9), np.nan) for t, c in parts], axis=1)
        for i in range(1, values.shape[1]):
            values[:, i] = np.where(np.isnan(values[:, i]), values[:, i - 1], values[:, i])
        return values

    returns = curve("episode_return")
    row = {
        "at_end": list(map(float, statistics.bootstrap_interval(returns[:, -1]))),
        "over_run": list(map(float, statistics.bootstrap_interval(np.nanmean(returns, axis=1)))),
        "success": round(float(curve("episode_success")[:, -1].mean()), 3),
        "members": np.round(returns[:, -1], 3).tolist(),
        "curve": np.round(statistics.iqm(np.nan_to_num(returns, nan=float(np.nanmin(returns)))), 3).tolist(),
        "steps": updates * ppo.steps_per_update(ppo.Config(**{**SIZES, **fields})),
        "seconds": round(seconds, 1),
    }
    for key in ("num_allowed", "all_masked", "tau", "inverse_accuracy", "causal_effect"):
        if key in metrics:
            row[key] = np.round(curve(key)[:, [0, POINTS // 2, -1]].mean(0), 3).tolist()
    return row


def ood(options: Options) -> dict[str, Any]:
    """Masks of models fitted on one distribution of states, compared with the exact ones on several; see `agreements`."""
    places: dict[str, dict[str, Any]] = {
        "own start": {},
        "random layouts": {"layout": "random"},
        "anywhere": {"layout": "anywhere", "max_steps": 32},
    }
    found: dict[str, Any] = {}
    visited = {label: states("minigrid-gotolocal", where) for label, where in places.items()}
    rows = found["minigrid-gotolocal"] = {}
    for label, own in places.items():
        config = effect_model.Config(num_frequencies=0, warmup_steps=128, capacity=32_768)
        models = fit("minigrid-gotolocal", own, config, options)
        rows[label] = {test: agreements("minigrid-gotolocal", obs, models) for test, obs in visited.items()}
    near = {"max_steps": 20}  # two to three moves of the start's room are seen
    tests = {
        "episodes of 20 steps": states("maze-n4", near),
        "episodes of 500 steps": states("maze-n4", {}),
        "uniform over the maze": jax.random.uniform(jax.random.key(7), (1024, 2)),
    }
    rows = found["maze-n4"] = {}
    for label, own in (("episodes of 20 steps", near), ("episodes of 500 steps", {})):
        models = fit("maze-n4", own, effect_model.Config(), options)
        rows[label] = {test: agreements("maze-n4", obs, models) for test, obs in tests.items()}
    return found


def fit(name: str, own: dict[str, Any], config: effect_model.Config, options: Options) -> Any:
    """Effect models [members] of a phase 1."""
    env, params = make(name, **own)
    updates = -(-options.effect_steps // effect_model.steps_per_update(config))
    algorithm = effect_model.build(env, params, dataclasses.replace(config, decay_steps=updates))
    hyper, seeds, _ = grid(effect_model.Hyper(), seeds=range(options.members))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    program = jax.jit(jax.vmap(functools.partial(train, algorithm=algorithm, num_updates=updates), in_axes=(0, 0, None)))
    return effect_model.model(program(keys, hyper, effect_model.Task(params))[0])


def states(name: str, own: dict[str, Any], num: int = 1024) -> Any:
    """Observations [num, D] of random play."""
    env, params = make(name, **own)
    space = env.action_space(params)

    def visit(key: Any) -> Any:
        key_start, key = jax.random.split(key)
        cursor = rollout.start(key_start, env, params)
        rows = rollout.unroll(key, env, params, lambda key, obs: (space.sample(key), {}), cursor, 500)[1].obs
        return rows[jnp.linspace(0, 499, num // 16).astype(int)]

    return jax.jit(lambda keys: jax.vmap(visit)(keys).reshape(num, -1))(jax.random.split(jax.random.key(1), 16))


def agreements(name: str, obs: Any, models: Any) -> dict[str, Any]:
    """Per member: share of states whose kept set is the exact one, share of exactly kept (state, action) that are kept."""
    env, params = make(name, **({"effect": "state"} if name.startswith("minigrid") else {}))

    def one(model: Any, obs: Any) -> Any:
        learned = effects.select("cee", jax.random.key(0), inverse.n_matrix(model, obs))
        exact = effects.select("cee", jax.random.key(0), effects.oracle_n_matrix(*env.successors(obs, params)))
        return jnp.all(learned == exact), jnp.sum(learned & exact), jnp.sum(exact)

    def member(model: Any) -> Any:
        same, both, wanted = jax.lax.map(lambda obs: one(model, obs), obs, batch_size=64)
        return same.mean(), both.sum() / wanted.sum()

    same, kept = jax.device_get(jax.jit(lambda models: jax.lax.map(member, models))(models))
    return {
        name: [*map(float, statistics.bootstrap_interval(values)), np.round(values.astype(float), 4).tolist()]
        for name, values in (("same", same), ("kept", kept))
    }


def table(results: dict[str, Any]) -> str:
    """Everything found so far as markdown, interquartile mean [95% interval] over members."""
    lines: list[str] = []
    for study in (name for name in STUDIES if name in results):
        lines += [
            f"**{study}**\n",
            "| row | at the end | over the run | actions allowed (first, middle, last) | all masked | tau | s |",
            "|" + "---|" * 7,
        ]
        for label, row in results[study].items():
            cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*row[name]) for name in ("at_end", "over_run")]
            told = [", ".join(f"{x:.2f}" for x in row.get(name, ())) for name in ("num_allowed", "all_masked", "tau")]
            lines.append(f"| {label} | {cells[0]} | {cells[1]} | {told[0]} | {told[1]} | {told[2]} | {row['seconds']:.0f} |")
        lines.append("")
    for name, rows in results.get("ood", {}).items():
        tests = list(next(iter(rows.values())))
        lines += [f"**{name}**\n", "| fitted on | " + " | ".join(tests) + " |", "|" + "---|" * (1 + len(tests))]
        for label, row in rows.items():
            cells = ["{:.1%} [{:.1%}, {:.1%}]; {:.1%}".format(*row[test]["same"][:3], row[test]["kept"][0]) for test in tests]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def figure(results: dict[str, Any]) -> None:
    """The curves of all studies."""
    panels = []
    for study in (name for name in STUDIES if name in results):
        curves: dict[str, plots.Curve] = {}
        for label, row in results[study].items():
            values = np.asarray(row["curve"], float)
            steps = row["steps"] * (np.arange(POINTS) + 0.5) / POINTS
            curves[label] = {"steps": steps, "estimate": statistics.Estimate(values, values, values), "band": False}
        panels.append((study, curves))
    for study, curves in panels:
        plots.curves([(f"return of training episodes: {study}", curves, {})], RESULTS / f"cee_questions_{study}.png")


def main(options: Options) -> None:
    """Answer one question, or tell all answers."""
    path = RESULTS / "cee_questions.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if options.what == "table":
        print(table(results))
        return
    if options.what == "ood":
        results["ood"] = ood(options)
        path.write_text(json.dumps(results, indent=1) + "\n")
        return
    cases, updates = STUDIES[options.what]
    for label, case in cases.items():
        if options.methods and not any(label.startswith(x) for x in options.methods):
            continue
        row = play(case, options.members, options.updates or updates)
        results.setdefault(options.what, {})[label] = row
        print(f"{label}: at the end {row['at_end']}, over the run {row['over_run']}, {row['seconds']} s", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    figure(results)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
