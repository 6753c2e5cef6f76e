"""How training scales: members, environments, devices; what a population costs beside single runs; memory.

PPO on CartPole throughout. Virtual devices need a process each (`scaling_child.py`), so do peak memory and single runs, which are told
end to end: start, compile (from the persistent cache, which an unmeasured run has filled), train.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.measure import Ratio, Row, summary
from experiments.benchmarks.speed import CARTPOLE, Sizes, rates, train_rate


def child(sizes: Sizes, cache: str, **change: Any) -> dict[str, float]:
    """{"seconds": start to end, "train_seconds", "steps_per_second", "compile_seconds", "program_mib", "peak_mib"} of one process."""
    devices = change.pop("devices", 0)
    command = [sys.executable, "-m", "experiments.benchmarks.scaling_child", json.dumps({**dataclasses.asdict(sizes), **change})]
    surroundings = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, **({"JAX_NUM_CPU_DEVICES": str(devices)} if devices else {})}
    done = subprocess.run(command, env=surroundings, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[2]}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def members_curve(sizes: Sizes) -> dict[str, Any]:
    """Members in one program: steps/s of the population."""
    contestants = {
        f"{num} member{'s' * (num > 1)}": train_rate(CARTPOLE, sizes.config, num, max(1, sizes.updates // num)) for num in sizes.population
    }
    rows = rates(contestants, sizes)
    return summary(rows, [Ratio(f"{row.label} / {rows[0].label}", row.label, rows[0].label) for row in rows[1:]])


def envs_curve(sizes: Sizes) -> dict[str, Any]:
    """Environments of one member, the batch held at num_envs x num_steps where it can be: steps/s."""
    batch = sizes.num_envs * sizes.num_steps
    contestants = {}
    for num in sizes.environments:
        steps = max(1, batch // num)
        config = dataclasses.replace(sizes.config, num_envs=num, num_steps=steps)
        updates = max(1, sizes.updates * batch // (num * steps))
        contestants[f"{num} envs x {steps} steps"] = train_rate(CARTPOLE, config, 1, updates)
    rows = rates(contestants, sizes)
    return summary(rows, [Ratio(f"{row.label} / {rows[0].label}", row.label, rows[0].label) for row in rows[1:]])


def devices_curve(sizes: Sizes) -> dict[str, Any]:
    """Virtual CPU devices that share this machine's cores, 8 members: steps/s (no gain is expected beyond the cores)."""
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(min(sizes.rounds, 3)):
            for num in (1, 2, 4, 8):
                told = child(sizes, cache, devices=num)
                values.setdefault(f"{num} device{'s' * (num > 1)}", []).append(told["steps_per_second"])
    rows = [Row(label, "steps/s", x) for label, x in values.items()]
    return summary(rows, [Ratio(f"{row.label} / {rows[0].label}", row.label, rows[0].label) for row in rows[1:]])


def population(sizes: Sizes) -> dict[str, Any]:
    """A population beside as many single runs one after the other, each a process: seconds end to end and of training; peak memory."""
    many = sizes.population[-1] if len(sizes.population) < 3 else sizes.population[2]
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as cache:
        for num in (1, many):
            child(sizes, cache, members=num)  # fills the cache
        for _ in range(min(sizes.rounds, 3)):
            for num in (1, many):
                told = child(sizes, cache, members=num)
                for name, unit, factor in (("seconds", "s", many // num), ("train_seconds", "s", many // num), ("peak_mib", "MiB", 1)):
                    who = f"{many} x 1 member" if num == 1 and factor > 1 else f"{num} member{'s' * (num > 1)}"
                    rows.setdefault(f"{who}, {name}", Row(f"{who}, {name}", unit, [])).values.append(told[name] * factor)
    ratios = [
        Ratio(f"cost of {many} members / {many} single runs, {what}", f"{many} members, {name}", f"{many} x 1 member, {name}", target)
        for what, name, target in (("end to end", "seconds", "<= 0.25"), ("training alone", "train_seconds", ""))
    ]
    return summary(list(rows.values()), ratios)
