"""Worlds that differ between learners: golden steps, the groups that are drawn, returns of known policies, energy, pictures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make
from causal_jax.envs.autoregressive import AutoregressiveState, best_action
from causal_jax.envs.cartpole_swingup import CartpoleState
from causal_jax.envs.pendulum_wind import PendulumState, energy
from causal_jax.types import UserError

ALL = (
    "autoregressive-easy", "autoregressive-hard", "pendulum-wind", "pendulum-wind-sparse", "cartpole-swingup", "cartpole-swingup-sparse",
    "cartpole-swingup-seeds",
)  # fmt: skip


def double(params, **changes):
    """Params in float64, some of them changed; to be used under enable_x64."""
    params = jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)
    return params.replace(**{name: jnp.asarray(value, jnp.float64) for name, value in changes.items()})


@pytest.mark.parametrize(
    ("theta", "speed", "torque", "wind", "after", "reward"),
    [
        (0.3, -0.5, 1.2, 2.0, (0.3022470314, 0.0449406284), -0.11644),
        (np.pi, 0.0, 0.0, 2.0, (3.1340926536, -0.15), -9.8696044),
        (0.0, 0.0, -1.0, 2.0, (0.0, 0.0), -0.001),
    ],
)
def test_golden_steps_of_the_pendulum(theta, speed, torque, wind, after, reward):
    env, params = make("pendulum-wind")
    with jax.enable_x64(True):
        state = PendulumState(theta=jnp.asarray(theta), speed=jnp.asarray(speed), t=jnp.asarray(0))
        _, state, got, terminated, _ = env.step_env(jax.random.key(0), state, jnp.asarray([torque]), double(params, wind=wind))
    np.testing.assert_allclose((state.theta, state.speed), after, rtol=0, atol=1e-8)
    np.testing.assert_allclose(got, reward, rtol=0, atol=1e-8)
    assert not terminated


@pytest.mark.parametrize(("half", "speeds"), [(0.5, (-0.1502791436, 0.4945795533)), (0.3, (-0.1502835439, 0.5576217006))])
def test_golden_steps_of_the_cartpole(half, speeds):
    env, params = make("cartpole-swingup")
    with jax.enable_x64(True):
        x, x_speed, theta, theta_speed = (jnp.asarray(v) for v in (0.1, -0.2, 3.0, 0.4))
        state = CartpoleState(x=x, x_speed=x_speed, theta=theta, theta_speed=theta_speed, t=jnp.asarray(0))
        changes = {"half_length": half, "cart_mass": 1.0, "pole_mass": 0.1, "gravity": 9.8, "dt": 0.01}
        _, state, *_ = env.step_env(jax.random.key(0), state, jnp.asarray([0.5]), double(params, **changes))
    np.testing.assert_allclose((state.x, state.theta), (0.098, 3.004), rtol=0, atol=1e-8)
    np.testing.assert_allclose((state.x_speed, state.theta_speed), speeds, rtol=0, atol=1e-8)


def test_rewards_of_the_cartpole():
    def paid(reward, x, theta, theta_speed, force):
        env, params = make(f"cartpole-swingup{reward}")
        state = CartpoleState(x=jnp.float32(x), x_speed=jnp.float32(0), theta=jnp.float32(theta), theta_speed=jnp.float32(theta_speed), t=0)
        _, _, got, terminated, info = env.step_env(jax.random.key(0), state, jnp.asarray([force]), params)
        return round(float(got), 4), bool(terminated), bool(info["success"])

    assert paid("", 0.0, 0.0, 0.0, 0.0) == (1.0, False, True)
    assert paid("", 2.41, np.pi, 0.0, 0.0)[1]
    assert paid("-sparse", 0.5, 1.0, 0.0, -1.0) == (0.9, False, True)
    assert paid("-sparse", 1.5, 0.0, 0.0, 0.5) == (-0.05, False, False)
    assert paid("-sparse", 3.01, 0.0, 0.0, 0.0)[1]
    assert paid("-seeds", 0.05, 0.1, 0.0, 1.0) == (0.99, False, True)
    assert paid("-seeds", 0.2, 0.1, 0.0, 1.0) == (-0.01, False, False)


def test_sparse_pendulum():
    env, params = make("pendulum-wind-sparse")
    obs, state = env.reset_env(jax.random.key(0), params)
    assert obs[0] < -0.99
    assert float(state.speed) == 0.0
    high = PendulumState(theta=jnp.float32(0.1), speed=jnp.float32(0.5), t=0)
    np.testing.assert_allclose(env.step_env(jax.random.key(0), high, jnp.asarray([2.0]), params)[2], 0.996, atol=1e-6)
    np.testing.assert_allclose(env.step_env(jax.random.key(0), state, jnp.asarray([1.0]), params)[2], -0.001, atol=1e-6)


def test_energy_is_kept_up_to_the_step_length():
    """Without wind and torque; halving nothing else, the drift over a second stays under O(dt) of the 5 J between top and pivot."""
    env, params = make("pendulum-wind")
    state = PendulumState(theta=jnp.float32(1.0), speed=jnp.float32(0.0), t=0)
    first = energy(state, params)
    for _ in range(20):
        state = env.step_env(jax.random.key(0), state, jnp.zeros(1), params)[1]
        assert abs(float(energy(state, params) - first)) < 0.8
    assert abs(float(state.theta) - 1.0) > 1.0


def returns(xi, policy_xi, num=4096):
    """Mean return and its standard error of the best policy of one world in another; policy_xi None: no action."""
    env, params = make("autoregressive-hard", xi=xi)
    own = params.replace(xi=jnp.float32(0.0 if policy_xi is None else policy_xi))

    def act(key, obs):
        return best_action(own, obs)

    keys = jax.random.split(jax.random.key(3), num)
    total = jax.jit(jax.vmap(lambda key: rollout.evaluate(key, env, params, act, 50).total))(keys)
    return float(total.mean()), float(total.std()) / num**0.5


@pytest.mark.parametrize(
    ("xi", "policy", "expected", "slack"),
    [
        (1.1, 1.1, -0.77, 0.01), (-1.1, -1.1, -0.77, 0.01), (0.0, 0.0, -0.50, 0.005), (1.1, None, -886, 10), (-1.1, 1.1, -1201, 5),
        (0.0, 1.1, -45.6, 1),
    ],
)  # fmt: skip
def test_returns_of_known_policies(xi, policy, expected, slack):
    """The anchors come with their own error and rounding: slack."""
    mean, error = returns(float(xi), policy)
    assert abs(mean - expected) < 3 * error + slack


@pytest.mark.parametrize("name", ALL)
def test_worlds_are_drawn_in_groups_with_jitter(name):
    env, params = make(name)
    worlds = env.draw_worlds(jax.random.key(1), params, 20)
    assert np.bincount(worlds.group).tolist() == [7, 7, 6]
    assert all(x.shape[0] == 20 for x in jax.tree.leaves(worlds))
    means = np.asarray([np.mean(worlds.value[worlds.group == g]) for g in range(3)])
    field = {"a": "xi", "p": "wind", "c": "half_length"}[name[0]]
    centres = {"autoregressive-easy": (-0.8, 0.1, 0.9), "autoregressive-hard": (-1.1, 0.0, 1.1)}.get(
        name, (-2.0, 0.0, 2.0) if field == "wind" else (0.3, 0.5, 0.7)
    )
    jitter = {"xi": 0.03, "wind": 0.1, "half_length": 0.02}[field]
    np.testing.assert_allclose(means, centres, atol=jitter)
    assert np.abs(worlds.value - np.asarray(centres)[worlds.group]).max() <= jitter + 1e-6
    assert len(np.unique(worlds.value)) == 20
    np.testing.assert_array_equal(getattr(worlds.params, field), worlds.value)
    same = dataclasses.replace(env, spread=0.0, jitter=0.0).draw_worlds(jax.random.key(1), params, 4)
    assert len(np.unique(same.value)) == 1


@pytest.mark.parametrize("name", ALL)
def test_evidence_depends_on_the_parameter_and_leaves_out_what_was_clipped(name):
    env, params = make(name)
    worlds = env.draw_worlds(jax.random.key(1), params, 3)
    obs, state = env.reset_env(jax.random.key(2), params)
    action = env.action_space(params).sample(jax.random.key(3))

    def seen(world):
        return env.evidence(obs, action, env.step_env(jax.random.key(4), state, action, world)[0])

    x, y, usable = jax.vmap(seen)(worlds.params)
    assert x.ndim == y.ndim == 2
    assert usable.all()
    assert (x == x[0]).all()
    assert len(np.unique(y[:, 0])) == 3
    if name.startswith("auto"):
        far = AutoregressiveState(s=jnp.float32(5.0), t=jnp.int32(0))
        assert not env.evidence(jnp.asarray([5.0]), jnp.ones(1), env.step_env(jax.random.key(0), far, jnp.ones(1), params)[0])[2]
    if name.startswith("pend"):
        fast = PendulumState(theta=jnp.float32(1.0), speed=jnp.float32(8.0), t=jnp.int32(0))
        assert not env.evidence(obs, jnp.ones(1), env.step_env(jax.random.key(0), fast, jnp.ones(1), params)[0])[2]


@pytest.mark.parametrize("name", ["autoregressive-hard", "pendulum-wind", "cartpole-swingup"])
def test_pictures(name):
    env, params = make(name)
    _, state = env.reset_env(jax.random.key(0), params)
    picture = env.render(state, params, 100)
    assert (picture.shape, picture.dtype) == ((100, 100, 3), np.uint8)
    moved = env.render(dataclasses.replace(state, **{{"a": "s", "p": "theta", "c": "x"}[name[0]]: jnp.float32(1.0)}), params, 100)
    assert (picture != moved).any()
    coloured = (np.ptp(picture.astype(int), axis=-1) > 60).mean()
    assert 0.003 < coloured < 0.2


def test_bad_options_are_one_line():
    with pytest.raises(UserError, match=r"^pendulum-wind: wind = 4.0: must be -4 < x < 4$|^pendulum-wind: wind = 4.0: must be"):
        make("pendulum-wind", wind=4.0)
    with pytest.raises(UserError, match=r"^pendulum-wind: groups = 'five': must be one of three, four"):
        make("pendulum-wind", groups="five")
