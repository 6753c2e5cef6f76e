"""Effects as points: the same groups and masks as from the matrix, literal answers, and what a tiny phase 1 makes of copied actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.algorithms import effect_model
from causal_jax.causal import effect_space, effects, inverse
from causal_jax.envs import make
from causal_jax.types import UserError

KEY = jax.random.key(0)
UNIFORM = jnp.full(24, 1 / 24)


@pytest.fixture(scope="module")
def clouds():
    """z [30, 3, 24]: from all actions alike to all different."""
    spread = jnp.linspace(0.0, 3.0, 30)[:, None, None]
    return spread * jax.random.normal(KEY, (30, 3, 24))


def test_leaders_one_by_one_are_the_leaders_of_the_matrix(clouds):
    labels, _ = jax.vmap(lambda z: effect_space.group(z, UNIFORM, 0.5))(clouds)
    wanted = jax.vmap(lambda z: effects.group(effect_space.distances(z), 0.5))(clouds)
    np.testing.assert_array_equal(labels, wanted)
    assert {int(labels[0].max()), int(labels[-1].max())} == {0, 23}


def test_a_later_leader_steals_and_closeness_is_strict():
    line = jnp.asarray([[0.0, 2.0, 1.0]])  # the pairs' distances are 2, 1/2 and 1/2
    assert effect_space.group(line, jnp.full(3, 1 / 3), 0.6)[0].tolist() == [0, 1, 1]
    assert effect_space.group(line, jnp.full(3, 1 / 3), 0.5)[0].tolist() == [0, 1, 2]


def test_effects_apart_have_the_oracle_effect_and_masks():
    place = np.asarray([0, 1, 0, 2, 1, 0, 3, 0])
    z, policy = 9.0 * jnp.eye(4)[:, place], jnp.full(8, 1 / 8)
    labels, effect = effect_space.group(z, policy, 0.5)
    assert labels.tolist() == [0, 1, 0, 2, 1, 0, 3, 0]
    np.testing.assert_allclose(effect, np.log(8 / np.asarray([4, 2, 4, 1, 2, 4, 1, 4])), atol=1e-6)
    oracle = effects.oracle_n_matrix(z.T)
    numbers = {"epsilon": 0.5, "tau": 0.8, "temperature": 1.0, "woc_threshold": 0.2}
    for selection, kept in (("cee", [3, 6]), ("npm", [3, 4, 6, 7]), ("cee-woc", [3, 6]), ("npm-random", None)):
        mine = effect_space.select(selection, KEY, z, policy, **numbers)
        np.testing.assert_array_equal(mine, effects.select(selection, KEY, oracle, **numbers))
        assert kept is None or np.flatnonzero(mine).tolist() == kept


def test_the_rows_are_a_posterior_whose_differences_are_the_distances(clouds):
    z, policy = 0.2 * clouds[10], jax.nn.softmax(jnp.arange(24.0) / 24)
    rows = jnp.stack([effect_space.row(z, jnp.int32(a), policy, 0.0) for a in range(24)])
    np.testing.assert_allclose((jnp.exp(rows) * policy).sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(effects.similarity(rows), effect_space.distances(z), atol=1e-4)


def test_a_model_with_points_gives_rows_and_matrix():
    network = inverse.n_network(2, 5, (8,), "definition", 0, "distance")
    model = inverse.EffectModel(network.init(KEY), inverse.fit_scaler(jnp.eye(2), jnp.ones((2, 2)), 0), jnp.float32(0.01), jnp.full(5, 0.2))
    matrix = inverse.n_matrix(model, jnp.ones(2))
    np.testing.assert_allclose(matrix[3], network.apply(model, jnp.ones(2), jnp.int32(3)), atol=1e-6)
    assert inverse.points(model, jnp.ones(2)).shape == (8, 5)
    other = inverse.n_network(2, 5, (8,), "definition")
    assert inverse.points(model._replace(network=other.init(KEY)), jnp.ones(2)) is None


def test_phase_1_finds_the_copies_of_copied_actions():
    env, params = make("alias:maze-n2", m=3, permute=1)  # 12 actions; of the four kinds 0 and 3 do nothing
    config = effect_model.Config(
        num_envs=8, num_steps=16, warmup_steps=64, capacity=2048, batch_size=64, num_updates=16, inverse_hidden=(32,), n_hidden=(32,),
        num_frequencies=2, decay_steps=30, head="distance",
    )  # fmt: skip
    algorithm, task, hyper = effect_model.build(env, params, config), effect_model.Task(params), effect_model.Hyper()
    state = jax.jit(algorithm.init)(KEY, hyper, task)
    step = jax.jit(
        lambda state: jax.lax.fori_loop(0, 30, lambda i, s: algorithm.step(jax.random.fold_in(KEY, i), s, hyper, task)[0], state)
    )
    model = effect_model.model(step(state))
    labels = effect_space.group(inverse.points(model, params.start), model.policy, 0.5)[0]
    assert float(effects.agreement(labels, jnp.asarray(env.classes % 3))["action_accuracy"]) == 1.0


def test_points_are_of_the_definition():
    env, params = make("maze-n2")
    with pytest.raises(UserError, match="head = 'distance': must be 'softmax' in mode 'authors'"):
        effect_model.build(env, params, effect_model.Config(mode="authors", head="distance"))
