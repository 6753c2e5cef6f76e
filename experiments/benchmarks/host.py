"""What the host costs: a run with its log, evaluations and checkpoints against bare chunks, and its memory over 10,000 chunks.

The runs are those of the command line (`runs.train_run`), with real files in a temporary folder.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax import mesh, runs, training
from causal_jax.algorithms import ppo, template
from causal_jax.checkpoint import Checkpoints
from causal_jax.logs import Jsonl, read_rows
from causal_jax.settings import Settings, resolve
from experiments.benchmarks.measure import Ratio, Row, summary
from experiments.benchmarks.speed import CARTPOLE, Sizes

CHUNKS, EVERY = 20, 10


def quiet(text: str) -> None:
    """Say nothing."""


def overhead(sizes: Sizes) -> dict[str, Any]:
    """Logging, evaluation every 10 chunks and checkpoints beside the bare loop over the same compiled chunk: PPO on CartPole."""
    updates = CHUNKS * sizes.updates
    settings = Settings(
        env=CARTPOLE, members=sizes.members, steps=updates * ppo.steps_per_update(sizes.config), evaluations=CHUNKS, evaluate_every=EVERY,
        checkpoint_every=EVERY,
    )  # fmt: skip
    values: dict[str, list[float]] = {"bare chunks": [], "a run with everything on": [], "its chunks": []}
    names = ("a log row", "an evaluation", "a checkpoint, until training goes on", "a checkpoint, whole")
    parts: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(sizes.rounds):
        with tempfile.TemporaryDirectory() as folder:
            run = resolve(dataclasses.replace(settings, folder=folder), sizes.config)
            loop = bare(run)
            values["bare chunks"].append(loop["seconds"])
            whole, chunks = everything(run)
            values["a run with everything on"].append(whole)
            values["its chunks"].append(chunks)
            for name, seconds in pieces(run, Path(folder), loop).items():
                parts[name].append(seconds)
    rows = [Row(label, "s", seconds) for label, seconds in {**values, **parts}.items()]
    chunk = statistics.median(values["bare chunks"]) / CHUNKS
    return summary(
        rows,
        [
            Ratio("everything on / its chunks", "a run with everything on", "its chunks", "<= 1.05"),
            Ratio("everything on / bare", "a run with everything on", "bare chunks", "<= 1.05"),
            Ratio("a checkpoint / the 10 chunks it stands for", "a checkpoint, until training goes on", EVERY * chunk, "<= 0.02"),
            Ratio("an evaluation / the 10 chunks it stands for", "an evaluation", EVERY * chunk),
            Ratio("a log row / a chunk", "a log row", chunk),
        ],
    )


def bare(run: Any) -> dict[str, Any]:
    """Seconds of the chunks alone, after compiling and one chunk to warm up; with them the run and its programs."""
    task = run.module.Task(run.env_params)
    state = mesh.shard_run(training.start(run.algorithm, run.seeds, run.hyper, task), mesh.make_mesh(run.num_members))
    compiled = training.compile_run(run.algorithm, state, task, run.chunk_updates, runs.evaluator(run))
    num = jnp.asarray(run.chunk_updates, jnp.int32)
    state, metrics = compiled.chunk(state, task, num)
    jax.block_until_ready((state, metrics))
    began = time.perf_counter()
    for _ in range(CHUNKS):
        state, metrics = compiled.chunk(state, task, num)
        jax.device_get(metrics)
    jax.block_until_ready(state)
    return {"seconds": time.perf_counter() - began, "state": state, "task": task, "compiled": compiled, "metrics": metrics}


def everything(run: Any) -> tuple[float, float]:
    """Seconds of a whole run from the end of the first evaluation to its end, compiling left out; of these, seconds of its chunks."""
    marks: list[float] = []

    def say(text: str) -> None:
        marks.append(time.perf_counter())

    folder = runs.train_run(run, say=say)
    began = marks[-CHUNKS - 1]  # the line of the evaluation before the first update
    return time.perf_counter() - began, float(read_rows(folder / "results.jsonl")[-1]["seconds"])


def pieces(run: Any, folder: Path, loop: dict[str, Any]) -> dict[str, float]:
    """Seconds of each part once, for the sizes of this run."""

    def clock(do: Callable[[], Any]) -> float:
        began = time.perf_counter()
        jax.block_until_ready(do())
        return time.perf_counter() - began

    log, checkpoints = Jsonl(folder / "pieces.jsonl", 0), Checkpoints(folder / "pieces")
    metrics = {name: x[0] for name, x in jax.device_get(loop["metrics"]).items()}
    told = {"a log row": clock(lambda: log.write({"t": 1, "metrics": metrics}))}
    told["an evaluation"] = clock(lambda: jax.device_get(loop["compiled"].evaluate(loop["state"], loop["task"])))
    checkpoints.save(loop["state"])  # the first one makes folders
    checkpoints.wait()
    later = loop["state"]._replace(t=loop["state"].t + 1)
    told["a checkpoint, until training goes on"] = clock(lambda: checkpoints.save(later))
    told["a checkpoint, whole"] = told["a checkpoint, until training goes on"] + clock(checkpoints.wait)
    log.close()
    checkpoints.close()
    return told


def resident() -> float:
    """MiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def long(sizes: Sizes) -> dict[str, Any]:
    """Memory of the host over a run of many chunks with everything on: the template algorithm on probe-policy."""
    config = template.Config(num_envs=2, num_steps=4, hidden=(4,))
    held: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            algorithm="template", env="probe-policy", members=2, steps=8 * sizes.chunks, evaluations=sizes.chunks, evaluate_every=10,
            checkpoint_every=50, eval_episodes=1, eval_steps=1, folder=folder,
        )  # fmt: skip
        path = runs.train_run(resolve(settings, config), say=lambda text: held.append(resident()))
        size = (path / "results.jsonl").stat().st_size / 2**20
        rows = sum(1 for _ in (path / "results.jsonl").open())
    warm, end = held[len(held) // 10], held[-1]
    values = {"after a tenth of the chunks": warm, "at the end": end, "growth": end - warm, "results.jsonl": size}
    told = [Row(label, "MiB", [value]) for label, value in values.items()]
    return {
        **summary(told, [Ratio(f"growth / 20 MiB, {sizes.chunks:,} chunks", "growth", 20.0, "< 1")]),
        "notes": [f"{rows} rows are left"],
    }
