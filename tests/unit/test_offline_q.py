"""Data sets, what BCQ's filter allows, the two losses by hand, batches made by models, and tasks that are data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import datasets, make, optim, spaces
from causal_jax.algorithms import factored_q, offline_q
from causal_jax.causal import factored
from causal_jax.types import UserError


@pytest.fixture(scope="module")
def sim() -> Any:
    return make("sepsis-sim")


@pytest.fixture(scope="module")
def episodes(sim: Any) -> datasets.Episodes:
    env, params = sim
    behaviour = datasets.uniform(env.action_space(params))
    return jax.jit(lambda key: datasets.generate(key, env, params, behaviour, 30, 6))(jax.random.key(0))


def test_episodes_end_once_and_are_padded(sim: Any, episodes: datasets.Episodes) -> None:
    taken, terminated = np.asarray(episodes.taken), np.asarray(episodes.terminated)
    assert episodes.obs.shape == (30, 7, 21)
    assert episodes.action.shape == (30, 6, 3)
    assert taken[:, 0].all()
    assert (~taken).any()
    assert terminated.any()
    np.testing.assert_array_equal(taken[:, 1:], taken[:, :-1] & ~terminated[:, :-1])
    np.testing.assert_allclose(episodes.prob, np.where(taken, 1 / 8, 1.0))
    assert not np.asarray(episodes.reward)[~taken].any()
    np.testing.assert_array_equal(np.asarray(episodes.reward) != 0, terminated)  # the simulator pays at the end alone
    np.testing.assert_array_equal(np.abs(datasets.returns(episodes)), terminated.sum(1))


def test_rows_are_drawn_among_the_steps_taken_and_evenly(episodes: datasets.Episodes) -> None:
    numbered = episodes._replace(reward=jnp.arange(180.0).reshape(30, 6))
    data = datasets.rows(numbered)
    assert int(data.num) == int(episodes.taken.sum())
    obs, action, which, next_obs, terminated = datasets.sample(data, jax.random.key(1), 4000)
    i, t = np.asarray(which, int) // 6, np.asarray(which, int) % 6
    assert np.asarray(episodes.taken)[i, t].all()
    assert len(set(np.asarray(which).tolist())) == int(data.num)
    np.testing.assert_array_equal(obs, np.asarray(episodes.obs)[i, t])
    np.testing.assert_array_equal(next_obs, np.asarray(episodes.obs)[i, t + 1])
    np.testing.assert_array_equal(action, np.asarray(episodes.action)[i, t])
    np.testing.assert_array_equal(terminated, np.asarray(episodes.terminated)[i, t])
    counts = np.bincount(np.asarray(which, int))
    assert counts.max() < 3 * 4000 / int(data.num)


def test_data_that_cannot_be_made_are_refused(sim: Any) -> None:
    env, params = sim
    with pytest.raises(UserError, match="num_episodes = 0"):
        datasets.generate(jax.random.key(0), env, params, datasets.uniform(env.action_space(params)), 0, 5)
    with pytest.raises(UserError, match="Discrete or Factored"):
        datasets.uniform(spaces.Box(0.0, 1.0, (2,)))
    with pytest.raises(UserError, match="cannot be played"):
        datasets.Recorded(3, (2, 2)).reset_env()
    with pytest.raises(UserError, match="behaviour = 'doctor'"):
        offline_q.build(env, params, offline_q.Config(behaviour="doctor"))
    with pytest.raises(UserError, match="recorded data have their own"):
        offline_q.build(datasets.Recorded(3, (2, 2)), None, offline_q.Config(behaviour="expert"))


def test_members_have_data_of_their_own_or_share_one_set(sim: Any) -> None:
    config = offline_q.Config(episodes=5, max_steps=4)
    own, axes = offline_q.make_task(*sim, config, (3, 4), True)
    shared, none = offline_q.make_task(*sim, config, (3, 4), False)
    assert axes == offline_q.Task(None, 0)  # type: ignore[arg-type]
    assert none is None
    first = jax.tree.map(lambda x: x[0], own.data)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(shared.data), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(own.data.episodes.obs[0], own.data.episodes.obs[1])


RECORDED = datasets.Recorded(2, (3, 2), (1, 0))
Q = jnp.asarray([[1.0, 4.0, 2.0], [3.0, -1.0, 9.0]])  # the last entry of the second block is padding
TARGET = jnp.asarray([[10.0, 20.0, 30.0], [0.0, 2.0, 99.0]])
LOGITS = jnp.log(jnp.asarray([[0.6, 0.1, 0.3], [0.2, 0.8, 1e9]]))


def learner(**fields: Any) -> tuple[factored.Core, factored.Learner]:
    """The learner of three levels x two, whose networks say Q, TARGET and LOGITS whatever they see."""
    config = offline_q.Config(**{"hidden": (4,), "model_hidden": (4,), "mixer": "average", "aug": "off", **fields})
    core = factored.build(RECORDED, None, config, filtered=True)
    empty = core.init(jax.random.key(0), factored.scale_of(jnp.zeros((2, 2)), jnp.ones((2, 2))), optim.adam(1e-3))

    def says(network: Any, out: jax.Array) -> Any:
        return {**network, "layers_1": {"kernel": 0.0 * network["layers_1"]["kernel"], "bias": out.ravel()}}

    params = {**empty.params, "q": says(empty.params["q"], Q), "behaviour": says(empty.params["behaviour"], LOGITS)}
    return core, empty._replace(params=params, target={**params, "q": says(params["q"], TARGET)})


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, [[True, True, True], [True, True, False]]),
        (0.2, [[True, False, True], [True, True, False]]),
        (0.3, [[True, False, True], [False, True, False]]),  # 0.2 / 0.8 = 0.25
        (0.6, [[True, False, False], [False, True, False]]),
        (0.9999, [[True, False, False], [False, True, False]]),  # the likeliest of every block is always left
    ],
)
def test_what_the_filter_allows(threshold: float, expected: list[list[bool]]) -> None:
    core, state = learner()
    np.testing.assert_array_equal(core.allowed(state.params, state.scale, jnp.zeros(2), threshold), expected)


def test_the_greedy_action_is_the_best_of_those_allowed() -> None:
    core, state = learner()
    np.testing.assert_array_equal(core.greedy(state, jnp.zeros(2), 0.0), [1, 0])
    np.testing.assert_array_equal(core.greedy(state, jnp.zeros(2), 0.3), [2, 1])


@pytest.mark.parametrize("terminated", [False, True])
def test_the_losses_by_hand(terminated: bool) -> None:
    """Action (2, 0), reward 0.5, threshold 0.3: Q = (2 + 3) / 2; a* = (2, 1) by the online nets, worth (30 + 2) / 2 to the target."""
    core, state = learner(aug="none")
    hyper = offline_q.Hyper(gamma=0.5, threshold=0.3)
    row = factored.Batch(jnp.zeros((1, 2)), jnp.asarray([[2, 0]]), jnp.asarray([0.5]), jnp.zeros((1, 2)), jnp.asarray([terminated]))
    _, metrics = jax.jit(lambda state: core.update(state, row, hyper, optim.adam(1e-3)))(state)
    target, blocks = (0.5, (0.5, 0.5)) if terminated else (0.5 + 0.5 * 16, (0.5 + 0.5 * 30, 0.5 + 0.5 * 2))
    assert float(metrics["q"]) == pytest.approx(2.5)
    assert float(metrics["loss_q"]) == pytest.approx(abs(2.5 - target) - 0.5)
    by_hand = sum(0.5 * e**2 if e <= 1 else e - 0.5 for e in (abs(2 - blocks[0]), abs(3 - blocks[1])))
    assert float(metrics["loss_projected"]) == pytest.approx(by_hand)
    assert float(metrics["loss_behaviour"]) == pytest.approx(-np.log(0.3) - np.log(0.2), rel=1e-5)


def test_where_the_mixer_alone_is_trained_by_the_global_loss() -> None:
    row = factored.Batch(jnp.zeros((1, 2)), jnp.asarray([[2, 0]]), jnp.asarray([0.5]), jnp.zeros((1, 2)), jnp.asarray([False]))
    for through in (True, False):
        core, state = learner(mixer="linear", grad_through_mixer=through)
        after, _ = core.update(state, row, offline_q.Hyper(threshold=0.3), optim.adam(1e-3))
        leaves = {name: [jax.tree.leaves(params[name]) for params in (state.params, after.params)] for name in ("q", "mixer")}
        changed = {name: any(np.abs(a - b).max() > 0 for a, b in zip(*both, strict=True)) for name, both in leaves.items()}
        assert changed == {"q": through, "mixer": True}


@pytest.mark.parametrize("model", ["joint", "block"])
def test_models_tell_what_a_block_alone_does(model: str) -> None:
    """On the point mass: with the other torque off, the other axis coasts; the learned models say so within a quarter of a push."""
    env, params = make("point-mass-3")
    config = factored_q.Config(hidden=(4,), model_hidden=(64,), aug="noop", model=model, batch_size=256)
    core = factored.build(env, params, config)
    keys = jax.random.split(jax.random.key(0), 4)
    obs = jnp.concatenate(
        [jax.random.uniform(keys[0], (2048, 2), minval=-0.2, maxval=0.2), 0.03 * jax.random.normal(keys[1], (2048, 2))], 1
    )
    action = jax.random.randint(keys[2], (2048, 2), 0, 3)

    def moved(obs: jax.Array, action: jax.Array) -> jax.Array:
        vel = 0.9375 * obs[..., 2:] + 0.00625 * (action - 1.0)
        return jnp.concatenate([obs[..., :2] + 0.02 * vel, vel], -1)

    rows = factored.Batch(obs, action, jnp.zeros(2048), moved(obs, action), jnp.zeros(2048, bool))
    start = core.init(keys[3], factored.scale_of(obs, rows.next_obs), optim.adam(1e-3))

    def learn(learner: factored.Learner, key: jax.Array) -> Any:
        batch = jax.tree.map(lambda x: x[jax.random.randint(key, (256,), 0, 2048)], rows)
        return core.update(learner, batch, factored_q.Hyper(model_lr=3e-3), optim.adam(1e-3))

    trained = jax.jit(lambda s: jax.lax.scan(learn, s, jax.random.split(keys[3], 400))[0])(start)
    assert float(trained.model_error) < 0.1
    alone = jax.vmap(core.blocks.completions)(action)[:, 0]  # x acts, y does nothing
    np.testing.assert_array_equal(alone[:, 1], 1)
    found = jax.jit(jax.vmap(lambda o, a: core.predict(trained.models, trained.scale, o, a)[0]))(obs, alone)
    assert float(jnp.mean(jnp.abs(found - moved(obs, alone))[:, 2:])) < 0.25 * 0.00625


def test_what_models_need_is_told() -> None:
    env, params = make("point-mass-hard-3")
    with pytest.raises(UserError, match="model = block"):
        factored.build(env, params, factored_q.Config(aug="noop", model="block"))
    with pytest.raises(UserError, match="must be odd"):
        factored.build(*make("point-mass-2"), factored_q.Config(aug="noop"))
