"""Transport of a policy's value to unseen worlds: literal answers, and the autoregressive worlds against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import make
from causal_jax.causal import transport

EPISODES = 400


def test_belief_is_bayes_rule_and_value_the_weighted_mean() -> None:
    p = transport.belief(jnp.log(jnp.asarray([0.2, 0.6])), jnp.log(jnp.asarray([0.75, 0.25])))
    np.testing.assert_allclose(p, [0.5, 0.5], rtol=1e-6)
    returns = jnp.asarray([[1.0, 3.0], [10.0, 10.0]])
    found = transport.value(returns, jnp.asarray([0.25, 0.75]))
    np.testing.assert_allclose(found, [8.0, 0.25, 1 / 0.625], rtol=1e-6)


def test_draws_fall_on_their_neighbours() -> None:
    grid = jnp.asarray([0.0, 1.0, 3.0])
    np.testing.assert_allclose(transport.spread(grid, jnp.asarray([0.25, 2.0])), [0.375, 0.375, 0.25], rtol=1e-6)
    np.testing.assert_allclose(transport.spread(grid, jnp.asarray([-5.0, 9.0])), [0.5, 0.0, 0.5], rtol=1e-6)


def test_log_likelihood_is_the_normal_density() -> None:
    x, y = jnp.asarray([[1.0], [2.0]]), jnp.asarray([[0.5], [1.5]])
    found = transport.log_likelihood(jnp.asarray([[0.5], [1.0]]), x, y, lambda x, theta: theta * x, 0.5)
    np.testing.assert_allclose(found, [-0.5, -1.0], rtol=1e-6)


@pytest.fixture(scope="module")
def worlds() -> tuple[jax.Array, jax.Array, object]:
    """(grid of xi [G], returns [G, EPISODES] of a = clip(-xi0 s), xi0 = 0.4, the program that plays episodes in given worlds)."""
    env, params = make("autoregressive-hard")

    def episode(key: jax.Array, xi: jax.Array) -> jax.Array:
        key_start, key_steps = jax.random.split(key)
        world = params.replace(xi=xi)
        obs, state = env.reset_env(key_start, world)

        def step(carry: tuple, key: jax.Array) -> tuple:
            obs, state = carry
            obs, state, reward, _, _ = env.step_env(key, state, jnp.clip(-0.4 * obs, -1.0, 1.0), world)
            return (obs, state), reward

        return jnp.sum(jax.lax.scan(step, (obs, state), jax.random.split(key_steps, 50))[1])

    play = jax.jit(jax.vmap(episode))
    grid = jnp.linspace(-0.5, 1.1, 33)
    keys = jax.random.split(jax.random.key(0), 33 * EPISODES)
    return grid, play(keys, jnp.repeat(grid, EPISODES)).reshape(33, EPISODES), play


def compare(found: transport.Estimate, returns: jax.Array) -> float:
    """How many standard errors the estimate is from the Monte Carlo mean."""
    error = jnp.sqrt(jnp.square(found.error) + jnp.var(returns) / len(returns))
    return float(jnp.abs(found.value - jnp.mean(returns)) / error)


def test_value_in_an_unseen_population_of_worlds_is_that_of_monte_carlo(worlds: tuple) -> None:
    grid, returns, play = worlds
    kinds = jax.random.bernoulli(jax.random.key(1), 0.3, (grid.size * EPISODES,))
    xi = jnp.where(kinds, -0.2, 0.75) + 0.05 * jax.random.normal(jax.random.key(2), kinds.shape)
    truth = play(jax.random.split(jax.random.key(3), len(xi)), xi)
    found = transport.value(returns, transport.spread(grid, xi))
    assert compare(found, truth) < 3
    everyone = transport.value(returns, jnp.full(grid.shape, 1 / grid.size))
    assert compare(everyone, truth) > 10  # the visited worlds as they are, theta ignored


def test_value_in_an_unseen_world_from_twenty_transitions(worlds: tuple) -> None:
    grid, returns, play = worlds
    xi, noise = 0.63, 0.1
    keys = jax.random.split(jax.random.key(4), 3)
    s, a = jax.random.uniform(keys[0], (20, 1), minval=-2.0, maxval=2.0), jax.random.uniform(keys[1], (20, 1), minval=-1.0)
    y = xi * s + a + noise * jax.random.normal(keys[2], s.shape)
    x = jnp.concatenate([s, a], axis=1)
    likelihood = transport.log_likelihood(grid[:, None], x, y, lambda x, theta: theta * x[:1] + x[1:], noise)
    p = transport.belief(likelihood)
    np.testing.assert_allclose(jnp.sum(p * grid), xi, atol=3 * noise / np.sqrt(20) + 0.025)
    truth = play(jax.random.split(jax.random.key(5), grid.size * EPISODES), jnp.full(grid.size * EPISODES, xi))
    found = transport.value(returns, p)
    spread = jnp.sqrt(jnp.sum(p * jnp.square(jnp.mean(returns, axis=1) - found.value)))  # what is not known of theta
    assert abs(found.value - jnp.mean(truth)) < 3 * jnp.sqrt(jnp.square(found.error) + jnp.var(truth) / len(truth) + jnp.square(spread))
    assert 1.0 <= found.effective < 4.0
