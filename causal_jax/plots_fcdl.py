"""Pictures of local causal graphs and of the models that find them (FCDL, arXiv 2406.03234). Plain arrays in, PNG files out.

Style and conventions are those of `plots`. A graph is an [N, S] matrix: rows are targets (next values), columns sources (N variables, then
S - N action variables), as in `causal.graphs`. Variables have the colours of the environment's own picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causal_jax.envs.chemical_picture import palette
from causal_jax.plots import INK, LINES, MUTED, PALETTE, figure_file, short
from causal_jax.types import UserError

Array = NDArray[Any]
NAMES = {"pred": "prediction loss", "reg": "edge probability", "commit": "commitment loss", "codes": "codes used"}


def _graphs(name: str, graphs: Sequence[ArrayLike]) -> list[Array]:
    """The matrices as arrays; all must be [N, S] of one size."""
    arrays = [np.asarray(graph, dtype=np.float64) for graph in graphs]
    if not arrays or any(graph.ndim != 2 or graph.shape != arrays[0].shape or graph.shape[0] > graph.shape[1] for graph in arrays):
        raise UserError(f"{name}: got shapes {[graph.shape for graph in arrays]}, expected one or more [N, S] of one size, S >= N")
    return arrays


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share == 0 or share >= 0.01 else "<1%"


def code_graphs(
    probs: ArrayLike, path: Path | str, shares: ArrayLike | None = None, truth: Mapping[str, ArrayLike] | None = None
) -> Path:  # fmt: skip
    """Heat maps of the edge probabilities of every code, those most used first, after the true graphs (orange titles).

    Args: probs [K, N, S] in [0, 1]; shares [K], how often each code is used (sum 1) or None; truth: name -> [N, S].
    Raises: UserError for other shapes.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    codes = _graphs("probs", list(np.asarray(probs, dtype=np.float64)))
    exact = dict(zip(truth or {}, _graphs("truth", [*(truth or {}).values(), codes[0]]), strict=False))
    share = None if shares is None else np.asarray(shares, dtype=np.float64)
    if share is not None and share.shape != (len(codes),):
        raise UserError(f"shares: got shape {share.shape}, expected {(len(codes),)} = [K]")
    order = range(len(codes)) if share is None else np.argsort(-share, kind="stable").tolist()
    panels = [(name, graph, PALETTE[1], 1.0) for name, graph in exact.items()]
    for k in order:
        unused = share is not None and share[k] == 0
        title = f"code {k}" if share is None else f"code {k}: {'unused' if unused else _percent(share[k])}"
        panels.append((title, codes[k], MUTED if unused else INK, 0.45 if unused else 1.0))
    num_targets, num_sources = codes[0].shape
    columns = min(len(panels), 6 if len(panels) <= 24 else 9)
    rows = math.ceil(len(panels) / columns)
    blues = LinearSegmentedColormap.from_list("edge", ["#F7F8FA", "#9CC7E4", "#0072B2", "#00344F"])
    side = 8.2 / max(columns, 3)
    height = max(side - 0.15, 0.5) * num_targets / num_sources + 0.26
    with figure_file(path, max(3.2, side * columns + 0.8), height * rows + 0.3) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for index, axes in enumerate(grid):
            axes.grid(False)
            if index >= len(panels):
                axes.axis("off")
                continue
            title, graph, colour, alpha = panels[index]
            axes.imshow(graph, cmap=blues, vmin=0, vmax=1, alpha=alpha, interpolation="nearest", aspect="equal")
            axes.axvline(num_targets - 0.5, color="white", linewidth=1.6)
            axes.set_title(title, fontsize=9 if columns <= 6 else 7.5, fontweight="bold", color=colour, pad=3)
            axes.spines[:].set(visible=True, color="#C9CED6", linewidth=0.6)
            axes.set(xticks=[], yticks=[])
            if index % columns == 0:
                axes.set_yticks([0, num_targets - 1])
                axes.set_ylabel("target", fontsize=8, labelpad=-2)
            if index + columns >= len(panels):
                actions = range(num_targets, num_sources)
                axes.set_xticks([0, num_targets - 1, *actions], labels=["0", "" if num_targets > 1 else "0", *("a" for _ in actions)])
                axes.set_xlabel("source", fontsize=8, labelpad=0)
            axes.tick_params(length=0, labelsize=7, pad=1)
        scale = ScalarMappable(Normalize(0, 1), blues)
        bar = figure.colorbar(scale, ax=grid.tolist(), fraction=0.025, pad=0.01, aspect=22, ticks=[0, 0.5, 1], shrink=min(1.0, 1.6 / rows))
        bar.outline.set_visible(False)
        bar.set_label("P(edge)", fontsize=9)
    return Path(path)


def drawn_graphs(graphs: Mapping[str, ArrayLike], path: Path | str) -> Path:
    """Graphs as nodes on a ring, node 0 on top, and arrows from parent to child; no self-edges, no actions.

    graphs: title -> bool [N, S]. Edges from node 0 are orange, so a fork shows as a star, and a chain as the ring itself.
    Raises: UserError for other shapes.
    """
    from matplotlib.patches import FancyArrowPatch

    arrays = _graphs("graphs", list(graphs.values()))
    number = arrays[0].shape[0]
    angle = 2 * np.pi * np.arange(number) / number
    place = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    radius = min(0.17, 1.6 / number)
    columns = min(4, len(arrays))
    rows = math.ceil(len(arrays) / columns)
    side = 8.8 / max(columns, 3)
    with figure_file(path, max(3.2, side * columns + 0.2), (side + 0.3) * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for index, axes in enumerate(grid):
            axes.axis("off")
            if index >= len(arrays):
                continue
            edges = arrays[index][:, :number].astype(bool) & ~np.eye(number, dtype=bool)
            count = int(edges.sum())
            dense = count > 2 * number
            for child, parent in np.argwhere(edges):
                look: Any = {"color": PALETTE[1] if parent == 0 else "#3B6E8F", "alpha": 0.75 if dense else 1.0}
                points = 72 * side / 2.75  # of one unit of the ring
                arrow = FancyArrowPatch(
                    tuple(place[parent]), tuple(place[child]), arrowstyle="-|>", mutation_scale=8 if dense else 11, **look,
                    linewidth=0.8 if dense else 1.5, shrinkA=radius * points, shrinkB=radius * points, zorder=1 + (parent == 0),
                    connectionstyle=f"arc3,rad={0.12 if edges[parent, child] else 0}",
                )  # fmt: skip
                axes.add_patch(arrow)
            axes.scatter(*place.T, s=(2 * radius * 72 * side / 2.75) ** 2, color="white", edgecolors=INK, linewidths=1.2, zorder=4)
            for v in range(number):
                axes.annotate(str(v), tuple(place[v]), ha="center", va="center_baseline", fontsize=min(10, 150 * radius / 3), zorder=5)
            axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
            axes.set_title(f"{list(graphs)[index]}\n{count} edge{'' if count == 1 else 's'}", fontsize=10, loc="center", pad=0)
    return Path(path)


def code_histograms(usage: Mapping[str, ArrayLike], path: Path | str) -> Path:
    """How often each code is used, in distribution and out: grouped bars, codes ordered by their use under the first label.

    usage: label -> [K] counts or shares (drawn as shares). Raises: UserError for other shapes or nothing counted.
    """
    from matplotlib.ticker import PercentFormatter

    arrays = {label: np.asarray(values, dtype=np.float64) for label, values in usage.items()}
    sizes = {values.shape for values in arrays.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1 or any(values.sum() <= 0 for values in arrays.values()):
        raise UserError(f"usage: got shapes {sorted(sizes)}, expected labels with one [K] each, none of them all zero")
    shares = {label: values / values.sum() for label, values in arrays.items()}
    number = len(next(iter(shares.values())))
    order = np.lexsort((-np.sum(list(shares.values()), axis=0), -next(iter(shares.values()))))
    width = 0.84 / len(shares)
    with figure_file(path, 9, 3.6) as figure:
        axes = figure.add_subplot()
        for i, (label, share) in enumerate(shares.items()):
            x = np.arange(number) + (i - (len(shares) - 1) / 2) * width
            used = int(np.sum(share > 0))
            name = f"{label} ({used} code{'' if used == 1 else 's'})"
            axes.bar(x, share[order], width=0.92 * width, color=PALETTE[i % len(PALETTE)], label=name, linewidth=0)
        step = math.ceil(number / 32)
        axes.set_xticks(np.arange(number)[::step], [str(k) for k in order[::step]], fontsize=9 if number <= 24 else 7)
        axes.set(xlabel=f"code, by use under {next(iter(shares))}", ylabel="share of the samples", xlim=(-0.6, max(number, 2) - 0.4))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="x", visible=False)
        axes.tick_params(axis="x", length=0)
        figure.legend(loc="outside upper center", ncols=min(4, len(shares)))
    return Path(path)


def training_trace(
    trace: Mapping[str, tuple[ArrayLike, ArrayLike]], reference: Mapping[str, tuple[ArrayLike, ArrayLike]], path: Path | str
) -> Path:
    """Our training against a recorded one: a panel a quantity, thin lines members, bold their mean, dashed (dots if few) the record.

    Args: trace: name -> (steps [T], values [R, T]); reference: name -> (steps, values), both [any]; names without one have none.
      pred, reg, commit and codes get longer titles. Raises: UserError for shapes that do not fit.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    columns = min(4, len(trace))
    rows = math.ceil(len(trace) / columns)
    with figure_file(path, 9 if columns > 1 else 4.5, 2.3 * rows + 0.5) as figure:
        handles: dict[str, Any] = {}
        for index, (name, (steps, values)) in enumerate(trace.items()):
            x, members = np.asarray(steps), np.asarray(values, dtype=np.float64)
            if members.ndim != 2 or members.shape[1:] != x.shape:
                raise UserError(f"trace[{name}]: got shapes {x.shape} and {members.shape}, expected [T] and [R, T]")
            axes = figure.add_subplot(rows, columns, index + 1)
            marker = "o" if len(x) == 1 else None
            if len(members) > 1:
                axes.plot(x, members.T, color=PALETTE[0], linewidth=0.7, alpha=0.35, marker=marker, markersize=3)
            label = f"ours, mean of {len(members)}" if len(members) > 1 else "ours"
            (handles[label],) = axes.plot(x, members.mean(axis=0), color=PALETTE[0], marker=marker, zorder=3)
            if name in reference:
                at, record = (np.asarray(part) for part in reference[name])
                look: Any = {"color": PALETTE[1], "linestyle": LINES[1], "linewidth": 1.6, "markersize": 4, "zorder": 4}
                (handles["recorded"],) = axes.plot(at, record, marker="o" if len(at) <= 20 else None, **look)
            axes.set_title(NAMES.get(name, name.replace("_", " ")), fontsize=10, pad=5)
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=name == "codes"))
            axes.tick_params(labelsize=8)
            axes.margins(x=0.03)
            if name == "codes":
                axes.set_ylim(bottom=0)
        figure.supxlabel("updates", fontsize=10, color=INK)
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, handlelength=2.8)
    return Path(path)


def imagined(frames: Sequence[tuple[ArrayLike, ArrayLike]], path: Path | str) -> Path:
    """Imagined trajectories against real ones, both starting alike.

    frames: pairs (true, imagined) [H + 1, N] alike. int: two strips of coloured cells each, a variable a row, a step a column, and a cross
    on every cell that is imagined wrong. float: a panel a variable, a colour a trajectory, real ones solid, imagined ones dashed.
    Raises: UserError for other shapes.
    """
    pairs = [(np.asarray(real), np.asarray(dream)) for real, dream in frames]
    shapes = [part.shape for pair in pairs for part in pair]
    if not pairs or len(shapes[0]) != 2 or any(a != b for a, b in zip(shapes[::2], shapes[1::2], strict=True)):
        raise UserError(f"frames: got shapes {shapes}, expected pairs of one [H + 1, N] each")
    if any(shape[1] != shapes[0][1] for shape in shapes):
        raise UserError(f"frames: got shapes {shapes}, expected one number of variables")
    discrete = all(np.issubdtype(part.dtype, np.integer) for pair in pairs for part in pair)
    (_cells if discrete else _lines)(pairs, path)
    return Path(path)


def _cells(pairs: list[tuple[Array, Array]], path: Path | str) -> None:
    table = palette(1 + max(int(part.max()) for pair in pairs for part in pair))
    number = pairs[0][0].shape[1]
    columns = min(4, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    cell = min(0.24, 8.4 / columns / (2 * max(len(real) for real, _ in pairs) + 1.5))
    with figure_file(path, 9 if columns > 2 else 4.5 * columns, rows * (number * cell + 0.62) + 0.1) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for index, axes in enumerate(grid):
            axes.grid(False)
            if index >= len(pairs):
                axes.axis("off")
                continue
            real, dream = pairs[index]
            length, gap = len(real), 1
            picture = np.full((number, 2 * length + gap, 3), 255, np.uint8)
            picture[:, :length], picture[:, length + gap :] = table[real.T], table[dream.T]
            axes.imshow(picture, interpolation="nearest", aspect="equal")
            for edge in range(2 * length + gap + 1):
                axes.axvline(edge - 0.5, color="white", linewidth=1.2)
            for edge in range(number + 1):
                axes.axhline(edge - 0.5, color="white", linewidth=1.2)
            step, variable = np.nonzero(real != dream)
            size: Any = {"s": (72 * cell * 0.5) ** 2, "marker": "x", "zorder": 3}
            axes.scatter(step + length + gap, variable, **size, color="white", linewidths=3.2)
            axes.scatter(step + length + gap, variable, **size, color=INK, linewidths=1.6)
            wrong, total = len(step), real[1:].size
            axes.set_title(f"{wrong} of {total} wrong" if total else "start only", fontsize=9, fontweight="normal", loc="center", pad=4)
            axes.spines[:].set_visible(False)
            ticks = [0, length - 1] if length > 1 else [0]
            labels = [str(tick) for tick in ticks] * 2
            axes.set_xticks([*ticks, *(tick + length + gap for tick in ticks)], labels=labels)
            axes.set_yticks(range(number) if index % columns == 0 else [], labels=None)
            axes.tick_params(length=0, labelsize=7.5)
            for word, centre in (("real", (length - 1) / 2), ("imagined", length + gap + (length - 1) / 2)):
                text: Any = {"xytext": (0, -16), "textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 9}
                axes.annotate(word, (centre, number - 0.5), **text)
            if index % columns == 0:
                axes.set_ylabel("variable", fontsize=9)


def _lines(pairs: list[tuple[Array, Array]], path: Path | str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    number = pairs[0][0].shape[1]
    columns = min(4, number)
    rows = math.ceil(number / columns)
    with figure_file(path, 9 if columns > 1 else 4.5, 1.7 * rows + 0.8) as figure:
        for v in range(number):
            axes = figure.add_subplot(rows, columns, v + 1)
            for i, (real, dream) in enumerate(pairs):
                marker = "o" if len(real) == 1 else None
                axes.plot(real[:, v], color=PALETTE[i % len(PALETTE)], alpha=0.55, linewidth=2.4, marker=marker)
                axes.plot(dream[:, v], color=PALETTE[i % len(PALETTE)], linestyle=(0, (3, 1.2)), linewidth=1.5, marker=marker)
            axes.set_title(f"variable {v}", fontsize=9, fontweight="normal", pad=3)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelsize=7.5)
        figure.supxlabel("step", fontsize=10, color=INK)
        shown = [
            Line2D([], [], color=MUTED, alpha=0.6, linewidth=2.4, label="real"),
            Line2D([], [], color=INK, linestyle=(0, (3, 1.2)), linewidth=1.5, label="imagined"),
        ]
        figure.legend(handles=shown, loc="outside upper center", ncols=2, handlelength=2.8)
