"""The point mass steps as dm_control 1.0.27 (MuJoCo 3.2.7) recorded it, and as its closed form says; its hard task, reset and yardsticks.

tests/data/point_mass.npz: easy and hard, 3 episodes of 200 steps each, float64: {task}_states [3, 201, 4], _torques [3, 200, 2], _rewards,
_gains [3, 2, 2]. Episode 1 starts on the edge of the target, episode 2 pushes into a corner.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make
from causal_jax.envs.point_mass import PointMass, PointMassState
from causal_jax.envs.point_mass_policies import policies
from causal_jax.types import UserError

DATA = np.load(Path(__file__).parents[1] / "data" / "point_mass.npz")
FINE = PointMass(levels=1001)  # torques in steps of 0.002
PARAMS = FINE.default_params


def level(torque):
    return jnp.asarray(np.round((np.asarray(torque) + 1) * 500), jnp.int32)


def states(rows, gains=None):
    rows = jnp.asarray(rows, jnp.float32)
    return PointMassState(rows[..., :2], rows[..., 2:], jnp.zeros(rows.shape[:-1], jnp.int32), gains)


@pytest.fixture(scope="module")
def step():
    return jax.jit(jax.vmap(FINE.step_env, (None, 0, 0, None)))


def test_literal_steps(step):
    before = [[0.02, 0, 0, 0], [0.02, 0.01, 0.05, -0.02], [0, 0, 0, 0], [0.03, 0, 0, 0], [0.045, 0, -0.1, 0]]
    torques = [[0, 0], [0.5, -0.25], [1, 1], [0, 0], [-1, 1]]
    obs, _, rewards, terminated, info = step(jax.random.key(0), states(before), level(torques), PARAMS)
    after = [
        [0.02, 0, 0, 0], [0.021, 0.00959375, 0.05, -0.0203125], [1.25e-4, 1.25e-4, 0.00625, 0.00625], [0.03, 0, 0, 0],
        [0.043, 0.000125, -0.1, 0.00625],
    ]  # fmt: skip
    np.testing.assert_allclose(obs, after, atol=1e-7)
    np.testing.assert_allclose(rewards, [0.774263682681127, 0.4960203869974934, 0.8, 0.1, 2.6218046105807566e-4], atol=1e-6)
    np.testing.assert_array_equal(info["success"], [False, False, True, False, False])
    assert not terminated.any()


@pytest.mark.parametrize("task", ["easy", "hard"])
def test_recorded_trajectories(task):
    """One step from every recorded state, within float32 of MuJoCo's; at the walls, which are soft there, within a step's way, 2 mm."""
    seen, torques, rewards, gains = (DATA[f"{task}_{name}"] for name in ("states", "torques", "rewards", "gains"))
    gains = jnp.asarray(np.broadcast_to(gains[:, None], (*torques.shape, 2)), jnp.float32)
    step = jax.jit(jax.vmap(jax.vmap(FINE.step_env, (None, 0, 0, None)), (None, 0, 0, None)))
    obs, _, got, *_ = jax.device_get(step(jax.random.key(0), states(seen[:, :-1], gains), level(torques), PARAMS))
    free = (np.abs(seen[..., :2]) < 0.287).all(-1)
    free = free[:, 1:] & free[:, :-1]
    assert free.sum() > 300
    np.testing.assert_allclose(obs[free], seen[:, 1:][free], atol=1e-7)
    np.testing.assert_allclose(got, rewards, atol=1e-6)
    np.testing.assert_allclose(obs[..., :2], seen[:, 1:, :2], atol=2e-3)


def test_walls_stop_and_release(step):
    obs, *_ = step(jax.random.key(0), states([[0.29, 0.0, 0.05, 0.0], [0.29, -0.29, -0.05, -0.1]]), level([[1, 0], [0, 0]]), PARAMS)
    np.testing.assert_allclose(obs, [[0.29, 0, 0, 0], [0.29 - 0.02 * 0.046875, -0.29, -0.046875, 0]], atol=1e-7)


def test_starts_and_random_gains():
    env, params = make("point-mass-hard-5")
    obs, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 2000), params)
    assert np.abs(obs[:, :2]).max() <= 0.29
    np.testing.assert_allclose(np.std(obs[:, :2], axis=0), 0.29 / np.sqrt(3), rtol=0.05)
    assert not obs[:, 2:].any()
    gains = np.asarray(state.gains)
    np.testing.assert_allclose(np.linalg.norm(gains, axis=-1), 1.0, atol=1e-6)
    cosine = (gains[:, 0] * gains[:, 1]).sum(-1)
    assert 0.89 < np.abs(cosine).max() <= 0.9 + 1e-6
    # the angle between is uniform: P(|cos| <= 1/2) = 30 degrees over 90 - 25.84
    assert abs((np.abs(cosine) <= 0.5).mean() - 30 / (90 - 25.842)) < 0.04


def test_no_op_and_blocks():
    env, params = make("point-mass-9")
    assert env.noop == (4, 4)
    assert env.blocks.sizes == (9, 9)
    assert env.blocks.nothing == 4 * 9 + 4
    np.testing.assert_array_equal(env.torque(jnp.asarray([4, 8])), [0.0, 1.0])
    with pytest.raises(UserError, match="levels = 2: must be odd"):
        _ = make("point-mass-2")[0].noop


def test_yardsticks():
    """The scripted policy returns what was recorded with dm_control: 715 +- 27 on 2 levels, 890.5 on 9 (100 starts)."""
    for name, low, high in (("point-mass-2", 690, 745), ("point-mass-9", 870, 905)):
        env, params = make(name)
        act = policies(env, params)["pd"]
        play = jax.jit(jax.vmap(lambda key, env=env, params=params, act=act: rollout.evaluate(key, env, params, act, 1000)))
        episode = play(jax.random.split(jax.random.key(0), 64))
        assert (episode.length == 1000).all()
        assert low < float(episode.total.mean()) < high


def test_picture_shows_mass_and_target():
    env, params = make("point-mass-9")
    image = env.render(PointMassState(jnp.asarray([0.2, 0.1]), jnp.asarray([0.05, 0.0]), jnp.asarray(3), None), params, size=176)
    assert image.shape == (176, 176, 3)
    red = np.argwhere((image == (215, 50, 45)).all(-1)).mean(0)
    side = 0.64
    np.testing.assert_allclose(red, [(0.5 - 0.1 / side) * 176, (0.5 + 0.2 / side) * 176], atol=1.5)
    green = np.argwhere((image == (60, 170, 80)).all(-1)).mean(0)
    np.testing.assert_allclose(green, [88, 88], atol=1.5)
