"""The decision tree that names contexts: literal paths, gains and codes, and a probe that it finds what matters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import context_tree, dynamics, predictors
from causal_jax.causal.context_tree import Tree
from causal_jax.types import UserError


def seen(asked: list[int], x: jax.Array, h: jax.Array) -> Tree:
    """A tree with these questions that has seen one batch."""
    fresh = context_tree.init(jax.random.key(0), x.shape[1], len(asked) + 1, h.shape[1])
    tree = fresh._replace(asked=jnp.asarray(asked))
    return context_tree.with_codes(context_tree.update(tree, x, h)._replace(asked=tree.asked))


def test_paths() -> None:
    x = jnp.asarray([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [-70.0, 90.0, 55.0]])
    tree = context_tree.init(jax.random.key(0), 3, 4, 1)._replace(asked=jnp.asarray([2, 0, 1]))
    nodes, leaf = context_tree.descend(tree, x)
    np.testing.assert_array_equal(nodes, [[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(leaf, np.eye(4)[[1, 0, 3, 2, 3]])


def test_gains_and_codes_are_those_of_cart() -> None:
    x = jnp.asarray([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    h = jnp.asarray([[2.0], [4.0], [0.0], [2.0]])
    tree = seen([0], x, h)
    np.testing.assert_allclose(context_tree.gains(tree) / 0.01, [[4.0, 0.0]], atol=1e-4)  # 2 * 2 / 4 (3 - 1)^2; both means are 2
    np.testing.assert_allclose(tree.codes, [[1.0], [3.0]], rtol=1e-5)
    assert not np.any(context_tree.with_codes(context_tree.init(jax.random.key(0), 2, 4, 3)).codes)  # nothing seen: zeros, no NaN


def test_a_question_stays_unless_another_is_better_by_a_tenth() -> None:
    x = jnp.asarray([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    for second, asked in ((1.04, 0), (1.2, 1)):  # gains go with the square
        h = jnp.asarray([[1.0, 0.0], [1.0, second], [0.0, second], [0.0, 0.0]])
        assert int(context_tree.update(seen([0], x, h), x, h).asked[0]) == asked


def test_it_finds_what_matters_and_forgets() -> None:
    """Probe: the embedding depends on inputs 3 and 5 of 12, then on 7 and 1; a tree of four leaves asks them, its codes are the values."""
    x = jax.random.bernoulli(jax.random.key(0), 0.4, (256, 12)).astype(jnp.float32)
    tree = context_tree.init(jax.random.key(1), 12, 4, 1)
    for first, second in ((3, 5), (7, 1)):
        h = 2.0 * x[:, [first]] + x[:, [second]]
        tree, _ = jax.jit(lambda tree, h=h: jax.lax.scan(lambda tree, _: (context_tree.update(tree, x, h), None), tree, None, 1500))(tree)
        np.testing.assert_array_equal(tree.asked, [first, second, second])
        np.testing.assert_allclose(tree.codes[:, 0], [0.0, 1.0, 2.0, 3.0], atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"num_codes": 5}, "num_codes = 5: must be a power of two for contexts = 'tree'"),
        ({"num_codes": 1}, "num_codes = 1: must be a power of two"),
        ({"discrete": False, "variable_size": 1}, "contexts = 'tree': must be vq or kmeans for continuous variables"),
        ({"ema": False}, "ema = False: must be True for contexts = 'tree'"),
        ({"contexts": "kmeans", "ema": False}, "ema = False: must be True for contexts = 'kmeans'"),
        ({"contexts": "forest"}, "contexts = 'forest': must be one of vq, kmeans, tree"),
    ],
)
def test_bad_specs_are_named(fields: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        dynamics.build(predictors.Spec(**{"contexts": "tree", **fields}))  # type: ignore[arg-type]


def test_one_program_for_many_trees() -> None:
    """Members of a population: vmap over trees, inputs and embeddings equals a loop; nothing here has a gradient."""
    keys = jax.random.split(jax.random.key(3), 2)
    trees = jax.vmap(lambda key: context_tree.init(key, 6, 4, 2))(keys)
    x = jax.random.bernoulli(jax.random.key(4), 0.5, (2, 32, 6)).astype(jnp.float32)
    h = jax.random.normal(jax.random.key(5), (2, 32, 2))
    together = jax.vmap(context_tree.update)(trees, x, h)
    for m in range(2):
        alone = context_tree.update(*jax.tree.map(lambda leaf, m=m: leaf[m], (trees, x, h)))
        jax.tree.map(lambda got, want, m=m: np.testing.assert_allclose(got[m], want, rtol=1e-5, atol=1e-7), together, alone)
    assert not np.any(jax.grad(lambda h: jnp.sum(context_tree.update(alone, x[0], h).codes))(h[0]))
