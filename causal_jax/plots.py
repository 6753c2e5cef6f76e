"""Plain arrays in, PNG files out: learning curves, training metrics, comparisons of methods, GIFs. (Masks: `plots_causal`.)

Matplotlib is imported inside the functions and used without pyplot, so nothing global changes: no backend, no rcParams, no open figures.
Pictures are made to be read at 900 px wide. Colours are Okabe and Ito's (2008), told apart with every common colour blindness; curves
also differ by their line. Every function returns the path that it wrote.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causal_jax.statistics import Comparison, Estimate
from causal_jax.types import UserError

Array = NDArray[Any]
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#4D4D4D")
LINES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (3, 1)), (0, (6, 1.5, 1.5, 1.5)), (0, (1.2, 1)), "-", (0, (6, 1.5)), (0, (3, 1)))
INK, MUTED, FAINT = "#22262B", "#6B7280", "#E5E7EB"
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 8, "axes.labelsize": 10, "axes.labelcolor": INK, "axes.edgecolor": "#9CA3AF", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": FAINT,
    "grid.linewidth": 0.8, "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "legend.frameon": False, "legend.fontsize": 10, "lines.linewidth": 2.0,
    "text.parse_math": False, "figure.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip


class Curve(TypedDict, total=False):
    """One line of a panel: steps [points], values as an Estimate of [points] (NaN leaves a gap); band False draws no interval."""

    steps: Array
    estimate: Estimate
    band: bool


@contextlib.contextmanager
def figure_file(path: Path | str, width: float, height: float) -> Iterator[Any]:
    """A styled figure that is written to `path` on leaving, in 256 colours; inches, 100 px each at 900 px reading width."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from PIL import Image

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=180, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.04, hspace=0.04))
        canvas: Any = FigureCanvasAgg(figure)
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def look(k: int) -> tuple[str, Any]:
    """Colour and line of the k-th label; the first 24 all differ."""
    return PALETTE[k % len(PALETTE)], LINES[(k + k // len(PALETTE)) % len(LINES)]


def short(value: float) -> str:
    """A step count for an axis: 0, 500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:g}"


def log_axis(axis: Any) -> None:
    """Ticks of a logarithmic axis (axes.xaxis, axes.yaxis) as plain numbers, 0.1, 10, 2k; the style does not read $...$."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def _step_axis(axes: Any, label: str = "environment steps per member") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlabel(label)
    axes.margins(x=0.01)


def _dot(points: int) -> str | None:
    return "o" if points == 1 else None  # a line of one point would not be seen


def _reference_lines(axes: Any, references: Mapping[str, float]) -> None:
    """Dashed lines with their names in the right margin; names of lines that nearly meet share one row."""
    if not references:
        return
    low, high = axes.get_ylim()
    low, high = min(low, *references.values()), max(high, *references.values())
    pad = 0.04 * (high - low)
    low, high = low - pad * (low in references.values()), high + pad * (high in references.values())
    axes.set_ylim(low, high)
    rows: list[tuple[list[float], list[str]]] = []
    for name, value in sorted(references.items(), key=lambda item: -item[1]):
        axes.axhline(value, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)
        if rows and rows[-1][0][-1] - value < 0.055 * (high - low):
            rows[-1][0].append(value)
            rows[-1][1].append(name)
        else:
            rows.append(([value], [name]))
    look: Any = {"xycoords": ("axes fraction", "data"), "xytext": (5, 0), "textcoords": "offset points", "annotation_clip": False}
    for values, names in rows:
        centre = sum(values) / len(values)
        axes.annotate("\n".join(names), (1.0, centre), va="center", ha="left", fontsize=8.5, color=MUTED, linespacing=1.1, **look)


def _columns(labels: Sequence[str]) -> int:
    """Columns of a legend across a figure 9 inches wide: about 105 characters, a line's sample is worth 7."""
    return max(1, min(4, len(labels), 105 // (max(map(len, labels), default=0) + 7)))


def curves(
    panels: Sequence[tuple[str, Mapping[str, Curve], Mapping[str, float]]],
    path: Path | str,
    percent: Sequence[bool] = (),
    x_label: str = "environment steps per member",
) -> Path:
    """Panels side by side, each (title, label -> Curve, name -> reference value); colours follow the order of the labels.

    percent[i] True draws panel i as a rate from 0 to 100 %. Writes and returns `path`.
    """
    from matplotlib.ticker import PercentFormatter

    labels = list(dict.fromkeys(label for _, lines, _ in panels for label in lines))
    with figure_file(path, 9, 4.1 if len(panels) > 1 else 4.4) as figure:
        handles: dict[str, Any] = {}
        for index, (title, lines, references) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            for label, curve in lines.items():
                k = labels.index(label)
                colour, line = look(k)
                steps, (value, low, high) = np.asarray(curve["steps"]), curve["estimate"]
                (handles[label],) = axes.plot(steps, value, color=colour, linestyle=line, marker=_dot(len(steps)), label=label, zorder=3)
                if curve.get("band", True):
                    axes.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
            axes.set_title(title)
            _step_axis(axes, x_label)
            if index < len(percent) and percent[index]:
                axes.set_ylim(-0.03, 1.03)
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            _reference_lines(axes, references)
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=_columns(list(handles)), handlelength=2.8)
    return Path(path)


def metric_panels(metrics: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]], path: Path | str) -> Path:
    """Small panels of training metrics: name -> label -> (steps [points], values [members, points]).

    One thin line a member, the mean over members bold; colours follow the order of the labels over all panels.
    """
    labels = list(dict.fromkeys(label for lines in metrics.values() for label in lines))
    columns = min(4, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    with figure_file(path, 9, (0.8 if len(labels) > 1 else 0.3) + 1.75 * rows) as figure:
        handles: dict[str, Any] = {}
        for index, (name, lines) in enumerate(metrics.items()):
            axes = figure.add_subplot(rows, columns, index + 1)
            for label, (steps, values) in lines.items():
                k = labels.index(label)
                (colour, line), members = look(k), np.asarray(values, dtype=np.float64)
                if members.shape[0] > 1:
                    axes.plot(steps, members.T, color=colour, linewidth=0.6, alpha=0.35 if len(labels) == 1 else 0.2)
                (handles[label],) = axes.plot(
                    steps, np.mean(members, axis=0), color=colour, linewidth=1.6, linestyle=line, marker=_dot(members.shape[-1])
                )
            axes.set_title(name.replace("_", " "), fontsize=9, fontweight="normal", pad=4)
            _step_axis(axes, "")
            axes.xaxis.get_major_locator().set_params(nbins=3)
            axes.tick_params(labelsize=7.5)
        if len(labels) > 1:
            figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=_columns(list(handles)), handlelength=2.8)
    return Path(path)


def comparison(result: Comparison, path: Path | str, quantity: str = "IQM of the final return") -> Path:
    """Two panels from `statistics.compare`: the IQM of each method and the probability of improvement of each pair, with intervals."""
    count = max(len(result.scores), len(result.improvement))
    with figure_file(path, 9, 1.1 + 0.42 * count) as figure:
        left, right = figure.subplots(1, 2)
        for k, (_, estimate) in enumerate(result.scores.items()):
            left.plot([estimate.low, estimate.high], [k, k], color=look(k)[0], linewidth=7, alpha=0.3, solid_capstyle="butt")
            left.plot(estimate.value, k, marker="|", markersize=14, markeredgewidth=3, color=look(k)[0])
        left.set(title=quantity, yticks=range(len(result.scores)), yticklabels=list(result.scores), ylim=(len(result.scores) - 0.4, -0.6))
        for k, estimate in enumerate(result.improvement.values()):
            right.plot([estimate.low, estimate.high], [k, k], color=INK, linewidth=7, alpha=0.18, solid_capstyle="butt")
            right.plot(estimate.value, k, marker="|", markersize=14, markeredgewidth=3, color=INK)
        right.axvline(0.5, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)))
        right.set(title="P(first beats second)", xlim=(-0.03, 1.03), yticks=range(len(result.improvement)),
                  yticklabels=[f"{a}  >  {b}" for a, b in result.improvement], ylim=(len(result.improvement) - 0.4, -0.6))  # fmt: skip
        for axes in (left, right):
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
    return Path(path)


def profiles(result: Comparison, path: Path | str, quantity: str = "score") -> Path:
    """Performance profiles from `statistics.compare`: the share of scores above each threshold, with pointwise intervals."""
    from matplotlib.ticker import PercentFormatter

    with figure_file(path, 9, 4.1) as figure:
        axes = figure.add_subplot()
        for k, (label, (value, low, high)) in enumerate(result.profiles.items()):
            colour, line = look(k)
            axes.plot(result.thresholds, value, color=colour, linestyle=line, label=label, zorder=3)
            axes.fill_between(result.thresholds, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        axes.set(
            xlabel=f"{quantity} threshold", title=f"Share of members and tasks with {quantity} above the threshold", ylim=(-0.03, 1.03)
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        figure.legend(loc="outside upper center", ncols=min(4, len(result.profiles)), handlelength=2.8)
    return Path(path)


def gif(frames: Sequence[ArrayLike], path: Path | str, fps: float = 12, limit: int = 300_000) -> Path:
    """An endless GIF of uint8 frames [H, W, 3] in one shared palette; the last frame stays for a second.

    Every other frame, then size, is given up until the file is at most `limit` bytes (or 64 px wide).
    """
    from PIL import Image

    arrays = [np.asarray(frame) for frame in frames]
    if not arrays or any(array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 for array in arrays):
        raise UserError("frames: got none or another type, expected a list of uint8 arrays [H, W, 3]")
    images = [Image.fromarray(array) for array in arrays]
    stride = 1
    while len(images[::stride]) > 160:
        stride *= 2
    picked = images[::-stride][::-1]  # the last frame is always among them
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    while True:
        sample = Image.fromarray(np.concatenate([np.asarray(image) for image in picked[:: max(1, len(picked) // 6)]], axis=0))
        palette = sample.quantize(colors=64, dither=Image.Dither.NONE)
        small = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in picked]
        durations = [max(20, round(1000 * stride / fps / 10) * 10)] * (len(small) - 1) + [1000]
        small[0].save(path, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)
        width, height = picked[0].size
        if Path(path).stat().st_size <= limit or width <= 64:
            return Path(path)
        size = (max(64, int(0.75 * width)), max(1, int(0.75 * height)))
        picked = [image.resize(size, Image.Resampling.LANCZOS) for image in picked]
