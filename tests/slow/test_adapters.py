"""Brax's ant with three torques a joint: 6,561 joint actions as eight factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.envs import make


@pytest.mark.slow
def test_ant_in_levels():
    env, params = make("brax:ant", levels=3)
    assert env.action_space(params).sizes == (3,) * 8
    assert env.noop == (1,) * 8
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    step = jax.jit(env.step)
    obs, new, reward, terminated, truncated, _ = step(jax.random.key(1), state, jnp.asarray(env.noop), params)
    pushed = step(jax.random.key(1), state, jnp.full(8, 2), params)
    assert obs.shape == (27,)
    assert np.isfinite(reward)
    assert not (terminated | truncated)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert float(reward) > float(pushed[2])  # torques cost
