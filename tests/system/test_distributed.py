"""Several processes train one run: they equal one process bit for bit, one that dies ends the others with one line, and the run goes on.

Every process is a real CLI run on CPU, with gloo between them and two virtual devices each.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from causal_jax import stderr
from causal_jax.logs import read_rows
from causal_jax.runs import load_run

SIZES = ["--env", "maze-n1", "--members", "4", "--num-envs", "4", "--num-steps", "4", "--eval-episodes", "1", "--eval-steps", "5"]
SIZES += ["--evaluations", "4000", "--no-report", "--name", "run"]  # up to 4000 updates, each a chunk
PPO = ["--hidden", "8", "--num-minibatches", "2", "--num-epochs", "1"]


def start(folder: Path, devices: int, *more: str, algorithm: str = "template", updates: int = 4000) -> subprocess.Popen[str]:
    """A CLI run on so many virtual devices."""
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "TF_CPP_MIN_LOG_LEVEL": "3"}
    options = [*SIZES, *(PPO if algorithm == "ppo" else ["--hidden", "8"]), "--steps", str(16 * updates), "--folder", str(folder), *more]
    command = [sys.executable, "-m", "causal_jax", "train", algorithm, *options]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pair(folder: Path, *more: str, **options: object) -> list[subprocess.Popen[str]]:
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = ["--distributed", "--coordinator", f"localhost:{port}", "--num-processes", "2", "--heartbeat", "10"]
    return [start(folder, 2, *hosts, "--process-id", str(i), *more, **options) for i in range(2)]  # type: ignore[arg-type]


def end(process: subprocess.Popen[str]) -> str:
    """What a process that must end well writes."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


def leaves(folder: Path) -> list[np.ndarray]:
    """Every leaf of the last checkpoint."""
    run = load_run(folder / "run").run
    return [np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in jax.tree.leaves(run)]


def assert_same(a: Path, b: Path, tolerance: float = 0.0) -> None:
    """The same last checkpoint; tolerance 0: bit for bit."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x.astype(np.float64), y.astype(np.float64), rtol=tolerance, atol=tolerance)


def kill_one(folder: Path, victim: int, *more: str, **options: object) -> int:
    """kill -9 one of two processes after its first checkpoints: the other ends with one line. Returns the updates in the log."""
    processes = pair(folder, *more, **options)
    results = folder / "run" / "results.jsonl"
    while len(read_rows(results)) < 4:
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.05)
    processes[victim].send_signal(signal.SIGKILL)
    out, err = processes[1 - victim].communicate(timeout=300)
    assert processes[1 - victim].returncode not in (0, 2)
    assert err == stderr.LOST + "\n"
    processes[victim].communicate()
    assert all(line.startswith("run: ") for line in out.splitlines()), out
    return int(read_rows(results)[-1]["t"])


def killed_and_resumed(folder: Path, victim: int, *more: str, **options: object) -> int:
    """A pair that loses one process and goes on, the way the README says. Returns the updates at its end."""
    updates = kill_one(folder, victim, *more, **options) + 10
    first, second = pair(folder, *more, "--resume", updates=updates, **options)
    out = end(first)
    assert "run: resumed at" in out
    assert "report: causal-jax report" in out
    assert end(second) == ""
    return updates


def test_a_pair_that_lost_one_process_equals_one_process(tmp_path: Path) -> None:
    updates = killed_and_resumed(tmp_path / "two", 0)
    end(start(tmp_path / "one", 4, "--mesh", "pop=4", updates=updates))
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "mesh", "victim"),
    [("template", "pop=4,data=1", 1), ("ppo", "pop=4", 0), ("ppo", "pop=4", 1), ("ppo", "pop=2,data=2", 0), ("ppo", "pop=1,data=4", 1)],
)
def test_a_killed_pair_goes_on_bit_for_bit(tmp_path: Path, algorithm: str, mesh: str, victim: int) -> None:
    updates = killed_and_resumed(tmp_path / "two", victim, "--mesh", mesh, algorithm=algorithm)
    for process in pair(tmp_path / "calm", "--mesh", mesh, algorithm=algorithm, updates=updates):
        end(process)
    assert_same(tmp_path / "calm", tmp_path / "two")
    end(start(tmp_path / "one", 4, "--mesh", mesh, algorithm=algorithm, updates=updates))
    assert_same(tmp_path / "one", tmp_path / "two", 0.0 if "data" not in mesh else 1e-4)  # sums over processes have another order


@pytest.mark.slow
def test_what_four_devices_saved_two_and_one_resume(tmp_path: Path) -> None:
    for updates, devices in ((8, 4), (16, 2), (24, 1)):
        end(start(tmp_path / "fewer", devices, "--resume", algorithm="ppo", updates=updates))
    end(start(tmp_path / "calm", 4, algorithm="ppo", updates=24))
    assert_same(tmp_path / "calm", tmp_path / "fewer", 1e-5)


@pytest.mark.slow
def test_phase_1_is_fitted_and_read_by_both_processes(tmp_path: Path) -> None:
    masked = ("--selection", "npm", "--effect-steps", "4096")
    for process in pair(tmp_path / "two", *masked, algorithm="ppo", updates=4):
        end(process)
    end(start(tmp_path / "one", 4, *masked, algorithm="ppo", updates=4))
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_bad_input_of_two_processes_is_one_line_each(tmp_path: Path) -> None:
    for process in pair(tmp_path, "--mesh", "pop=2"):
        err = process.communicate(timeout=300)[1]
        assert process.returncode == 2
        assert err == "causal-jax: mesh = 'pop=2,data=1': must use all 4 devices of the 2 processes\n"
    assert not list(tmp_path.iterdir())
