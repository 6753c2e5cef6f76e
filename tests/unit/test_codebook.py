"""The codebook's bookkeeping (invariants M10, M11) and nearest codes far from the origin."""

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.causal import codebook

KEY = jax.random.key(0)


def test_an_unused_code_shrinks_as_the_facts_say() -> None:
    """Norm ratio 0.99^t / (1 - 0.99^t) up to smoothing; the counts sum to (1 - 0.99^t) (B + unused codes)."""
    num_codes, size = 4, 32
    book = codebook.init(KEY, num_codes, 3)
    book = book._replace(codes=book.codes.at[1:].add(50.0), total=book.codes.at[1:].add(50.0))
    start = jnp.linalg.norm(book.codes[1:], axis=-1)
    h = 0.1 * jax.random.normal(KEY, (size, 3))
    update = jax.jit(codebook.ema_update)
    for t in range(1, 4):
        code = jax.vmap(codebook.nearest, (None, 0))(book.codes, h)
        assert np.all(code == 0)
        book = update(book, h, code)
        left = 0.99**t
        np.testing.assert_allclose(jnp.linalg.norm(book.codes[1:], axis=-1) / start, left / (1 - left), rtol=2e-3)
        np.testing.assert_allclose(jnp.sum(book.counts), (1 - left) * (size + num_codes - 1), rtol=1e-5)
    assert np.all(jnp.linalg.norm(book.codes[1:], axis=-1) > 30 * start)


def test_a_used_code_becomes_the_mean_of_its_embeddings() -> None:
    book = codebook.Codebook(jnp.asarray([[0.0], [10.0]]), jnp.zeros(2), jnp.asarray([[0.0], [10.0]]))
    h = jnp.asarray([[1.0], [3.0], [9.0]])
    code = jax.vmap(codebook.nearest, (None, 0))(book.codes, h)
    np.testing.assert_array_equal(code, [0, 0, 1])
    for _ in range(2000):
        book = codebook.ema_update(book, h, code)
    np.testing.assert_allclose(book.codes, [[2.0], [9.0]], rtol=1e-3)
    np.testing.assert_allclose(book.counts, [2.0, 1.0], rtol=1e-3)


def test_kmeans_moves_a_code_by_its_share_of_all_that_it_was_given() -> None:
    book = codebook.Codebook(jnp.asarray([[4.0], [10.0]]), jnp.asarray([2.0, 1.0]), jnp.asarray([[8.0], [10.0]]))
    book = codebook.kmeans_update(book, jnp.asarray([[1.0], [3.0], [9.0]]), jnp.asarray([0, 0, 1]), decay=1.0)
    np.testing.assert_allclose(book.codes, [[3.0], [9.5]])  # 4 + 2/4 (2 - 4), 10 + 1/2 (9 - 10)
    np.testing.assert_allclose(book.counts, [4.0, 2.0])
    np.testing.assert_allclose(book.total, [[12.0], [19.0]])
    book = codebook.kmeans_update(book, jnp.asarray([[5.0]]), jnp.asarray([0]), decay=0.75)
    np.testing.assert_allclose(book.counts, [4.0, 1.5])  # half forgotten, in use still
    np.testing.assert_allclose(book.codes, [[3.5], [9.5]])


def test_kmeans_puts_unused_codes_where_the_clustering_is_worst() -> None:
    book = codebook.Codebook(jnp.asarray([[0.0], [100.0], [200.0]]), jnp.zeros(3), jnp.zeros((3, 1)))
    h = jnp.asarray([[1.0], [2.0], [9.0]])
    book = codebook.kmeans_update(book, h, jnp.zeros(3, int))
    np.testing.assert_allclose(book.codes, [[4.0], [9.0], [2.0]])
    np.testing.assert_allclose(book.counts, [3.0, 1.0, 1.0])
    for _ in range(100):
        book = codebook.kmeans_update(book, h, jax.vmap(codebook.nearest, (None, 0))(book.codes, h), decay=0.9)
    np.testing.assert_allclose(np.sort(book.codes[:, 0]), [1.0, 2.0, 9.0], atol=1e-3)


def test_nearest_far_from_the_origin() -> None:
    """At |h| = 1e4 the expanded square would lose a difference of 1e-1 in float32."""
    codes = jnp.asarray([[1e4, 0.0], [1e4 + 0.1, 0.0]])
    assert codebook.nearest(codes, jnp.asarray([1e4 + 0.09, 0.0])) == 1
    assert codebook.nearest(codes, jnp.asarray([1e4 + 0.01, 0.0])) == 0


def test_straight_through_and_losses() -> None:
    h, q = jnp.asarray([1.0, 2.0]), jnp.asarray([0.0, 4.0])
    np.testing.assert_array_equal(codebook.straight_through(h, q), q)
    np.testing.assert_array_equal(jax.jacobian(codebook.straight_through, argnums=(0, 1))(h, q), [np.eye(2), np.zeros((2, 2))])
    assert codebook.commitment_loss(h, q) == codebook.codebook_loss(h, q) == 2.5
    np.testing.assert_array_equal(jax.grad(codebook.commitment_loss, argnums=(0, 1))(h, q), [[1.0, -2.0], [0.0, 0.0]])
    np.testing.assert_array_equal(jax.grad(codebook.codebook_loss, argnums=(0, 1))(h, q), [[0.0, 0.0], [-1.0, 2.0]])


def test_usage() -> None:
    np.testing.assert_allclose(codebook.usage(jnp.asarray([[0, 2], [2, 2]]), 4), [0.25, 0, 0.75, 0])
