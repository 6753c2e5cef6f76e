"""CEE and NPM from 7 to 4,096 actions: copies of MiniGrid's seven, the true classes known; what a mask costs, and whether it is right.

    python -m experiments.cee_scale masks    # experiments/results/cee_scale.json and a figure, written as they come
    python -m experiments.cee_scale table    # the results as markdown

`alias:minigrid-gotolocal` with m copies of each action and one that does nothing. Phase 1 from random states (layout=anywhere), effects as
points (causal/effect_space.py), floor 0.1 / A. Per number of actions: milliseconds for the masks of 256 states, from the points and, up
to a thousand actions, from the A x A matrix of the same networks' sizes with random weights; and on states of the task under random play,
against exact groups: share of pairs judged right (half for all joined, or none), adjusted Rand index, and actions that NPM keeps. An
action is in the data data/A times only.
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

from causal_jax import plots
from causal_jax.algorithms import effect_model
from causal_jax.causal import effect_space, effects, inverse
from causal_jax.cli import configure
from causal_jax.envs import make
from causal_jax.training import grid, train
from experiments.cee_questions import states
from experiments.records import RESULTS

ENV = "alias:minigrid-gotolocal"
COPIES = {7: (1, 0), 64: (9, 1), 512: (73, 1), 4096: (585, 1)}  # actions -> copies of each, no-ops
NUMBERS = {"epsilon": 0.5, "tau": 0.8, "temperature": 1.0, "woc_threshold": 0.03}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to fit, and how much."""

    what: tyro.conf.Positional[Literal["masks", "table"]]
    """masks: fit and measure; table: the results as markdown."""
    actions: tuple[int, ...] = tuple(COPIES)
    """Numbers of actions, of 7, 64, 512 and 4096."""
    members: int = 2
    """Seeds."""
    steps: int = 160_000
    """Environment steps of phase 1."""
    batch: int = 256
    """States whose masks are timed together."""
    rounds: int = 5
    """Timings, of which the median is told."""


def fit(num_actions: int, head: str, options: Options, steps: int) -> Any:
    """Effect models [members] of a phase 1, and its seconds."""
    m, noops = COPIES[num_actions]
    env, params = make(ENV, m=m, noops=noops, permute=1, layout="anywhere", max_steps=32)
    config = effect_model.Config(num_frequencies=0, warmup_steps=128, capacity=32_768, head=head)
    updates = -(-steps // effect_model.steps_per_update(config))
    algorithm = effect_model.build(env, params, dataclasses.replace(config, decay_steps=updates))
    hyper, seeds, _ = grid(effect_model.Hyper(floor=min(0.01, 0.1 / num_actions)), seeds=range(options.members))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    program = jax.jit(jax.vmap(functools.partial(train, algorithm=algorithm, num_updates=updates), in_axes=(0, 0, None)))
    began = time.perf_counter()
    model = jax.block_until_ready(effect_model.model(program(keys, hyper, effect_model.Task(params))[0]))
    return model, time.perf_counter() - began


def by_points(model: Any, obs: Any) -> Any:
    """CEE's kept set from points."""
    return effect_space.select("cee", jax.random.key(0), inverse.points(model, obs), model.policy, **NUMBERS)


def by_matrix(model: Any, obs: Any) -> Any:
    """CEE's kept set from the matrix."""
    return effects.select("cee", jax.random.key(0), inverse.n_matrix(model, obs))


def milliseconds(mask: Any, model: Any, obs: Any, options: Options, one_by_one: bool) -> float:
    """Median time of the masks of a batch."""
    program = jax.jit(lambda obs: jax.lax.map(functools.partial(mask, model), obs, batch_size=8 if one_by_one else len(obs)))
    jax.block_until_ready(program(obs))
    found = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        jax.block_until_ready(program(obs))
        found.append(1000.0 * (time.perf_counter() - began))
    return float(np.median(found))


def accuracy(num_actions: int, models: Any, num_states: int = 64) -> dict[str, list[float]]:
    """How the groups meet the exact ones on states of the task, per member."""
    m, noops = COPIES[num_actions]
    own = {"m": m, "noops": noops, "permute": 1}
    env, params = make(ENV, **own, effect="state")
    obs = states(ENV, own, num_states)

    def one(model: Any, obs: Any) -> Any:
        labels = effect_space.group(inverse.points(model, obs), model.policy, NUMBERS["epsilon"])[0]
        wanted = effects.group(effects.similarity(effects.oracle_n_matrix(*env.successors(obs, params))), NUMBERS["epsilon"])
        return {**effects.agreement(labels, wanted), "kept by NPM": labels.max() + 1, "kept by exact NPM": wanted.max() + 1}

    def member(model: Any) -> Any:
        return jax.tree.map(jnp.mean, jax.lax.map(lambda obs: one(model, obs), obs))

    scores = jax.device_get(jax.jit(lambda models: jax.lax.map(member, models))(models))
    return {name: np.round(x.astype(float), 4).tolist() for name, x in scores.items()}


def masks(options: Options) -> None:
    """Every number of actions; the results file is written after each."""
    path = RESULTS / "cee_scale.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for num_actions in options.actions:
        models, seconds = fit(num_actions, "distance", options, options.steps)
        first = jax.tree.map(lambda x: x[0], models)
        obs = states(ENV, {"m": COPIES[num_actions][0], "noops": COPIES[num_actions][1], "layout": "random"}, options.batch)
        row = {"phase 1 s": round(seconds, 1), "points ms": round(milliseconds(by_points, first, obs, options, False), 2)}
        if num_actions <= 1024:
            config = effect_model.Config()
            network = inverse.n_network(obs.shape[1], num_actions, config.n_hidden, "definition")
            matrix = first._replace(network=network.init(jax.random.key(0)))
            row["matrix ms"] = round(milliseconds(by_matrix, matrix, obs, options, True), 2)
        results[str(num_actions)] = {**row, **accuracy(num_actions, models), "members": options.members, "steps": options.steps}
        print(f"{num_actions} actions: {results[str(num_actions)]}", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    figure(results)


def figure(results: dict[str, Any]) -> None:
    """Cost and accuracy against the number of actions."""
    actions = sorted(map(int, results))
    with plots.figure_file(RESULTS / "cee_scale.png", 9, 3.6) as drawing:
        left, right = drawing.subplots(1, 2)
        for k, name in enumerate(("points ms", "matrix ms")):
            shown = [a for a in actions if name in results[str(a)]]
            left.plot(shown, [results[str(a)][name] for a in shown], color=plots.PALETTE[k], marker="o", label=name.removesuffix(" ms"))
        left.axhline(20, color="#4D4D4D", linestyle=":", label="20 ms")
        left.set(xscale="log", yscale="log", xlabel="actions", ylabel="ms for the masks of 256 states")
        left.legend(frameon=False)
        for k, name in enumerate(("pair_accuracy", "rand_index")):
            right.plot(actions, [np.mean(results[str(a)][name]) for a in actions], color=plots.PALETTE[k], marker="o", label=name)
        right.set(xscale="log", xlabel="actions", ylabel="groups against exact ones", ylim=(0, 1.03))
        plots.log_axis(left.yaxis)
        for axes in (left, right):
            axes.set_xticks(actions, list(map(str, actions)))
            axes.minorticks_off()
        right.legend(frameon=False)


def table() -> str:
    """The results as markdown."""
    results = json.loads((RESULTS / "cee_scale.json").read_text())
    lines = [
        "| actions | points, ms | matrix, ms | pairs judged right | adjusted Rand index | groups (exact) | phase 1, s |",
        "|" + "---|" * 7,
    ]
    for num_actions, row in sorted(results.items(), key=lambda item: int(item[0])):
        cells = [", ".join(f"{x:.3f}" for x in row[name]) for name in ("pair_accuracy", "rand_index")]
        groups = f"{np.mean(row['kept by NPM']):.1f} ({np.mean(row['kept by exact NPM']):.1f})"
        matrix = row.get("matrix ms", "-")
        lines.append(
            f"| {int(num_actions):,} | {row['points ms']} | {matrix} | {cells[0]} | {cells[1]} | {groups} | {row['phase 1 s']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    configure()
    chosen = tyro.cli(Annotated[Options, tyro.conf.arg(name="")])
    if chosen.what == "table":
        print(table())
    else:
        masks(chosen)
