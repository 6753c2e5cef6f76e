"""HyAR: the latent space of hybrid actions, its constraint, relabelling, and the target of TD3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import hybrid_embedding as embedding
from causal_jax import spaces
from causal_jax.algorithms import hyar
from causal_jax.hybrid_embedding import Bounds, Spec

SPEC = Spec(3, spaces.Hybrid((1, 0, 2)), 2, 2, 8)
OBS, NEXT_OBS = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), jnp.linspace(-0.8, 1.0, 12).reshape(4, 3)
K, Z = jnp.asarray([0, 1, 2, 2]), jnp.asarray([[0.5, 0.0], [0.0, 0.0], [-1.0, 1.0], [0.2, -0.3]])


@pytest.fixture(scope="module")
def params():
    return embedding.init(jax.random.key(0), SPEC)


def test_the_nearest_embedding() -> None:
    rows = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    assert embedding.nearest(rows, jnp.asarray([[0.4, 0.1], [0.6, 0.1], [0.1, -0.9]])).tolist() == [0, 1, 2]


def test_kl_of_normals() -> None:
    assert float(embedding.kl(jnp.zeros(()), jnp.zeros(()))) == 0.0
    assert float(embedding.kl(jnp.asarray(2.0), jnp.zeros(()))) == 2.0
    assert float(embedding.kl(jnp.zeros(()), jnp.log(2.0))) == pytest.approx(1.5 - np.log(2.0))


def test_the_central_share() -> None:
    """Of 0, 1, ..., 100 the central 96% are 2 .. 98; what has no width gets a little."""
    values = jnp.stack([jnp.arange(101.0), jnp.full(101, 3.0)], -1)
    bounds = embedding.central(values, 0.96)
    np.testing.assert_allclose(bounds.lower, [2.0, 2.9995], rtol=1e-5)
    np.testing.assert_allclose(bounds.upper, [98.0, 3.0005], rtol=1e-5)


def test_rescaling_to_the_bounds_and_back() -> None:
    bounds = Bounds(jnp.asarray([0.0, -2.0]), jnp.asarray([4.0, -1.0]))
    np.testing.assert_allclose(embedding.from_unit(bounds, jnp.asarray([0.0, 1.0])), [2.0, -1.0])
    np.testing.assert_allclose(embedding.to_unit(bounds, jnp.asarray([3.0, -7.0])), [0.5, -1.0])


def test_the_constraint_reaches_every_embedding(params) -> None:
    """Bounds of the embeddings are those of the whole table, whatever was played."""
    bounds = embedding.constraint(params, SPEC, OBS, jnp.zeros(4, jnp.int32), Z, 0.5)
    rows = np.asarray(embedding.table(params))
    np.testing.assert_allclose(bounds.lower[:2], rows.min(0), rtol=1e-6)
    np.testing.assert_allclose(bounds.upper[:2], rows.max(0), rtol=1e-6)
    mean = np.asarray(embedding.encode(params, SPEC, OBS, jnp.zeros(4, jnp.int32), Z)[0])
    np.testing.assert_allclose(bounds.lower[2:], np.minimum(np.quantile(mean, 0.25, axis=0), bounds.upper[2:]), atol=1e-3)


def test_a_decoded_action_has_only_the_parameters_of_its_choice(params) -> None:
    z, change = embedding.decode(params, SPEC, OBS, K, 5.0 * jnp.ones((4, 2)))
    assert change.shape == (4, 3)
    exists = np.asarray(SPEC.space.slots(K)[1])
    assert (np.abs(z) <= 1).all()
    assert ((np.asarray(z) != 0) == exists).all()


def test_the_loss_counts_what_is_there(params) -> None:
    """Errors where no parameter exists count nothing, and beta weighs the prediction."""
    noise = jnp.zeros((4, 2))
    total, terms = embedding.losses(params, SPEC, noise, OBS, K, Z, NEXT_OBS, 10.0)
    expected = 2.0 * terms["reconstruction"] + 0.5 * terms["kl"] + 10.0 * terms["prediction"]
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    mean, _ = embedding.encode(params, SPEC, OBS, K, Z)
    decoded, change = embedding.decode(params, SPEC, OBS, K, mean)
    errors = np.asarray(jnp.square(decoded - Z))
    assert float(terms["reconstruction"]) == pytest.approx((errors[0, 0] + errors[2].sum() + errors[3].sum()) / 5, rel=1e-4)
    assert float(terms["prediction"]) == pytest.approx(float(np.mean(np.square(change - (NEXT_OBS - OBS)))), rel=1e-4)


def test_relabelling(params) -> None:
    """An embedding that means another choice becomes that of k; latents stay where they still predict, else they are the encoder's."""
    rows = embedding.table(params)
    near, wrong = rows[K] + 1e-3, rows[(K + 1) % 3]
    latent = jnp.concatenate([jnp.stack([near[0], wrong[1], near[2], wrong[3]]), jnp.ones((4, 2))], -1)
    steps, noise = (OBS, K, Z, NEXT_OBS), jnp.full((4, 2), 0.5)
    kept = embedding.relabel(params, SPEC, noise, steps, latent, jnp.inf)
    np.testing.assert_allclose(kept, jnp.concatenate([jnp.stack([near[0], rows[1], near[2], rows[2]]), jnp.ones((4, 2))], -1))
    mean, log_std = embedding.encode(params, SPEC, OBS, K, Z)
    fresh = embedding.relabel(params, SPEC, noise, steps, latent, -jnp.ones(()))
    np.testing.assert_allclose(fresh[:, 2:], mean + 0.5 * jnp.exp(log_std), rtol=1e-5)
    np.testing.assert_allclose(fresh[:, :2], kept[:, :2])


def test_the_target_of_td3() -> None:
    """r + gamma min(Q1, Q2), without the second part where the episode ended."""
    values = jnp.asarray([[2.0, 5.0, 9.0], [3.0, 4.0, 9.0]])
    target = hyar.td3_target(jnp.ones(3), jnp.asarray([False, False, True]), values, 0.5)
    np.testing.assert_allclose(target, [2.0, 3.0, 1.0])
    np.testing.assert_allclose(hyar.td3_target(jnp.ones(3), jnp.zeros(3, bool), values[:1], 0.5), [2.0, 3.5, 5.5])


def test_smoothed_target_actions() -> None:
    noisy = np.asarray(hyar.smoothed(jax.random.key(0), jnp.zeros(20_000)))
    assert noisy.max() == pytest.approx(0.5)
    assert noisy.min() == pytest.approx(-0.5)
    assert noisy.std() == pytest.approx(0.2, abs=0.01)
    assert np.abs(hyar.smoothed(jax.random.key(1), jnp.full(1000, 0.9))).max() == 1.0
