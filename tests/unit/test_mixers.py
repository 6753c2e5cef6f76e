"""Mixers with literal answers, their greedy joint actions, and the codec of action blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import spaces
from causal_jax.causal import codec, mixers
from causal_jax.types import UserError

FACTORS = spaces.Factored((2, 3, 2))


@pytest.mark.parametrize("name", mixers.MIXERS)
def test_every_mixer_starts_as_the_mean(name: str) -> None:
    mixer = mixers.build(name, 3)
    q = jnp.asarray([[1.0, -2.0, 4.0], [-3.0, -3.0, -3.0]])
    noise = 0.0 if name in ("average", "linear") else 0.15  # units differ by a tenth
    np.testing.assert_allclose(mixer.apply(mixer.init(jax.random.key(0)), q), [1.0, -3.0], atol=1e-6 + noise)


def test_literal_values_of_the_mixers() -> None:
    q = jnp.asarray([2.0, -1.0])
    linear = mixers.build("linear", 2)
    assert float(linear.apply({"w": jnp.asarray([0.5, 3.0]), "b": jnp.float32(0.25)}, q)) == pytest.approx(1.0 - 3.0 + 0.25)
    params = {
        "w1": jnp.asarray([[1.0, 1.0], [-1.0, 2.0]]),
        "b1": jnp.asarray([0.5, 1.0]),
        "w2": jnp.asarray([2.0, -1.0]),
        "b2": jnp.float32(1),
    }
    assert float(mixers.build("linear2", 2, 2).apply(params, q)) == pytest.approx(2 * 1.5 + 3 + 1)  # units 1.5 and -3
    assert float(mixers.build("relu", 2, 2).apply(params, q)) == pytest.approx(2 * 1.5 + 1)
    np.testing.assert_allclose(mixers.build("linear2", 2, 2).weights(params), [3.0, 0.0])


@pytest.mark.parametrize("name", ["average", "linear", "linear2", "monotone"])
def test_the_quick_greedy_action_is_the_best_joint_action(name: str) -> None:
    mixer = mixers.build(name, 3)
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed), 3)
        params = jax.tree.map(lambda x: x + 0.5 * jax.random.normal(keys[0], x.shape), mixer.init(keys[1]))  # noqa: B023
        q = jax.random.normal(keys[2], (3, 4))
        allowed = jnp.arange(4) < jnp.asarray([4, 2, 3])[:, None]
        quick = mixers.greedy(mixer, params, (4, 2, 3), q, allowed)
        slow = mixers.enumerated(mixer, params, (4, 2, 3), q, allowed)

        def value(action: jax.Array, params=params, q=q) -> float:
            return float(mixer.apply(params, jnp.take_along_axis(q, action[:, None], 1)[:, 0]))

        assert value(quick) == pytest.approx(value(slow), abs=1e-6)


def test_a_mixer_that_is_not_monotone_needs_the_joint_argmax() -> None:
    """F = relu(q1 - q2) + relu(q2 - q1): large where the blocks disagree, while each block alone would take its largest value."""
    mixer = mixers.build("relu", 2, 2)
    params = {"w1": jnp.asarray([[1.0, -1.0], [-1.0, 1.0]]), "b1": jnp.zeros(2), "w2": jnp.ones(2), "b2": jnp.zeros(())}
    q, allowed = jnp.asarray([[0.0, 5.0], [0.0, 4.0]]), jnp.ones((2, 2), bool)
    np.testing.assert_array_equal(mixers.greedy(mixer, params, (2, 2), q, allowed), [1, 0])
    np.testing.assert_array_equal(jnp.argmax(q, -1), [1, 1])
    only = allowed.at[1, 0].set(False)
    np.testing.assert_array_equal(mixers.greedy(mixer, params, (2, 2), q, only), [0, 1])  # |0 - 4| > |5 - 4|


def test_a_monotone_mixer_never_falls() -> None:
    mixer = mixers.build("monotone", 2)
    params = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(1), x.shape), mixer.init(jax.random.key(0)))
    slopes = jax.vmap(jax.grad(lambda q: mixer.apply(params, q)))(3 * jax.random.normal(jax.random.key(2), (200, 2)))
    assert float(jnp.min(slopes)) >= 0.0
    assert float(jnp.max(slopes)) > 0.0


def test_unknown_mixers_and_joint_spaces_too_large_are_refused() -> None:
    with pytest.raises(UserError, match="mixer = 'max'"):
        mixers.build("max", 2)
    with pytest.raises(UserError, match="enumerates 1,000,000"):
        mixers.check("relu", (100, 100, 100))


def test_blocks_of_factors_by_hand() -> None:
    blocks = codec.parse("0+2,1", FACTORS, (1, 2, 0))
    assert (blocks.num, blocks.sizes, blocks.width, blocks.num_joint, blocks.noop) == (2, (4, 3), 4, 12, (2, 2))
    np.testing.assert_array_equal(blocks.valid, [[True] * 4, [True, True, True, False]])
    action = jnp.asarray([1, 2, 1])
    np.testing.assert_array_equal(blocks.encode(action), [3, 2])
    np.testing.assert_array_equal(blocks.decode(jnp.asarray([3, 2])), action)
    assert int(blocks.joint(action)) == 1 * 6 + 2 * 2 + 1
    np.testing.assert_array_equal(blocks.completions(jnp.asarray([3, 0])), [[3, 2], [2, 0]])


@pytest.mark.parametrize("text", ["each", "joint", "0+2,1", "2,0+1"])
def test_codec_round_trip(text: str) -> None:
    blocks = codec.parse(text, FACTORS)
    every = jnp.stack(jnp.meshgrid(*map(jnp.arange, (2, 3, 2)), indexing="ij"), -1).reshape(-1, 3)
    np.testing.assert_array_equal(blocks.decode(blocks.encode(every)), every)
    np.testing.assert_array_equal(blocks.joint(every), jnp.arange(12))


def test_the_sepsis_index_is_fluids_major() -> None:
    blocks = codec.parse("joint", spaces.Factored((5, 5)))
    assert int(blocks.encode(jnp.asarray([3, 1]))[0]) == int(blocks.joint(jnp.asarray([3, 1]))) == 16
    alone = codec.parse("each", spaces.Discrete(7))
    assert int(alone.decode(alone.encode(jnp.int32(4)))) == 4


@pytest.mark.parametrize(
    ("text", "noop", "told"), [("0,1", (), "every factor"), ("a", (), "must be each"), ("each", (0, 3, 0), "noop"), ("each", (0,), "noop")]
)
def test_blocks_that_do_not_fit_are_refused(text: str, noop: tuple[int, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        codec.parse(text, FACTORS, noop)
    with pytest.raises(UserError, match="Discrete or Factored"):
        codec.parse("each", spaces.Box(0.0, 1.0, (2,)))
