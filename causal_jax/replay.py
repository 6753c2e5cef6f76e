"""A ring of rows on the device: add rows, sample rows, sample windows, sample across the rings of several learners.

A row is any pytree, usually a Transition; leaves keep their dtype (uint8 images stay uint8). Once full, the newest rows overwrite
the oldest. For one member: the caller vmaps. There is no `add if ...`: a condition that differs between members would turn the write
into a select over the whole buffer (20000 times slower at 1e6 rows). Decide from the iteration counter, or store a mask in the row.
Rows are drawn with replacement, by `randint`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.types import Key, UserError


class Buffer(NamedTuple):
    """rows: pytree of [capacity, ...]. head: int32 [], where the next row goes. size: int32 [], rows filled (the first `size`)."""

    rows: Any
    head: jax.Array
    size: jax.Array


def _capacity(buffer: Buffer) -> int:
    return int(jax.tree.leaves(buffer.rows)[0].shape[0])


def init(example_row: Any, capacity: int) -> Buffer:
    """An empty ring of `capacity` rows shaped like example_row (a pytree of arrays or of jax.ShapeDtypeStruct).

    Raises UserError for a capacity below 1.
    """
    if capacity < 1:
        raise UserError(f"capacity = {capacity}: must be 1 <= x")
    specs = jax.eval_shape(lambda row: row, example_row)
    rows = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), specs)
    return Buffer(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(buffer: Buffer, rows: Any) -> Buffer:
    """Append rows (pytree of [n, ...], oldest first, n static and <= capacity), overwriting the oldest once full.

    Raises UserError where n exceeds the capacity or a leaf's dtype is not the buffer's (a silent cast would lose data).
    """
    capacity, num = _capacity(buffer), int(jax.tree.leaves(rows)[0].shape[0])
    if num > capacity:
        raise UserError(f"rows = {num}: must be at most the capacity, {capacity}")
    index = (buffer.head + jnp.arange(num, dtype=jnp.int32)) % capacity

    def write(ring: jax.Array, new: jax.Array) -> jax.Array:
        if ring.dtype != new.dtype:
            raise UserError(f"rows.dtype = {new.dtype}: must be {ring.dtype}, as in the example row")
        return ring.at[index].set(new, mode="promise_in_bounds", unique_indices=True)

    head, size = (buffer.head + num) % capacity, jnp.minimum(buffer.size + num, capacity)
    return Buffer(jax.tree.map(write, buffer.rows, rows), head, size)


def sample(buffer: Buffer, key: Key, num: int) -> Any:
    """`num` rows drawn uniformly from the filled part, with replacement: pytree of [num, ...]. The key is consumed.

    An empty ring gives rows of zeros.
    """
    index = jax.random.randint(key, (num,), 0, jnp.maximum(buffer.size, 1))
    return jax.tree.map(lambda ring: ring[index], buffer.rows)


def windows(buffer: Buffer, key: Key, num: int, length: int) -> Any:
    """`num` runs of `length` rows in the order they were added: pytree of [num, length, ...]. The key is consumed.

    Starts are uniform over all that fit, so no window joins the newest row to the oldest. Add one row per time step (of one
    environment, or with an axis of environments inside the row), or a window mixes environments. Needs size >= length: before that,
    windows end in rows of zeros. Raises UserError for a length above the capacity.
    """
    capacity = _capacity(buffer)
    if not 1 <= length <= capacity:
        raise UserError(f"length = {length}: must be 1 <= x <= {capacity}, the capacity")
    oldest = jnp.where(buffer.size < capacity, 0, buffer.head)
    start = jax.random.randint(key, (num, 1), 0, jnp.maximum(buffer.size - length + 1, 1))
    index = (oldest + start + jnp.arange(length, dtype=jnp.int32)) % capacity
    return jax.tree.map(lambda ring: ring[index], buffer.rows)


def across(buffers: Buffer, key: Key, weights: jax.Array, num: int) -> Any:
    """`num` rows for one learner out of the rings of all L learners: pytree of [num, ...]. The key is consumed.

    Each row's ring is drawn with probability proportional to weights [L] (>= 0; rings without rows are left out), then a row of it
    uniformly. Reads rows where they lie: under vmap over keys and weights, with buffers shared (in_axes None), nothing is copied.
    Where no ring with rows has a positive weight, the rows are of ring 0.
    Args: buffers: a Buffer whose leaves have a leading axis L. weights: float [L], need not sum to 1.
    """
    key_ring, key_row = jax.random.split(key)
    chance = jnp.cumsum(jnp.where(buffers.size > 0, weights, 0.0))
    # strictly below the total and "right", so that a ring of weight 0 is never drawn
    uniform = jax.random.uniform(key_ring, (num,)) * chance[-1]
    ring = jnp.searchsorted(chance, uniform, side="right")
    ring = jnp.where(chance[-1] > 0, jnp.minimum(ring, jnp.argmax(chance)), 0)
    row = jax.random.randint(key_row, (num,), 0, jnp.maximum(buffers.size[ring], 1))
    return jax.tree.map(lambda rings: rings[ring, row], buffers.rows)


def permutation(key: Key, num: int) -> jax.Array:
    """A random order of 0 .. num-1, int32 [num]. The key is consumed.

    Sorts random bits that carry the index in their low bits: one plain sort, 7 times cheaper on CPU than jax.random.permutation. Up to
    2^16 rows at least 16 random bits decide; the few ties stay in index order. More rows go to jax.random.permutation.
    """
    if num > 2**16:
        return jax.random.permutation(key, num)
    low = max(num - 1, 1).bit_length()
    packed = (jax.random.bits(key, (num,), jnp.uint32) << low) | jnp.arange(num, dtype=jnp.uint32)
    return (jnp.sort(packed) & ((1 << low) - 1)).astype(jnp.int32)
