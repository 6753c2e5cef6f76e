"""Offline Q-learning at the sizes of Tang et al. 2022: 64 features, 5 x 5 doses, two hidden layers of 256, batches of 100.

The 40 runs of a sweep (8 thresholds x 5 seeds) are members of one program over one data set of random numbers: speed does not ask for
more. The peer is d3rlpy's discrete BCQ on the same rows, joint actions, one run, in its own virtual environment. Every figure stands
beside the one by CPU time of all threads, which does not count the waiting on a machine that does other things meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import datasets, training
from causal_jax.algorithms import ALGORITHMS, offline_q
from experiments.benchmarks.measure import Ratio, Row, alternate, summary, with_cpu_time
from experiments.benchmarks.speed import Sizes
from experiments.crosschecks.__main__ import ask

THRESHOLDS, SEEDS = (0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.75, 0.9999), 5
FEATURES, DECISIONS, LEVELS = 64, 20, (5, 5)
UPDATES = 10_000  # of a run
PEER_UPDATES = 25  # of the peer's, for each of ours that is measured


def recorded(sizes: Sizes) -> datasets.Episodes:
    """As many episodes of 20 decisions as environments are measured in parallel, of random numbers."""
    rng, num = np.random.default_rng(0), sizes.parallel
    reward = np.zeros((num, DECISIONS), np.float32)
    reward[:, -1] = 100.0 * (rng.random(num) < 0.9)
    ends = np.broadcast_to(np.arange(DECISIONS) == DECISIONS - 1, reward.shape)
    obs = rng.normal(size=(num, DECISIONS + 1, FEATURES)).astype(np.float32)
    action = rng.integers(0, 5, (num, DECISIONS, 2)).astype(np.int32)
    every = np.ones(reward.shape)
    return datasets.Episodes(*map(jnp.asarray, (obs, action, reward, ends, every.astype(bool), every.astype(np.float32) / 25)))


def update_rate(sizes: Sizes, name: str, members: int) -> Callable[[], float]:
    """A measurement: updates/s, summed over the members, of an algorithm by its name; the thresholds go round the members."""
    hidden = (sizes.width * 2,) * 2
    config = offline_q.Config(**{**ALGORITHMS[name].preset, "hidden": hidden, "model_hidden": hidden, "num_updates": 1})
    env, data = datasets.Recorded(FEATURES, LEVELS), datasets.rows(recorded(sizes))
    algorithm, task = offline_q.build(env, None, config), offline_q.Task(None, data)
    hyper, seeds, _ = training.grid(offline_q.Hyper(), range(members))
    hyper = hyper.replace(threshold=jnp.asarray([THRESHOLDS[m % len(THRESHOLDS)] for m in range(members)], jnp.float32))
    run = training.start(algorithm, seeds, hyper, task)
    updates = updates_of(sizes, members)
    compiled = training.compile_run(algorithm, run, task, updates)

    def measure() -> float:
        nonlocal run
        began = time.perf_counter()
        run, _ = jax.block_until_ready(compiled.chunk(run, task, jnp.asarray(updates, jnp.int32)))
        return members * updates / (time.perf_counter() - began)

    measure()
    return measure


def updates_of(sizes: Sizes, members: int) -> int:
    """Updates of every member in a measurement."""
    return sizes.updates * max(1, 40 // members)


def peer_rate(sizes: Sizes) -> tuple[float, float]:
    """updates/s of d3rlpy's discrete BCQ on the same rows by the clock and by CPU time. Raises: UserError where it cannot be run."""
    episodes = recorded(sizes)
    obs, last = np.asarray(episodes.obs), np.asarray(episodes.terminated).ravel()
    rows = {
        "obs": obs[:, :-1].reshape(-1, FEATURES), "action": np.asarray(episodes.action).reshape(-1, 2) @ np.asarray([5, 1]),
        "reward": np.asarray(episodes.reward).ravel(), "terminated": last, "timeout": np.zeros_like(last), "every": obs[:, 0],
    }  # fmt: skip
    size = {
        "updates": PEER_UPDATES * sizes.updates, "threshold": 0.3, "batch_size": 100, "lr": 3e-4, "gamma": 0.99, "beta": 0.01,
        "target_every": 200, "hidden": [2 * sizes.width] * 2, "num_actions": 25, "seed": 0,
    }  # fmt: skip
    told = ask("d3rlpy", "d3rlpy_child.py", size, rows)[0]
    return float(told["updates_per_second"]), float(told["updates_per_cpu_second"])


def learning(sizes: Sizes) -> dict[str, Any]:
    """BCQ and AD-BCQ from data (batch 100, two layers of 256): updates/s of one run, of 40 in one program, of d3rlpy's discrete BCQ."""
    members, peer, by_cpu = len(THRESHOLDS) * SEEDS, "d3rlpy, one run", ", by CPU time"
    sides = {f"{name}, {n}": (name, n) for name in ("bcq", "ad-bcq") for n in (1, members)}
    contestants, cpu = with_cpu_time({label: update_rate(sizes, *side) for label, side in sides.items()})
    rows = [Row(label, "updates/s", values) for label, values in alternate(contestants, sizes.rounds).items()]
    theirs = [peer_rate(sizes) for _ in range(sizes.rounds)]
    rows.append(Row(peer, "updates/s", [clock for clock, _ in theirs]))
    for label, (_, n) in sides.items():
        rows.append(Row(label + by_cpu, "updates/s", [n * updates_of(sizes, n) / x for x in cpu[label]]))
    rows.append(Row(peer + by_cpu, "updates/s", [x for _, x in theirs]))
    many = f"bcq, {members}"
    whole = f"{members} runs of {UPDATES:,} updates of bcq at that rate"  # of what was measured, not run to its end
    rates = {row.label: row.values for row in rows}
    rows.append(Row(whole, "min", [members * UPDATES / rate / 60 for rate in rates[many]]))
    rows.append(Row(f"{whole}, CPU time", "min", [members * UPDATES / rate / 60 for rate in rates[many + by_cpu]]))
    ratios = [Ratio(f"{whole} / 12 min", whole, 12.0, "<= 1")]
    for tail in ("", by_cpu):
        ratios.append(Ratio(f"bcq, 1 / d3rlpy{tail}", f"bcq, 1{tail}", peer + tail, ">= 3"))
        ratios.append(Ratio(f"{many} / d3rlpy{tail}", many + tail, peer + tail, ">= 10"))
    return summary(rows, ratios)
