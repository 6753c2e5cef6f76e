"""Concurrent learners on four devices: the learners along `data`, members along `pop`, the same learning curve as on one."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax, numpy as np
from causal_jax import make, mesh, training
from causal_jax.algorithms import concurrent_ddpg as ddpg

env, params = make("autoregressive-hard")
config = ddpg.Config(sharing="naive", num_learners=4, num_steps=5, warmup_steps=6, samples=4, batch_size=4, capacity=32, hidden=(8,))
algorithm, task = ddpg.build(env, params, config), ddpg.Task(params)

def curve(text):
    hyper, seeds, _ = training.grid(ddpg.Hyper(), [0, 1])
    placed = mesh.make_mesh(2, text, ddpg.batch_sizes(config))
    run = mesh.shard_run(training.start(algorithm, seeds, hyper, task), placed)
    program = training.compile_run(algorithm, run, task, 10).chunk
    run, metrics = program(run, task, np.int32(10))
    return run, jax.device_get((metrics, run.state.learners)), program.as_text()


_, alone, _ = curve("pop=1")
for text, shape in (("pop=1,data=4", (2, 1)), ("pop=2,data=2", (1, 2))):
    run, found, program = curve(text)
    assert [x.data.shape[:2] for x in run.state.cursors.episode_return.addressable_shards] == [shape] * 4
    assert "all-gather" in program  # the new rows, for everyone's rings
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(np.nanmax(np.abs(b), initial=0.0))))
"""


@pytest.mark.slow
def test_learners_are_split_over_devices_with_the_same_curve() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": flags})
    assert result.returncode == 0, result.stderr[-2000:]
