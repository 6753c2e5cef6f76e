"""Phase 1: sizes, one forward for all actions, learning on a tiny budget, members alone and together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.algorithms import effect_model
from causal_jax.causal import effects, inverse
from causal_jax.envs import make
from causal_jax.types import UserError

SMALL = effect_model.Config(
    num_envs=8,
    num_steps=16,
    warmup_steps=64,
    capacity=2048,
    batch_size=64,
    num_updates=8,
    inverse_hidden=(32,),
    n_hidden=(32, 16),
    decay_steps=30,
)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(("n", "inverse_count", "n_count"), [(4, 6_544, 6_416), (6, 12_736, 12_608)])
def test_parameter_counts_of_the_published_networks(n, inverse_count, n_count):
    key = jax.random.key(0)
    assert count(jax.eval_shape(inverse.inverse_model(2, 2**n, (64, 64), "authors").init, key)) == inverse_count
    assert count(jax.eval_shape(inverse.n_network(2, 2**n, (64, 64), "authors").init, key)) == n_count
    config, hyper = effect_model.authors()
    assert (config.inverse_hidden, config.n_hidden, config.num_updates, config.n_per_inverse) == ((64, 64), (64, 64), 320, 5)
    assert (hyper.inverse_lr, hyper.n_lr, hyper.floor) == (3e-4, 3e-4, 1e-8)
    assert effect_model.default_steps(config) == 2_000_896


@pytest.mark.parametrize("mode", effects.MODES)
def test_the_matrix_is_the_rows_and_the_authors_row_is_an_mlp_on_a_one_hot(mode):
    keys = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.uniform(keys[0], (50, 2))
    scaler = None if mode == "authors" else inverse.fit_scaler(obs, obs + 0.1 * jax.random.normal(keys[1], obs.shape), 3)
    network = inverse.n_network(2, 5, (8, 8), mode, 3)
    model = inverse.EffectModel(network.init(keys[2]), scaler, jnp.float32(1e-2), jnp.full(5, 0.2))
    matrix = inverse.n_matrix(model, obs[0])
    rows = jnp.stack([network.apply(model, obs[0], jnp.int32(a)) for a in range(5)])
    np.testing.assert_allclose(matrix, rows, atol=1e-6)
    if mode == "authors":
        x = jnp.concatenate([obs[0], jnp.asarray([0.0, 0.0, 1.0, 0.0, 0.0])])
        for i in range(3):
            layer = model.network[f"layers_{i}"]
            x = (jax.nn.relu(x) if i else x) @ layer["kernel"] + layer["bias"]
        np.testing.assert_allclose(matrix[2], x, atol=1e-6)
    else:  # every row is log-probabilities relative to the policy, above the floor
        np.testing.assert_allclose((jnp.exp(matrix) * 0.21 - 0.01).sum(1), 1.0, atol=1e-5)


def test_scaler_units():
    obs = jnp.asarray([[0.0, 5.0], [2.0, 5.0]])
    scaler = inverse.fit_scaler(obs, obs + jnp.asarray([0.5, 0.0]), 2)
    np.testing.assert_allclose(scaler.mean, [1, 5])
    np.testing.assert_allclose(scaler.scale, [1, 1])
    np.testing.assert_allclose(scaler.displacement, [0.5, 1])
    got = inverse.features(scaler, jnp.asarray([2.0, 5.0]))
    np.testing.assert_allclose(got, [1, 0, np.sin(1), np.sin(2), 0, 0, np.cos(1), np.cos(2), 1, 1], atol=1e-6)


@pytest.fixture(scope="module")
def runs():
    """30 steps of two members together, and of the second alone."""
    env, params = make("maze-n2")
    algorithm, task = effect_model.build(env, params, SMALL), effect_model.Task(params)

    def run(key, hyper):
        key_init, key_train = jax.random.split(key)
        state = algorithm.init(key_init, hyper, task)
        return jax.lax.scan(lambda s, k: algorithm.step(k, s, hyper, task), state, jax.random.split(key_train, 30))

    keys = jax.random.split(jax.random.key(0), 2)
    hyper = effect_model.Hyper(inverse_lr=jnp.asarray([3e-3, 1e-2]), n_lr=jnp.asarray([3e-3, 1e-2]), floor=jnp.asarray([1e-2, 1e-3]))
    together = jax.jit(jax.vmap(run))(keys, hyper)
    alone = jax.jit(run)(keys[1], jax.tree.map(lambda x: x[1], hyper))
    return algorithm, env, params, together, alone


def test_losses_fall_and_metrics_are_means(runs):
    metrics = runs[3][1]
    assert (metrics["inverse_loss"][:, -1] < 0.7 * metrics["inverse_loss"][:, 0]).all()
    # the N-network starts near its target (both know nothing), lags while the inverse model learns, then catches up
    assert (metrics["n_loss"][:, -1] < 0.7 * metrics["n_loss"].max(1)).all()
    assert (metrics["causal_effect"][:, -1] > metrics["causal_effect"][:, 0] + 0.5).all()
    assert ((metrics["inverse_accuracy"] > 0) & (metrics["inverse_accuracy"] <= 1)).all()
    np.testing.assert_allclose(metrics["lr_fraction"][:, 0], 1.0)
    assert (metrics["lr_fraction"][:, -1] < 0.03).all()


def test_vmap_is_the_loop(runs):
    (state, metrics), (state_alone, metrics_alone) = runs[3], runs[4]
    np.testing.assert_array_equal(state.buffer.rows.action[1], state_alone.buffer.rows.action)
    np.testing.assert_allclose(metrics["inverse_loss"][1], metrics_alone["inverse_loss"], rtol=1e-3)
    for a, b in zip(jax.tree.leaves(state.effect), jax.tree.leaves(state_alone.effect), strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-2)


def test_four_distinct_moves_are_recognised_at_the_start(runs):
    # maze-n2: both actuators point along x, so actions 0 (none) and 3 (both) do nothing, 1 goes west and 2 goes east.
    _, env, params, (state, _), _ = runs
    assert state.effect.floor.tolist() == pytest.approx([1e-2, 1e-3])
    model = jax.tree.map(lambda x: x[1], effect_model.model(state))
    matrix = inverse.n_matrix(model, params.start)
    labels = effects.group(effects.similarity(matrix), 0.5)
    wanted = effects.group(effects.similarity(effects.oracle_n_matrix(*env.successors(params.start, params))), 0.5)
    assert wanted.tolist() == [0, 1, 2, 0]
    assert labels.tolist() == wanted.tolist()


def test_transitions_are_those_of_the_environment(runs):
    """A stored row is (obs, action, successor), except at the goal where the observation lags."""
    _, env, params, (state, _), _ = runs
    rows = jax.tree.map(lambda x: x[0][:200], state.buffer.rows)
    next_pos, terminated = jax.vmap(env.successors, (0, None))(rows.obs, params)
    index = jnp.arange(200)
    ordinary = ~terminated[index, rows.action] & rows.usable
    error = jnp.abs(next_pos[index, rows.action] - rows.next_obs).max(1)
    assert ordinary.sum() > 150
    assert error[ordinary].max() < 1e-6


def test_authors_mode_stores_the_reset_observation_and_warms_up():
    env, params = make("maze-n2", max_steps=5)
    config = dataclasses.replace(SMALL, mode="authors", num_envs=1, n_warmup=2, n_per_inverse=2, num_frequencies=0)
    algorithm, task, hyper = effect_model.build(env, params, config), effect_model.Task(params), effect_model.Hyper()
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper, task)
    np.testing.assert_allclose(state.buffer.rows.next_obs[4:64:5], np.broadcast_to(params.start, (12, 2)))
    assert state.buffer.rows.usable[:64].all()
    step = jax.jit(algorithm.step)
    losses = []
    for i in range(3):
        state, metrics = step(jax.random.key(i), state, hyper, task)
        losses.append(float(metrics["n_loss"]))
    assert losses[:2] == [0, 0]
    assert losses[2] > 0
    assert algorithm.act(jax.random.key(0), state, state.cursor.obs[0], True) in range(4)


def test_agreement():
    same = effects.agreement(jnp.asarray([2, 0, 2, 1]), jnp.asarray([0, 1, 0, 2]))
    assert [float(same[k]) for k in ("action_accuracy", "pair_accuracy", "rand_index")] == [1, 1, 1]
    one_wrong = effects.agreement(jnp.asarray([0, 0, 1, 1]), jnp.asarray([0, 0, 1, 2]))
    assert float(one_wrong["action_accuracy"]) == 0.5
    assert float(one_wrong["pair_accuracy"]) == pytest.approx(0.5 * (1 + 4 / 5))
    assert float(one_wrong["rand_index"]) == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))  # of 6 pairs 2 are found, 1 wanted, 1 both
    nothing = effects.agreement(jnp.zeros(4, int), jnp.arange(4))
    assert [float(nothing[k]) for k in ("action_accuracy", "pair_accuracy", "rand_index")] == [0, 0, 0]


def test_bad_tasks_are_told_in_one_line():
    for name, message in (("probe-box", "Discrete"), ("probe-factored", "Discrete")):
        env, params = make(name)
        with pytest.raises(UserError, match=message):
            effect_model.build(env, params, SMALL)
    env, params = make("maze-n2", image=True)
    with pytest.raises(UserError, match="vector observations"):
        effect_model.build(env, params, SMALL)
    env, params = make("maze-n2")
    with pytest.raises(UserError, match="capacity = 100"):
        effect_model.build(env, params, dataclasses.replace(SMALL, capacity=100))
