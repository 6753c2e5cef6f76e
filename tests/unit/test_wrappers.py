"""`alias`: copies and no-ops do what they should, the classes are true, and it reaches every kind of environment by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import effects
from causal_jax.envs import make
from causal_jax.settings import Settings, resolve
from causal_jax.types import UserError


@pytest.mark.parametrize(("options", "size"), [({}, 7), ({"m": 16, "noops": 3}, 115), ({"m": 585, "noops": 1, "permute": 4}, 4096)])
def test_classes(options, size):
    env, params = make("alias:minigrid-unlockpickup", **options)
    assert env.action_space(params).n == size == len(env.classes)
    counts = np.bincount(env.classes, minlength=8)
    assert counts[:7].tolist() == [options.get("m", 1)] * 7
    assert counts[7] == options.get("noops", 0)
    assert (np.diff(env.classes[:7]) == 1).all() == ("permute" not in options)
    assert env == make("alias:minigrid-unlockpickup", **options)[0]
    assert hash(env) == hash(make("alias:minigrid-unlockpickup", **options)[0])


def test_copies_act_alike_and_noops_do_nothing():
    env, params = make("alias:minigrid-gotolocal", m=3, noops=2, permute=1, max_steps=40, max_idle=2)
    inner, _ = make("minigrid-gotolocal", max_steps=40)
    state = env.reset(jax.random.key(0), params)[1]
    step, inner_step = (jax.jit(jax.vmap(e.step_env, (None, None, 0, None))) for e in (env, inner))
    obs, after, reward, terminated, _ = step(jax.random.key(0), state, jnp.arange(23), params)
    expected = inner_step(jax.random.key(0), state.inner, jnp.arange(7), params)
    for action, kind in enumerate(env.classes):
        if kind < 7:
            np.testing.assert_array_equal(obs[action], expected[0][kind])
            assert after.idle[action] == 0
        else:
            np.testing.assert_array_equal(obs[action], state.obs)
            assert (int(after.inner.t[action]), int(after.idle[action])) == (0, 1)
            assert (float(reward[action]), bool(terminated[action])) == (0.0, False)
    noop = jnp.asarray(np.flatnonzero(env.classes == 7)[0])
    _, state, _, _, truncated, _ = env.step(jax.random.key(0), state, noop, params)
    assert not truncated
    _, state, _, _, truncated, _ = env.step(jax.random.key(0), state, noop, params)
    assert truncated  # max_idle
    assert int(state.idle) == 0


@pytest.mark.parametrize("name", ["minigrid-unlockpickup", "maze-n2"])
def test_the_oracle_sees_through_copies(name):
    env, params = make(f"alias:{name}", m=3, noops=2, permute=5)
    inner, _ = make(name)
    obs, _ = inner.reset(jax.random.key(0), params)
    same, alone = jax.jit(lambda obs: [effects.same_successor(*e.successors(obs, params)) for e in (env, inner)])(obs)
    classes = env.classes
    real = classes < env.num_inner
    np.testing.assert_array_equal(same[np.ix_(real, real)], alone[np.ix_(classes[real], classes[real])])
    still = {"minigrid-unlockpickup": 6, "maze-n2": 0}[name]  # `done` and no actuator
    np.testing.assert_array_equal(same[np.flatnonzero(~real)[0]], ~real | np.append(alone[still], False)[classes])
    # every class has at least three members: CEE keeps nothing, NPM one of each
    n_matrix = effects.oracle_n_matrix(*env.successors(obs, params))
    assert not effects.select("cee", jax.random.key(0), n_matrix).any()
    assert int(effects.select("npm", jax.random.key(0), n_matrix).sum()) == len(np.unique(np.asarray(alone), axis=0))


def test_names_and_options_reach_the_right_environment():
    env, params = make("alias:gymnax:Breakout-MinAtar", m=4, noops=2)
    num = make("gymnax:Breakout-MinAtar")[0].action_space(params).n
    assert env.action_space(params).n == 4 * num + 2
    assert env.observation_space(params).shape == (10, 10, 4)
    assert not hasattr(env, "successors")
    _, params = make("alias:gymnax:CartPole-v1", m=2, gravity=5.0)
    assert params.gravity == 5.0
    assert hasattr(make("alias:maze-n2")[0], "render")
    settings = Settings(algorithm="ppo", env="alias:minigrid-gotolocal", env_options=("m=2", "noops=1", "layout=random"))
    resolved = resolve(settings)
    assert (resolved.env.action_space(resolved.env_params).n, resolved.env.inner.layout) == (15, "random")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("alias:maze-n2", {"m": 0}, "alias:maze-n2: m = 0: must be 1 <= x <= 65536"),
        ("alias:maze-n2", {"mm": 2}, "maze-n2: mm = 2: unknown option, maze-n2 has image, max_steps"),
        ("alias:magnetic", {}, "alias: env = Magnetic: needs a Discrete action space, this one is Box"),
        ("alias:nothing", {}, None),
        ("navix:Navix-Empty-5x5-v0", {}, "env = 'navix:Navix-Empty-5x5-v0': needs the package navix, which cannot be imported here"),
        ("minigrid-unlockpickup", {"layout": "x"}, "minigrid-unlockpickup: layout = 'x': must be one of fixed, random, anywhere"),
    ],
)
def test_one_line_per_mistake(name, options, told, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "navix", None)  # as if it were not installed, wherever the tests run
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert str(error.value).startswith(told or "env = 'nothing': unknown")
    assert "\n" not in str(error.value)


def test_minatar_is_gymnax_flat_and_takes_aliases():
    env, params = make("alias:minatar:breakout", m=4, max_steps=7)
    inner, _ = make("gymnax:Breakout-MinAtar")
    assert env.action_space(params).n == 4 * 3
    assert env.observation_space(params).shape == (400,)
    assert int(params.max_steps_in_episode) == 7
    key = jax.random.key(2)
    obs, state = env.reset(key, params)
    raw, raw_state = inner.reset(key, params)
    np.testing.assert_array_equal(obs, np.asarray(raw, np.float32).reshape(-1))
    obs, _, reward, *_ = env.step_env(key, state, jnp.asarray(4), params)
    raw, _, raw_reward, *_ = inner.step_env(key, raw_state, jnp.asarray(1), params)
    np.testing.assert_array_equal(obs, np.asarray(raw, np.float32).reshape(-1))
    assert float(reward) == float(raw_reward)
    with pytest.raises(UserError, match="env = 'minatar:brakout'.*breakout"):
        make("minatar:brakout")
