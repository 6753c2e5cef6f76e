"""Pictures of what a causal mask does: masks over a map, groups of actions, N-matrices. Plain arrays in, PNG files out.

Style and conventions are those of `plots`. The pictures are of Zhong et al. 2024 (NPM, arXiv 2312.06258) and CEE (arXiv 2501.14543):
N(s, a, b) asks how much likelier action b is made by the transition that action a causes; actions of one effect form a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causal_jax.plots import FAINT, INK, MUTED, PALETTE, figure_file
from causal_jax.types import UserError

Array = NDArray[Any]


class MapSpec(TypedDict, total=False):
    """A flat map: rectangles are (x0, x1, y0, y1), the start is (x, y), all in the units of the positions."""

    extent: tuple[float, float, float, float]
    obstacles: Sequence[tuple[float, float, float, float]]
    goal: tuple[float, float, float, float]
    start: tuple[float, float]


def _grid(positions: Array) -> tuple[Array, Array, Array] | None:
    """Columns, rows and the cell of each position if they lie on a regular grid, else None."""
    rounded = np.round(positions, 6)
    xs, ys = np.unique(rounded[:, 0]), np.unique(rounded[:, 1])
    if len(xs) < 2 or len(ys) < 2 or len(xs) * len(ys) > 3 * len(positions):
        return None
    return xs, ys, np.stack([np.searchsorted(xs, rounded[:, 0]), np.searchsorted(ys, rounded[:, 1])], axis=1)


def _draw_map(axes: Any, spec: MapSpec) -> None:
    from matplotlib.patches import Rectangle

    x0, x1, y0, y1 = spec.get("extent", (0.0, 1.0, 0.0, 1.0))
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    text: Any = {"textcoords": "offset points", "va": "center", "fontsize": 9, "fontweight": "bold", "zorder": 6, "bbox": box}
    for a, b, c, d in spec.get("obstacles", ()):
        axes.add_patch(Rectangle((a, c), b - a, d - c, facecolor="#3B4048", edgecolor="none", zorder=3))
    if "goal" in spec:
        a, b, c, d = spec["goal"]
        axes.add_patch(Rectangle((a, c), b - a, d - c, facecolor="#E69F00", edgecolor="white", linewidth=1.2, zorder=4))
        axes.annotate("goal", (b, (c + d) / 2), xytext=(5, 0), **text)
    if "start" in spec:
        axes.plot(*spec["start"], marker="o", markersize=9, color="white", markeredgecolor=INK, markeredgewidth=1.8, zorder=5)
        axes.annotate("start", spec["start"], xytext=(9, 0), **text)
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#3B4048", linewidth=1.5, zorder=5, clip_on=False))
    axes.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal", xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def mask_map(
    positions: ArrayLike, kept: ArrayLike | Mapping[str, ArrayLike], motions: ArrayLike, map_spec: MapSpec, path: Path | str,
    arrows: int = 9,
) -> Path:  # fmt: skip
    """The maze with how many actions are kept where (colour) and, at a sparser grid, the motions of the kept actions (arrows).

    Args: positions [P, 2]; kept [P, A] bool, or label -> [P, A] for panels that share one colour scale; motions [A, 2] of any unit
      (drawn relative to the longest); map_spec; arrows: about how many arrow sites a row. A kept action that does not move is a dot.
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    place, move = np.asarray(positions, dtype=np.float64), np.asarray(motions, dtype=np.float64)
    panels = {label: np.asarray(mask, dtype=bool) for label, mask in (kept if isinstance(kept, Mapping) else {"": kept}).items()}
    for label, mask in panels.items():
        if mask.shape != (len(place), len(move)):
            raise UserError(f"kept{f'[{label}]' if label else ''}: got shape {mask.shape}, expected {(len(place), len(move))} = [P, A]")
    x0, x1, y0, y1 = map_spec.get("extent", (0.0, 1.0, 0.0, 1.0))
    counts = {label: mask.sum(axis=1) for label, mask in panels.items()}
    least, most = min(c.min() for c in counts.values()), max(c.max() for c in counts.values())
    # Masks of very different size share one picture: a logarithmic scale keeps the small counts apart.
    norm = (
        LogNorm(least, most) if least > 0 and most > 4 * least else Normalize(least - 0.5 * (least == most), most + 0.5 * (least == most))
    )
    cmap = LinearSegmentedColormap.from_list("sea", ["#FBFAF4", "#D3E8DF", "#8FC6CF", "#4A98BF"])
    grid = _grid(place)
    site = (x1 - x0) / arrows
    length = 0.42 * site / max(1e-12, float(np.linalg.norm(move, axis=1).max()))
    width = 9.0 if len(panels) > 1 else 6.6
    with figure_file(path, width, (width - 0.9) / len(panels) * (y1 - y0) / (x1 - x0) + 0.35) as figure:
        shown = []
        for index, (label, mask) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), index + 1)
            shown.append(axes)
            _draw_map(axes, map_spec)
            if label:
                axes.set_title(label)
            if grid is None:  # scattered positions: each point of the map shows its nearest position
                from scipy.spatial import cKDTree

                xs, ys = np.linspace(x0, x1, 201), np.linspace(y0, y1, 201)
                field = counts[label][cKDTree(place).query(np.stack(np.meshgrid(xs, ys), axis=-1))[1]].astype(float)
                axes.scatter(*place.T, s=2.5, color=MUTED, alpha=0.6, linewidths=0, zorder=1.5)
                sites: list[int] = []
                for p in range(len(place)):
                    if not sites or np.linalg.norm(place[sites] - place[p], axis=1).min() > 0.95 * site:
                        sites.append(p)
            else:
                xs, ys, cell = grid
                field = np.full((len(ys), len(xs)), np.nan)
                field[cell[:, 1], cell[:, 0]] = counts[label]
                every = [max(1, round(len(values) / arrows)) for values in (xs, ys)]
                sites = np.flatnonzero(np.all(cell % every == [step // 2 for step in every], axis=1)).tolist()
            image = axes.pcolormesh(xs, ys, field, cmap=cmap, norm=norm, shading="nearest", zorder=1)
            tails, tips, dots = [], [], []
            for p in sites:
                for vector in np.unique(np.round(move[mask[p]], 6), axis=0):
                    if np.linalg.norm(vector) * length < 0.03 * site:
                        dots.append(place[p])
                    else:
                        tails.append(place[p])
                        tips.append(vector * length)
            if tails:
                start, vector = np.array(tails), np.array(tips)
                axes.quiver(*start.T, *vector.T, angles="xy", scale_units="xy", scale=1, color="#12324A", units="width", zorder=2,
                            width=0.0026 if len(panels) < 3 else 0.0034, headwidth=4, headlength=4.5, headaxislength=4)  # fmt: skip
            if dots:
                axes.scatter(*np.array(dots).T, s=7, color="#12324A", zorder=2.5, linewidths=0)
        bar = figure.colorbar(image, ax=shown, fraction=0.04, pad=0.02, aspect=28)
        bar.outline.set_visible(False)
        bar.set_label("actions kept")
        marks = np.unique(np.round((np.geomspace if isinstance(norm, LogNorm) else np.linspace)(least, most, 6)).astype(int))
        bar.set_ticks(marks.tolist(), labels=[str(mark) for mark in marks])
        bar.minorticks_off()
    return Path(path)


def _group_colours(centres: Array) -> list[str]:
    """One palette colour a group, such that groups of one colour lie far from each other (greedy, in order of the angle)."""
    gap = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    chosen: dict[int, int] = {}
    for g in np.argsort(np.arctan2(centres[:, 1], centres[:, 0])).tolist():
        free = [min((float(gap[g, h]) for h, colour in chosen.items() if colour == k), default=np.inf) for k in range(7)]
        chosen[g] = int(np.argmax(free))
    return [PALETTE[chosen[g]] for g in range(len(centres))]


def action_groups(
    labels: ArrayLike, motions: ArrayLike, path: Path | str, kept: ArrayLike | None = None, title: str = "Actions by their motion"
) -> Path:
    """The groups of actions at one state: the tip of each action's motion coloured by its group, and how many groups have which size.

    Args: labels [A] int, the group of each action; motions [A, 2]; kept [A] bool or None. Actions of one motion are spread around it;
      thin lines tie the members of a group to its centre, so a group that merges different motions shows as a star. 16 to 256 actions.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    group, move = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1), np.asarray(motions, dtype=np.float64)
    keep = np.zeros(len(move), bool) if kept is None else np.asarray(kept, dtype=bool)
    if move.shape != (len(group), 2) or keep.shape != group.shape:
        raise UserError(f"labels, motions, kept: got shapes {group.shape}, {move.shape}, {keep.shape}, expected [A], [A, 2], [A]")
    radius = float(np.linalg.norm(move, axis=1).max()) or 1.0
    _, spot, inverse = np.unique(np.round(move, 3), axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    gaps = np.linalg.norm(move[spot][:, None] - move[spot][None], axis=-1) + 1e9 * np.eye(len(spot))
    room = min(0.11 * radius, 0.42 * float(gaps.min())) if len(spot) > 1 else 0.11 * radius
    room = max(room, 0.035 * radius)
    place = move.copy()
    for motion in range(len(spot)):
        members = np.flatnonzero(inverse == motion)
        members = members[np.argsort(group[members], kind="stable")]
        if len(members) > 1:  # a sunflower: even spread whatever the count
            k = np.arange(len(members))
            ring = room * np.sqrt((k + 0.5) / max(len(members), 4))
            spread = np.stack([ring * np.cos(2.39996 * k), ring * np.sin(2.39996 * k)], axis=1)
            place[members] += spread - spread.mean(axis=0)
    centres = np.stack([move[group == g].mean(axis=0) for g in range(group.max() + 1)])
    colours = _group_colours(centres)
    size = 62.0 if len(move) <= 32 else 34.0 if len(move) <= 64 else 15.0
    with figure_file(path, 9, 5.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
        angle = np.linspace(0, 2 * np.pi, 90)
        for step in (0.5 * radius, radius):
            left.add_artist(Line2D(step * np.cos(angle), step * np.sin(angle), color=FAINT, linewidth=0.9))
        for g in range(len(centres)):
            members = np.flatnonzero(group == g)
            if np.ptp(move[members], axis=0).max() > 1e-3 * radius:
                for m in members:
                    left.plot(*np.stack([centres[g], place[m]]).T, color=colours[g], linewidth=1.0, alpha=0.7, zorder=1)
        for m in np.flatnonzero(keep):
            look = {"arrowstyle": "-|>", "color": colours[group[m]], "lw": 1.4, "shrinkA": 0, "shrinkB": math.sqrt(size) / 2}
            left.annotate("", place[m], (0, 0), zorder=2, arrowprops={**look, "mutation_scale": 10})
        colour = np.array([colours[g] for g in group])
        left.scatter(*place[~keep].T, s=size, c=colour[~keep], alpha=0.9 if kept is None else 0.55, linewidths=0, zorder=3)
        left.scatter(*place[keep].T, s=1.25 * size, c=colour[keep], edgecolors=INK, linewidths=1.4, zorder=4)
        left.set(title=title, aspect="equal", xlim=(-1.22 * radius, 1.22 * radius), ylim=(-1.22 * radius, 1.22 * radius))
        left.set(xlabel="motion in x (longest = 1)" if math.isclose(radius, 1.0, abs_tol=1e-6) else "motion in x", ylabel="motion in y")
        sizes = np.bincount(group)
        full = np.array([keep[group == g].any() for g in range(len(sizes))])
        ticks = np.unique(sizes)
        bars = [[int(np.sum((sizes == s) & (full == flag))) for s in ticks] for flag in (True, False)]
        x = np.arange(len(ticks))
        if kept is not None:
            right.bar(x, bars[0], width=0.62, color=PALETTE[0], label="an action is kept")
        right.bar(x, bars[1], width=0.62, bottom=bars[0], color="#C9CED6", label="all dropped" if kept is not None else "groups")
        for i, total in enumerate(np.sum(bars, axis=0)):
            right.annotate(f"{total}", (x[i], total), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)
        right.set(title=f"{len(move)} actions in {len(sizes)} groups", xlabel="actions in the group", ylabel="groups")
        right.set_xticks(x, [str(s) for s in ticks])
        right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        right.grid(axis="x", visible=False)
        right.set_ylim(0, float(np.sum(bars, axis=0).max()) * (1.1 if kept is None else 1.32))
        if kept is not None:
            right.legend(loc="upper right", title=f"{keep.sum()} action{'' if keep.sum() == 1 else 's'} kept", alignment="left", fontsize=9)
    return Path(path)


def n_matrices(panels: Sequence[tuple[str, ArrayLike, ArrayLike]], path: Path | str, oracle: Sequence[ArrayLike] | None = None) -> Path:
    """Heat maps of N[a, b] at a few states, actions sorted by group; with `oracle` (one matrix a panel) exact ones stand below.

    Args: panels: (title, matrix [A, A], labels [A]); oracle: matrices [A, A] in the same order, sorted by the same labels.
    """
    from matplotlib.colors import TwoSlopeNorm

    rows = [[np.asarray(matrix, dtype=np.float64) for _, matrix, _ in panels]]
    if oracle is not None:
        rows.append([np.asarray(matrix, dtype=np.float64) for matrix in oracle])
        if len(rows[1]) != len(panels):
            raise UserError(f"oracle: got {len(rows[1])} matrices, expected {len(panels)}, one for each panel")
    low, high = (pick([pick(matrix) for row in rows for matrix in row]) for pick in (np.min, np.max))
    norm = TwoSlopeNorm(0.0, min(float(low), -1e-3), max(float(high), 1e-3))
    height = 8.0 / len(panels)
    with figure_file(path, 9, min(height, 4.2) * len(rows) + 0.4) as figure:
        grid = figure.subplots(len(rows), len(panels), squeeze=False)
        for r, row in enumerate(rows):
            for c, matrix in enumerate(row):
                axes, (title, _, labels) = grid[r, c], panels[c]
                order = np.argsort(np.asarray(labels), kind="stable")
                image = axes.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", norm=norm, interpolation="nearest", aspect="equal")
                edges = np.flatnonzero(np.diff(np.asarray(labels)[order])) + 0.5
                if len(edges) < 40:
                    for draw in (axes.axhline, axes.axvline):
                        for edge in edges:
                            draw(edge, color="white", linewidth=0.6)
                axes.grid(False)
                axes.spines[:].set_visible(False)
                axes.set(xticks=[], yticks=[])
                if r == 0:
                    axes.set_title(title, fontsize=10)
                if c == 0:
                    axes.set_ylabel(f"{('learned', 'exact')[r]}: action taken, a" if oracle is not None else "action taken, a")
                if r == len(rows) - 1:
                    axes.set_xlabel("action asked about, b")
        bar = figure.colorbar(image, ax=grid.ravel().tolist(), fraction=0.03, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
        bar.set_label("N(s, a, b), nats")
    return Path(path)
