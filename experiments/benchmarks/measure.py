"""Measuring and writing down: alternate contestants, summarise, describe the machine, keep a results file that survives a stop."""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.records import command


class Row(NamedTuple):
    """What one contestant did: a value per round, in `unit`."""

    label: str
    unit: str
    values: list[float]


class Ratio(NamedTuple):
    """Row `over` divided by row `under`, or by a number: median over median, and the range over the rounds, each paired with its own."""

    label: str
    over: str
    under: str | float
    target: str = ""


def alternate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every contestant once a round, in turn; a contestant returns its own figure (steps/s, seconds)."""
    values: dict[str, list[float]] = {label: [] for label in contestants}
    for _ in range(rounds):
        for label, contestant in contestants.items():
            values[label].append(contestant())
    return values


def with_cpu_time(contestants: Mapping[str, Callable[[], float]]) -> tuple[dict[str, Callable[[], float]], dict[str, list[float]]]:
    """The same contestants, and for each the list to which every call adds its CPU seconds, of all threads of this process."""
    spent: dict[str, list[float]] = {label: [] for label in contestants}

    def timed(label: str) -> float:
        began = time.process_time()
        value = contestants[label]()
        spent[label].append(time.process_time() - began)
        return value

    return {label: functools.partial(timed, label) for label in contestants}, spent


def processor() -> str:
    """The name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def machine() -> dict[str, Any]:
    """CPU, the cores this process may use, and JAX's devices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = jax.devices()
    return {"cpu": processor(), "cores": cores, "devices": f"{len(devices)} x {devices[0].device_kind}", "system": platform.platform()}


def versions() -> dict[str, str]:
    """Python and the packages that decide the speed."""
    names = ("causal_jax", "jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "numpy")
    known = {d.metadata["Name"].lower().replace("-", "_"): d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {"python": platform.python_version(), **{name: known[name] for name in names if name in known}}


def load_average() -> list[float]:
    """Processes that wanted to run in the last 1, 5 and 15 minutes; above the number of cores the figures are contended."""
    return [round(x, 2) for x in os.getloadavg()]


def summary(rows: list[Row], ratios: list[Ratio]) -> dict[str, Any]:
    """Rows and ratios as they are written: medians, ranges, all values; whether a target such as ">= 50" was met."""
    values = {row.label: row.values for row in rows}
    told = []
    for ratio in ratios:
        over = values[ratio.over]
        under = values[ratio.under] if isinstance(ratio.under, str) else [ratio.under] * len(over)
        pairs = [a / b for a, b in zip(over, under, strict=True)]
        value = statistics.median(over) / statistics.median(under)
        told.append({**ratio._asdict(), "value": value, "min": min(pairs), "max": max(pairs), "met": met(value, ratio.target)})
    spread = [{**row._asdict(), "median": statistics.median(row.values), "min": min(row.values), "max": max(row.values)} for row in rows]
    return {"rows": spread, "ratios": told}


def met(value: float, target: str) -> bool | None:
    """Whether `value` meets ">= x", "<= x" or "< x"; None without a target."""
    if not target:
        return None
    sign, bound = target.split()
    return {">=": value >= float(bound), "<=": value <= float(bound), "<": value < float(bound)}[sign]


def default_path(folder: Path) -> Path:
    """benchmarks.json on a CPU, benchmarks-<device>.json elsewhere."""
    device = jax.devices()[0]
    suffix = "" if device.platform == "cpu" else "-" + "-".join(device.device_kind.lower().split())
    return folder / f"benchmarks{suffix}.json"


def record(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one result into the file, whole or not at all; the others stay as they are."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content[name] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def context() -> dict[str, Any]:
    """What every result says about where it comes from."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command("benchmarks"),
        "machine": machine(),
        "versions": versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_average": load_average(),
    }


def table(name: str, result: dict[str, Any]) -> str:
    """A small table for the console."""

    def line(label: str, value: float, low: float, high: float, tail: str) -> str:
        return f"  {label:<44} {_short(value):>9}  [{_short(low)}, {_short(high)}]  {tail}"

    load = ", ".join(map(str, result["load_average"]))
    lines = [f"{name}: {result['about']} (load {load}, {result['seconds']:.0f} s)"]
    lines += [line(r["label"], r["median"], r["min"], r["max"], r["unit"]) for r in result["rows"]]
    for r in result["ratios"]:
        told = "" if r["met"] is None else f"target {r['target']}: {'met' if r['met'] else 'NOT met'}"
        lines.append(line(r["label"], r["value"], r["min"], r["max"], told))
    lines += [f"  note: {note}" for note in result.get("notes", ())]
    return "\n".join(lines)


def _short(x: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:.3g}{letter}"
    return f"{x:.3g}"
