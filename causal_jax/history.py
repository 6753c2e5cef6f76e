"""A run folder as plain data: run.json and results.jsonl, read without JAX and without trusting that the writer finished.

run.json holds name, algorithm, env, config, hyper, points, seeds, members, steps, versions, device, git, command, seconds. results.jsonl
holds one object a line: {"t", "steps", "seconds", "metrics": {name: [M]}, "eval": {mode: {"return": [M], ...}}}; null is NaN and `eval`
may be missing. A line that a killed process left unfinished is skipped and counted; of two lines with one t the later stands, as after a
resume.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causal_jax.types import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Run:
    """A finished or running run as plain data. `info` is run.json, `lines` the whole lines of results.jsonl by rising t."""

    folder: Path
    info: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    broken_lines: int = 0

    def quantities(self) -> list[str]:
        """Dotted names of everything logged, e.g. "metrics.loss", "eval.sampled.return"."""
        names: dict[str, None] = {}
        for line in self.lines:
            names.update(dict.fromkeys(f"metrics.{name}" for name in line.get("metrics") or {}))
            names.update(dict.fromkeys(f"eval.{mode}.{name}" for mode, values in (line.get("eval") or {}).items() for name in values))
        return list(names)

    def curve(self, quantity: str) -> tuple[Array, Array]:
        """(steps [points], values [members, points]) of the lines that hold the quantity; NaN where null was logged.

        Raises UserError, naming what there is, if no line holds it.
        """
        steps, values = [], []
        for line in self.lines:
            found: Any = line
            for part in quantity.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None:
                steps.append(line["steps"])
                values.append([math.nan if value is None else value for value in np.atleast_1d(np.asarray(found, dtype=object))])
        if not steps:
            raise UserError(f"quantity: got '{quantity}', expected one of {', '.join(self.quantities()) or 'none: nothing was logged'}")
        return np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64).T


def load_run(folder: Path | str) -> Run:
    """Reads run.json and results.jsonl of a run folder. Raises UserError in one line if they are missing or not ours."""
    place = Path(folder)
    try:
        info = json.loads((place / "run.json").read_text())
        text = (place / "results.jsonl").read_text()
    except OSError as error:
        raise UserError(f"run: got '{place}', expected a folder with run.json and results.jsonl ({error.strerror})") from None
    except ValueError:
        raise UserError(f"run: got '{place}', whose run.json is not readable JSON, expected one written by a training run") from None
    if not isinstance(info, dict):
        raise UserError(f"run: got '{place}', whose run.json holds no object, expected one written by a training run")
    lines: dict[int, Mapping[str, Any]] = {}
    broken = 0
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
            lines[int(line["t"])] = {**line, "steps": float(line["steps"])}
        except (ValueError, TypeError, KeyError):
            broken += bool(raw.strip())
    return Run(place, info, [lines[t] for t in sorted(lines)], broken)


def split_by_hyper(label: str, run: Run) -> dict[str, Run]:
    """One Run for each hyperparameter setting among the members of a sweep, so that intervals are over seeds only.

    A run of one setting comes back as {label: run}; otherwise labels name the values that vary, e.g. "ppo (lr 0.001)". The values are those
    of run.json's "points": one {name: value} a member, of the swept hyperparameters only.
    """
    points = [point for point in run.info.get("points") or [] if isinstance(point, Mapping)]
    groups: dict[str, list[int]] = {}
    for member, point in enumerate(points):
        setting = ", ".join(f"{name} {plain(value)}" for name, value in point.items())
        groups.setdefault(f"{label} ({setting})", []).append(member)
    if len(groups) < 2:
        return {label: run}

    def pick(value: Any, members: list[int]) -> Any:
        if isinstance(value, Mapping):
            return {name: pick(inner, members) for name, inner in value.items()}
        return [value[m] for m in members]

    def one(members: list[int]) -> Run:
        hyper = {**(run.info.get("hyper") or {}), **{name: [value] for name, value in points[members[0]].items()}}
        info = {**run.info, "members": len(members), "hyper": hyper, "points": pick(points, members)}
        if isinstance(run.info.get("seeds"), list) and len(run.info["seeds"]) > max(members):
            info["seeds"] = pick(run.info["seeds"], members)
        lines = [{**line, **{part: pick(line[part], members) for part in ("metrics", "eval") if line.get(part)}} for line in run.lines]
        return Run(run.folder, info, lines, run.broken_lines)

    return {name: one(members) for name, members in groups.items()}


def plain(value: Any) -> str:
    """A value in a label or a list: floats without trailing zeros."""
    return f"{value:g}" if isinstance(value, float) else str(value)
