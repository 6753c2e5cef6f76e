"""Functions of rows where only some rows count: blocks of the others are left out, in the gradient too. The same numbers for less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def true_first(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the order [P] that puts what is True first and otherwise changes nothing, how many are True): mask bool [P]."""
    num = jnp.sum(mask)
    place = jnp.where(mask, jnp.cumsum(mask) - 1, num + jnp.cumsum(~mask) - 1)
    return jnp.zeros_like(place).at[place].set(jnp.arange(mask.size, dtype=place.dtype), unique_indices=True), num


def where(mask: jax.Array, f: Callable[[Any, jax.Array, Any], Any], params: Any, x: jax.Array, rest: Any, block: int) -> Any:
    """f(params, x, rest) in the rows where mask is True, zeros in the others.

    The rows that count are moved together; of `block` rows that hold none of them nothing is computed. Differentiable by params and x, by
    computing f once more.
    Args: mask: bool [P]. f: (params, x [B, ...], rest) -> leaves [B, ...], which treats every row by itself, reads nothing traced but its
      arguments and has a finite value and gradient at rows of zeros, with which blocks are filled. x: float [P, ...]. rest: what else f
      reads, leaves [P, ...] without gradient. block: rows at a time.
    """
    count = mask.size
    block = min(block, count)
    size = -(-count // block) * block

    def together(rows: Any, order: jax.Array, num: jax.Array) -> Any:
        """Rows that count first, zeros behind them, whole blocks."""

        def one(x: jax.Array) -> jax.Array:
            counts = (jnp.arange(count) < num).reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.pad(jnp.where(counts, x[order], 0), ((0, size - count), *((0, 0),) * (x.ndim - 1)))

        return jax.tree.map(one, rows)

    def apart(rows: Any, order: jax.Array, num: jax.Array) -> Any:
        """The inverse of `together`: zeros in the rows that do not count."""

        def one(x: jax.Array) -> jax.Array:
            place = jnp.where(jnp.arange(count) < num, order, count)
            return jnp.zeros((count, *x.shape[1:]), x.dtype).at[place].set(x[:count], mode="drop")

        return jax.tree.map(one, rows)

    def cut(rows: Any, i: jax.Array) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * block, block), rows)

    def put(rows: Any, new: Any, i: jax.Array) -> Any:
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i * block, 0), rows, new)

    @jax.custom_vjp
    def apply(params: Any, x: jax.Array, rest: Any, order: jax.Array, num: jax.Array) -> Any:
        x, rest = together((x, rest), order, num)
        one = jax.eval_shape(f, params, *cut((x, rest), num))
        out = jax.tree.map(lambda y: jnp.zeros((size, *y.shape[1:]), y.dtype), one)
        out = jax.lax.fori_loop(0, -(-num // block), lambda i, out: put(out, f(params, *cut((x, rest), i)), i), out)
        return apart(out, order, num)

    def forward(*arguments: Any) -> tuple[Any, Any]:
        return apply(*arguments), arguments

    def backward(saved: Any, grads: Any) -> tuple[Any, ...]:
        params, x, rest, order, num = saved
        x, rest, grads = together((x, rest, grads), order, num)

        def one(i: jax.Array, found: Any) -> Any:
            _, pull = jax.vjp(lambda params, x: f(params, x, cut(rest, i)), params, cut(x, i))
            of_params, of_x = pull(cut(grads, i))
            return jax.tree.map(jnp.add, found[0], of_params), put(found[1], of_x, i)

        start = jax.tree.map(jnp.zeros_like, (params, x))
        of_params, of_x = jax.lax.fori_loop(0, -(-num // block), one, start)
        return of_params, apart(of_x, order, num), None, None, None

    apply.defvjp(forward, backward)
    return apply(params, x, rest, *true_first(mask))
