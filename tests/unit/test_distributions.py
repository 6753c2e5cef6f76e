import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import distributions as d
from causal_jax.spaces import Box, Discrete, Factored, Hybrid
from causal_jax.types import UserError

KEY = jax.random.key(0)
LOGITS = jnp.array([0.0, math.log(3.0), 5.0])
MASK = jnp.array([True, True, False])
H = 0.5623351446  # entropy of (1/4, 3/4)
C = 0.5 * math.log(2.0 * math.pi)  # -log of the standard normal's peak; its entropy is C + 1/2


def test_masked_categorical_is_normalised_over_the_allowed() -> None:
    policy = d.categorical(LOGITS, MASK)
    np.testing.assert_allclose([policy.log_prob(0), policy.log_prob(1)], np.log([0.25, 0.75]), rtol=1e-6)
    assert policy.mode() == 1
    np.testing.assert_allclose(policy.entropy(), H, rtol=1e-6)
    assert jnp.isfinite(policy.log_prob(2))
    assert jnp.exp(policy.log_prob(2)) == 0.0
    actions = policy.sample(seed=KEY, sample_shape=(4000,))
    assert not jnp.any(actions == 2)
    np.testing.assert_allclose(jnp.mean(actions == 1), 0.75, atol=0.03)
    assert d.categorical(LOGITS).mode() == 2


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_masked_gradients_are_finite_and_nothing_reaches_the_forbidden(scale: float) -> None:
    def entropy(x: jax.Array) -> jax.Array:
        return d.categorical(x, MASK).entropy()

    grad = jax.grad(entropy)(scale * LOGITS)
    assert jnp.all(jnp.isfinite(grad))
    assert grad[2] == 0.0
    if scale == 1.0:  # dH/dlogit = -p (log p + H)
        np.testing.assert_allclose(grad[:2], [-0.25 * (math.log(0.25) + H), -0.75 * (math.log(0.75) + H)], rtol=1e-5)
    grad = jax.grad(lambda x: d.categorical(x, MASK).log_prob(0))(scale * LOGITS)
    assert jnp.all(jnp.isfinite(grad))
    assert grad[2] == 0.0


def test_a_row_that_allows_nothing_has_no_mask_and_one_choice_has_no_entropy() -> None:
    policy = d.categorical(jnp.zeros((3, 4)), jnp.array([[False] * 4, [True] * 4, [False, True, False, False]]))
    np.testing.assert_allclose(policy.entropy(), [math.log(4.0), math.log(4.0), 0.0], rtol=1e-6)
    np.testing.assert_allclose(policy.log_prob(jnp.array([3, 3, 1])), [-math.log(4.0), -math.log(4.0), 0.0], rtol=1e-6)
    assert policy.sample(seed=KEY).dtype == jnp.int32


def test_factored() -> None:
    logits = jnp.log(jnp.array([1.0, 3.0, 1.0, 1.0, 2.0]))  # (1/4, 3/4) and (1/4, 1/4, 1/2)
    policy = d.factored(logits, (2, 3))
    np.testing.assert_allclose(policy.log_prob(jnp.array([1, 2])), math.log(0.375), rtol=1e-6)
    np.testing.assert_allclose(policy.entropy(), H + 1.5 * math.log(2.0), rtol=1e-6)
    np.testing.assert_array_equal(policy.mode(), [1, 2])
    actions = policy.sample(seed=KEY, sample_shape=(4000,))
    np.testing.assert_array_equal(actions.max(0), [1, 2])
    np.testing.assert_allclose(jnp.mean(actions == jnp.array([1, 2]), axis=0), [0.75, 0.5], atol=0.03)
    masked = d.factored(logits, (2, 3), jnp.array([False, False, True, False, True]))  # factor 0: nothing allowed
    np.testing.assert_allclose(masked.log_prob(jnp.array([1, 2])), math.log(0.75 * 2.0 / 3.0), rtol=1e-6)
    assert jnp.all(masked.sample(seed=KEY, sample_shape=(200,))[:, 1] != 1)
    assert jnp.all(jnp.isfinite(jax.grad(lambda x: d.factored(x, (2, 3)).entropy())(logits)))


def test_diagonal_normal() -> None:
    policy = d.diagonal_normal(jnp.array([0.0, 1.0]), jnp.log(jnp.array([1.0, 2.0])))
    np.testing.assert_allclose(policy.log_prob(jnp.array([1.0, -1.0])), -0.5 - 0.5 - 2.0 * C - math.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(policy.entropy(), 2.0 * C + 1.0 + math.log(2.0), rtol=1e-6)
    np.testing.assert_array_equal(policy.mode(), [0.0, 1.0])
    sample = policy.sample(seed=KEY, sample_shape=(4000,))
    np.testing.assert_allclose([sample.mean(0), sample.std(0)], [[0.0, 1.0], [1.0, 2.0]], atol=0.1)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.0, -1.0), (-0.5, 0.7)])
def test_tanh_normal_is_a_density(mean: float, log_std: float) -> None:
    policy = d.tanh_normal(jnp.array([mean]), jnp.array([log_std]), -1.0, 3.0)
    x = np.linspace(-7.0, 7.0, 20001)  # an even grid before tanh, where the density has no spikes
    y = 1.0 + 2.0 * np.tanh(x)
    log_p = np.asarray(jax.vmap(policy.log_prob)(jnp.asarray(y, jnp.float32)[:, None]), float)
    weight = np.exp(log_p) * 2.0 * (1.0 - np.tanh(x) ** 2) * (x[1] - x[0])
    np.testing.assert_allclose(weight.sum(), 1.0, atol=1e-3)
    np.testing.assert_allclose(policy.entropy(), -(weight * log_p).sum(), atol=5e-3)
    np.testing.assert_allclose(policy.mode(), [1.0 + 2.0 * math.tanh(mean)], rtol=1e-6)


def test_tanh_normal_literals_and_saturation() -> None:
    policy = d.tanh_normal(jnp.zeros(1), jnp.zeros(1), -1.0, 1.0)
    np.testing.assert_allclose(policy.log_prob(jnp.zeros(1)), -C, rtol=1e-6)  # slope 1 at 0
    np.testing.assert_allclose(policy.log_prob(jnp.array([0.5])), -C - 0.5 * math.atanh(0.5) ** 2 - math.log(0.75), rtol=1e-5)
    action, log_prob = policy.sample_and_log_prob(seed=KEY, sample_shape=(50,))
    np.testing.assert_allclose(policy.log_prob(action), log_prob, atol=1e-3)
    saturated = d.tanh_normal(jnp.array([50.0]), jnp.zeros(1), -1.0, 1.0)
    action, log_prob = saturated.sample_and_log_prob(seed=KEY)
    assert jnp.isfinite(log_prob)
    assert jnp.isfinite(saturated.log_prob(action))
    assert jnp.isfinite(jax.grad(lambda m: d.tanh_normal(m, jnp.zeros(1), -1.0, 1.0).entropy())(jnp.array([50.0])))


def test_hybrid_has_the_chosen_parameters_only() -> None:
    space = Hybrid((1, 0, 2))
    policy = d.hybrid(jnp.log(jnp.array([1.0, 1.0, 2.0])), jnp.array([7.0, 8.0, 9.0]), jnp.log(jnp.array([1.0, 2.0, 1.0])), space)
    z = jnp.array([[8.0, 0.0], [0.0, 0.0], [10.0, 12.0]])
    expected = [math.log(0.25) - C - 0.5, math.log(0.25), math.log(0.5) - 2 * C - math.log(2.0) - 0.5 - 4.5]
    np.testing.assert_allclose([policy.log_prob((jnp.int32(k), z[k])) for k in range(3)], expected, rtol=1e-6)
    entropy = 1.5 * math.log(2.0) + 0.25 * (C + 0.5) + 0.5 * (2 * C + 1.0 + math.log(2.0))
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-6)
    k, mean = policy.mode()
    assert k == 2
    np.testing.assert_array_equal(mean, [8.0, 9.0])
    k, z = policy.sample(seed=KEY, sample_shape=(4000,))
    np.testing.assert_allclose(np.bincount(k) / 4000, [0.25, 0.25, 0.5], atol=0.03)
    np.testing.assert_allclose([z[k == i].mean(0) for i in range(3)], [[7.0, 0.0], [0.0, 0.0], [8.0, 9.0]], atol=0.15)
    np.testing.assert_allclose([z[k == i].std(0) for i in range(3)], [[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]], atol=0.1)
    gradient = jax.grad(lambda m: d.hybrid(jnp.zeros(3), m, jnp.zeros(3), space).log_prob((jnp.int32(2), jnp.ones(2))))(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, [0.0, 1.0, 1.0])
    masked = d.hybrid(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), space, jnp.array([True, True, False]))
    np.testing.assert_allclose(masked.entropy(), math.log(2.0) + 0.5 * (C + 0.5), rtol=1e-6)


SPACES = [
    (Discrete(3), 3, 0),
    (Factored((2, 3)), 5, 0),
    (Box(-1.0, 1.0, (2,)), 2, 2),
    (Box(-1.0, 1.0, ()), 1, 1),
    (Hybrid((1, 0, 2)), 6, 3),
]


@pytest.mark.parametrize(("space", "num_outputs", "num_log_std"), SPACES)
def test_policy_head(space: object, num_outputs: int, num_log_std: int) -> None:
    head = d.policy_head(space)
    assert (head.num_outputs, head.num_log_std) == (num_outputs, num_log_std)
    outputs, log_std = jax.random.normal(KEY, (4, num_outputs)), jnp.zeros(num_log_std)

    @jax.jit
    def act(key: jax.Array, outputs: jax.Array) -> tuple[object, ...]:
        policy = head.build(outputs, log_std, None)
        action, log_prob = policy.sample_and_log_prob(seed=key)
        return d.clip_action(space, action), policy.log_prob(action) - log_prob, policy.entropy(), policy.mode()

    action, difference, entropy, mode = act(KEY, outputs)
    np.testing.assert_allclose(difference, np.zeros(4), atol=1e-5)
    assert entropy.shape == (4,)
    assert jnp.all(jax.vmap(space.contains)(action))
    assert jax.tree.map(jnp.shape, mode) == jax.tree.map(jnp.shape, action)
    for i in range(4):  # a batch is the same as one at a time
        alone = head.build(outputs[i], log_std, None)
        np.testing.assert_allclose(alone.entropy(), entropy[i], rtol=1e-5)
        np.testing.assert_allclose(jax.tree.leaves(alone.mode())[-1], jax.tree.leaves(mode)[-1][i], rtol=1e-6)


def test_the_head_passes_the_mask_on() -> None:
    allowed = jnp.array([False, True, False])
    assert d.policy_head(Discrete(3)).build(LOGITS, jnp.zeros(0), allowed).mode() == 1
    np.testing.assert_allclose(d.policy_head(Discrete(3)).build(LOGITS, jnp.zeros(0), allowed).entropy(), 0.0, atol=1e-7)
    factored = d.policy_head(Factored((1, 2))).build(LOGITS, jnp.zeros(0), jnp.array([True, True, False]))
    np.testing.assert_array_equal(factored.mode(), [0, 0])
    hybrid = d.policy_head(Hybrid((1, 0, 0))).build(jnp.append(LOGITS, 0.0), jnp.zeros(1), allowed)
    assert hybrid.mode()[0] == 1


def test_clip_action() -> None:
    np.testing.assert_array_equal(d.clip_action(Box(-1.0, (0.0, 2.0), (2,)), jnp.array([5.0, 5.0])), [0.0, 2.0])
    space = Hybrid((2, 1), (0.0, 0.0, -1.0), (1.0, 1.0, 1.0))
    k, z = d.clip_action(space, (jnp.arange(2), jnp.array([[3.0, -3.0], [-3.0, 0.0]])))
    np.testing.assert_array_equal(k, [0, 1])
    np.testing.assert_array_equal(z, [[1.0, 0.0], [-1.0, 0.0]])
    assert d.clip_action(Discrete(3), jnp.int32(2)) == 2


def test_no_key_is_used_twice() -> None:
    with jax.debug_key_reuse(True):
        for space, num_outputs, num_log_std in SPACES:
            policy = d.policy_head(space).build(jnp.zeros(num_outputs), jnp.zeros(num_log_std), None)
            policy.sample(seed=jax.random.key(1))
        d.tanh_normal(jnp.zeros(2), jnp.zeros(2), -1.0, 1.0).sample_and_log_prob(seed=jax.random.key(3))


def test_unknown_space() -> None:
    with pytest.raises(UserError, match=r"^space = int: must be Discrete, Box or MultiDiscrete$"):
        d.policy_head(3)
