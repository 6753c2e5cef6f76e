"""What the pictures of concurrent learners show: what was found of their worlds beside the truth, and who learns from whom.

Member 0 of a run of `algorithms/concurrent_ddpg.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from causal_jax import runs
from causal_jax.algorithms import concurrent_ddpg
from causal_jax.evaluation import member_of
from causal_jax.page import Section
from causal_jax.plots import PALETTE, figure_file


def has_learners(loaded: runs.Loaded) -> bool:
    """A run of concurrent learners."""
    return loaded.resolved.module is concurrent_ddpg


def sections(loaded: runs.Loaded, place: Path, label: str, prefix: str) -> list[Section]:
    """The sections of one run; the file is place/<prefix>sharing.png."""
    state, _ = member_of(loaded, 0)
    worlds, found = state.worlds, state.sharing
    image = draw(
        np.asarray(found.theta)[:, 0], np.asarray(worlds.value), np.asarray(worlds.group), np.asarray(found.weights), place, prefix
    )
    ran = loaded.resolved.config.sharing in ("ccrl", "shuffled")
    text = f"Found from {loaded.resolved.config.samples} random transitions of each; worlds differ: {bool(found.differ)}. " if ran else ""
    return [
        Section(f"Who learns from whom: {label}", f"{text}Row n: the share of learner n's batches that comes from each learner.", [image])
    ]


def draw(theta: Any, value: Any, group: Any, weights: Any, place: Path, prefix: str = "") -> Path:
    """theta [L] against the true parameter [L], coloured by group [L], and the weights [L, L]; returns place/<prefix>sharing.png."""
    path = place / f"{prefix}sharing.png"
    with figure_file(path, 8.4, 3.7) as figure:
        left, right = figure.subplots(1, 2)
        left.scatter(value, theta, c=[PALETTE[int(g) % len(PALETTE)] for g in group], s=36)
        left.set(xlabel="true parameter of the world", ylabel="theta")
        left.set_title("What was found", loc="left")
        shown = right.imshow(weights, cmap="viridis", vmin=0.0)
        figure.colorbar(shown, ax=right, shrink=0.8)
        right.set(xlabel="whose data", ylabel="learner")
        right.grid(False)
        right.locator_params(integer=True)
        right.set_title("Sharing", loc="left")
    return path
