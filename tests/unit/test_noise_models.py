"""ANM-MM and what it is built of: the likelihood by blocks and by inducing points, the dependence, p-values, the direction, the null."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.algorithms import concurrent_ddpg
from causal_jax.causal import hsic, likelihood, noise_models, sharing
from causal_jax.types import UserError

H = (0.3, 0.1, -0.2, 0.4, 0.1, 2.0)


def agents(xi: jax.Array, samples: int = 6) -> tuple[jax.Array, jax.Array]:
    """x [A, S, 2], y [A, S, 1]: s' = xi s + a + noise."""
    keys = jax.random.split(jax.random.key(3), 2)
    x = jax.random.uniform(keys[0], (len(xi), samples, 2), minval=-1.0)
    y = xi[:, None] * x[..., 0] + x[..., 1] + 0.05 * jax.random.normal(keys[1], x.shape[:2])
    return x, y[..., None]


def flat(samples: int = 6) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Standardised x [N, 2], y [N, 1] of 20 agents, and a theta [20, 1] for each."""
    x, y = agents(jnp.linspace(-1.0, 1.0, 20), samples)
    return hsic.standardise(x.reshape(-1, 2)), hsic.standardise(y.reshape(-1, 1)), jnp.linspace(-1.0, 1.0, 20)[:, None]


@pytest.mark.parametrize("num", [5, 150])  # LAPACK's and ours
def test_likelihood_and_its_gradient(num: int) -> None:
    with jax.enable_x64(True):
        a = jnp.asarray(np.random.default_rng(0).normal(size=(num, num + 2)))
        kernel, y = a @ a.T / num + 0.1 * jnp.eye(num), a[:, :2]
        np.testing.assert_allclose(likelihood.factor_by_blocks(kernel), np.linalg.cholesky(kernel), atol=1e-11)
        sign, log_det = np.linalg.slogdet(kernel)
        value, grad = jax.value_and_grad(likelihood.gaussian_nll)(kernel, y)
        alpha = np.linalg.solve(kernel, y)
        assert sign == 1
        np.testing.assert_allclose(value, log_det + 0.5 * np.sum(y * alpha) + num * np.log(2 * np.pi), rtol=1e-10)
        np.testing.assert_allclose(grad, 0.5 * (2 * np.linalg.inv(kernel) - alpha @ alpha.T), atol=1e-8)


def test_float32_agrees_with_float64() -> None:
    def both(dtype: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        x, y, theta, h = (jnp.asarray(v, dtype) for v in data)
        square = hsic.squares(x)
        return jax.value_and_grad(lambda h, theta: noise_models.nll(h, square, theta, y), (0, 1))(h, theta)

    data = [np.asarray(v) for v in (*flat(), H)]
    single = both(jnp.float32)
    with jax.enable_x64(True):
        double = both(jnp.float64)
    assert double[0].dtype == jnp.float64
    np.testing.assert_allclose(single[0], double[0], rtol=1e-3)
    for a, b in zip(single[1], double[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * np.max(np.abs(np.asarray(b))))


def test_inducing_points_bound_the_likelihood_and_meet_it() -> None:
    x, y, theta = flat()
    h = jnp.asarray(H)
    exact = noise_models.nll(h, hsic.squares(x), theta, y)
    some, more, every = (noise_models.sparse_nll(h, x, theta, y, jnp.arange(0, len(x), step)) for step in (8, 3, 1))
    assert some > more > every - 1e-3
    np.testing.assert_allclose(every, exact, rtol=0.01)


def test_dependence_is_the_alignment_of_all_samples() -> None:
    x, _, theta = flat()
    found = noise_models.dependence(noise_models.cause_gram(x, 20), theta, 6)
    np.testing.assert_allclose(found, jnp.log(hsic.alignment(x, jnp.repeat(theta, 6, axis=0)) + 1e-6), rtol=1e-4)
    features = noise_models.cause_gram_by_features(jax.random.key(0), x, 20, 8192)
    np.testing.assert_allclose(jnp.exp(noise_models.dependence(features, theta, 6)), jnp.exp(found), rtol=0.2)


def test_random_features_give_the_trace() -> None:
    x, y, _ = flat(3)
    exact = hsic.trace(hsic.gaussian(x), hsic.gaussian(y))
    np.testing.assert_allclose(hsic.trace_by_features(jax.random.key(0), x, y, 8192), exact, rtol=0.05)


@pytest.mark.parametrize(("slope", "p_value"), [(0.5, 0.903454827258637), (0.8, 0.45952702364881753), (1.2, 0.09294535273236339)])
def test_p_values_are_those_of_hyppo(slope: float, p_value: float) -> None:
    """hyppo 0.5.2: Hsic(compute_kernel=None, bias=True).test(K, L, reps=20000, random_state=0, auto=False), K and L our kernels' widths.

    K = rbf_kernel(x, gamma=1 / median of the squared distances that are not 0), and so for y.
    """
    i = jnp.arange(50)
    x = ((i + 0.5) / 50)[:, None]
    y = slope * x + jnp.sin(17 * i)[:, None]
    np.testing.assert_allclose(hsic.permutation_test(jax.random.key(0), x, y, 4000), p_value, atol=0.03)
    np.testing.assert_allclose(hsic.test(x, y).p_value, p_value, atol=0.06)  # the gamma approximation


def test_direction_of_the_cause() -> None:
    """y = exp(-theta x) + noise, theta 1.05 or 3.05 (Hu et al. 2018): theta depends less on the cause than on the effect."""
    keys = jax.random.split(jax.random.key(2), 2)
    x = jax.random.uniform(keys[0], (60, 1))
    y = jnp.exp(-(1.05 + 2.0 * (jnp.arange(60) % 2))[:, None] * x) + 0.03 * jax.random.normal(keys[1], (60, 1))
    spec = noise_models.Spec("sample_free", restarts=1, steps=100)
    forward, backward = jax.jit(lambda key: noise_models.direction(key, x, y, 1.0, spec))(jax.random.key(0))
    assert forward < backward


def test_worlds_that_do_not_differ_share_uniformly() -> None:
    """The absolute test: a gain below half a parameter's BIC per agent is noise, whatever clusters are in it."""
    config = concurrent_ddpg.Config(num_learners=12, num_components=3, restarts=1, fit_steps=100)
    worlds = SimpleNamespace(group=None)

    @jax.jit
    def share(xi: jax.Array) -> concurrent_ddpg.Sharing:
        return concurrent_ddpg.share(jax.random.key(0), config, concurrent_ddpg.Hyper(), worlds, *agents(xi))

    same, differ = share(jnp.full(12, 0.5)), share(jnp.repeat(jnp.asarray([-0.9, 0.0, 0.9]), 4))
    assert not same.differ
    np.testing.assert_allclose(same.weights, sharing.uniform(12), rtol=1e-6)
    assert differ.differ
    np.testing.assert_allclose(differ.weights, sharing.blocks(jnp.arange(12) // 4), atol=0.01)


def test_fits_with_inducing_points() -> None:
    x, y = agents(jnp.repeat(jnp.asarray([-0.9, 0.0, 0.9]), 4))
    found = noise_models.fit(jax.random.key(0), x, y, 1.0, noise_models.Spec(restarts=1, steps=100, inducing=24))
    means = np.abs(np.diff(found.theta[:, 0].reshape(3, 4).mean(axis=1)))
    assert np.all(means > 5 * found.theta[:, 0].reshape(3, 4).std(axis=1).max())
    for spec in (noise_models.Spec(inducing=73), noise_models.Spec(penalty="raw", inducing=24)):
        with pytest.raises(UserError, match="inducing = .*: must be at most the number of samples, 72"):
            noise_models.fit(jax.random.key(0), x, y, 1.0, spec)
