"""`causal-jax sweep` against its trials as command line runs, every one a process that starts, compiles, trains, evaluates and saves.

Cold: an empty cache of compiled programs for every process, as on a fresh machine. Warm: one cache that already holds the programs, the
best that a loop over the command line can do. Both sides write the same checkpoints and logs; no reports of single runs. CPU time is
told too, for machines that do other things meanwhile. The trained members are compared leaf by leaf, in units of the leaf's largest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from causal_jax import sweep_file
from causal_jax.checkpoint import Checkpoints
from causal_jax.history import load_run as read_run
from causal_jax.runs import load_run
from experiments.benchmarks.measure import Ratio, Row, summary

FILE = Path(__file__).parents[1] / "sweeps" / "maze_ppo_grid.yaml"


def timed(words: list[str], cache: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one command line in a process of its own, with its cache of compiled programs in `cache`."""
    began, before = time.perf_counter(), os.times()
    surroundings = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    command = [sys.executable, "-m", "causal_jax", *words]
    done = subprocess.run(command, env=surroundings, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


def content(trials: int, steps: int) -> dict[str, Any]:
    """The committed sweep file, cut to `trials` trials of `steps` steps."""
    about = dict(yaml.safe_load(FILE.read_text()))
    command = list(about["command"])
    command[command.index("--steps") + 1] = str(steps)
    return {**about, "command": command, "run_cap": trials}


def lone_commands(sweep: sweep_file.Sweep) -> list[list[str]]:
    """The command line of every trial, as W&B's agent writes it but for the logger."""
    words = list(sweep.command)
    at = words.index("--log")
    words = ["train", *words[:at], *words[at + 2 :]]
    return [
        [*words, *(f"--{name}={_written(value)}" for name, value in point.items()), "--no-report"] for point in sweep_file.points(sweep)
    ]


def _written(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def differences(program: Path, lone: list[Path], members: Sequence[int] | None = None) -> list[float]:
    """The largest difference between a leaf of each lone run's last checkpoint and of its member in a program, over the leaf's largest.

    members: of the program, one for each lone run; None: 0, 1, ...
    """
    together = load_run(program, say=lambda line: None).run.state
    example = load_run(lone[0], say=lambda line: None).run
    found = []
    for m, folder in zip(members or range(len(lone)), lone, strict=True):
        checkpoints = Checkpoints(folder / "ckpt")
        alone = checkpoints.restore(example).state
        checkpoints.close()
        worst = 0.0
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            if np.issubdtype(a.dtype, np.floating) and a.size:
                x, y = np.asarray(a[m], np.float64), np.asarray(b[0], np.float64)
                worst = max(worst, float(np.max(np.abs(x - y)) / max(1.0, float(np.max(np.abs(y))))))
        found.append(worst)
    return found


def against_runs(trials: int, steps: int) -> dict[str, Any]:
    """Rows of seconds, the ratios, and how far the members of the sweep are from their lone runs."""
    sweep = sweep_file.check(content(trials, steps))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        file = place / "grid.yaml"
        file.write_text(yaml.safe_dump(sweep.content, sort_keys=False))
        seconds = {kind: np.zeros(2) for kind in ("runs, cold", "runs, warm", "sweep, cold", "sweep, warm")}
        for kind in ("cold", "warm"):  # the warm ones find what the cold ones have cached: the sweep its own, the runs that of the last
            seconds[f"sweep, {kind}"] += timed(["sweep", str(file), "--folder", str(place / kind)], place / "cache-sweep")
            for k, words in enumerate(lone_commands(sweep)):
                cache = place / (f"cache-{k}" if kind == "cold" else f"cache-{trials - 1}")
                seconds[f"runs, {kind}"] += timed([*words, "--folder", str(place / kind), "--name", f"alone-{k}"], cache)
        program, lone = place / "warm" / "grid" / "program-000", [place / "warm" / f"alone-{k}" for k in range(trials)]
        apart = differences(program, lone)
        scores = read_run(program).curve(sweep.metric)[1][:, -1]
        alone = np.asarray([read_run(folder).curve(sweep.metric)[1][0, -1] for folder in lone])
    rows = [Row(f"{label}{what}", "s", [float(both[i])]) for i, what in enumerate(("", ", CPU time")) for label, both in seconds.items()]
    ratios = [
        Ratio(f"{trials} runs / sweep, {kind} cache{what}", f"runs, {kind}{what}", f"sweep, {kind}{what}", "" if what else ">= 6")
        for what in ("", ", CPU time")
        for kind in ("cold", "warm")
    ]
    close, typical = sum(x <= 1e-5 for x in apart), np.median(apart)
    gap = np.max(np.abs(scores - alone))
    notes = [
        f"last checkpoint of a member and of its lone run: {close} of {trials} within 1e-5, median {typical:.1e}, most {max(apart):.1e}",
        f"score of a member and of its lone run: differ by at most {gap:.3g}; scores are {alone.min():.3g} to {alone.max():.3g}",
    ]
    return {**summary(rows, ratios), "notes": notes, "differences": apart}
