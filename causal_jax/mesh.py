"""The device mesh: members of a population are sharded along `pop`; they never talk, so no collective is compiled."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causal_jax.types import UserError


def population_mesh(num_members: int, num_devices: int = 0) -> Mesh:
    """A one-axis mesh `pop` over `num_devices` devices (0: the most that divide the members).

    Raises: UserError when the devices do not exist or do not divide the members.
    """
    available = len(jax.devices())
    num_devices = num_devices or max(n for n in range(1, available + 1) if num_members % n == 0)
    if num_devices > available:
        raise UserError(f"devices = {num_devices}: must be at most {available}, the number of devices here")
    if num_members % num_devices:
        raise UserError(f"devices = {num_devices}: must divide the {num_members} members")
    return Mesh(np.asarray(jax.devices()[:num_devices]), ("pop",))


def shard_run(run: Any, mesh: Mesh) -> Any:
    """Place the member axis [M, ...] of key, state and hyper along `pop`; t is on every device."""
    members, everywhere = NamedSharding(mesh, PartitionSpec("pop")), NamedSharding(mesh, PartitionSpec())
    return type(run)(*jax.device_put(run[:3], members), jax.device_put(run.t, everywhere))


def shard_task(task: Any, task_axes: Any, mesh: Mesh) -> Any:
    """Place the parts of a task that differ by member (axis 0 in task_axes) along `pop`, the others on every device."""

    def place(axis: int | None, part: Any) -> Any:
        return jax.device_put(part, NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec("pop")))

    return place(None, task) if task_axes is None else jax.tree.map(place, task_axes, task, is_leaf=lambda axis: axis is None)


def use_all_cores() -> None:
    """One device per CPU core, before jax starts: a population's small operations keep a core busy each, but not two.

    Nothing where XLA_FLAGS or JAX_NUM_CPU_DEVICES say already how many, and nothing on accelerators.
    """
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", "") and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
