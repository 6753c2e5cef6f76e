"""The engine's trap: the flag is set where it is needed, refused where it is too late; and a program of the kind that hangs does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from causal_jax.engine import FLAG, avoid_hang, in_danger, started
from causal_jax.types import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("version", "environ", "danger"),
    [
        ("0.10.1", {}, True),
        ("0.10.2", {"JAX_PLATFORMS": "cuda,cpu"}, True),
        ("0.10.2", {"XLA_FLAGS": "--xla_x=1"}, True),
        ("0.10.1", {"JAX_PLATFORMS": "cuda"}, False),
        ("0.10.1", {"XLA_FLAGS": f"{FLAG}=false"}, False),
        ("0.9.2", {}, False),
        ("0.11.2", {}, False),
        ("0.100.0", {}, False),
    ],
)
def test_who_is_in_danger(version: str, environ: dict[str, str], danger: bool) -> None:
    assert in_danger(version, environ) is danger


def test_the_flag_is_set_before_jax_starts_and_told() -> None:
    said: list[str] = []
    environ = {"XLA_FLAGS": "--xla_x=1"}
    for _ in range(2):
        avoid_hang(said.append, version="0.10.2", environ=environ, has_started=lambda: False)
    assert environ == {"XLA_FLAGS": f"--xla_x=1 {FLAG}=false"}
    assert said == [f"jax 0.10.2 can hang on the CPU: set XLA_FLAGS={FLAG}=false"]


def test_it_is_refused_when_jax_has_started() -> None:
    environ: dict[str, str] = {}
    with pytest.raises(UserError) as error:
        avoid_hang(version="0.10.2", environ=environ, has_started=lambda: True)
    assert str(error.value) == f"jax = 0.10.2: can hang on the CPU; install another version, or start with XLA_FLAGS={FLAG}=false"
    assert environ == {}


PROGRAM = """
import os
os.environ["XLA_FLAGS"] = ""
import jax
from causal_jax.engine import avoid_hang, started
assert not started()
avoid_hang()
jax.config.update("jax_num_cpu_devices", 2)
from causal_jax import make, mesh, ppo, training
env, params = make("probe-policy")
config = ppo.Config(num_envs=4, num_steps=16, num_minibatches=4, num_epochs=2, hidden=(8,))
hyper, seeds, _ = training.grid(ppo.Hyper(), range(4))
algorithm, task = ppo.build(env, params, config), ppo.Task(params)
run = mesh.shard_run(training.start(algorithm, seeds, hyper, task), mesh.make_mesh(4, "pop=2"))
run = training.fit(algorithm, run, task, 40, chunk_updates=20)
assert started()
print("done at", int(run.t))
"""


def test_a_vmapped_ppo_with_minibatch_permutations_comes_to_an_end() -> None:
    """The program that hangs for ever on jax 0.10 without the flag: scans in scans, permutations, several members, two devices."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done at 40"


def test_this_process_has_started() -> None:
    import jax

    jax.devices()
    assert started()
