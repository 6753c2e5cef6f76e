"""Concurrent DDPG learners on the pendulum with wind, one update per step of each: all in one program, against one of a peer.

Both make one update, of the same batch and networks, per environment step of a learner: agent-steps are updates.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from causal_jax import make, mesh, training
from causal_jax.algorithms import concurrent_ddpg
from experiments.benchmarks import peers
from experiments.benchmarks.measure import Ratio, summary
from experiments.benchmarks.speed import Sizes, rates

MEMBERS = 10
CONFIG = concurrent_ddpg.Config(
    sharing="individual", exploration="ou", hidden=(64, 64), batch_size=64, num_steps=100, warmup_steps=100, capacity=10_000
)


def learn_rate(env_id: str, config: concurrent_ddpg.Config, members: int, updates: int) -> Callable[[], float]:
    """A measurement of training: agent-steps/s, summed over members and learners, of a compiled chunk placed as runs place it."""
    env, params = make(env_id)
    algorithm, task = concurrent_ddpg.build(env, params, config), concurrent_ddpg.Task(params)
    hyper, seeds, _ = training.grid(concurrent_ddpg.Hyper(), range(members))
    run = training.start(algorithm, seeds, hyper, task, mesh=mesh.make_mesh(members))
    compiled = training.compile_run(algorithm, run, task, updates)

    def measure() -> float:
        nonlocal run
        began = time.perf_counter()
        run, metrics = compiled.chunk(run, task, np.int32(updates))
        jax.block_until_ready((run, metrics))
        return members * updates * concurrent_ddpg.steps_per_update(config) / (time.perf_counter() - began)

    measure()
    return measure


def ddpg(sizes: Sizes) -> dict[str, Any]:
    """20 DDPG learners x 10 seeds on pendulum-wind, one learner, stable-baselines3's DDPG (batch 64, nets 64-64): updates/s."""
    ours, alone = f"{CONFIG.num_learners} learners x {MEMBERS} seeds", "one learner"
    contestants = {
        ours: learn_rate("pendulum-wind", CONFIG, MEMBERS, 1),
        alone: learn_rate("pendulum-wind", dataclasses.replace(CONFIG, num_learners=1), 1, sizes.updates),
    }
    size = {
        "algorithm": "DDPG", "env": "Pendulum-v1", "num_envs": 1, "num_steps": 1000, "updates": 1, "batch_size": CONFIG.batch_size,
        "hidden": CONFIG.hidden,
    }  # fmt: skip
    with peers.peer("sb3", size) as peer:
        threads = sorted({1, peer.told["threads"]})
        theirs = {f"stable-baselines3, {num} thread{'s' * (num > 1)}": peer.contestant(threads=num) for num in threads}
        rows = rates(contestants | theirs, sizes)
    ratios = [
        Ratio(f"{ours} / 15,000 a second", ours, 15_000.0, ">= 1"),
        *(Ratio(f"{ours} / {name}", ours, name, ">= 25") for name in theirs),
    ]
    ratios += [Ratio(f"{alone} / {name}", alone, name) for name in theirs]
    return {**summary(rows, ratios), "peer": peer.told["versions"]}
