"""Hints for the compiler about the mesh axis `data`, which splits the environments and minibatches of one member over devices.

An algorithm is right without them: what is not said, the compiler decides, and no hint changes a number by more than the order of a sum.
They are nothing where the program is not compiled for a mesh with such an axis (mesh.py). For one member: the caller vmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
from jax.sharding import PartitionSpec


def _num_devices() -> int:
    return jax.sharding.get_abstract_mesh().shape.get("data", 1)


def _constrain(tree: Any, spec: PartitionSpec) -> Any:
    if _num_devices() == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def split(tree: Any) -> Any:
    """The same tree, the leading axis of every leaf [B, ...] along `data`: each device computes what depends on its rows only."""
    return _constrain(tree, PartitionSpec("data"))


def gather(tree: Any) -> Any:
    """The same tree, all of it on every device: once, before rows of it are picked again and again."""
    return _constrain(tree, PartitionSpec())


def by_rows(f: Callable[[Any, Any], Any], whole: Any, rows: Any, axis: Any = 0) -> Any:
    """f(whole, rows) where every device along `data` has its own rows: leaves [..., B, ...], the axis of B given (a prefix pytree of ints).

    f says itself where the devices must agree (`mean`, `everyone`), and what it returns must be the same on all; cheaper than hints where
    the compiler would have them talk in every step of a loop.
    """
    if _num_devices() == 1:
        return f(whole, rows)
    split = jax.tree.map(lambda axis: PartitionSpec(*[None] * axis, "data"), axis)
    return jax.shard_map(f, in_specs=(PartitionSpec(), split), out_specs=PartitionSpec(), axis_names={"data"}, check_vma=False)(whole, rows)


def everyone(x: jax.Array) -> jax.Array:
    """Inside `by_rows`: the rows of all devices, [B, ...], from this device's."""
    return x if _num_devices() == 1 else jax.lax.all_gather(x, "data", tiled=True)


def mean(tree: Any) -> Any:
    """Inside `by_rows`: the mean over devices of every leaf (float), of all at once: meeting costs more than the numbers."""
    if _num_devices() == 1:
        return tree
    flat, back = jax.flatten_util.ravel_pytree(tree)
    return back(jax.lax.pmean(flat, "data"))


def portion(num: int) -> int:
    """How many of `num` rows each device along `data` has, rounded up."""
    return -(-num // _num_devices())
