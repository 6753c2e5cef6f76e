"""Pictures of a sweep: parallel coordinates, and how much of the score's variance each parameter explains alone.

Importance is the correlation ratio: the share of the variance of the ranked scores that lies between the values of a parameter (epsilon
squared, Kelley 1935: eta squared freed of what chance gives), a parameter of many values cut into bins of equal count. It is a main
effect: what parameters do together is in none of the bars. Beside it Spearman's rank correlation tells the direction, and the bar's mark
the 95th percentile of the same number with the scores shuffled: a bar below its mark says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from causal_jax.history import plain
from causal_jax.plots import INK, MUTED, PALETTE, figure_file

ABOUT = (
    "Share of the variance of the ranked scores between the values of each parameter alone (epsilon squared), what it does together with "
    "others is in no bar; the mark is what shuffled scores reach in 1 of 20 cases; r is Spearman's rank correlation."
)


class Importance(NamedTuple):
    """share in [0, 1]; chance: its 95th percentile over shuffled scores; correlation: Spearman's, NaN where values have no order."""

    share: float
    chance: float
    correlation: float


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _levels(values: Sequence[Any]) -> NDArray[Any]:
    """The bin [trials] of every value: its own where there are few, else one of up to 5 of equal count (at least 3 trials each)."""
    names = [repr(value) for value in values]
    distinct = sorted(set(names))
    bins = max(2, min(5, len(values) // 3))
    if len(distinct) <= bins or not all(map(_is_number, values)):
        return np.asarray([distinct.index(name) for name in names])
    edges = np.quantile(np.asarray(values, float), np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, np.asarray(values, float), side="right")


def _share(levels: NDArray[Any], ranks: NDArray[Any]) -> Any:
    """Epsilon squared of ranks [..., trials] by level, clipped at 0."""
    centred = ranks - ranks.mean(-1, keepdims=True)
    total = np.sum(centred**2, -1)
    names, counts = np.unique(levels, return_counts=True)
    n, k = len(levels), len(names)
    if n <= k or not np.all(total > 0):
        return np.zeros(ranks.shape[:-1])
    between = sum(count * centred[..., levels == name].mean(-1) ** 2 for name, count in zip(names, counts, strict=True))
    within = (total - between) / (n - k)
    return np.clip((between - (k - 1) * within) / total, 0.0, 1.0)


def importance(columns: Mapping[str, Sequence[Any]], scores: Sequence[float], shuffles: int = 500, seed: int = 0) -> dict[str, Importance]:
    """How much each parameter matters alone. columns: name -> value of each trial; scores: of each trial, finite.

    Returns: name -> Importance, the largest share first. Deterministic given the seed.
    """
    from scipy import stats

    ranks = stats.rankdata(scores)
    shuffled = np.random.default_rng(seed).permuted(np.tile(ranks, (shuffles, 1)), axis=1)
    found = {}
    for name, values in columns.items():
        levels = _levels(values)
        ordered = all(map(_is_number, values)) and len(set(values)) > 1 and len(set(ranks)) > 1
        correlation = float(stats.spearmanr(values, scores).statistic) if ordered else math.nan
        found[name] = Importance(float(_share(levels, ranks)), float(np.quantile(_share(levels, shuffled), 0.95)), correlation)
    return dict(sorted(found.items(), key=lambda item: -item[1].share))


def importance_bars(found: Mapping[str, Importance], path: Path | str) -> Path:
    """One bar a parameter, with the mark of chance and the rank correlation. Writes and returns `path`."""
    with figure_file(path, 9, 1.1 + 0.42 * len(found)) as figure:
        axes = figure.add_subplot()
        for k, one in enumerate(found.values()):
            axes.barh(k, one.share, height=0.6, color=PALETTE[0] if one.share > one.chance else MUTED)
            axes.plot([one.chance] * 2, [k - 0.38, k + 0.38], color=INK, linewidth=1.6)
            text = f"{one.share:.2f}" + ("" if math.isnan(one.correlation) else f"   r = {one.correlation:+.2f}")
            axes.annotate(text, (max(one.share, one.chance), k), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set(xlim=(0, 1.18), yticks=range(len(found)), yticklabels=list(found), ylim=(len(found) - 0.4, -0.6))
        axes.set_xlabel("share of the variance of ranked scores")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    return Path(path)


def _axis(values: Sequence[Any], log: bool) -> tuple[NDArray[Any], list[tuple[float, str]]]:
    """Heights [trials] in [0, 1] of values on an axis, and its ticks (height, text)."""
    if all(map(_is_number, values)):
        x = np.asarray(values, float)
        shown = np.log(x) if log or (np.all(x > 0) and x.max() / x.min() >= 100) else x
        low, high = shown.min(), shown.max()
        scaled = (shown - low) / (high - low) if high > low else np.full(x.shape, 0.5)
        distinct = sorted(set(values))
        if len(distinct) <= 6:
            return scaled, [(float(scaled[list(values).index(value)]), plain(value)) for value in distinct]
        marks = np.linspace(low, high, 5)
        return scaled, [(k / 4, f"{math.exp(mark) if shown is not x else mark:.3g}") for k, mark in enumerate(marks)]
    names = [plain(value) for value in values]
    order = sorted(set(names))
    heights = np.linspace(0, 1, len(order)) if len(order) > 1 else np.asarray([0.5])
    return np.asarray([heights[order.index(name)] for name in names]), list(zip(map(float, heights), order, strict=True))


def parallel(
    columns: Mapping[str, Sequence[Any]], scores: Sequence[float], path: Path | str, metric: str, logs: Collection[str] = (),
    maximize: bool = True,
) -> Path:  # fmt: skip
    """Parallel coordinates: one axis a parameter and one for the score, one line a trial, the best black and on top.

    Args: columns: name -> value of each trial; logs: names of axes in logarithms (also taken where values span 100 times). Writes `path`.
    """
    from matplotlib import colormaps

    axes_of = {name: _axis(values, name in logs) for name, values in columns.items()}
    axes_of[metric] = _axis(list(map(float, scores)), False)
    heights = np.stack([height for height, _ in axes_of.values()], axis=1)
    quality = np.asarray(scores, float) * (1 if maximize else -1)
    order = np.argsort(quality)
    rank = np.argsort(order) / max(1, len(order) - 1)
    with figure_file(path, 9, 4.4) as figure:
        axes = figure.add_subplot()
        places = np.arange(len(axes_of))
        for i in order:
            best = i == order[-1]
            colour: Any = "black" if best else colormaps["viridis_r"](0.1 + 0.9 * rank[i])
            axes.plot(places, heights[i], color=colour, linewidth=2.4 if best else 1.2, alpha=1.0 if best else 0.75, zorder=3 + rank[i])
        for x, (_, ticks) in zip(places, axes_of.values(), strict=True):
            axes.axvline(x, color=MUTED, linewidth=0.9, zorder=2)
            for height, text in ticks:
                box: Any = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
                axes.annotate(text, (x, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5, zorder=9, bbox=box)
        axes.set(xticks=places, ylim=(-0.06, 1.06), xlim=(-0.15, len(places) - 0.55), yticks=[])
        axes.set_xticklabels([name.removeprefix("hyper.") for name in axes_of], color=INK)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=False)
    return Path(path)
