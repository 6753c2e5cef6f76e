"""kill -9 at random moments of real command line runs, half of them while a checkpoint is being written, and --resume after each.

    python -m tests.system.kill_storm --kills 100

Two runs, `ppo` (CEE's mask over a tiny effect model) and `template`; each is killed again and again until it is through, then begun anew,
until the kills are used up. Whenever one is through, every leaf of its last checkpoint and its log must equal those of a run that nobody
killed. A kill counts as one during writing when it left a half-written checkpoint behind.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401  cheap compilation and its cache, here and in the processes started here

import jax  # isort: skip
import numpy as np

import causal_jax.algorithms.effect_model
import causal_jax.algorithms.ppo
import causal_jax.algorithms.template
import causal_jax.envs.maze
import causal_jax.envs.probes  # noqa: F401  imported once, here
from causal_jax import cli
from causal_jax.logs import read_rows
from causal_jax.runs import load_run

CHUNKS = 24
EFFECTS = [
    "train", "effects", "--env", "maze-n2", "--members", "2", "--num-envs", "2", "--num-steps", "4", "--warmup-steps", "8",
    "--capacity", "64", "--batch-size", "8", "--num-updates", "2", "--inverse-hidden", "8", "--n-hidden", "8", "--num-frequencies", "1",
    "--steps", "64", "--evaluations", "1", "--name", "effects",
]  # fmt: skip
CASES = {
    "ppo": [
        "train", "cee", "--env", "maze-n2", "--env-options", "max_steps=10", "--effects", "effects", "--num-envs", "2", "--num-steps", "8",
        "--num-minibatches", "2", "--num-epochs", "2", "--hidden", "8", "--steps", str(16 * 2 * CHUNKS),
    ],
    "template": ["train", "template", "--env", "probe-policy", "--num-envs", "2", "--num-steps", "8", "--hidden", "8",
                 "--steps", str(16 * 2 * CHUNKS)],
}  # fmt: skip
COMMON = ["--members", "2", "--evaluations", str(CHUNKS), "--evaluate-every", "3", "--eval-episodes", "1", "--eval-steps", "5"]


def _command_line(args: list[str], out: Path) -> None:
    """What a process does: the console script, its output in a file."""
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    cli.main(args)


def begin(folder: Path, *args: str) -> Any:
    """A command line in a process of its own, its runs in `folder`. Forked, which saves importing; jax has not started here."""
    args = (*args, "--folder", str(folder), "--no-report", "--resume")
    process = multiprocessing.get_context("fork").Process(target=_command_line, args=(list(args), folder / "out.txt"))
    process.start()
    return process


def finish(folder: Path, *args: str) -> None:
    """Run a command line to its end."""
    process = begin(folder, *args)
    process.join()
    assert process.exitcode == 0, (folder / "out.txt").read_text()


def half_written(run: Path) -> list[Path]:
    """The checkpoints of a run that are being written, or that a kill left so."""
    return list((run / "ckpt").glob("*/*.orbax-checkpoint-tmp*"))


def kill(process: Any, run: Path, draw: random.Random, writing: bool) -> str:
    """Kill the process at a random moment; returns "writing", "other", or "through" when it ended first."""
    before = len(read_rows(run / "results.jsonl"))
    old = set(half_written(run))
    rows = draw.randrange(0, 5)  # how far it may get, in rows of the log
    early = not writing and draw.random() < 0.5  # somewhere between the start of the process and the first chunk
    limit = time.monotonic() + (draw.uniform(0.0, 5.0) if early else float("inf"))
    while process.is_alive() and time.monotonic() < limit and len(read_rows(run / "results.jsonl")) < before + rows:
        time.sleep(0.002)
    if writing:
        while process.is_alive() and not set(half_written(run)) - old:
            time.sleep(0.0005)
        time.sleep(draw.choice([0.0, 0.002, 0.01]))
    elif not early:
        time.sleep(draw.uniform(0.0, 0.05))
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        assert process.exitcode == 0, (run.parent / "out.txt").read_text()
        return "through"
    return "writing" if set(half_written(run)) - old else "other"


def leaves(run: Path) -> dict[str, np.ndarray]:
    """{path: array} of the last checkpoint, keys as their data."""
    flat = jax.tree_util.tree_flatten_with_path(load_run(run).run)[0]
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return {jax.tree_util.keystr(path): np.asarray(jax.random.key_data(x) if is_key(x) else x) for path, x in flat}


def log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run without the wall time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(run / "results.jsonl")]


def assert_same(calm: Path, stormy: Path) -> None:
    """Final parameters and logs equal bit for bit. In a process of its own: once jax has started, no process can be forked any more."""
    a, b = leaves(calm), leaves(stormy)
    assert a.keys() == b.keys()
    assert not [path for path in a if a[path].tobytes() != b[path].tobytes()], "the parameters differ"
    assert log(calm) == log(stormy), "the logs differ"
    assert not half_written(stormy), "half-written checkpoints were left"


def storm(folder: Path, name: str, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill runs of one case `kills` times; returns how many kills hit what, and how many runs came through."""
    draw = random.Random(f"{name} {seed}")
    args = [*CASES[name], *COMMON, "--name", name]
    if name == "ppo" and not (folder / "effects").exists():
        finish(folder, *EFFECTS)
    calm = folder / f"{name}-calm"
    finish(folder, *args, "--name", calm.name)
    told = {"kills": 0, "writing": 0, "other": 0, "runs": 0}
    while told["kills"] < kills:
        done = kill(begin(folder, *args), folder / name, draw, writing=told["writing"] <= told["other"])
        if done != "through":
            told["kills"] += 1
            told[done] += 1
            print(f"{name}: {json.dumps(told)}", flush=True)
        if done == "through" or told["kills"] == kills:
            finish(folder, *args)
            compare = multiprocessing.get_context("fork").Process(target=assert_same, args=(calm, folder / name))
            compare.start()
            compare.join()
            assert compare.exitcode == 0, f"{folder / name} differs from {calm}"
            told["runs"] += 1
            shutil.rmtree(folder / name)
    return told


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(CASES):
            told = storm(Path(folder), name, (options.kills + i) // 2, options.seed)
            print(f"{name}: {told}, all equal bit for bit, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
