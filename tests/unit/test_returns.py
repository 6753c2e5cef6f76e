"""Hand-computed trajectories. Step 1 is truncated (it bootstraps from next_value 4), step 3 is terminated (it does not)."""

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.returns import discounted_return, gae, lambda_return

REWARD = jnp.array([1.0, 2.0, 3.0, 4.0])
VALUE = jnp.array([1.0, 1.0, 2.0, 2.0])
NEXT_VALUE = jnp.array([1.0, 4.0, 2.0, 3.0])
TERMINATED = jnp.array([False, False, False, True])
DONE = jnp.array([False, True, False, True])
EPISODE = (REWARD, VALUE, NEXT_VALUE, TERMINATED, DONE)


def test_gae_bootstraps_at_truncation_only() -> None:
    # delta = [1 + .5*1 - 1, 2 + .5*4 - 1, 3 + .5*2 - 2, 4 - 2] = [.5, 3, 2, 2]; gamma lam = .25, cut after steps 1 and 3
    np.testing.assert_allclose(jax.jit(gae)(*EPISODE, 0.5, 0.5), [1.25, 3.0, 2.5, 2.0], rtol=1e-6)


def test_gae_bootstraps_the_last_step_when_the_episode_goes_on() -> None:
    no = jnp.zeros(1, bool)
    np.testing.assert_allclose(gae(jnp.array([1.0]), jnp.array([2.0]), jnp.array([10.0]), no, no, 0.9, 0.95), [8.0], rtol=1e-6)


def test_gae_extremes() -> None:
    no, one = jnp.zeros(3, bool), jnp.ones(3)
    value, following = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 3.0, 4.0])
    np.testing.assert_allclose(gae(one, value, following, no, no, 0.5, 0.0), [1.0, 0.5, 0.0], atol=1e-6)  # one-step errors
    np.testing.assert_allclose(gae(one, value, following, no, no, 1.0, 1.0), [6.0, 4.0, 2.0], rtol=1e-6)  # 3 + 4 - 1, ...


def test_lambda_return() -> None:
    args = (REWARD, NEXT_VALUE, TERMINATED, DONE)
    np.testing.assert_allclose(lambda_return(*args, 0.5, 0.5), [2.25, 4.0, 4.5, 4.0], rtol=1e-6)
    np.testing.assert_allclose(lambda_return(*args, 0.5, 0.5), gae(*EPISODE, 0.5, 0.5) + VALUE, rtol=1e-6)
    np.testing.assert_allclose(lambda_return(*args, 0.5, 0.0), [1.5, 4.0, 4.0, 4.0], rtol=1e-6)  # r + gamma (1 - terminated) V(s')
    np.testing.assert_allclose(lambda_return(*args, 0.5, 1.0), [3.0, 4.0, 5.0, 4.0], rtol=1e-6)  # 1 + .5*4, 2 + .5*4, 3 + .5*4, 4


def test_discounted_return() -> None:
    np.testing.assert_allclose(discounted_return(REWARD, DONE, 0.5), [2.0, 2.0, 5.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(discounted_return(REWARD, jnp.zeros(4, bool), 0.5), [3.25, 4.5, 5.0, 4.0], rtol=1e-6)


def test_vmap_equals_loop() -> None:
    batch = [jnp.stack([x, x[::-1]]) for x in EPISODE]
    together = jax.vmap(gae, in_axes=(0,) * 5 + (None, None))(*batch, 0.9, 0.8)
    for i in range(2):
        np.testing.assert_allclose(together[i], gae(*[x[i] for x in batch], 0.9, 0.8), rtol=1e-6)
