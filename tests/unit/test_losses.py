import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import losses

LOG = np.log


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2, no gradient
        (0.5, 2.0, -1.0, -1.0),  # below the range with A > 0: not clipped
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_ppo_clip(ratio: float, advantage: float, loss: float, slope: float) -> None:
    value, grad = jax.value_and_grad(losses.ppo_clip)(jnp.float32(LOG(ratio) - 1.0), jnp.float32(-1.0), jnp.float32(advantage), 0.2)
    np.testing.assert_allclose([value, grad], [loss, slope], rtol=1e-5, atol=1e-6)


def test_value_losses() -> None:
    assert losses.value_loss(jnp.float32(3.0), jnp.float32(1.0)) == 4.0
    # the prediction moved from 0 to 3, clipped to 0.5; target 4: (3-4)^2 = 1 against (0.5-4)^2 = 12.25
    assert losses.value_clipped(jnp.float32(3.0), jnp.float32(0.0), jnp.float32(4.0), 0.5) == 12.25
    assert losses.value_clipped(jnp.float32(3.0), jnp.float32(0.0), jnp.float32(1.0), 0.5) == 4.0  # 4 against 0.25
    assert losses.value_clipped(jnp.float32(0.25), jnp.float32(0.0), jnp.float32(1.0), 0.5) == 0.5625


def test_cross_entropy() -> None:
    logits = jnp.log(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.int32(0)), LOG(4.0), rtol=1e-6)
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.int32(1)), LOG(4.0 / 3.0), rtol=1e-6)
    np.testing.assert_allclose(losses.cross_entropy(jnp.array([0.0, 1000.0]), jnp.int32(0)), 1000.0)


def test_huber() -> None:
    assert losses.huber(jnp.float32(1.5), jnp.float32(1.0)) == 0.125
    assert losses.huber(jnp.float32(-2.0), jnp.float32(1.0)) == 2.5
    assert losses.huber(jnp.float32(4.0), jnp.float32(1.0), 2.0) == 4.0
    assert jax.grad(losses.huber)(jnp.float32(4.0), jnp.float32(1.0), 2.0) == 2.0
    assert jax.grad(losses.huber)(jnp.float32(1.0), jnp.float32(1.0)) == 0.0
