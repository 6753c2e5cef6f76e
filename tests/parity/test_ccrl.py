"""What CCRL is built of against numbers computed apart from it: likelihood, independence test, similarities, mixtures, exploration.

The literal numbers were made with another implementation in float64 (and scikit-learn's mixture); everything here runs in float64.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import exploration
from causal_jax.causal import hsic, mixtures, noise_models, sharing

H1, H2 = (-1.0, -1.0, -1.0, -1.0, np.log(0.1)), (0.3, 0.1, -0.2, 0.4, 2.0)
V = [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.0, 0.05, 0.95]]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def points() -> tuple[jax.Array, jax.Array, jax.Array]:
    x = jnp.linspace(-1, 1, 6)[:, None]
    z = jnp.asarray([-1, 1, -1, 1, -1, 1.0])[:, None]
    return x, z, jnp.sin(2 * x) + 0.3 * z


@pytest.mark.parametrize(
    ("h", "nll", "trace"), [(H1, 12.694657641206678, 0.024056782452645573), (H2, 7.680540649597985, 0.319463829617169)]
)
def test_likelihood_and_dependence(h: tuple[float, ...], nll: float, trace: float) -> None:
    x, z, y = points()
    kx, kz = noise_models.kernels(jnp.asarray(h), hsic.squares(x), z)
    np.testing.assert_allclose(noise_models.nll(jnp.asarray(h), hsic.squares(x), z, y), nll, rtol=1e-12)
    np.testing.assert_allclose(hsic.trace(kx, kz), trace, rtol=1e-10)


def test_likelihood_of_standardised_points_and_its_invariances() -> None:
    x, z, y = (hsic.standardise(v) for v in points())
    h, square = jnp.asarray(H2), hsic.squares(x)
    value = noise_models.nll(h, square, z, y)
    np.testing.assert_allclose(value, 8.465656100730452, rtol=1e-12)
    np.testing.assert_allclose(0.5 * jnp.sum(jnp.square(h)), 2.15, rtol=1e-12)
    moved = h.at[0].add(np.log(3.0)).at[2].add(-np.log(3.0))  # alpha_z by 3, alpha_x by 1 / 3
    order = jnp.asarray([3, 0, 5, 1, 4, 2])
    for same in (
        noise_models.nll(moved, square, z, y),
        noise_models.nll(h, square, -z, y),
        noise_models.nll(h, hsic.squares(x[order]), z[order], y[order]),
    ):
        np.testing.assert_allclose(same, value, rtol=1e-10)
    log = lambda h: jnp.log(hsic.trace(*noise_models.kernels(h, square, z)))  # noqa: E731
    np.testing.assert_allclose(jax.grad(log)(h)[jnp.asarray([0, 2])], 1.0, rtol=1e-10)


def test_independence_test() -> None:
    x = ((jnp.arange(50) + 0.5) / 50)[:, None]
    noise = jnp.sin(17 * jnp.arange(50))[:, None]
    for y, statistic, threshold in ((noise, 0.0103555554, 0.6495884380), (jnp.sin(6 * x) + 0.1 * noise, 5.2378254908, 0.6924976451)):
        found = hsic.test(x, y)
        np.testing.assert_allclose([found.statistic, found.threshold], [statistic, threshold], atol=1e-8)
    assert found.p_value < 1e-6 < 0.5 < hsic.test(x, noise).p_value
    np.testing.assert_allclose(hsic.test(noise, x).statistic, 0.0103555554, atol=1e-8)  # symmetric
    assert hsic.alignment(x, jnp.zeros_like(x)) == 0


def test_a_theta_per_agent_with_one_sample_each_is_a_theta_per_sample() -> None:
    x, _, y = points()
    spec = {"restarts": 2, "steps": 5}
    tied = noise_models.fit(jax.random.key(0), x[:, None], y[:, None], spec=noise_models.Spec(latent="agent", **spec))
    free = noise_models.fit(jax.random.key(0), x[:, None], y[:, None], spec=noise_models.Spec(latent="sample_free", **spec))
    for a, b in zip(tied, free, strict=True):
        np.testing.assert_array_equal(a, b)


def test_similarity_and_weights() -> None:
    v = jnp.asarray(V)
    s = sharing.similarity(v)
    np.testing.assert_allclose(s, [[0.82, 0.73, 0.005], [0.73, 0.66, 0.1], [0.005, 0.1, 0.905]], atol=1e-12)
    np.testing.assert_allclose(sharing.weights(s)[0], [0.52733119, 0.46945338, 0.00321543], atol=1e-8)
    np.testing.assert_allclose(sharing.similarity(v, "cosine")[0, 1:], [0.99230223, 0.00580415], atol=1e-8)
    np.testing.assert_array_equal(sharing.similarity(v[:, jnp.asarray([2, 0, 1])]), s)  # names of components do not matter
    assert sharing.weights(s, 0.9)[0, 0] >= 0.9
    np.testing.assert_allclose(sharing.weights(s, 0.9).sum(axis=1), 1.0)


def test_mixture_is_that_of_scikit_learn() -> None:
    """GaussianMixture(2, means_init=[[-1, 0], [1, 0]], precisions_init, weights_init, reg_covar=1e-6, max_iter=1000, tol=1e-10)."""
    from sklearn.mixture import GaussianMixture

    x = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[-1.5, 0.0], [1.5, 0.5]], 30, axis=0)
    start = mixtures.Mixture(jnp.full(2, 0.5), jnp.asarray([[-1.0, 0.0], [1.0, 0.0]]), jnp.stack([jnp.eye(2)] * 2), jnp.zeros(()))
    theirs = GaussianMixture(
        2, weights_init=start.weights, means_init=start.means, precisions_init=start.covariances, reg_covar=1e-6, max_iter=1000, tol=1e-10
    ).fit(x)
    ours, before = start, -np.inf
    for _ in range(200):
        ours = mixtures.step(ours, jnp.asarray(x), 1e-6)
        likelihood = float(jnp.sum(jax.nn.logsumexp(mixtures.log_joint(ours, jnp.asarray(x)), axis=1)))
        assert likelihood >= before - 1e-9
        before = likelihood
    np.testing.assert_allclose(ours.weights, theirs.weights_, atol=1e-4)
    np.testing.assert_allclose(ours.means, theirs.means_, atol=1e-4)
    np.testing.assert_allclose(ours.covariances, theirs.covariances_, atol=1e-4)
    np.testing.assert_allclose(mixtures.responsibilities(ours, jnp.asarray(x)), theirs.predict_proba(x), atol=1e-4)


def test_agreement_of_labellings_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = rng.integers(0, 3, 20), rng.integers(0, 4, 20)
        np.testing.assert_allclose(mixtures.adjusted_rand(jnp.asarray(a), jnp.asarray(b)), adjusted_rand_score(a, b), atol=1e-12)
    np.testing.assert_allclose(mixtures.adjusted_rand(jnp.asarray(a), jnp.asarray(2 - a)), 1.0)


@pytest.mark.parametrize("rule", ["ou", "coordinated", "matched"])
def test_moments_of_exploration(rule: str) -> None:
    """Stationary mean sigma z and variance std^2 / (rate (2 - rate)); matched: its variance larger by sigma^2."""
    rate, std, sigma = 0.15, 0.2, 0.6

    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_start, key_steps = jax.random.split(key)
        noise = exploration.start(key_start, rule, 1, sigma)
        noise, us = jax.lax.scan(
            lambda n, k: ((m := exploration.advance(k, rule, n, sigma, rate, std)), m.u[0]), noise, jax.random.split(key_steps, 150)
        )
        return us[-1], noise.z[0]

    u, z = jax.vmap(run)(jax.random.split(jax.random.key(0), 20_000))
    around = u - sigma * z if rule == "coordinated" else u
    expected = std**2 / (rate * (2 - rate)) + (sigma**2 if rule == "matched" else 0.0)
    np.testing.assert_allclose(jnp.mean(around), 0.0, atol=4 * np.sqrt(expected / 20_000))
    np.testing.assert_allclose(jnp.var(around), expected, rtol=0.05)
    if rule == "coordinated":
        np.testing.assert_allclose(jnp.var(u), expected + sigma**2, rtol=0.05)
