"""One compilation of the PPO CartPole chunk in this process, as a run does it; the seconds of its parts go out as one line of JSON.

python -m experiments.benchmarks.compile_child '{"members": 8, ...}'    # the fields of speed.Sizes
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

began = time.perf_counter()

import jax  # noqa: E402

from causal_jax import mesh, training  # noqa: E402
from causal_jax.algorithms import ppo  # noqa: E402
from causal_jax.cli import configure  # noqa: E402
from causal_jax.envs import make  # noqa: E402
from experiments.benchmarks.speed import CARTPOLE, Sizes  # noqa: E402


def main() -> None:
    """Import, start the members, lower and compile."""
    configure()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small sizes are cached too
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()}
    sizes = Sizes(**given)
    world, params = make(CARTPOLE)
    algorithm, task = ppo.build(world, params, sizes.config), ppo.Task(params)
    imported = time.perf_counter()
    hyper, seeds, _ = training.grid(ppo.Hyper(), range(sizes.members))
    run = jax.block_until_ready(training.start(algorithm, seeds, hyper, task))
    run = mesh.shard_run(run, mesh.make_mesh(sizes.members))
    started = time.perf_counter()
    backend: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            backend.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    cpu = time.process_time()
    seconds = training.compile_run(algorithm, run, task, sizes.updates).seconds
    cpu = time.process_time() - cpu
    parts = {"import": imported - began, "start": started - imported, "lower": seconds - sum(backend), "compile": sum(backend)}
    parts["lower and compile, CPU time"] = cpu  # tells a busy machine from a slow compiler
    print(json.dumps(parts))


main()
