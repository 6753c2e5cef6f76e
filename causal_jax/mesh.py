"""The device mesh. Members of a population lie along `pop`: every device runs the program on its own members, so none ever waits for
another. The environments and minibatches of each member lie along `data`: the compiler splits the work and adds up the gradients.

Along `pop` the program is a shard_map, along `data` a jit with shardings. Members that the devices do not divide: every device has all of
them before a call and works on its own, the last ones perhaps on one that is then left out; the host puts them together again once all
devices are done (`gathered`; in the program, a device that waits for another longer than a minute would end the process).
The rule for `data`: a `rollout.Cursor` in an algorithm's state has a leading axis of environments [N], which is split; all else is whole
on every device. Further hints are in parallel.py.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causal_jax.rollout import Cursor
from causal_jax.types import UserError

AXES = ("pop", "data")
COPIES = 4  # at most so many devices keep all members


def parse(text: str) -> dict[str, int]:
    """ "pop=4,data=2" -> {"pop": 4, "data": 2}; an axis that is not named is 1. Raises: UserError for anything else."""
    sizes = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or not size.isdecimal() or int(size) < 1:
            raise UserError(f"mesh = {text!r}: must be pop=P,data=D or one of the two, counts of devices")
        sizes[name] = int(size)
    return sizes


def make_mesh(num_members: int, text: str = "", batch: dict[str, int] | None = None) -> Mesh:
    """The mesh that `text` names, e.g. "pop=4,data=2"; empty: the members along devices so that none has more of them than need be.

    Args: batch: {what: size} of the axes that `data` splits (`batch_sizes` of an algorithm); None: not known, not checked.
    Raises: UserError when devices do not exist, are more than the members, or do not divide the batch; when several processes train and a
      device is left out.
    """
    available = len(jax.devices())
    sizes = parse(text) if text else {"pop": _spread(num_members, available), "data": 1}
    text = ",".join(f"{name}={size}" for name, size in sizes.items())
    total = math.prod(sizes.values())
    if total > available:
        raise UserError(f"mesh = {text!r}: must be at most {available}, the number of devices here")
    if sizes["pop"] > num_members:
        raise UserError(f"mesh = {text!r}: pop must be at most {num_members}, the number of members")
    if num_members % sizes["pop"] and (sizes["data"] > 1 or jax.process_count() > 1):
        raise UserError(f"mesh = {text!r}: pop must divide the {num_members} members, with data or several processes")
    if sizes["data"] > 1 and batch == {}:
        raise UserError(f"mesh = {text!r}: data must be 1, this algorithm has no environments or minibatches to split")
    for name, size in (batch or {}).items():
        if size % sizes["data"]:
            raise UserError(f"mesh = {text!r}: data must divide {name} = {size}")
    if jax.process_count() > 1 and total < available:
        raise UserError(f"mesh = {text!r}: must use all {available} devices of the {jax.process_count()} processes")
    return Mesh(np.asarray(jax.devices()[:total]).reshape(tuple(sizes.values())), AXES)


def even(num_members: int, available: int) -> int:
    """The most devices that divide the members."""
    return max(n for n in range(1, available + 1) if num_members % n == 0)


def _spread(num_members: int, available: int) -> int:
    """Devices for the members: as many as divide them, or up to COPIES that do not where the fullest of those then has fewer."""
    most = even(num_members, available)
    rounds = -(-num_members // min(available, COPIES))
    uneven = -(-num_members // rounds)
    return uneven if rounds < num_members // most and jax.process_count() == 1 else most


def copies(mesh: Mesh, num_members: int) -> int:
    """On how many devices every member lies: 1, or all of them where the members cannot be split evenly."""
    return mesh.size if num_members % mesh.shape["pop"] else 1


def batch_sizes(module: Any, config: Any) -> dict[str, int]:
    """{what: size} of what a `data` axis splits: the algorithm module's own `batch_sizes`, else its number of environments."""
    if hasattr(module, "batch_sizes"):
        return dict(module.batch_sizes(config))
    return {"num_envs": config.num_envs} if hasattr(config, "num_envs") else {}


def shardings(run: Any, mesh: Mesh) -> Any:
    """Where the leaves of a training.Run lie: members [M, ...] along `pop`, a Cursor's environments [M, N, ...] along `data`.

    Members that `pop` does not divide lie on every device.
    """
    whole, members = NamedSharding(mesh, PartitionSpec()), _of_members(mesh, run.key.shape[0])
    split = NamedSharding(mesh, PartitionSpec(*AXES))

    def place(part: Any) -> Any:
        size = mesh.shape["data"]
        if not isinstance(part, Cursor) or size == 1:
            return members
        return jax.tree.map(lambda x: split if x.ndim > 1 and x.shape[1] % size == 0 else members, part)

    placed = jax.tree.map(place, run._replace(t=None), is_leaf=lambda part: isinstance(part, Cursor))
    return placed._replace(t=whole)


def _of_members(mesh: Mesh, num_members: int) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec() if num_members % mesh.shape["pop"] else PartitionSpec("pop"))


def place(tree: Any, shardings: Any) -> Any:
    """Put arrays that every process holds where the shardings say; each process keeps its own part. No communication."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(x: Any, sharding: NamedSharding) -> Any:
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(x) if key else x)
        placed = jax.make_array_from_callback(data.shape, sharding, lambda index: data[index])
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(x)) if key else placed

    return jax.tree.map(put, tree, jax.tree.broadcast(shardings, tree))


def shard_run(run: Any, mesh: Mesh) -> Any:
    """Place a training.Run on the mesh."""
    return place(run, shardings(run, mesh))


def everywhere(tree: Any) -> Any:
    """Place all of a tree on every device of every process."""
    return place(tree, NamedSharding(Mesh(np.asarray(jax.devices()), ("pop",)), PartitionSpec()))


def _by_member(use: Callable[[int, Any], Any], axes: Any, tree: Any, shared: Callable[[Any], Any] = lambda x: x) -> Any:
    """use(axis, leaf) of the leaves with an axis of members, shared(leaf) of the others. axes: as for vmap, a prefix pytree of the tree."""
    places = jax.tree.map(lambda axis: -1 if axis is None else axis, axes, is_leaf=lambda axis: axis is None)
    return jax.tree.map(lambda axis, x: shared(x) if axis < 0 else use(axis, x), jax.tree.broadcast(places, tree), tree)


def shard_task(task: Any, task_axes: Any, mesh: Mesh) -> Any:
    """Place the parts of a task that differ by member (axis 0 in task_axes) along `pop`, the others on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return place(task, _by_member(lambda axis, x: _of_members(mesh, x.shape[axis]), task_axes, task, lambda x: whole))


def mesh_of(run: Any) -> Mesh | None:
    """The mesh on which a run was placed; None where it lies on one device."""
    mesh = getattr(run.t.sharding, "mesh", None)
    return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None


def over_members(function: Callable[..., Any], mesh: Mesh | None, in_axes: tuple[Any, ...], out_axes: Any) -> Callable[..., Any]:
    """`function` of whole populations as a program in which every device has only its own members.

    Args: in_axes, out_axes: as for vmap, the place of the member axis in the arguments and results (prefix pytrees of None, 0, 1).
    Returns: results for all members; for more, up to a multiple of the devices, where these do not divide them (see `gathered`).
    """
    if mesh is None:
        return function

    num_devices = mesh.shape["pop"]

    def specs(axes: Any) -> Any:
        return jax.tree.map(
            lambda axis: PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "pop"), axes, is_leaf=lambda axis: axis is None
        )

    def shard(function: Callable[..., Any], in_specs: Any) -> Callable[..., Any]:
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=specs(out_axes), axis_names={"pop"}, check_vma=False)

    def sharded(*arguments: Any) -> Any:
        sizes: list[int] = []
        _by_member(lambda axis, x: sizes.append(x.shape[axis]), in_axes, arguments)
        num_members = sizes[0]
        if num_members % num_devices == 0:
            return shard(function, specs(in_axes))(*arguments)
        rounds = -(-num_members // num_devices)

        def of_mine(*arguments: Any) -> Any:
            mine = jnp.minimum(jax.lax.axis_index("pop") * rounds + jnp.arange(rounds), num_members - 1)
            return function(*_by_member(lambda axis, x: jnp.take(x, mine, axis), in_axes, arguments))

        return shard(of_mine, PartitionSpec())(*arguments)

    return sharded


def gathered(tree: Any, mesh: Mesh, num_members: int, axis: int = 0) -> Any:
    """What a program of `over_members` returned, with these members alone and all of them on every device. Waits for all devices."""
    return _gather(jax.block_until_ready(tree), mesh, num_members, axis)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _gather(tree: Any, mesh: Mesh, num_members: int, axis: int) -> Any:
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(jax.lax.slice_in_dim(x, 0, num_members, axis=axis), whole), tree)


def ambient(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """The context in which a program is traced for a mesh: parallel.py reads it."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def _same(tree: Any) -> Any:
    return tree


def fetch(tree: Any) -> Any:
    """The tree as numpy arrays, whole, on every process."""
    if jax.process_count() > 1:  # a leaf may lie in part on devices of other processes
        meshes = [x.sharding.mesh for x in jax.tree.leaves(tree) if not x.is_fully_addressable]
        tree = jax.jit(_same, out_shardings=NamedSharding(meshes[0], PartitionSpec()))(tree) if meshes else tree
    return jax.device_get(tree)


def use_all_cores() -> None:
    """One device per CPU core, before jax starts: a population's small operations keep a core busy each, but not two.

    Nothing where XLA_FLAGS or JAX_NUM_CPU_DEVICES say already how many, where jax has started, and on accelerators.
    """
    if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", "") and "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # jax has started
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
