"""kill -9 at random moments of a real CLI run, continued with --resume: the final parameters equal the uninterrupted run's bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from causal_jax.checkpoint import Checkpoints
from causal_jax.logs import read_rows
from causal_jax.runs import load_run

EVALUATIONS = 40
TRAIN = [
    "train", "cee", "--env", "maze-n3", "--n-values", "oracle", "--members", "2", "--steps", "5120",
    "--num-envs", "2", "--num-steps", "32",
    "--num-minibatches", "2", "--hidden", "8", "--evaluations", str(EVALUATIONS), "--eval-episodes", "1", "--eval-steps", "10",
    "--no-report", "--name", "run",
]  # fmt: skip


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "causal_jax", *TRAIN, "--folder", str(folder), *more]


def final_leaves(folder: Path) -> list[np.ndarray]:
    """Every leaf of the last checkpoint."""
    run = load_run(folder / "run").run
    return [np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in jax.tree.leaves(run)]


def kill_after(process: subprocess.Popen[bytes], results: Path, rows: int, delay: float) -> None:
    """Kill the process `delay` seconds after results.jsonl has grown by `rows` rows (or at its end, if that comes first)."""
    before = len(read_rows(results))
    while process.poll() is None and len(read_rows(results)) < before + rows:
        time.sleep(0.005)
    time.sleep(delay)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


def storm(tmp_path: Path, kills: int) -> None:
    """One run killed `kills` times against one that was not."""
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    subprocess.run(command(calm), check=True, capture_output=True)
    draw = random.Random(0)
    results = stormy / "run" / "results.jsonl"
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(command(stormy, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kill_after(process, results, draw.randrange(1, max(2, EVALUATIONS // kills)), draw.uniform(0.0, 0.25))
        killed += process.returncode == -signal.SIGKILL
    assert killed >= kills - 1, "the run ended before it could be killed: make it longer"
    subprocess.run(command(stormy, "--resume"), check=True, capture_output=True)
    for a, b in zip(final_leaves(calm), final_leaves(stormy), strict=True):
        np.testing.assert_array_equal(a, b)

    def rows(folder: Path) -> list[dict[str, object]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(folder / "run" / "results.jsonl")]

    assert rows(calm) == rows(stormy), "the log of the killed run differs"
    assert [row["t"] for row in rows(calm)] == sorted({row["t"] for row in rows(calm)})


def test_three_kills(tmp_path: Path) -> None:
    storm(tmp_path, 3)


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    storm(tmp_path, 10)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    folder = tmp_path_factory.mktemp("runs")
    subprocess.run(command(folder, "--steps", "640", "--evaluations", "5"), check=True, capture_output=True)
    return folder


def failing(*args: str, **options: object) -> str:
    """stderr of a command that must exit with 2, one line."""
    done = subprocess.run(list(args), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stderr).strip().splitlines()[-1]


def test_existing_run_is_not_overwritten(finished: Path) -> None:
    before = (finished / "run" / "results.jsonl").read_bytes()
    line = failing(*command(finished, "--steps", "640", "--evaluations", "5"))
    assert line == f"causal-jax: name = 'run': {finished / 'run'} exists; continue it with --resume, or choose another --name"
    assert (finished / "run" / "results.jsonl").read_bytes() == before


def test_resume_with_other_settings_is_refused(finished: Path) -> None:
    line = failing(*command(finished, "--steps", "640", "--evaluations", "5", "--resume", "--hyper.lr", "0.5"))
    assert line.startswith("causal-jax: lr = [0.5]: the run in ")
    line = failing(*command(finished, "--steps", "640", "--evaluations", "5", "--resume", "--hidden", "9"))
    assert line.startswith("causal-jax: hidden = [9]: the run in ")


def test_folder_in_use_is_refused(finished: Path) -> None:
    import fcntl

    with (finished / "run" / "lock").open("a+") as lock:
        lock.truncate(0)
        lock.write("4242")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = failing(*command(finished, "--steps", "640", "--evaluations", "5", "--resume"))
    assert line == f"causal-jax: run = '{finished / 'run'}': in use by process 4242; wait for it or choose another --name"


def copy(finished: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def damage(step: Path) -> None:
    """Cut every data file of a checkpoint in half."""
    for file in step.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            os.truncate(file, file.stat().st_size // 2)


def test_damaged_checkpoint_falls_back_to_the_one_before(finished: Path, tmp_path: Path) -> None:
    runs = copy(finished, tmp_path)
    last = sorted((runs / "run" / "ckpt" / "last").iterdir(), key=lambda p: int(p.name))
    assert len(last) == 2
    damage(last[-1])
    done = subprocess.run(command(runs, "--steps", "640", "--evaluations", "5", "--resume"), capture_output=True, text=True, check=True)
    assert "cannot be read" in done.stdout
    assert "trying the one before" in done.stdout
    for a, b in zip(final_leaves(finished), final_leaves(runs), strict=True):
        np.testing.assert_array_equal(a, b)
    damage(last[0])
    for step in (runs / "run" / "ckpt" / "last").iterdir():
        damage(step)
    assert "none of" in failing(*command(runs, "--steps", "640", "--evaluations", "5", "--resume"))


def test_foreign_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    runs = copy(finished, tmp_path)
    step = max((runs / "run" / "ckpt" / "last").iterdir(), key=lambda p: int(p.name))
    about = step / "about" / "metadata"
    content = json.loads(about.read_text())
    content["leaves"]["stranger"] = "float32[7]"
    about.write_text(json.dumps(content))
    for sums in (runs / "run" / "ckpt").glob("last-*.json"):
        sums.unlink()  # it was written like this
    line = failing(*command(runs, "--steps", "640", "--evaluations", "5", "--resume"))
    assert "belongs to another program (1 leaves differ, first stranger: float32[7])" in line


def test_full_disk_is_one_line_and_keeps_the_checkpoint(finished: Path, tmp_path: Path) -> None:
    runs = copy(finished, tmp_path)
    (runs / "run" / "results.tmp").symlink_to("/dev/full")  # what the log is rewritten through: every write fails with ENOSPC
    before = Checkpoints(runs / "run" / "ckpt")
    steps = before._managers["last"].all_steps()
    before.close()
    line = failing(*command(runs, "--steps", "1280", "--evaluations", "5", "--resume"))
    assert "No space left on device" in line
    after = Checkpoints(runs / "run" / "ckpt")
    assert after._managers["last"].all_steps() == steps
    after.close()
