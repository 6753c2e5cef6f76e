"""AD-RL where the truth is known: samples that a model needs, block structure from data, and what a hidden severity does to every estimate.

    python -m experiments.adrl_tabular [samples] [structure] [confounding]   # results/adrl_tabular.json and .png
    python -m experiments.adrl_tabular table                                 # those results as markdown

samples: two chains of six states with L levels each (random kernels and rewards, gamma 0.9), a generative model. Value iteration on
counts of all L^2 joint actions, on the factored model of the same samples, and on that of samples in which one block acts at a time, 2 L
actions; MB-FPI on the last. The paper's claim (arXiv 2504.21326; its bound was not at hand) is that samples go with the number of actions,
L^2 / 2 L. The same on sepsis-sim with its two separable blocks, 8 joint actions against 5 (the no-op is in both blocks).
structure: the blocks that interact, found from logged episodes of sepsis-sim under uniform actions by `intervention.effect_evidence`,
without and with a hidden severity that drives treatment and outcome. Right is {abx, vaso} x {vent}.
confounding: sepsis-sim with that hidden severity, of strength c (not in the paper, which supposes that there is none). Estimates of three
policies' values from a log, beside the truth; the values that learned policies promise, beside theirs; by what factor a trajectory's weight
must be allowed to be wrong for the bounds of `estimators.confounding_bounds` to hold the truth.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import plots, statistics
from causal_jax.algorithms.tabular import (
    empirical_mdp,
    factored_mdp,
    factored_policy_iteration,
    policy_value,
    state_values,
    value_iteration,
)
from causal_jax.algorithms.tabular import q_values as action_values
from causal_jax.causal import estimators, intervention
from causal_jax.causal.intervention import Blocks
from causal_jax.envs import sepsis
from causal_jax.fields import suggest
from causal_jax.mdp import Array, Log, TabularMDP, make_mdp, sample_log, sample_next, uniform_policy
from causal_jax.types import UserError
from experiments.benchmarks import measure
from experiments.records import RESULTS, command

LEVELS = (3, 5, 9, 17)
PER_STATE = tuple(int(x) for x in 2 ** np.arange(3, 16))
PER_ACTION = (1, 2, 4, 8, 16)  # of sepsis-sim, per state and joint action
GAP = 0.1  # of what there is to win over doing nothing
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
EPISODES, HORIZON, GAMMA, EVIDENCE = 5000, 20, 0.99, 6.0
FACTORS = (*(round(1 + 0.05 * i, 2) for i in range(41)), 4.0, 5.0, 10.0, 20.0)  # by which a trajectory's weight may be wrong
WIDE = FACTORS.index(1.5)
METHODS = ("joint model", "factored model", "factored, one block at a time", "the same, MB-FPI")


@dataclasses.dataclass(frozen=True)
class Options:
    """Parts of the study; their names stand in PARTS."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which to run; none: all."""
    seeds: int = 10
    """Data sets (and in `samples` worlds) of each kind."""
    folder: Path = RESULTS
    """Where results go."""
    small: bool = False
    """See that it runs, in seconds."""


def estimate(values: Any) -> list[float]:
    """Mean with its 95% bootstrap interval."""
    return [float(x) for x in statistics.bootstrap_interval(np.asarray(values, float), statistics.mean)]


def chains(seed: int, levels: int) -> tuple[TabularMDP, Blocks]:
    """Two chains of six states; block k's level moves chain k only, the reward of a state is any number: separable, not additive."""
    rng, n = np.random.default_rng(seed), 6
    kernels = rng.dirichlet(np.full(n, 0.5), (2, n, levels))
    transition = np.einsum("iaj,kbl->ikabjl", *kernels).reshape(n * n, levels**2, n * n)
    reward = np.repeat(rng.normal(size=n * n)[:, None], levels**2, 1)
    variables = np.stack(np.unravel_index(np.arange(n * n), (n, n)), -1)
    mdp = make_mdp(transition, reward, np.full(n * n, n**-2.0), variables=variables, names=("first", "second"))
    return mdp, Blocks.of((levels, levels), (levels // 2,) * 2)


def draw(rng: np.random.Generator, mdp: TabularMDP, columns: Array, per_state: int, live: Array) -> tuple[Array, Array, Array]:
    """`per_state` samples of every live state, spread over the joint actions `columns` as evenly as can be."""
    actions = np.concatenate([rng.permutation(np.resize(rng.permutation(columns), per_state)) for _ in live])
    states = np.repeat(live, per_state)
    return states, actions, sample_next(rng, mdp, states, actions)


def three_models(seed: int, mdp: TabularMDP, blocks: Blocks, effects: Any, gamma: float, per_state: int, live: Array) -> dict[str, float]:
    """Method -> exact value of the policy that its model holds to be best. Rewards are known to all."""
    rng = np.random.default_rng((seed, per_state))
    everything, alone = np.arange(mdp.num_actions), np.unique(np.concatenate([blocks.completions(k) for k in range(blocks.num)]))
    states, actions, after = draw(rng, mdp, everything, per_state, live)
    joint = dataclasses.replace(empirical_mdp(mdp, states, actions, np.zeros(len(states)), after), reward=mdp.reward)
    factored = factored_mdp(mdp, blocks, effects, states, actions, after)
    single = factored_mdp(mdp, blocks, effects, *draw(rng, mdp, alone, per_state, live))
    return _values(mdp, (joint, factored, single), blocks, gamma)


def _values(mdp: TabularMDP, models: Sequence[TabularMDP], blocks: Blocks, gamma: float) -> dict[str, float]:
    policies = [value_iteration(model, gamma).policy for model in models]
    policies.append(factored_policy_iteration(models[-1], blocks, gamma, "one").policy)
    return {name: policy_value(mdp, policy, gamma) for name, policy in zip(METHODS, policies, strict=True)}


def samples(options: Options) -> dict[str, Any]:
    """Share of what there is to win that is lost, by samples per state; and the samples at which 10% are."""
    out: dict[str, Any] = {}
    for levels in LEVELS[: 2 if options.small else None]:
        lost: dict[str, list[list[float]]] = {name: [] for name in METHODS}
        for seed in range(options.seeds):
            mdp, blocks = chains(seed, levels)
            best, least = value_iteration(mdp, 0.9).value, policy_value(mdp, np.full(36, blocks.nothing), 0.9)
            rows = [three_models(seed, mdp, blocks, ((0,), (1,)), 0.9, n, np.arange(36)) for n in PER_STATE]
            for name in METHODS:
                lost[name].append([(best - row[name]) / (best - least) for row in rows])
        needed = {name: _crossing(np.mean(curves, 0)) for name, curves in lost.items()}
        first, third = needed[METHODS[0]], needed[METHODS[2]]
        ratio = first / third if first and third else None
        out[str(levels)] = {
            "lost": {name: [estimate(column) for column in np.asarray(curves).T] for name, curves in lost.items()},
            "samples per state to lose 10%": needed, "ratio": ratio, "ratio of action counts": levels**2 / (2 * levels),
        }  # fmt: skip
    sim, blocks = sepsis.sepsis_sim_mdp(), sepsis.blocks("2")
    best = value_iteration(sim, GAMMA).value
    live = np.flatnonzero((sim.reward == 0).all(1) & ~sim.absorbing)
    known = [np.flatnonzero(~np.isin(np.arange(sim.num_states), live))[:, None] * np.ones(8, int), np.arange(8)]
    ends = (known[0].ravel(), np.tile(known[1], len(known[0])))
    found: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for seed in range(1 if options.small else min(options.seeds, 5)):
        rows = [_sepsis_models(seed, sim, blocks, n * 8, live, ends) for n in PER_ACTION[: 2 if options.small else None]]
        for name in METHODS:
            found[name].append([row[name] for row in rows])
    out["sepsis-sim"] = {"optimum": best, "value": {name: [estimate(c) for c in np.asarray(curves).T] for name, curves in found.items()}}
    return {"samples per state": PER_STATE, "samples per state of sepsis-sim": [8 * n for n in PER_ACTION], **out}


def _sepsis_models(seed: int, sim: TabularMDP, blocks: Blocks, per_state: int, live: Array, ends: tuple[Array, Array]) -> dict[str, float]:
    """As `three_models`; what follows an end is known."""
    rng, effects = np.random.default_rng((seed, per_state)), sepsis.EFFECTS["2"]
    after_ends = sample_next(rng, sim, *ends)

    def steps(columns: Array) -> tuple[Array, Array, Array]:
        drawn = draw(rng, sim, columns, per_state, live)
        states, actions, after = (np.append(a, b) for a, b in zip(drawn, (*ends, after_ends), strict=True))
        return states, actions, after

    everything = steps(np.arange(8))
    alone = steps(np.unique(np.concatenate([blocks.completions(k) for k in range(blocks.num)])))
    joint = empirical_mdp(sim, everything[0], everything[1], sim.reward[everything[0], everything[1]], everything[2])
    models = [factored_mdp(sim, blocks, effects, *steps) for steps in (everything, alone)]
    return _values(sim, (joint, *models), blocks, GAMMA)


def _crossing(lost: Array) -> float | None:
    """Samples per state at which the mean loss falls to GAP for good, interpolated in logarithms; None: never."""
    above = np.flatnonzero(lost > GAP)
    if len(above) == 0:
        return float(PER_STATE[0])
    i = int(above[-1])
    if i + 1 == len(lost):
        return None
    weight = (np.log(lost[i]) - np.log(GAP)) / (np.log(lost[i]) - np.log(max(lost[i + 1], 1e-12)))
    return float(PER_STATE[i] * (PER_STATE[i + 1] / PER_STATE[i]) ** weight)


def world(strength: float, base: Array) -> tuple[TabularMDP, Array]:
    """The confounded simulator with its severity as a state variable, and the policy that logs: base, tilted by severity."""
    if not strength:
        return sepsis.sepsis_sim_mdp(), base
    return sepsis.sepsis_sim_mdp(confounding=strength), sepsis.logging_policy(base, strength).reshape(-1, 8)


def structure(options: Options) -> dict[str, Any]:
    """How often {abx, vaso} x {vent} is found, and the mean evidence of every block for every vital sign."""
    sim, blocks, out = sepsis.sepsis_sim_mdp(), sepsis.blocks("3"), []
    for strength in (0.0, 0.5, 1.0)[: 1 if options.small else None]:
        mdp, policy = world(strength, uniform_policy(sim))
        for episodes in (300,) if options.small else (300, 1000, 3000, 10_000):
            merged, evidence = [], []
            for seed in range(min(options.seeds, 5)):
                states, actions, _, after = sample_log(seed, mdp, policy, episodes, HORIZON).steps
                alive = mdp.variables[after, 0] >= 0 if mdp.variables is not None else slice(None)
                states, actions, after = states[alive] % 1442, actions[alive], after[alive] % 1442
                evidence.append(intervention.effect_evidence(seed, states, actions, np.asarray(sim.variables)[after], blocks))
                merged.append(intervention.merge(evidence[-1] > EVIDENCE))
            out.append(
                {
                    "confounding": strength, "episodes": episodes, "seeds": len(merged), "right": sum(m == ((0, 2), (1,)) for m in merged),
                    "found": sorted({str(m) for m in merged}),
                    "evidence for hr, sbp, o2, glu": np.mean(evidence, 0)[:, 1:5].round(1).tolist(),
                }
            )  # fmt: skip
    return {"blocks": sepsis.TREATMENTS, "threshold": EVIDENCE, "rows": out}


def confounding(options: Options) -> dict[str, Any]:
    """Estimates and truth by strength of the hidden severity, of three policies; promised and true values of learned ones; the bounds."""
    sim = sepsis.sepsis_sim_mdp()
    best = np.eye(8)[value_iteration(sim, GAMMA).policy]
    base, estimates, learned = 0.75 * best + 0.25 / 8, [], []
    targets = {"optimal": 0.9 * best + 0.1 / 8, "treats more": _tilted(base, 1.0), "treats less": _tilted(base, -1.0)}
    for strength in STRENGTHS[:: 4 if options.small else 1]:
        mdp, log_policy = world(strength, base)
        logs = [sample_log(seed, mdp, log_policy, 200 if options.small else EPISODES, HORIZON) for seed in range(options.seeds)]
        models = [empirical_mdp(sim, *_blind(log)) for log in logs]
        for name, target in targets.items():
            truth = policy_value(mdp, np.tile(target, (mdp.num_states // 1442, 1)), GAMMA, HORIZON)
            found = [_estimates(log, model, base, target, truth) for log, model in zip(logs, models, strict=True)]
            columns = {key: estimate([f[key] for f in found]) for key in found[0]}
            estimates.append({"confounding": strength, "policy": name, "truth": truth, **columns})
        found = [_learned(sim, mdp, log, model) for log, model in zip(logs, models, strict=True)]
        logged = policy_value(mdp, log_policy, GAMMA)
        learned.append({"confounding": strength, "logged": logged, **{key: estimate([f[key] for f in found]) for key in found[0]}})
    return {"episodes": EPISODES, "horizon": HORIZON, "gamma": GAMMA, "estimates": estimates, "learned": learned}


def _tilted(policy: Array, by: float) -> Array:
    """The policy, in proportion to exp(by (treatments that an action switches on))."""
    tilted = policy * np.exp(by * sepsis.blocks("3").levels.sum(1))
    return np.asarray(tilted / tilted.sum(1, keepdims=True))


def _blind(log: Log) -> tuple[Array, Array, Array, Array]:
    """States, actions, rewards, next states of a log without the severity."""
    states, actions, rewards, after = log.steps
    return states % 1442, actions, rewards, after % 1442


def _counts(log: Log) -> Array:
    counts = np.zeros((1442, 8))
    np.add.at(counts, _blind(log)[:2], 1)
    return counts


def _estimates(log: Log, model: TabularMDP, base: Array, target: Array, truth: float) -> dict[str, float]:
    """Values of `target` from one log, and the bounds: all blind to the severity, but for the one that says so."""
    counts, at = _counts(log), (log.states[:, :-1] % 1442, log.actions)
    behaviour = (counts + base) / (counts + base).sum(1, keepdims=True)
    ratio = np.where(log.taken, target[at] / behaviour[at], 1.0)
    exact = np.where(log.taken, target[at] / log.prob, 1.0)
    q = action_values(model, state_values(model, target, GAMMA), GAMMA)
    mask = jnp.asarray(log.taken)
    rho, known, q_taken, v, reward = (jnp.asarray(x, jnp.float32) for x in (ratio, exact, q[at], (target * q).sum(1)[at[0]], log.rewards))
    weight, value, ones = estimators.prefix_weights(rho)[:, -1], estimators.returns(reward, mask, GAMMA), jnp.ones(len(rho))
    robust = jax.vmap(estimators.doubly_robust, (0, 0, 0, 0, 0, None))
    bounds = [estimators.confounding_bounds(weight, value, ones, float(x)) for x in FACTORS]
    off = exact.prod(1) / ratio.prod(1)
    return {
        "WIS, severity known": float(estimators.wis(estimators.prefix_weights(known)[:, -1], value)),
        "WIS": float(estimators.wis(weight, value)),
        "ESS": float(estimators.ess(weight)),
        "per-decision WIS": float(estimators.per_decision_wis(rho, reward, mask, GAMMA)),
        "doubly robust": float(robust(rho, q_taken, v, reward, mask, GAMMA).mean()),
        "model": policy_value(model, target, GAMMA, HORIZON),
        "low, factor 1.5": float(bounds[WIDE][0]),
        "high, factor 1.5": float(bounds[WIDE][1]),
        "factor that holds the truth": float(next((x for x, b in zip(FACTORS, bounds, strict=True) if b[0] <= truth <= b[1]), np.inf)),
        "factor of 95% of weights": float(np.quantile(np.maximum(off, 1 / off), 0.95)),
    }


def _learned(sim: TabularMDP, mdp: TabularMDP, log: Log, model: TabularMDP) -> dict[str, float]:
    """What policies learned from one log promise in their own model and are worth. Actions never seen in a state are not taken there."""
    states, actions, _, after = _blind(log)
    counts, blocks = _counts(log), sepsis.blocks("2")
    allowed = (counts > 0) | ~counts.any(1, keepdims=True)
    factored = factored_mdp(sim, blocks, sepsis.EFFECTS["2"], states, actions, after)
    projected = [value_iteration(intervention.projected_mdp(factored, blocks, k), GAMMA).q for k in range(2)]
    total = intervention.offset_sum(projected, state_values(factored, np.zeros(1442, int), GAMMA), blocks)
    policies = {
        "joint": value_iteration(model, GAMMA, allowed).policy,
        "factored": value_iteration(factored, GAMMA, allowed).policy,
        "projected sum": np.where(allowed, total, -np.inf).argmax(1),
    }
    out = {}
    for name, policy in policies.items():
        out[f"{name}: promised"] = policy_value(model if name == "joint" else factored, policy, GAMMA)
        out[f"{name}: true"] = policy_value(mdp, np.tile(policy, mdp.num_states // 1442), GAMMA)
    return out


def picture(results: dict[str, Any], path: Path) -> None:
    """Two panels: samples to lose 10%, bias by confounding."""
    with plots.figure_file(path, 9, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        found = results["samples"]
        for k, name in enumerate(METHODS):
            needed = [found[str(levels)]["samples per state to lose 10%"][name] for levels in LEVELS]
            kept = [(levels, x) for levels, x in zip(LEVELS, needed, strict=True) if x]
            left.plot(*zip(*kept, strict=True), color=plots.PALETTE[k], linestyle=plots.LINES[k], marker="o", markersize=4, label=name)
        left.set(xscale="log", yscale="log", xlabel="levels per block, two blocks", title="Samples per state to lose 10%")
        left.set_xticks(LEVELS, [str(x) for x in LEVELS])
        left.set_yticks((100, 1000, 10_000), ("100", "1k", "10k"))
        left.minorticks_off()
        left.legend(fontsize=8)
        rows = results["confounding"]["estimates"]
        for k, policy in enumerate(("treats less", "optimal")):
            mine = [row for row in rows if row["policy"] == policy]
            for line, name in zip(("-", "--", ":"), ("WIS", "per-decision WIS", "model"), strict=True):
                off = np.asarray([np.asarray(row[name]) - row["truth"] for row in mine])
                x, look = [row["confounding"] for row in mine], {"color": plots.PALETTE[k], "linewidth": 1.6}
                right.plot(x, off[:, 0], linestyle=line, marker="o", markersize=4, label=f"{policy}: {name}", **look)
                right.fill_between(x, off[:, 1], off[:, 2], color=plots.PALETTE[k], alpha=0.12, linewidth=0)
        right.axhline(0, color=plots.MUTED, linewidth=1)
        right.set(xlabel="strength of the hidden severity", title="Estimate - truth, sepsis-sim")
        right.set_ylim(top=0.5)
        right.legend(fontsize=8, ncols=2, loc="upper left")


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""

    def cell(x: Any) -> str:
        return f"{x[0]:.3f} [{x[1]:.3f}, {x[2]:.3f}]" if isinstance(x, list) else "never" if x is None else f"{x:.3g}"

    def rows_of(head: list[str], rows: list[list[str]]) -> list[str]:
        return ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]]

    lines: list[str] = []
    if "samples" in results:
        found = results["samples"]
        lines += ["Samples per state to lose 10% of what there is to win", ""]
        lines += rows_of(
            ["levels", *METHODS, "first / third", "L^2 / 2 L"],
            [
                [
                    str(levels), *(cell(found[str(levels)]["samples per state to lose 10%"][name]) for name in METHODS),
                    cell(found[str(levels)]["ratio"]), cell(found[str(levels)]["ratio of action counts"]),
                ]
                for levels in LEVELS if str(levels) in found
            ],
        )  # fmt: skip
        sim = found["sepsis-sim"]
        lines += ["", f"sepsis-sim (optimum {sim['optimum']:.4f}): exact value of the policy found", ""]
        counts = found["samples per state of sepsis-sim"]
        lines += rows_of(
            ["samples per state", *METHODS],
            [[str(n), *(cell(sim["value"][m][i]) for m in METHODS)] for i, n in enumerate(counts) if i < len(sim["value"][METHODS[0]])],
        )
    if "structure" in results:
        lines += ["", "Blocks found on sepsis-sim", ""]
        lines += rows_of(
            ["hidden severity", "episodes", "right", "found", "evidence (z) for hr, sbp, o2, glu of abx; vent; vaso"],
            [
                [
                    f"{row['confounding']:g}", f"{row['episodes']:,}", f"{row['right']} of {row['seeds']}", "; ".join(row["found"]),
                    "; ".join(" ".join(f"{x:.1f}" for x in block) for block in row["evidence for hr, sbp, o2, glu"]),
                ]
                for row in results["structure"]["rows"]
            ],
        )  # fmt: skip
    if "confounding" in results:
        for title, part in (("A hidden severity on sepsis-sim: estimates", "estimates"), ("... and learned policies", "learned")):
            found = results["confounding"][part]
            lines += ["", title, ""]
            lines += rows_of(list(found[0]), [[x if isinstance(x, str) else cell(x) for x in row.values()] for row in found])
    return "\n".join(lines)


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {"samples": samples, "structure": structure, "confounding": confounding}


def main(options: Options) -> None:
    """Run the named parts, or print the table. Raises: UserError for an unknown name."""
    path = options.folder / "adrl_tabular.json"
    if options.names == ("table",):
        print(table(json.loads(path.read_text())))
        return
    for name in options.names or tuple(PARTS):
        if name not in PARTS:
            raise UserError(f"names = {name!r}: {suggest(name, [*PARTS, 'table'])}")
        about = measure.context() | {"command": command("adrl_tabular"), "seeds": options.seeds}
        began = time.perf_counter()
        found = PARTS[name](options)
        measure.record(path, name, {"about": PARTS[name].__doc__, **about, "seconds": round(time.perf_counter() - began), **found})
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    results = json.loads(path.read_text())
    if {"samples", "confounding"} <= set(results) and not options.small:
        picture(results, path.with_suffix(".png"))


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except UserError as error:
        raise SystemExit(str(error)) from None
