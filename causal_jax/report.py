"""From runs to a report: learning curves, the results table with its reference rows, pairwise comparison, metrics, provenance.

The last evaluation is the result, never the best one, and every member counts; a run with a member that is not finite gets a note instead
of an average. `report_runs` makes the whole report.html of one or several runs; `runs`, `plots`, `plots_causal` and `page` do the parts.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causal_jax import plots
from causal_jax.history import Run, load_run, split_by_hyper
from causal_jax.page import Section, write_report
from causal_jax.statistics import Comparison, Estimate, area_under_curve, bootstrap_interval, curve_interval, steps_to
from causal_jax.statistics import compare as _compare
from causal_jax.types import UserError

__all__ = [
    "Row", "Run", "Section", "compare", "comparison_table", "learning_curves", "load_run", "reference_rows", "report_runs", "returns_of",
    "row", "split_by_hyper", "write_report",
]  # fmt: skip

Array = NDArray[Any]
RETURNS = ("eval.sampled.return", "eval.greedy.return", "metrics.return")
NOT_AVAILABLE = "not available"
MISSING = "-"
DETAIL = re.compile(r" (\[[^\]]*\]|\(\d+ of \d+\))$")  # set small in the HTML table
References = Mapping[str, Mapping[str, float] | float]  # name -> return, or name -> {"return": float, "success": float}


def _interval_with_gaps(values: Array) -> Estimate:
    """IQM and interval [points] over members; NaN at points where some member has no finite value."""
    whole = np.all(np.isfinite(values), axis=0)
    parts = [np.full(values.shape[1], np.nan) for _ in range(3)]
    if whole.any():
        for part, known in zip(parts, curve_interval(values[:, whole]), strict=True):
            part[whole] = known
    return Estimate(*parts)


def learning_curves(
    runs: Mapping[str, Run],
    path: Path | str,
    quantity: str | None = None,
    references: References | None = None,
) -> Path:
    """IQM of a quantity with its 95% interval over members against steps, one line a run; beside it the success rate, if any succeeds.

    Args: runs: label -> Run; quantity: dotted name, None takes the first of RETURNS that every run has; references: name -> return, or
      name -> {"return": float, "success": float}, drawn dashed. A point at which some member is not finite is left blank. Writes `path`.
    """
    quantity = quantity or returns_of(runs.values())
    success = quantity.rsplit(".", 1)[0] + ".success"
    marks = {name: mark if isinstance(mark, Mapping) else {"return": mark} for name, mark in (references or {}).items()}

    def panel(name: str) -> dict[str, plots.Curve]:
        lines: dict[str, plots.Curve] = {}
        for label, run in runs.items():
            if name == quantity or name in run.quantities():
                steps, values = run.curve(name)
                lines[label] = {"steps": steps, "estimate": _interval_with_gaps(values), "band": len(values) > 1}
        return lines

    kind = quantity.rsplit(".", 1)[-1]
    panels = [(_title(quantity), panel(quantity), {name: mark[kind] for name, mark in marks.items() if kind in mark})]
    if kind != "success" and (lines := panel(success)):
        known = {name: mark["success"] for name, mark in marks.items() if "success" in mark}
        if any(known.values()) or any(np.any(line["estimate"].high > 0) for line in lines.values()):
            panels.append((_title(success), lines, known))
    return plots.curves(panels, path, percent=[kind == "success", True])


def returns_of(runs: Iterable[Run]) -> str:
    """The first of RETURNS that every run has logged. Raises UserError if there is none."""
    logged = [set(run.quantities()) for run in runs]
    for name in RETURNS:
        if logged and all(name in names for names in logged):
            return name
    raise UserError(
        f"runs: got no quantity that all of them logged among {', '.join(RETURNS)}, expected at least one evaluation in each run"
    )


def _title(quantity: str) -> str:
    mode, name = (["", *quantity.split(".")])[-2:]
    words = {"return": "Return", "success": "Success rate", "length": "Episode length"}.get(name, name.replace("_", " ").capitalize())
    return f"{words}, {mode} policy" if quantity.startswith("eval.") else words


@dataclass(frozen=True)
class Row:
    """A line of the table. Estimates are over members; `to_90` holds one first step a member (inf: never)."""

    method: str
    final: Estimate | None = None
    success: Estimate | None = None
    area: Estimate | None = None
    to_90: Sequence[float] | None = None
    seconds: float | None = None
    compile_seconds: float | None = None
    members: int | None = None
    published: str | None = None
    reference: bool = False
    note: str = ""


def row(label: str, run: Run, quantity: str | None = None, published: str | None = None) -> Row:
    """The line of one run: the last evaluation, the area under the curve, the steps to 90% success, the wall time.

    A run in which some member's value is not finite gets a note instead of an average.
    """
    quantity = quantity or returns_of([run])
    steps, values = run.curve(quantity)
    seconds = run.info.get("seconds") or {}
    facts: dict[str, Any] = {
        "members": len(values), "published": published, "seconds": seconds.get("train"), "compile_seconds": seconds.get("compile"),
    }  # fmt: skip
    bad = int(np.sum(~np.all(np.isfinite(values), axis=1)))
    if bad:
        return Row(label, note=f"{bad} of {len(values)} members not finite", **facts)
    name = quantity.rsplit(".", 1)[0] + ".success"
    if name in run.quantities():
        at, rates = run.curve(name)
        if np.all(np.isfinite(rates)):
            facts |= {"success": bootstrap_interval(rates[:, -1]), "to_90": [float(step) for step in steps_to(at, rates, 0.9)]}
    return Row(label, bootstrap_interval(values[:, -1]), area=bootstrap_interval(area_under_curve(steps, values)), **facts)


def reference_rows(references: References) -> list[Row]:
    """Rows that need no learning (random, scripted, oracle): name -> return, or name -> {"return": float, "success": float}."""
    rows = []
    for name, mark in references.items():
        known = {key: Estimate(v, v, v) for key, v in (mark if isinstance(mark, Mapping) else {"return": mark}).items()}
        rows.append(Row(name, known.get("return"), known.get("success"), reference=True))
    return rows


def _number(estimate: Estimate | None, percent: bool = False) -> str:
    if estimate is None:
        return MISSING
    scale, unit = (100.0, "%") if percent else (1.0, "")
    value, low, high = (scale * float(part) for part in estimate)
    digits = 0 if percent or abs(value) >= 10_000 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:,.{digits}f}{unit}"
    return text if low == high == value else f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"


def _to_90(first: Sequence[float] | None) -> str:
    if first is None:
        return MISSING
    reached = sum(math.isfinite(step) for step in first)
    middle = sorted(first)[len(first) // 2]  # the upper median, so that half of the members are there
    counted = f"({reached} of {len(first)})"
    return f"{plots.short(middle)} {counted}" if math.isfinite(middle) else f"not reached {counted}"


def comparison_table(rows: Sequence[Row]) -> tuple[str, str]:
    """The table as (HTML, markdown): reference rows go to the bottom, columns that no row fills and a success of 0 everywhere are left out.

    Return, success and area: IQM [95% stratified bootstrap interval over members] of the last evaluation; steps to 90%: the median
    member's first evaluation with success >= 0.9 and how many members got there; seconds: training (+ compilation) of all members.
    """
    rows = sorted(rows, key=lambda entry: entry.reference)

    def wall(entry: Row) -> str:
        extra = f" (+{entry.compile_seconds:.0f})" if entry.compile_seconds is not None else ""
        return MISSING if entry.seconds is None else f"{entry.seconds:.0f}{extra}"

    learned = [entry for entry in rows if not entry.reference]
    succeeds = any(entry.success and entry.success.high > 0 for entry in rows)
    columns: list[tuple[str, list[str], bool]] = [
        ("Method", [entry.method for entry in rows], True),
        ("Final return", [entry.note or _number(entry.final) for entry in rows], True),
        ("Success", [_number(entry.success, percent=True) for entry in rows], succeeds),
        ("Area under curve", [_number(entry.area) for entry in rows], any(entry.area for entry in rows)),
        ("Steps to 90%", [_to_90(entry.to_90) for entry in rows], succeeds and any(entry.to_90 for entry in rows)),
        ("Seconds (compile)", [wall(entry) for entry in rows], any(entry.seconds is not None for entry in rows)),
        ("Members", [MISSING if entry.members is None else str(entry.members) for entry in rows], bool(learned)),
        ("Published", [MISSING if entry.reference else entry.published or NOT_AVAILABLE for entry in rows], bool(learned)),
    ]
    shown = [(head, cells) for head, cells, wanted in columns if wanted]
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _ in shown)
    body, muted = "", ' class="reference"'
    for i, entry in enumerate(rows):
        first, *others = (html.escape(cells[i]) for _, cells in shown)
        cells = "".join("<td>" + DETAIL.sub(r" <small>\1</small>", cell) + "</td>" for cell in others)
        body += f"<tr{muted if entry.reference else ''}><td>{first}</td>{cells}</tr>\n"
    page = f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'
    lines = [[name for name, _ in shown], ["---"] * len(shown)]
    lines += [[cells[i].replace("|", "\\|") for _, cells in shown] for i in range(len(rows))]
    return page, "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compare(
    scores: Mapping[str, ArrayLike], out: Path | str | None = None, *, quantity: str = "score", confidence: float = 0.95,
    resamples: int = 2000, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Compare methods as Agarwal et al. 2021 advise, from nothing but arrays: IQM, probability of improvement, performance profiles.

    Args: scores: method -> [members] or [members, tasks], the same tasks in the same order and on one scale (normalise them first).
      out: a folder that gets comparison.png, profiles.png and comparison.md; None: numbers only. quantity: what the scores are.
    Returns: statistics.Comparison, all with stratified bootstrap intervals. Raises: UserError on NaN or shapes that do not fit.
    """
    result = _compare(scores, confidence, resamples, seed)
    if out is None:
        return result
    place = Path(out)
    plots.comparison(result, place / "comparison.png", f"IQM of the {quantity}")
    plots.profiles(result, place / "profiles.png", quantity)
    shapes = {label: (*np.shape(values), 1)[:2] for label, values in scores.items()}
    lines = [f"| Method | IQM of the {quantity} | Members | Tasks |", "| --- | --- | --- | --- |"]
    lines += [f"| {label} | {_number(one)} | {shapes[label][0]} | {shapes[label][1]} |" for label, one in result.scores.items()]
    if result.improvement:
        lines += ["", "| First | Second | P(first beats second) |", "| --- | --- | --- |"]
        lines += [f"| {a} | {b} | {one.value:.2f} [{one.low:.2f}, {one.high:.2f}] |" for (a, b), one in result.improvement.items()]
    text = f"{confidence:.0%} percentile intervals, {resamples} stratified bootstrap draws, seed {seed} (Agarwal et al. 2021)."
    files = "![IQM and probability of improvement](comparison.png)\n\n![Performance profiles](profiles.png)"
    (place / "comparison.md").write_text("\n".join(lines) + f"\n\n{text}\n\n{files}\n")
    return result


def report_runs(
    runs: Mapping[str, Run],
    folder: Path | str,
    *,
    title: str | None = None,
    sections: Sequence[Section] = (),
    references: References | None = None,
    published: Mapping[str, str] | None = None,
    quantity: str | None = None,
) -> Path:
    """The whole report of one or several runs: curves, table, `sections` (maps, groups, GIFs), pairwise comparison, metrics, provenance.

    Args: runs: label -> Run (a sweep is split by its settings); folder: gets report.html and its PNGs; references: see `learning_curves`;
      published: label -> the published number as text. Returns the path of report.html. Raises UserError if the runs share no return.
    """
    place = Path(folder)
    parts = {name: part for label, run in runs.items() for name, part in split_by_hyper(label, run).items()}
    if quantity is None and any(set(RETURNS) & set(part.quantities()) for part in parts.values()):
        quantity = returns_of(parts.values())
    rows = [row(name, part, quantity, (published or {}).get(name)) for name, part in parts.items()] if quantity else []
    table = comparison_table([*rows, *reference_rows(references or {})])[0]
    many = any((entry.members or 0) > 1 for entry in rows)
    summary = "interquartile mean with 95% bootstrap interval over members" if many else "one member, hence no interval"
    made = list(sections)
    if quantity:  # phase 1 has a model but no policy, hence no return
        image = learning_curves(parts, place / "curves.png", quantity, references)
        made = [
            Section("Learning curves", f"{_title(quantity)}: {summary}.", [image]),
            Section("Results", f"The last evaluation of every member: {summary}. Reference rows need no learning.", table=table),
            *sections,
        ]
    finals = {entry.method: parts[entry.method].curve(quantity)[1][:, -1] for entry in rows if quantity and entry.final}
    if 1 < len(finals) <= 6 and many:
        found = compare(finals)
        images = [plots.comparison(found, place / "comparison.png"), plots.profiles(found, place / "profiles.png", "final return")]
        text = "Final return, the probability that a member of one method beats a member of another, and profiles, with 95% intervals."
        made.append(Section("Pairwise comparison", text, images))
    metrics: dict[str, dict[str, tuple[Array, Array]]] = {}
    for label, run in parts.items():
        for name in (name for name in run.quantities() if name.startswith("metrics.")):
            steps, values = run.curve(name)
            if np.isfinite(values).any():
                metrics.setdefault(name.removeprefix("metrics."), {})[label] = (steps, values)
    if metrics:
        image = plots.metric_panels(dict(list(metrics.items())[:16]), place / "metrics.png")
        made.append(Section("Training metrics", "One thin line a member, the mean bold, over environment steps per member.", [image]))
    for label, run in runs.items():
        facts = {name: run.info[name] for name in ("env", "steps", "members", "seeds", "device", "git") if name in run.info}
        if run.broken_lines:
            facts["unreadable lines skipped"] = run.broken_lines
        folded = {name: run.info[name] for name in ("config", "hyper", "versions") if run.info.get(name)}
        made.append(Section(f"How it was made: {label}", command=str(run.info.get("command", "")), facts={**facts, **folded}))
    envs = ", ".join(dict.fromkeys(str(run.info.get("env", "unknown environment")) for run in runs.values()))
    counts = list(dict.fromkeys(str(run.info.get("members", 1)) for run in parts.values()))
    kind = "method" if len(parts) == len(runs) else "setting"
    who = f"{' / '.join(counts)} member{'s' * (counts != ['1'])}{' each' * (len(parts) > 1)}"
    lead = f"{len(parts)} {kind}{'s' * (len(parts) > 1)} on {envs}, {who}."
    return write_report(place, title or f"{', '.join(runs)} on {envs}", made, lead)
