"""Masks of states that repeat are computed once: a table from a state's fingerprint to its kept set, inside jit.

CEE and NPM (arXiv 2501.14543, 2312.06258) compute an [A, A] matrix and its groups at every step. Phase 2 reads a frozen N-network, so where
the selection draws nothing (all but npm-random, and cee in mode "authors") the mask is a function of the observation alone.
One slot per hash value, the newest state wins. A fingerprint has 64 bits: two different states share one with probability 2^-64.
Speed: python -m experiments.benchmarks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.types import UserError


class Cache(NamedTuple):
    """`tag` uint32 [S, 2]: fingerprint of the state in each slot; `full` bool [S]: there is one; `kept` bool [S, A]: its mask."""

    tag: jax.Array
    full: jax.Array
    kept: jax.Array


def empty(num_slots: int, num_actions: int) -> Cache:
    """A cache of S slots for A actions, S x A bytes. Raises: UserError for fewer than one of either."""
    for name, value in (("num_slots", num_slots), ("num_actions", num_actions)):
        if value < 1:
            raise UserError(f"{name} = {value}: must be 1 <= x")
    return Cache(jnp.zeros((num_slots, 2), jnp.uint32), jnp.zeros(num_slots, bool), jnp.zeros((num_slots, num_actions), bool))


def fingerprint(obs: jax.Array) -> jax.Array:
    """uint32 [2] of an observation float32 [D], by its bits (so -0.0 is not 0.0).

    Every coordinate is mixed (MurmurHash3's finaliser, after a constant of its own) before they are added: the bits of 0.0 and 1.0 differ
    in the high half only, which a sum of products alone would lose.
    """
    bits = jax.lax.bitcast_convert_type(jnp.asarray(obs, jnp.float32).reshape(-1), jnp.uint32)
    constants = np.random.default_rng(0).integers(0, 2**32, (2, bits.size), np.uint32)
    x = bits ^ constants
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return jnp.sum(x ^ (x >> 16), axis=1, dtype=jnp.uint32)


def masks(cache: Cache, obs: jax.Array, compute: Callable[[jax.Array], jax.Array], chunk: int = 8) -> tuple[Cache, jax.Array, jax.Array]:
    """The kept sets of a batch, from the cache where they are in it.

    Args: obs: [B, D]. compute: obs [D] -> bool [A], always the same one for a cache. chunk: states computed at a time; it bounds the memory
      of the [A, A] matrices. A state that is twice in the batch is computed once, if not in the same chunk.
    Returns: (cache, kept bool [B, A], number of masks computed int32 []).
    """
    batch, (slots, num_actions) = obs.shape[0], cache.kept.shape
    tag = jax.vmap(fingerprint)(obs)
    slot = (tag[:, 0] % jnp.uint32(slots)).astype(jnp.int32)

    def look(cache: Cache, kept: jax.Array, todo: jax.Array) -> tuple[jax.Array, jax.Array]:
        hit = todo & cache.full[slot] & jnp.all(cache.tag[slot] == tag, axis=1)
        return jnp.where(hit[:, None], cache.kept[slot], kept), todo & ~hit

    def more(carry: tuple[Cache, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(carry[2])

    def work(carry: tuple[Cache, jax.Array, jax.Array, jax.Array]) -> tuple[Cache, jax.Array, jax.Array, jax.Array]:
        cache, kept, todo, count = carry
        rows = jnp.nonzero(todo, size=chunk, fill_value=batch)[0]  # `batch` is no row: read as the last one, written nowhere
        fresh = jax.vmap(compute)(jnp.take(obs, rows, axis=0, mode="clip"))
        where = jnp.where(rows < batch, jnp.take(slot, rows, mode="clip"), slots)
        earlier = jnp.tril(where[:, None] == where[None, :], -1).any(1)  # writes to one slot have no order: the first row's alone is made
        where = jnp.where(earlier, slots, where)
        cache = Cache(
            cache.tag.at[where].set(jnp.take(tag, rows, axis=0, mode="clip"), mode="drop"),
            cache.full.at[where].set(True, mode="drop"),
            cache.kept.at[where].set(fresh, mode="drop"),
        )
        kept, todo = kept.at[rows].set(fresh, mode="drop"), todo.at[rows].set(False, mode="drop")
        return cache, *look(cache, kept, todo), count + jnp.sum(rows < batch, dtype=jnp.int32)

    start = look(cache, jnp.zeros((batch, num_actions), bool), jnp.ones(batch, bool))
    cache, kept, _, count = jax.lax.while_loop(more, work, (cache, *start, jnp.int32(0)))
    return cache, kept, count
