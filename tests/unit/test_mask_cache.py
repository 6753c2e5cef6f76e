"""The cached masks are the direct ones: with repeats, with too few slots, under vmap; and repeats cost nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import effects, mask_cache
from causal_jax.envs import make
from causal_jax.types import UserError


@pytest.fixture(scope="module")
def world():
    env, params = make("alias:minigrid-gotolocal", m=2, noops=1, permute=3)

    def compute(obs):
        return effects.select("npm", jax.random.key(0), effects.oracle_n_matrix(*env.successors(obs, params)))

    def visit(key):
        obs, state = env.reset(key, params)

        def step(state, key):
            obs, state, *_ = env.step(key, state, jax.random.randint(key, (), 0, 15), params)
            return state, obs

        return jax.lax.scan(step, state, jax.random.split(key, 40))[1]

    obs = jax.jit(visit)(jax.random.key(1))
    return compute, obs, np.asarray(jax.jit(jax.vmap(compute))(obs))


@pytest.mark.parametrize("slots", [1, 3, 4096])
def test_equal_to_the_direct_computation(world, slots):
    compute, obs, expected = world
    run = jax.jit(lambda cache, obs: mask_cache.masks(cache, obs, compute, chunk=4))
    different = len(np.unique(np.asarray(obs), axis=0))
    assert different < len(obs)  # states repeat
    cache, kept, first = run(mask_cache.empty(slots, 15), obs)
    np.testing.assert_array_equal(kept, expected)
    cache, kept, second = run(cache, obs[::-1])
    np.testing.assert_array_equal(kept, expected[::-1])
    if slots == 4096:
        assert different <= int(first) < len(obs)
        assert int(second) == 0
        assert int(cache.full.sum()) == different
    else:
        assert int(second) > 0


def test_members_have_caches_of_their_own(world):
    compute, obs, expected = world
    caches = jax.tree.map(lambda x: jnp.stack([x, x]), mask_cache.empty(64, 15))
    both = jnp.stack([obs, jnp.broadcast_to(obs[0], obs.shape)])
    _, kept, count = jax.jit(jax.vmap(lambda cache, obs: mask_cache.masks(cache, obs, compute, chunk=8)))(caches, both)
    np.testing.assert_array_equal(kept[0], expected)
    np.testing.assert_array_equal(kept[1], np.broadcast_to(expected[0], expected.shape))
    assert int(count[1]) == 8  # one chunk


def test_fingerprints_of_flags_differ():
    """All 4,096 observations of 12 flags, and no bit of the fingerprint is constant."""
    flags = jnp.asarray((np.arange(4096)[:, None] >> np.arange(12)) & 1, jnp.float32)
    tags = np.asarray(jax.vmap(mask_cache.fingerprint)(flags))
    assert len(np.unique(tags[:, 0])) > 4090
    assert len(np.unique(tags, axis=0)) == 4096
    ones = ((tags[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1).mean(0)
    assert (np.abs(ones - 0.5) < 0.1).all()


def test_bad_sizes():
    with pytest.raises(UserError, match="num_slots = 0: must be 1 <= x"):
        mask_cache.empty(0, 4)
