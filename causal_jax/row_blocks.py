"""Functions of rows where only some rows count: blocks of the others are left out, in the gradient too. The same numbers for less work.

`where`: one call for rows picked by a mask; `unroll`: rows moved on step by step, ever fewer of them.
"""

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


def unroll(counts: jax.Array, f: Callable[[Any, jax.Array, Any], jax.Array], params: Any, x: jax.Array, rest: Any, block: int) -> jax.Array:
    """Rows moved on step by step, [H, P, D]: x_t+1 = f(params, x_t, rest_t) in the first counts[t] rows, zeros in the others.

    Blocks of `block` rows without one that counts are not computed, and steps without one cost nothing. Differentiable by params and x, by
    computing f once more.
    Args: counts: int [H], never rising. f: (params, x [B, D], rest) -> [B, D], which treats every row by itself and reads nothing traced
      but its arguments. x: float [P, D]. rest: what else f reads, leaves [H, P, ...] without gradient.
    """
    horizon, count = counts.shape[0], x.shape[0]
    block = min(block, count)
    pad = -count % block
    ends = jnp.cumsum(-(-counts // block))

    def at(i: jax.Array, ends: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(step, first row) of the i-th block that is computed."""
        step = jnp.sum(ends <= i)
        return step, (i - jnp.where(step > 0, ends[step - 1], 0)) * block

    def cut(rows: Any, step: jax.Array, row: jax.Array) -> Any:
        def one(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(x, (step, row, *(0,) * (x.ndim - 2)), (1, block, *x.shape[2:]))[0]

        return jax.tree.map(one, rows)

    def put(rows: jax.Array, new: jax.Array, step: jax.Array, row: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(rows, new[None], (step, row, 0))

    @jax.custom_vjp
    def apply(params: Any, x: jax.Array, rest: Any, ends: jax.Array) -> jax.Array:
        """All states [H + 1, P', D], the first one included."""

        def one(i: jax.Array, states: jax.Array) -> jax.Array:
            step, row = at(i, ends)
            return put(states, f(params, cut(states, step, row), cut(rest, step, row)), step + 1, row)

        return jax.lax.fori_loop(0, ends[-1], one, jnp.pad(x[None], ((0, horizon), (0, 0), (0, 0))))

    def forward(params: Any, x: jax.Array, rest: Any, ends: jax.Array) -> tuple[jax.Array, Any]:
        states = apply(params, x, rest, ends)
        return states, (params, states, rest, ends)

    def backward(saved: Any, grads: jax.Array) -> tuple[Any, ...]:
        params, states, rest, ends = saved

        def one(i: jax.Array, found: Any) -> Any:
            step, row = at(ends[-1] - 1 - i, ends)
            _, pull = jax.vjp(lambda params, x: f(params, x, cut(rest, step, row)), params, cut(states, step, row))
            of_params, of_x = pull(cut(found[1], step + 1, row))
            return jax.tree.map(jnp.add, found[0], of_params), put(found[1], cut(found[1], step, row) + of_x, step, row)

        of_params, of_states = jax.lax.fori_loop(0, ends[-1], one, (jax.tree.map(jnp.zeros_like, params), grads))
        return of_params, of_states[0], None, None

    apply.defvjp(forward, backward)
    padded = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, pad), *((0, 0),) * (x.ndim - 2))), rest)
    states = apply(params, jnp.pad(x, ((0, pad), (0, 0))), padded, ends)[1:, :count]
    return jnp.where((jnp.arange(count) < counts[:, None])[..., None], states, 0.0)


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
