"""Functions of the rows that count: same values and gradients as of all rows and a mask, whatever counts and whatever the block."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import row_blocks

KEY = jax.random.key(0)
PARAMS = {"w": jax.random.normal(KEY, (3, 4)), "b": jnp.arange(4.0)}
X = jax.random.normal(jax.random.key(1), (10, 3))
CHOICE = jnp.arange(10) % 4
UPSTREAM = jax.random.normal(jax.random.key(2), (10, 2))


def f(params: Any, x: jax.Array, choice: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A pair of outputs that depends on an integer as well."""
    y = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.take_along_axis(y, choice[:, None], axis=1)[:, 0], jnp.sum(y, axis=-1)


def all_rows(params: Any, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    first, second = f(params, x, CHOICE)
    return jnp.where(mask, first, 0.0), jnp.where(mask, second, 0.0)


MASKS = [np.zeros(10, bool), np.ones(10, bool), np.arange(10) % 3 == 0, np.arange(10) == 9]


def test_true_first_keeps_the_order() -> None:
    order, num = row_blocks.true_first(jnp.asarray([False, True, False, True]))
    assert order.tolist() == [1, 3, 0, 2]
    assert int(num) == 2


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("block", [1, 4, 10, 64])
def test_values_and_gradients_are_those_of_the_rows_that_count(mask: np.ndarray, block: int) -> None:
    def loss(how: Any) -> Any:
        return lambda params, x: jnp.sum(jnp.stack(how(params, x), axis=-1) * UPSTREAM)

    def blocks(params: Any, x: jax.Array) -> Any:
        return row_blocks.where(jnp.asarray(mask), f, params, x, CHOICE, block)

    def plain(params: Any, x: jax.Array) -> Any:
        return all_rows(params, x, jnp.asarray(mask))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), blocks(PARAMS, X), plain(PARAMS, X))
    got, want = (jax.grad(loss(how), argnums=(0, 1))(PARAMS, X) for how in (blocks, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_rows_that_do_not_count_are_not_read() -> None:
    """Not a number in a row that does not count reaches neither values nor gradients."""
    mask = jnp.asarray(MASKS[2])
    x = jnp.where(mask[:, None], X, jnp.nan)

    def loss(params: Any) -> jax.Array:
        return jnp.sum(row_blocks.where(mask, f, params, x, CHOICE, 4)[1])

    assert np.isfinite(loss(PARAMS))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(loss)(PARAMS)))


def test_vmaps_over_members_with_different_rows() -> None:
    masks = jnp.asarray(np.stack(MASKS))
    scale = jnp.arange(1.0, 5.0)

    def blocks(mask: jax.Array, scale: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda p: p * scale, PARAMS)
        return jnp.sum(row_blocks.where(mask, f, params, X, CHOICE, 4)[1])

    def plain(mask: jax.Array, scale: jax.Array) -> jax.Array:
        return jnp.sum(all_rows(jax.tree.map(lambda p: p * scale, PARAMS), X, mask)[1])

    np.testing.assert_allclose(jax.vmap(blocks)(masks, scale), jax.vmap(plain)(masks, scale), rtol=1e-5, atol=1e-6)
    got, want = (jax.vmap(jax.grad(how, argnums=1))(masks, scale) for how in (blocks, plain))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


CODES = jax.random.randint(jax.random.key(3), (4, 10), 0, 3)
COUNTS = [[10, 10, 10, 10], [10, 7, 3, 0], [1, 1, 0, 0], [0, 0, 0, 0], [8, 8, 4, 4]]


def turned(params: Any, x: jax.Array, code: jax.Array) -> jax.Array:
    """A step that keeps the width of x [B, 3] and depends on an integer as well."""
    return jnp.tanh(x @ params["w"][:, :3] + params["b"][:3] + code[:, None])


def step_by_step(params: Any, x: jax.Array, counts: jax.Array) -> jax.Array:
    """All rows of all steps, and a mask."""
    rows = []
    for code, count in zip(CODES, counts, strict=True):
        x = turned(params, x, code)
        rows.append(jnp.where(jnp.arange(10)[:, None] < count, x, 0.0))
    return jnp.stack(rows)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("block", [1, 4, 10, 64])
def test_unrolled_values_and_gradients_are_those_of_the_rows_that_count(counts: list[int], block: int) -> None:
    upstream, num = jax.random.normal(KEY, (4, 10, 3)), jnp.asarray(counts)

    def blocks(params: Any, x: jax.Array) -> jax.Array:
        return row_blocks.unroll(num, turned, params, x, CODES, block)

    def plain(params: Any, x: jax.Array) -> jax.Array:
        return step_by_step(params, x, num)

    np.testing.assert_allclose(blocks(PARAMS, X), plain(PARAMS, X), rtol=1e-5)
    got, want = (jax.grad(lambda p, x, how=how: jnp.sum(how(p, x) * upstream), argnums=(0, 1))(PARAMS, X) for how in (blocks, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_unrolls_over_members_with_different_counts() -> None:
    counts = jnp.asarray(COUNTS)

    def loss(how: Any) -> Any:
        return jax.vmap(jax.grad(lambda params, num: jnp.sum(how(params, num) ** 2)), (None, 0))

    got = loss(lambda params, num: row_blocks.unroll(num, turned, params, X, CODES, 4))(PARAMS, counts)
    want = loss(lambda params, num: step_by_step(params, X, num))(PARAMS, counts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)
