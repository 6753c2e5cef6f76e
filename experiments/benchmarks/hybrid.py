"""DLPA: a plan on Platform and on Hard Move 10, an update, 5 members in one program against one, the memory of the episodes; environments.

Every figure stands beside the CPU time that it took, of all threads: on a shared machine the clock also counts the waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from causal_jax import memory, mesh, spaces, training, world_models
from causal_jax.algorithms import dlpa
from causal_jax.envs import make
from experiments.benchmarks.dynamics import seconds_of
from experiments.benchmarks.measure import Ratio, Row, alternate, summary, with_cpu_time
from experiments.benchmarks.speed import Sizes, env_rate
from experiments.dlpa import BENCHMARKS

MEMBERS = 5
PLATFORM, MOVE = "platform", "hard-move-10"
RATES = {"platform": 5e4, "catch-point": 5e6, "hard-move-4": 5e6}  # steps/s: the targets


def config_of(sizes: Sizes, env: str, **fields: Any) -> dlpa.Config:
    """The settings of an environment at these sizes."""
    size = {"width": min(64, sizes.width), "num_samples": sizes.plans, "num_elites": max(1, sizes.plans // 10)}
    return dlpa.Config(**{**BENCHMARKS[env][0], **size, **fields})


def plan_seconds(sizes: Sizes, env_id: str, devices: str = "pop=1", **fields: Any) -> Callable[[], float]:
    """A measurement: seconds of one plan of the untrained model, drawn as in training, placed on devices as a run with this mesh."""
    env, params = make(env_id)
    config = config_of(sizes, env_id, **fields)
    algorithm, hyper, task = dlpa.build(env, params, config), dlpa.Hyper(), dlpa.Task(params)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper, task)
    plan = dlpa.planner(
        dlpa.imagined(world_models.model_spec(env, params, config), config), spaces.from_gymnax(env.action_space(params)), config
    )

    def one(key: jax.Array, state: dlpa.State) -> Any:
        return plan(key, state.params, state.hyper, state.running.obs, state.running.theta, False)[0]

    placed = mesh.make_mesh(1, devices)
    state = mesh.place(state, NamedSharding(placed, PartitionSpec()))
    with mesh.ambient(placed if placed.size > 1 else None):
        return seconds_of(one, (state,), sizes.updates)


def step_seconds(sizes: Sizes, members: int, updates: int, devices: str = "", **fields: Any) -> Callable[[], float]:
    """A measurement: seconds of a step of all members on Platform, with `updates` updates, placed on devices as a run with this mesh."""
    env, params = make(PLATFORM)
    algorithm, task = dlpa.build(env, params, config_of(sizes, PLATFORM, num_updates=updates, **fields)), dlpa.Task(params)
    hyper, seeds, _ = training.grid(dlpa.Hyper(), range(members))
    run = training.start(algorithm, seeds, hyper, task, mesh=mesh.make_mesh(members, devices))
    compiled = training.compile_run(algorithm, run, task, sizes.updates)

    def measure() -> float:
        nonlocal run
        began = time.perf_counter()
        run, metrics = compiled.chunk(run, task, np.int32(sizes.updates))
        jax.block_until_ready((run, metrics))
        return (time.perf_counter() - began) / sizes.updates

    measure()
    return measure


def planning(sizes: Sizes) -> dict[str, Any]:
    """One plan (6 x 1000; H=10 masking on Platform, H=5 parallel on Hard Move 10), one update (B=64), a step of 5 members against one.

    Platform's networks are those of the authors' last code, second layer 64 K wide; "shared": 64 wide, as in their first commit and our
    runs. An untrained model ends most plans early, and what has ended is left out (`Config.block`); from a "whole" plan it is not.
    """
    updates = dlpa.Config.num_updates
    num_devices = math.gcd(len(jax.devices()), dlpa.Config.batch_size, sizes.plans)
    few: dict[str, Any] = {"num_samples": num_devices, "num_elites": 1, "plan_iterations": 1}  # hardly any planning
    everywhere = f"data={num_devices}"
    contestants: dict[str, Callable[[], float]] = {
        "a plan, hard-move-10": plan_seconds(sizes, MOVE),
        "a plan, platform, over all devices": plan_seconds(sizes, PLATFORM, everywhere),
        "a whole plan, platform, over all devices": plan_seconds(sizes, PLATFORM, everywhere, block=0),
    }
    for label, shared in (("", False), (", shared", True)):
        contestants |= {
            f"a plan, platform{label}": plan_seconds(sizes, PLATFORM, shared=shared),
            f"a whole plan, platform{label}": plan_seconds(sizes, PLATFORM, shared=shared, block=0),
            f"25 updates{label}": step_seconds(sizes, 1, updates, shared=shared, **few),
            f"25 updates, windows over all devices{label}": step_seconds(sizes, 1, updates, devices=everywhere, shared=shared, **few),
            f"a step of 1 member{label}": step_seconds(sizes, 1, updates, shared=shared),
            f"a step of {MEMBERS} members{label}": step_seconds(sizes, MEMBERS, updates, shared=shared),
            f"a step of {MEMBERS} members on one device{label}": step_seconds(sizes, MEMBERS, updates, devices="pop=1", shared=shared),
        }
    timed, cpu = with_cpu_time(contestants)
    rows = [Row(label, "s", values) for label, values in alternate(timed, sizes.rounds).items()]
    rows += [Row(f"{label}, CPU time", "s", [x / sizes.updates for x in seconds]) for label, seconds in cpu.items()]
    env, params = make(MOVE)
    algorithm = dlpa.build(env, params, dlpa.Config(**BENCHMARKS[MOVE][0], capacity=20_000))
    state = jax.eval_shape(algorithm.init, jax.random.key(0), dlpa.Hyper(), dlpa.Task(params))
    rows.append(Row("20,000 episodes of hard-move-10", "MB", [memory.size_of(state.buffer) / 1e6]))
    targets = {"a plan, platform": 45e-3, "a whole plan, platform": 45e-3, "a plan, hard-move-10": 40e-3, "25 updates": updates * 2e-3}
    targets["25 updates, windows over all devices"] = targets["25 updates"]
    targets |= {f"{label}, shared": seconds for label, seconds in targets.items() if "hard-move" not in label}
    targets |= {f"{kind} plan, platform, over all devices": targets["a plan, platform"] for kind in ("a", "a whole")}
    ratios = [Ratio(f"{label} / {seconds:g} s", label, seconds, "<= 1") for label, seconds in targets.items()]
    ratios += [
        Ratio(f"{MEMBERS} members / 1{label}", f"a step of {MEMBERS} members{label}", f"a step of 1 member{label}", "<= 4.5")
        for label in ("", ", shared")
    ]
    ratios += [
        Ratio("20,000 episodes / 200 MB", "20,000 episodes of hard-move-10", 200.0, "<= 1"),
    ]
    return summary(rows, ratios)


def environments(sizes: Sizes) -> dict[str, Any]:
    """Platform, Catch Point and Hard Move 4 alone (1024 in parallel), random actions and auto-reset: steps/s."""
    contestants, cpu = with_cpu_time({name: env_rate(name, sizes) for name in RATES})
    rows = [Row(label, "steps/s", values) for label, values in alternate(contestants, sizes.rounds).items()]
    rows += [Row(f"{label}, by CPU time", "steps/s", [sizes.env_steps * sizes.parallel / x for x in cpu[label]]) for label in cpu]
    return summary(rows, [Ratio(f"{name} / {rate:g} steps/s", name, rate, ">= 1") for name, rate in RATES.items()])
