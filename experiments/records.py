"""What the experiments share: where results go, the command that made them, and learning curves drawn from a results file.

A figure shows all that its results file holds, whichever run added a row last.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from causal_jax import plots, statistics

RESULTS = Path(__file__).parent / "results"


def command(module: str) -> str:
    """What was typed to run experiments.<module>, but for the folder of the runs."""
    typed = sys.argv[1:]
    kept = [word for i, word in enumerate(typed) if "--folder" not in (word.partition("=")[0], *typed[max(i - 1, 0) : i])]
    return shlex.join(["python", "-m", f"experiments.{module}", *kept])


def stated(module: str, *words: str, **options: Any) -> str:
    """The command that repeats a run of experiments.<module> whatever its defaults become: its `words`, and every option with its value."""
    told = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["python", "-m", f"experiments.{module}", *words, *told])


def curve(steps: Any, digits: int = 3, **quantities: Any) -> dict[str, Any]:
    """A row's "curve": steps [T], and of each quantity [members, T] the IQM with its 95% interval over members, [3, T]."""
    told = {name: np.round(np.stack(statistics.curve_interval(values)), digits).tolist() for name, values in quantities.items()}
    return {"steps": np.asarray(steps).tolist(), **told}


def figure(rows: Mapping[str, Any], path: Path) -> Path:
    """The curves of a results file, one line a row that has one; a quantity is [IQM], or [IQM, low, high] to draw its interval."""
    drawn = {label: row["curve"] for label, row in rows.items() if isinstance(row, dict) and "curve" in row}
    panels = []
    for quantity in dict.fromkeys(name for found in drawn.values() for name in found if name != "steps"):
        lines: dict[str, plots.Curve] = {}
        for label, found in drawn.items():
            if quantity in found:
                values = [np.asarray(x, float) for x in found[quantity]]
                band = len(values) == 3
                estimate = statistics.Estimate(*(values if band else 3 * values))
                lines[label] = {"steps": np.asarray(found["steps"]), "estimate": estimate, "band": band}
        panels.append((quantity, lines, {}))
    return plots.curves(panels, path, percent=[title == "success" for title, *_ in panels])
