"""Cheap normal numbers: against SciPy's inverse error function and jax.random.normal."""

import jax
import numpy as np
from scipy.special import erfinv

from causal_jax import noise


def test_erfinv_is_scipys() -> None:
    x = np.concatenate([np.linspace(-1.0, 1.0, 20_001), 1.0 - np.logspace(-7, -1, 1001), np.logspace(-8, -1, 1001)]).astype(np.float32)
    x = x[(np.abs(x) < 1.0) & (x != 0.0)]
    found = np.asarray(jax.jit(noise.erfinv)(x), np.float64)
    np.testing.assert_allclose(found, erfinv(x.astype(np.float64)), rtol=1e-6)
    assert float(noise.erfinv(np.float32(0.0))) == 0.0


def test_the_ends_of_the_uniform_numbers_are_finite() -> None:
    ends = np.asarray([noise.LEAST, np.nextafter(np.float32(1.0), np.float32(0.0))], np.float32)
    np.testing.assert_allclose(np.asarray(noise.erfinv(ends)), erfinv(ends.astype(np.float64)), rtol=1e-6)


def test_the_numbers_are_those_of_jax() -> None:
    key = jax.random.key(0)
    found, expected = noise.standard_normal(key, (100_000,)), jax.random.normal(key, (100_000,))
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=3e-5)
    assert found.dtype == np.float32
    assert noise.standard_normal(key).shape == ()
