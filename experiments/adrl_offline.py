"""AD-RL offline (arXiv 2504.21326): BCQ, factored BCQ and AD-BCQ where the truth is known, the two sepsis simulators.

    python -m experiments.adrl_offline run [SIMS ...]   # results/adrl_offline.json, a program per simulator and method
    python -m experiments.adrl_offline short [SIMS ...] # what a reader needs of them, as markdown
    python -m experiments.adrl_offline table [SIMS ...] # everything

Every method sees the same logs: 10 seeds x 500, 2,000 and 10,000 episodes (the first of the longest), 30 members of one vmapped program.
sepsis-sim is logged by optimal actions of which half are replaced by random ones, icu-sepsis by its expert. After every tenth of the
updates the greedy policy of all states is written down: its exact value, its WIS and ESS on 1,000 other episodes (validation), by which one
of the ten is chosen as Tang et al. 2022 choose (the largest WIS among those with an ESS of 7% of the episodes, as their 200 of 2,900), and
WIS and ESS of the chosen one on 1,000 more (test). The paper's tables were not at hand: no published numbers stand beside these.

Departures from Tang et al.'s sizes, for the sake of 2 cores: hidden layers of 64 instead of 256, learning rate 1e-3 instead of 3e-4,
3,000 updates instead of 10,000, one threshold (0.3) instead of eight.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import datasets, make, statistics
from causal_jax.algorithms import ALGORITHMS, offline_q
from causal_jax.algorithms.tabular import policy_value, value_iteration
from causal_jax.causal import estimators
from causal_jax.cli import configure
from causal_jax.datasets import Episodes, Rows
from causal_jax.envs.sepsis import icu_sepsis_mdp, sepsis_sim_mdp
from causal_jax.mdp import Array, Log, TabularMDP, policy_table, sample_log, uniform_policy
from experiments.records import RESULTS, command

SIMS: dict[str, tuple[str, dict[str, Any], float]] = {  # label -> environment, its options, discount
    "sepsis-sim, 3 blocks": ("sepsis-sim", {"split": "3"}, 0.99),
    "sepsis-sim, 2 blocks": ("sepsis-sim", {"split": "2"}, 0.99),
    "icu-sepsis": ("icu-sepsis", {}, 1.0),
}
MIXERS = ("average", "linear", "linear2", "relu")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # label -> algorithm, Config fields
    "BCQ": ("bcq", {}),
    "factored BCQ": ("factored-bcq", {}),
    **{f"AD-BCQ {mixer}": ("ad-bcq", {"mixer": mixer, "aug": "none"}) for mixer in MIXERS},
    **{f"AD-BCQ {mixer}, models": ("ad-bcq", {"mixer": mixer, "aug": "noop"}) for mixer in MIXERS},
    "AD-BCQ relu, argmax per block": ("ad-bcq", {"mixer": "relu", "aug": "none", "argmax": "block"}),
}
COMMON: dict[str, Any] = {"hidden": (64, 64), "model_hidden": (64, 64)}
RATES = {"lr": 1e-3, "model_lr": 1e-3}
HORIZON, TEST, ESS_SHARE = 20, 1000, 0.07


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["run", "short", "table"]]
    """run: train and score; short, table: the results as markdown."""
    sims: tuple[str, ...] = tuple(SIMS)
    """Labels of simulators."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Labels of methods."""
    episodes: tuple[int, ...] = (500, 2000, 10_000)
    """Sizes of the data sets, rising."""
    seeds: int = 10
    """Data sets of each size."""
    updates: int = 3000
    """Gradient steps."""
    checkpoints: int = 10
    """Policies that are scored of a run."""
    out: Path = RESULTS / "adrl_offline.json"
    """Results file."""


class World(NamedTuple):
    """A simulator: its environment, its tables, the features [S, D] of their states, and the behaviour [S, A] that logs."""

    env: Any
    params: Any
    mdp: TabularMDP
    features: Array
    behaviour: Array
    gamma: float


@functools.cache
def world(label: str) -> World:
    """A simulator by its label."""
    name, options, gamma = SIMS[label]
    env, params = make(name, **options)
    if name == "icu-sepsis":
        mdp = icu_sepsis_mdp()
        assert mdp.expert is not None
        return World(env, params, mdp, np.asarray(params.features), mdp.expert, gamma)
    mdp = sepsis_sim_mdp()
    assert mdp.variables is not None
    seen = np.asarray(jax.vmap(env.observe)(jnp.asarray(mdp.variables[:-2])))
    best = value_iteration(mdp, gamma).policy
    return World(env, params, mdp, np.append(seen, np.zeros((2, seen.shape[1])), 0), 0.5 * np.eye(8)[best] + 0.5 / 8, gamma)


def episodes_of(place: World, log: Log) -> Episodes:
    """A log of the tables as a data set of what the environment shows."""
    ends = place.mdp.over[log.states[:, 1:]] & log.taken
    return Episodes(
        jnp.asarray(place.features[log.states], jnp.float32), jnp.asarray(place.env.blocks.levels[log.actions], jnp.int32),
        jnp.asarray(np.where(log.taken, log.rewards, 0.0), jnp.float32), jnp.asarray(ends), jnp.asarray(log.taken),
        jnp.asarray(np.where(log.taken, log.prob, 1.0), jnp.float32),
    )  # fmt: skip


def data_of(place: World, seeds: int, episodes: tuple[int, ...]) -> Rows:
    """Logs of all seeds, leaves [seeds, ...] but `num` [sizes, seeds]: a smaller data set is the beginning of the larger."""
    each = [
        datasets.rows(episodes_of(place, sample_log(seed, place.mdp, place.behaviour, max(episodes), HORIZON))) for seed in range(seeds)
    ]
    rows = jax.tree.map(lambda *x: jnp.stack(x), *each)
    taken = np.asarray(rows.episodes.taken)
    return rows._replace(num=jnp.asarray([[taken[seed, :n].sum() for seed in range(seeds)] for n in episodes], jnp.int32))


def policies(
    place: World, method: str, data: Rows, updates: int, checkpoints: int, seeds: int, thresholds: tuple[float, ...] | None = None
) -> Array:
    """Greedy joint actions int [sizes, seeds, checkpoints, S] of a method: the whole study of it is one program.

    thresholds: of every size (its data sets may be the same); None: the default for all.
    """
    name, fields = METHODS[method]
    config = offline_q.Config(**{**COMMON, **ALGORITHMS[name].preset, **fields, "num_updates": updates // checkpoints})
    algorithm = offline_q.build(place.env, place.params, config)
    defaults = jax.tree.map(jnp.float32, offline_q.Hyper(gamma=place.gamma, **RATES))
    features, limits = jnp.asarray(place.features, jnp.float32), thresholds or (float(defaults.threshold),) * len(data.num)

    def member(key: jax.Array, rows: Rows, threshold: jax.Array) -> jax.Array:
        task, hyper = offline_q.Task(place.params, rows), defaults.replace(threshold=threshold)
        key_init, key_train = jax.random.split(key)

        def body(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            state, _ = algorithm.step(key, state, hyper, task)
            return state, jax.vmap(lambda obs: algorithm.act(jax.random.key(0), state, obs, True))(features)

        return jax.lax.scan(body, algorithm.init(key_init, hyper, task), jax.random.split(key_train, checkpoints))[1]

    sizes = Rows(None, None, 0)  # type: ignore[arg-type]
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    program = jax.jit(jax.vmap(jax.vmap(member, (0, 0, None)), (None, sizes, 0)))
    levels = np.asarray(program(keys, data, jnp.asarray(limits, jnp.float32)))
    return np.asarray(place.env.blocks.joint[tuple(np.moveaxis(levels, -1, 0))])


def scores(place: World, greedy: Array, seed: int) -> tuple[Array, Array]:
    """WIS and ESS [C] of policies int [C, S] on TEST episodes of the behaviour, which is known."""
    log = sample_log(seed, place.mdp, place.behaviour, TEST, HORIZON)
    states = log.states[:, :-1]
    behaviour = jnp.asarray(place.behaviour[states])
    score = jax.vmap(lambda policy: _wis_ess(log, policy, behaviour, place.gamma))(jnp.asarray(greedy[:, states]))
    return np.asarray(score.wis), np.asarray(score.ess)


def _wis_ess(log: Log, policy: jax.Array, behaviour: jax.Array, gamma: float) -> estimators.Scores:
    actions, rewards, taken = jnp.asarray(log.actions), jnp.asarray(log.rewards), jnp.asarray(log.taken)
    return estimators.wis_ess(actions, policy, behaviour, behaviour, rewards, taken, gamma=gamma)


def select(score: Array, size: Array) -> int:
    """The checkpoint that is kept: `estimators.select`, or the largest ESS where none is large enough."""
    enough = ESS_SHARE * TEST
    return estimators.select(score, size, enough) if size.max() >= enough else int(size.argmax())


def summary(place: World, greedy: Array) -> dict[str, Any]:
    """What one data set size says about a method: every quantity [seeds], of policies int [seeds, C, S]."""
    found: dict[str, list[float]] = {name: [] for name in ("exact, last", "exact, selected", "wis", "ess", "truth of wis")}
    for seed, rows in enumerate(greedy):
        kept = select(*scores(place, rows, 1_000_000 + seed))
        last, chosen = (policy_value(place.mdp, row, place.gamma) for row in (rows[-1], rows[kept]))
        wis, ess = scores(place, rows[kept : kept + 1], 2_000_000 + seed)
        soft = 0.99 * policy_table(place.mdp, rows[kept]) + 0.01 * place.behaviour
        told = (last, chosen, wis[0], ess[0], policy_value(place.mdp, soft, place.gamma, HORIZON))
        for name, value in zip(found, told, strict=True):
            found[name].append(float(value))
    return {name: {"mean": estimate(values), "seeds": np.round(values, 4).tolist()} for name, values in found.items()}


def estimate(values: Any) -> list[float]:
    """Mean with its 95% bootstrap interval."""
    return [round(float(x), 4) for x in statistics.bootstrap_interval(np.asarray(values, float), statistics.mean)]


def references(place: World) -> dict[str, float]:
    """Exact values of what needs no learning."""
    mdp, uniform = place.mdp, uniform_policy(place.mdp)
    policies = {
        "optimum": value_iteration(mdp, place.gamma).policy, "behaviour": place.behaviour,
        "its likeliest action": place.behaviour.argmax(1),
        "random": uniform, "untreated": np.full(mdp.num_states, place.env.blocks.nothing),
    }  # fmt: skip
    return {name: round(policy_value(mdp, policy, place.gamma), 4) for name, policy in policies.items()}


def run(options: Options) -> None:
    """Every method on every simulator; the results file is written after each."""
    options.out.parent.mkdir(exist_ok=True)
    for label in options.sims:
        place = world(label)
        data = data_of(place, options.seeds, options.episodes)
        for method in options.methods:
            began = time.perf_counter()
            greedy = policies(place, method, data, options.updates, options.checkpoints, options.seeds)
            seconds = round(time.perf_counter() - began, 1)
            found = {str(n): summary(place, greedy[i]) for i, n in enumerate(options.episodes)}
            results = json.loads(options.out.read_text()) if options.out.exists() else {}
            at = results.setdefault(label, {"references": references(place)})
            budget = {"seeds": options.seeds, "updates": options.updates, "seconds": seconds}
            at[method] = {**found, "budget": budget, "command": command("adrl_offline")}
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(label, method, {n: row["exact, selected"]["mean"][0] for n, row in found.items()}, f"{seconds} s", flush=True)


def gain(rows: dict[str, Any], method: str, n: str) -> str:
    """What a method's selected policies are worth above factored BCQ's on the same logs; nothing for itself."""
    base = rows.get("factored BCQ", {}).get(n)
    if not base or method == "factored BCQ":
        return ""
    paired = np.subtract(rows[method][n]["exact, selected"]["seeds"], base["exact, selected"]["seeds"])
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*estimate(paired))


def heading(label: str, rows: dict[str, Any], columns: list[str]) -> list[str]:
    """A simulator's name, what needs no learning there, and the head of its table."""
    told = ", ".join(f"{name} {value:.4f}" for name, value in rows["references"].items())
    return [f"\n**{label}**: {told}\n", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def table(results: dict[str, Any], options: Options) -> str:
    """Results as markdown: means with 95% intervals over the seeds, and the difference to factored BCQ on the same logs."""
    lines = []
    columns = ("exact, selected", "exact, last", "wis", "truth of wis", "ess")
    for label in options.sims:
        rows = results[label]
        lines += heading(label, rows, ["episodes", "method", *columns, "selected - factored BCQ"])
        for n in map(str, options.episodes):
            for method in (m for m in options.methods if m in rows):
                means = [rows[method][n][c]["mean"] for c in columns]
                cells = ["{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*x, d=0 if c == "ess" else 3) for c, x in zip(columns, means, strict=True)]
                lines.append(f"| {n} | {method} | {' | '.join(cells)} | {gain(rows, method, n)} |")
    return "\n".join(lines)


def short(results: dict[str, Any], options: Options) -> str:
    """A line per method: selected policies' exact values by size; at the largest: above factored BCQ, WIS / its truth / ESS."""
    lines = []
    for label in options.sims:
        rows, sizes = results[label], list(map(str, options.episodes))
        lines += heading(label, rows, ["method", *sizes, f"- factored BCQ, {sizes[-1]}", "last", "wis / its truth / ess"])
        for method in (m for m in options.methods if m in rows):
            row = rows[method]
            cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*row[n]["exact, selected"]["mean"]) for n in sizes]
            last, wis, truth, size = (row[sizes[-1]][c]["mean"][0] for c in ("exact, last", "wis", "truth of wis", "ess"))
            cells += [gain(rows, method, sizes[-1]), f"{last:.3f}", f"{wis:.2f} / {truth:.2f} / {size:.0f}"]
            lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Train and score, or print."""
    if options.what == "run":
        run(options)
    else:
        print({"table": table, "short": short}[options.what](json.loads(options.out.read_text()), options))


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
