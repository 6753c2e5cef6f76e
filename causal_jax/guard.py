"""What watches over a run on the host: divergence (NaN, infinity) and the request to stop (SIGTERM).

A member has diverged when a leaf of its state that was finite when the process began is not any more, or when a metric is infinite or
NaN; metrics named episode_* may be NaN, which means that no episode ended. The state is read once a chunk, by a program of its own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Divergence(NamedTuple):
    """Where a member diverged: `update` counts from 1 and is the last of the chunk where no metric tells it; `what` names the leaf."""

    update: int
    what: str


def finite(state: Any) -> dict[str, jax.Array]:
    """{path of a leaf: bool [M], whether all of it is finite} for every float leaf [M, ...] of a population's state."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    floats = {jax.tree_util.keystr(path): x for path, x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)}
    return {path: jnp.all(jnp.isfinite(x), axis=range(1, x.ndim)) for path, x in floats.items()}


def divergences(t: int, metrics: Mapping[str, np.ndarray], leaves: Mapping[str, np.ndarray]) -> dict[int, Divergence]:
    """The members that diverged in a chunk that ended at update t.

    Args: metrics: {name: [updates, M]}. leaves: {path: bool [M]}, as `finite`.
    Returns: {member: where first}: the first update in which a metric is bad, the first of the metrics and of the leaves that are.
    """
    signs: dict[int, list[Divergence]] = {}
    for name, values in metrics.items():
        if np.issubdtype(values.dtype, np.inexact):
            bad = np.isinf(values) if name.startswith("episode_") else ~np.isfinite(values)
            for m in np.flatnonzero(bad.any(axis=0)).tolist():
                row = int(np.argmax(bad[:, m]))
                signs.setdefault(m, []).append(Divergence(t - len(values) + row + 1, f"{name} = {values[row, m]:g}"))
    found = {m: min(told, key=lambda sign: sign.update) for m, told in signs.items()}
    for path, good in leaves.items():
        for m in np.flatnonzero(~good).tolist():
            if m not in found:
                found[m] = Divergence(t, f"state{path} is not finite")
            elif " is not finite" not in found[m].what:
                found[m] = Divergence(found[m].update, f"{found[m].what}, state{path} is not finite")
    return dict(sorted(found.items()))


def excluded(tree: Any, members: list[int]) -> Any:
    """Nested dicts of arrays [M] with NaN in the place of the given members."""
    if isinstance(tree, Mapping):
        return {name: excluded(value, members) for name, value in tree.items()}
    values = np.array(tree, float)
    values[members] = np.nan
    return values


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """While it lasts SIGTERM only sets a flag; yields a function that reads it. Nothing outside the main thread."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
