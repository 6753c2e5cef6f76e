"""Edges: which are free, sampling and its gradient, sparsity and distances between graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import graphs
from causal_jax.types import UserError

KEY = jax.random.key(0)


def test_free_edges_in_row_major_order() -> None:
    free = graphs.free_edges(4)
    assert [tuple(map(int, e)) for e in np.argwhere(free)] == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    logits = graphs.place(jnp.arange(1.0, 7.0), free)
    np.testing.assert_array_equal(logits[3], [4.0, 5.0, 6.0, 100.0, 100.0])
    np.testing.assert_array_equal(logits[0], [100.0, -100.0, -100.0, -100.0, 100.0])
    assert graphs.free_edges(4, 3, learn_upper=True, learn_action=True).sum() == 4 * (4 + 3 - 1)
    assert graphs.free_edges(4, 1, learn_upper=True).sum() == 12
    spread = graphs.spread(jnp.arange(1.0, 7.0), free)
    np.testing.assert_array_equal(spread[free], jnp.arange(1.0, 7.0))
    assert not np.any(spread[~free])
    grads = jax.grad(lambda x: jnp.sum(graphs.place(x, free)))(jnp.zeros((2, 6)))
    np.testing.assert_array_equal(grads, np.ones((2, 6)))


def test_sampled_edges() -> None:
    """Hard values with the frequency of the sigmoid, soft gradients, and fixed edges that no noise moves."""
    logits = jnp.asarray([[-1.0, 0.5, 100.0, -100.0]] * 20_000)
    noise = graphs.logistic_noise(KEY, logits.shape)
    edges = graphs.sample_edges(logits, noise)
    assert set(np.unique(edges)) == {0.0, 1.0}
    np.testing.assert_allclose(edges.mean(axis=0), jax.nn.sigmoid(logits[0]), atol=0.012)
    np.testing.assert_array_equal(edges[:, 2:].mean(axis=0), [1.0, 0.0])
    assert np.abs(noise).max() < 13.9
    slope = jax.grad(lambda x: jnp.sum(graphs.sample_edges(x, noise, 2.0)))(logits)
    soft = jax.nn.sigmoid((logits + noise) / 2.0)
    np.testing.assert_allclose(slope, soft * (1 - soft) / 2.0, atol=1e-6)
    np.testing.assert_array_equal(graphs.likely_edges(logits[0]), [0.0, 1.0, 1.0, 0.0])


def test_distances() -> None:
    truth = jnp.asarray([[True, False], [True, True]])
    graph = jnp.asarray([[True, True], [False, True]])
    assert graphs.shd(graph, truth) == 2.0
    assert graphs.f1(graph, truth) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    off = ~np.eye(2, dtype=bool)
    assert graphs.shd(graph, truth, off) == 2.0
    assert graphs.f1(graph, truth, off) == 0.0
    assert graphs.f1(truth, truth) == 1.0
    assert graphs.f1(jnp.zeros((2, 2), bool), jnp.zeros((2, 2), bool)) == 1.0
    both = jnp.stack([graph, truth])
    np.testing.assert_array_equal(graphs.shd(both, jnp.stack([truth, truth])), [2.0, 0.0])


def test_with_self() -> None:
    parents = jnp.asarray([[False, False], [True, False]])
    np.testing.assert_array_equal(graphs.with_self(parents), [[True, False, True], [True, True, True]])


def test_unknown_sparsity() -> None:
    with pytest.raises(UserError, match="sparsity = 'x'"):
        graphs.sparsity(jnp.zeros((2, 3)), jnp.zeros((2, 3)), "x")
