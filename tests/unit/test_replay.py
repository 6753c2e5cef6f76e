import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import replay
from causal_jax.types import UserError

KEY = jax.random.key(0)
add = jax.jit(replay.add)
sample = jax.jit(replay.sample, static_argnums=2)
across = jax.jit(replay.across, static_argnums=3)
windows = jax.jit(replay.windows, static_argnums=(2, 3))


def rows(*numbers: int) -> dict[str, jax.Array]:
    """Rows that carry their number: as a float, as a uint8 image and as a flag."""
    n = jnp.array(numbers)
    image = jnp.broadcast_to(n[:, None, None], (len(numbers), 2, 2)).astype(jnp.uint8)
    return {"number": n.astype(jnp.float32), "image": image, "odd": n % 2 == 1}


def filled(last: int, capacity: int = 5) -> replay.Buffer:
    """A ring to which rows 1 .. last were added, one at a time."""
    buffer = replay.init(jax.tree.map(lambda x: x[0], rows(0)), capacity)
    return functools.reduce(lambda b, i: add(b, rows(i)), range(1, last + 1), buffer)


def test_contents_as_the_ring_wraps() -> None:
    buffer = replay.init(jax.tree.map(lambda x: x[0], rows(0)), 5)
    for new, contents, head, size in (
        ((1, 2), [1, 2, 0, 0, 0], 2, 2),
        ((3, 4), [1, 2, 3, 4, 0], 4, 4),
        ((5, 6, 7), [6, 7, 3, 4, 5], 2, 5),
        ((8, 9, 10, 11, 12), [11, 12, 8, 9, 10], 2, 5),
    ):
        buffer = add(buffer, rows(*new))
        np.testing.assert_array_equal(buffer.rows["number"], contents)
        np.testing.assert_array_equal(buffer.rows["image"][:, 1, 1], contents)
        assert (buffer.head, buffer.size) == (head, size)
    assert {name: leaf.dtype for name, leaf in buffer.rows.items()} == {"number": jnp.float32, "image": jnp.uint8, "odd": jnp.bool_}


def test_sample_sees_the_filled_part_only_and_evenly() -> None:
    drawn = sample(filled(3), KEY, 3000)
    np.testing.assert_allclose(np.bincount(drawn["number"].astype(int), minlength=6) / 3000, [0, 1 / 3, 1 / 3, 1 / 3, 0, 0], atol=0.03)
    np.testing.assert_array_equal(drawn["image"][:, 0, 1], drawn["number"])
    np.testing.assert_array_equal(drawn["odd"], drawn["number"] % 2 == 1)
    assert drawn["image"].dtype == jnp.uint8
    np.testing.assert_array_equal(np.unique(sample(filled(8), KEY, 300)["number"]), [4, 5, 6, 7, 8])


@pytest.mark.parametrize(("last", "starts"), [(4, [1, 2]), (5, [1, 2, 3]), (7, [3, 4, 5]), (10, [6, 7, 8]), (3, [1])])
def test_windows_are_consecutive_and_never_cross_the_head(last: int, starts: list[int]) -> None:
    numbers = windows(filled(last), KEY, 400, 3)["number"]
    assert numbers.shape == (400, 3)
    np.testing.assert_array_equal(numbers - numbers[:, :1], np.broadcast_to([0.0, 1.0, 2.0], (400, 3)))
    np.testing.assert_array_equal(np.unique(numbers[:, 0]), starts)


def test_across_draws_each_ring_by_its_weight() -> None:
    rings = [filled(2), filled(5), filled(0), filled(9)]
    buffers = jax.tree.map(lambda *x: jnp.stack(x), *rings)
    buffers = buffers._replace(rows={"ring": jnp.broadcast_to(jnp.arange(4)[:, None], (4, 5)), **buffers.rows})
    drawn = across(buffers, KEY, jnp.array([1.0, 0.0, 5.0, 3.0]), 4000)  # ring 2 has no rows
    np.testing.assert_allclose(np.bincount(drawn["ring"], minlength=4) / 4000, [0.25, 0.0, 0.0, 0.75], atol=0.03)
    numbers = drawn["number"].astype(int)
    np.testing.assert_allclose(np.bincount(numbers[drawn["ring"] == 0], minlength=3) / 1000, [0.0, 0.5, 0.5], atol=0.06)
    np.testing.assert_array_equal(np.unique(numbers[drawn["ring"] == 3]), [5, 6, 7, 8, 9])
    own = across(buffers, KEY, jnp.array([0.0, 2.0, 0.0, 0.0]), 200)
    np.testing.assert_array_equal(np.unique(own["ring"]), [1])
    assert own["image"].dtype == jnp.uint8


def largest(jaxpr: Any) -> int:
    """Size of the largest intermediate array of a program, in elements."""
    sizes = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars]
    inner = [p.jaxpr for eqn in jaxpr.eqns for p in eqn.params.values() if hasattr(p, "jaxpr")]
    return max(sizes + [largest(j) for j in inner])


def test_across_reads_without_copying_the_rings() -> None:
    buffers = jax.vmap(lambda _: replay.init(jnp.zeros(3), 1000))(jnp.arange(4))
    draw = jax.vmap(lambda b, k, w: replay.across(b, k, w, 8), in_axes=(None, 0, 0))
    jaxpr = jax.make_jaxpr(draw)(buffers, jax.random.split(KEY, 4), jnp.eye(4))

    assert largest(jaxpr.jaxpr) < 1000  # each ring alone has 3000 numbers


def test_vmap_equals_loop() -> None:
    rings = [filled(3), filled(7), filled(5)]
    buffers = jax.tree.map(lambda *x: jnp.stack(x), *rings)
    new, keys = rows(20, 21), jax.random.split(KEY, 3)
    together = jax.vmap(add, in_axes=(0, None))(buffers, new)
    drawn = jax.vmap(sample, in_axes=(0, 0, None))(buffers, keys, 4)
    runs = jax.vmap(windows, in_axes=(0, 0, None, None))(buffers, keys, 4, 2)
    weights = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    shared = jax.vmap(across, in_axes=(None, 0, 0, None))(buffers, keys, weights, 6)
    for i, ring in enumerate(rings):
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], together), add(ring, new))
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], drawn), sample(ring, keys[i], 4))
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], runs), windows(ring, keys[i], 4, 2))
        chex.assert_trees_all_equal(jax.tree.map(lambda x, i=i: x[i], shared), across(buffers, keys[i], weights[i], 6))


def test_a_scan_of_adds() -> None:
    buffer, _ = jax.lax.scan(lambda b, i: (replay.add(b, i[None]), None), replay.init(jnp.int32(0), 4), jnp.arange(1, 11))
    np.testing.assert_array_equal(buffer.rows, [9, 10, 7, 8])


def test_no_key_is_used_twice() -> None:
    buffer = filled(5)
    buffers = jax.tree.map(lambda x: x[None], buffer)
    with jax.debug_key_reuse(True):
        replay.sample(buffer, jax.random.key(1), 2)
        replay.windows(buffer, jax.random.key(2), 2, 2)
        replay.across(buffers, jax.random.key(3), jnp.ones(1), 2)


def test_errors() -> None:
    buffer = filled(1)
    with pytest.raises(UserError, match=r"^capacity = 0: must be 1 <= x$"):
        replay.init(jnp.zeros(()), 0)
    with pytest.raises(UserError, match=r"^rows = 6: must be at most the capacity, 5$"):
        replay.add(buffer, rows(*range(6)))
    with pytest.raises(UserError, match=r"^rows.dtype = float32: must be uint8, as in the example row$"):
        replay.add(buffer, {**rows(1), "image": jnp.zeros((1, 2, 2))})
    for length in (0, 6):
        with pytest.raises(UserError, match=rf"^length = {length}: must be 1 <= x <= 5, the capacity$"):
            replay.windows(buffer, KEY, 1, length)


@pytest.mark.parametrize("num", [1, 2, 5, 2048, 2**16 + 1])
def test_permutation_is_one(num: int) -> None:
    np.testing.assert_array_equal(np.sort(replay.permutation(jax.random.key(0), num)), np.arange(num))


def test_permutation_is_uniform() -> None:
    """Every index is equally often at every place: 4000 orders of 4, each cell 1000 +- 4.5 standard deviations."""
    orders = np.asarray(jax.vmap(lambda key: replay.permutation(key, 4))(jax.random.split(jax.random.key(1), 4000)))
    counts = np.stack([np.bincount(orders[:, place], minlength=4) for place in range(4)])
    assert np.abs(counts - 1000).max() < 4.5 * np.sqrt(4000 * 0.25 * 0.75)
