"""Memory, foreseen: how many bytes a program will need, read off its jaxpr before it is compiled, and how many there are.

The estimate adds the arguments, the results and the most bytes of intermediate values alive at once, as if nothing were fused; what
only moves or repeats values is not counted. Against XLA's own figure after compiling it is mostly within a factor of two.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import jax
from jax.extend import core

from causal_jax.types import UserError

FREE = {"broadcast_in_dim", "iota", "convert_element_type", "reshape", "squeeze", "transpose", "expand_dims", "slice"}  # fused away
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def size(x: Any) -> int:
    """Bytes of an array or of anything with shape and dtype."""
    return math.prod(getattr(x, "shape", ())) * getattr(getattr(x, "dtype", None), "itemsize", 0)


def size_of(tree: Any) -> int:
    """Bytes of all leaves of a pytree."""
    return sum(map(size, jax.tree.leaves(tree)))


def peak(jaxpr: Any) -> int:
    """The most bytes of intermediate values of a jaxpr that are alive at once, its arguments left out."""
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if isinstance(v, core.Var)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if isinstance(v, core.Var)}
    alive: dict[Any, int] = {}
    most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        inside = max((peak(sub) for param in eqn.params.values() for sub in _jaxprs(param)), default=0)
        for v in eqn.outvars:
            alive[v] = 0 if eqn.primitive.name in FREE else size(v.aval)
        most = max(most, sum(alive.values()) + inside)
        for v in [v for v in alive if last.get(v, i) <= i]:
            del alive[v]
    return most


def _jaxprs(param: Any) -> list[Any]:
    found = []
    for x in param if isinstance(param, tuple | list) else (param,):
        inner = getattr(x, "jaxpr", x)
        found += [inner] if hasattr(inner, "eqns") else []
    return found


def available(devices: list[Any]) -> int:
    """Bytes of memory of these devices together; on CPUs that of the machine, or of the container where that is less."""
    told = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in stats for stats in told):
        return sum(int(stats["bytes_limit"]) for stats in told)
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, CGROUPS):
        text = path.read_text().strip() if path.exists() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def check(need: int, limit: int) -> None:
    """Raises: UserError, one line, when `need` bytes are more than `limit`."""
    if need > limit:
        raise UserError(
            f"memory = {text(need)}: more than the limit of {text(limit)}; take fewer members or smaller sizes, or raise --memory-limit"
        )


def text(num: float) -> str:
    """Bytes for people: MiB below one GiB, else GiB."""
    return f"{num / 2**20:,.0f} MiB" if num < 2**30 else f"{num / 2**30:,.1f} GiB"
