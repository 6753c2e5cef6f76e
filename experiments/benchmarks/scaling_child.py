"""One training of PPO on CartPole in this process, as a run does it; its seconds and memory go out as one line of JSON.

python -m experiments.benchmarks.scaling_child '{"members": 8, ...}'    # the fields of speed.Sizes
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax import mesh, training
from causal_jax.algorithms import ppo
from causal_jax.cli import configure
from causal_jax.envs import make
from experiments.benchmarks.speed import CARTPOLE, Sizes


def process_age() -> float:
    """Seconds since this process was started, its imports included."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        return float(file.read().split()[0]) - ticks / 100.0


def main() -> None:
    """Start, compile, train `updates` updates twice (the second is the steady speed)."""
    configure()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()}
    sizes = Sizes(**given)
    world, params = make(CARTPOLE)
    algorithm, task = ppo.build(world, params, sizes.config), ppo.Task(params)
    hyper, seeds, _ = training.grid(ppo.Hyper(), range(sizes.members))
    run = mesh.shard_run(training.start(algorithm, seeds, hyper, task), mesh.make_mesh(sizes.members))
    compiled = training.compile_run(algorithm, run, task, sizes.updates)
    num = jnp.asarray(sizes.updates, jnp.int32)
    run = jax.block_until_ready(compiled.chunk(run, task, num)[0])
    seconds = process_age()
    began = time.perf_counter()
    run, metrics = compiled.chunk(run, task, num)
    jax.device_get(metrics)
    jax.block_until_ready(run)
    train_seconds = time.perf_counter() - began
    told = {
        "seconds": seconds,
        "train_seconds": train_seconds,
        "steps_per_second": sizes.members * sizes.updates * ppo.steps_per_update(sizes.config) / train_seconds,
        "compile_seconds": compiled.seconds,
        "program_mib": compiled.bytes / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))


main()
