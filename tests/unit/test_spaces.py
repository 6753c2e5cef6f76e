import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.spaces import Box, Discrete, Factored, Hybrid, flat_size, from_gymnax
from causal_jax.types import UserError

KEYS = jax.random.split(jax.random.key(0), 2000)


def draw(space: Any) -> Any:
    """2000 samples under jit and vmap; all belong to the space, and sample i is what key i gives alone."""
    samples = jax.jit(jax.vmap(space.sample))(KEYS)
    assert jnp.all(jax.jit(jax.vmap(space.contains))(samples))
    jax.tree.map(lambda many, one: np.testing.assert_allclose(many[7], one, rtol=1e-5), samples, space.sample(KEYS[7]))
    with jax.debug_key_reuse(True):
        space.sample(jax.random.key(1))
    return samples


def test_discrete() -> None:
    space = Discrete(4)
    samples = draw(space)
    assert (samples.dtype, samples.shape, space.shape) == (jnp.int32, (2000,), ())
    np.testing.assert_allclose(np.bincount(samples) / 2000, [0.25] * 4, atol=0.04)
    assert [bool(space.contains(x)) for x in (-1, 0, 3, 4)] == [False, True, True, False]


def test_factored() -> None:
    space = Factored((1, 2, 3))
    samples = draw(space)
    assert (samples.dtype, samples.shape, space.shape) == (jnp.int32, (2000, 3), (3,))
    np.testing.assert_array_equal(samples.max(0), [0, 1, 2])
    np.testing.assert_allclose(samples.mean(0), [0.0, 0.5, 1.0], atol=0.06)
    assert [bool(space.contains(jnp.array(x))) for x in ([0, 1, 2], [0, 2, 0], [0, 0, -1])] == [True, False, False]


def test_box() -> None:
    space = Box((-1.0, 2.0), (1.0, 6.0), (2,))
    samples = draw(space)
    assert (samples.dtype, samples.shape, space.shape) == (jnp.float32, (2000, 2), (2,))
    np.testing.assert_allclose([samples.mean(0), samples.std(0)], [[0.0, 4.0], [2 / 12**0.5, 4 / 12**0.5]], atol=0.08)
    assert [bool(space.contains(jnp.array(x))) for x in ([1.0, 6.0], [1.1, 3.0], [0.0, 1.9], [jnp.nan, 3.0])] == [True, False, False, False]


def test_box_without_bounds() -> None:
    samples = draw(Box((-jnp.inf, 0.0, 0.0), (jnp.inf, jnp.inf, 1.0), (3,)))
    np.testing.assert_allclose(samples.mean(0), [0.0, 0.3989, 0.5], atol=0.08)  # normal, its positive part, uniform
    np.testing.assert_allclose(samples[:, 0].std(), 1.0, atol=0.08)
    assert draw(Box(0, 255, (2, 2), jnp.uint8)).dtype == jnp.uint8


def test_hybrid() -> None:
    space = Hybrid((1, 0, 2), (0.0, -1.0, 5.0), (1.0, 1.0, 6.0))
    k, z = draw(space)
    assert (k.dtype, k.shape, z.dtype, z.shape) == (jnp.int32, (2000,), jnp.float32, (2000, 2))
    np.testing.assert_allclose(np.bincount(k) / 2000, [1 / 3] * 3, atol=0.04)
    means = [[0.5, 0.0], [0.0, 0.0], [0.0, 5.5]]
    np.testing.assert_allclose([z[k == i].mean(0) for i in range(3)], means, atol=0.08)
    assert (space.n, space.num_parameters, space.num_all) == (3, 2, 3)
    np.testing.assert_array_equal(space.owner, [0, 2, 2])
    assert [bool(space.contains((k, jnp.array([0.5, 0.0])))) for k in range(-1, 4)] == [False, True, False, False, False]
    assert space.contains((1, jnp.zeros(2)))
    assert [bool(space.contains((2, jnp.array(z)))) for z in ([0.5, 5.5], [0.5, 6.5])] == [True, False]


def test_hybrid_cuts_out_the_parameters_of_a_choice() -> None:
    space = Hybrid((1, 0, 2))
    index, exists = space.slots(jnp.arange(3))
    np.testing.assert_array_equal(exists, [[1, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(index, [[0, 0], [0, 0], [1, 2]])
    np.testing.assert_array_equal(space.take(jnp.arange(3), jnp.array([7.0, 8.0, 9.0])), [[7.0, 0.0], [0.0, 0.0], [8.0, 9.0]])
    np.testing.assert_array_equal(space.take(jnp.array([2, 0]), jnp.arange(6.0).reshape(2, 3)), [[1.0, 2.0], [3.0, 0.0]])
    np.testing.assert_array_equal(space.take(2, 4.0), [4.0, 4.0])
    np.testing.assert_array_equal(Hybrid((2, 2)).slots(1)[0], [2, 3])


def test_hybrid_with_many_choices_has_no_tables() -> None:
    space = Hybrid((1,) * 65_536)
    assert len(jax.make_jaxpr(space.sample)(KEYS[0]).consts) == 0
    k, z = draw(space)
    assert (int(k.max()) > 60_000, z.shape, hash(space) == hash(Hybrid((1,) * 65_536))) == (True, (2000, 1), True)


def test_errors() -> None:
    with pytest.raises(UserError, match=r"^Hybrid.low = 2 bounds: must be a number, or sum\(sizes\) = 3 bounds$"):
        Hybrid((1, 2), (0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"^space = str: must be Discrete, Box or MultiDiscrete$"):
        from_gymnax("Discrete")


def test_from_gymnax_knows_kinds_by_name() -> None:
    """Stand-ins with gymnax's attributes: importing gymnax costs seconds."""
    theirs = {
        "Discrete": {"n": 3},
        "Box": {"low": 0.0, "high": 1.0, "shape": (2, 3), "dtype": jnp.float32},
        "MultiDiscrete": {"nvec": np.array([2, 5])},
    }
    ours = [from_gymnax(type(name, (), attributes)()) for name, attributes in theirs.items()]
    assert ours == [Discrete(3), Box(0.0, 1.0, (2, 3), jnp.float32), Factored((2, 5))]
    assert all(from_gymnax(space) is space for space in ours)
    assert [flat_size(space) for space in [*ours, Hybrid((1, 2))]] == [1, 6, 2, 3]


def test_spaces_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Discrete(3).n = 4  # type: ignore[misc]
