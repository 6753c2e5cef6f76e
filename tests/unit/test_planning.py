"""The planning loop: literal refits, and problems whose best plan is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import planning


def test_elite_takes_the_highest_and_of_equals_the_first() -> None:
    rows, weights = planning.elite(2)(jnp.asarray([1.0, 3.0, 3.0, 3.0]))
    np.testing.assert_array_equal(rows, [1, 2])
    np.testing.assert_array_equal(weights, [1, 1])


def test_soft_is_a_softmax_of_scores_over_temperature() -> None:
    rows, weights = planning.soft(2.0)(jnp.asarray([0.0, 2.0 * np.log(3.0)]))
    np.testing.assert_array_equal(rows, [0, 1])
    np.testing.assert_allclose(weights, [0.25, 0.75], rtol=1e-6)


def test_soft_elites_weigh_less_by_their_distance_from_the_best() -> None:
    rows, weights = planning.soft_elite(3, 0.5)(jnp.asarray([0.0, 4.0, 2.0, 1.0]))
    np.testing.assert_array_equal(rows, [1, 2, 3])
    np.testing.assert_allclose(weights, np.exp([0.0, -1.0, -1.5]), rtol=1e-6)


def test_categorical_fit_counts_the_elites_and_forgets_the_rest() -> None:
    plans = jnp.asarray([[0, 2], [0, 1], [3, 1]])
    theta = planning.categorical().fit(planning.uniform_theta(4, 2), plans, jnp.asarray([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(theta, [[1, 0, 0, 0], [0, 0.5, 0.5, 0]])
    np.testing.assert_array_equal(planning.categorical().mode(theta), [0, 1])


def test_categorical_draws_follow_the_probabilities_and_never_a_choice_of_probability_zero() -> None:
    theta = jnp.asarray([[0.0, 0.25, 0.0, 0.75, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    plans = np.asarray(planning.categorical().sample(jax.random.key(0), theta, 4000))
    many = np.asarray(planning.draw(jax.random.key(0), jnp.pad(theta, ((0, 0), (0, 95))), 4000))  # found by bisection
    np.testing.assert_array_equal(many, plans)
    share = np.bincount(plans[:, 0], minlength=5) / 4000
    np.testing.assert_allclose(share, theta[0], atol=0.03)
    assert share[0] == share[2] == share[4] == 0
    assert not plans[:, 1].any()


def test_gaussian_fit_is_the_weighted_mean_and_deviation_above_the_floor() -> None:
    plans = jnp.asarray([[[1.0, 5.0]], [[3.0, 5.0]]])
    theta = planning.gaussian(least_std=0.1).fit(None, plans, jnp.asarray([3.0, 1.0]))
    np.testing.assert_allclose(theta.mean, [[1.5, 5.0]])
    np.testing.assert_allclose(theta.std, [[np.sqrt(0.75), 0.1]], rtol=1e-6)


def test_gaussian_draws_stay_in_their_bounds() -> None:
    theta = planning.Normal(jnp.full((3, 2), 2.0), jnp.full((3, 2), 9.0))
    proposal = planning.gaussian(-1.0, 1.0)
    plans = proposal.sample(jax.random.key(1), theta, 50)
    assert plans.shape == (50, 3, 2)
    assert float(jnp.abs(plans).max()) == 1.0
    np.testing.assert_array_equal(proposal.mode(theta), np.ones((3, 2)))


def test_the_cross_entropy_method_finds_a_sequence_that_only_counts_in_order() -> None:
    goal = jnp.asarray([3, 1, 4])

    def value(key: jax.Array, plans: jax.Array) -> jax.Array:
        return jnp.sum(jnp.cumprod(plans == goal, axis=1), axis=1).astype(jnp.float32)

    def solve(key: jax.Array) -> jax.Array:
        theta = planning.uniform_theta(5, 3)
        proposal = planning.categorical()
        return proposal.mode(planning.plan(key, theta, value, proposal, planning.elite(32), iterations=6, samples=256)[0])

    found = jax.jit(jax.vmap(solve))(jax.random.split(jax.random.key(2), 8))
    np.testing.assert_array_equal(found, np.tile(goal, (8, 1)))
    np.testing.assert_array_equal(found[3], jax.jit(solve)(jax.random.split(jax.random.key(2), 8)[3]))  # vmap == loop


@pytest.mark.parametrize("weigh", [planning.elite(8), planning.soft(0.05)])
def test_both_weightings_climb_a_hill(weigh: object) -> None:
    def value(key: jax.Array, plans: jax.Array) -> jax.Array:
        return -jnp.sum(jnp.square(plans - 0.3), axis=(1, 2))

    theta = planning.Normal(jnp.zeros((2, 1)), jnp.ones((2, 1)))
    proposal = planning.gaussian(-1, 1)
    theta, history = planning.plan(jax.random.key(3), theta, value, proposal, weigh, iterations=20, samples=64)
    np.testing.assert_allclose(proposal.mode(theta), 0.3, atol=0.05)
    np.testing.assert_allclose(history.scores, jax.vmap(value, (None, 0))(None, history.plans), rtol=1e-5, atol=1e-8)
    assert history.weights.shape[0] == 20
    assert float(theta.std.max()) < 0.2
