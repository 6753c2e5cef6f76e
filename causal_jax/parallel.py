"""Hints for the compiler about the mesh axis `data`, which splits the environments and minibatches of one member over devices.

An algorithm is right without them: what is not said, the compiler decides, and no hint changes a number by more than the order of a sum.
They are nothing where the program is not compiled for a mesh with such an axis (mesh.py). For one member: the caller vmaps.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec


def _constrain(tree: Any, spec: PartitionSpec) -> Any:
    if jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def split(tree: Any) -> Any:
    """The same tree, the leading axis of every leaf [B, ...] along `data`: each device computes what depends on its rows only."""
    return _constrain(tree, PartitionSpec("data"))


def gather(tree: Any) -> Any:
    """The same tree, all of it on every device: once, before rows of it are picked again and again."""
    return _constrain(tree, PartitionSpec())
