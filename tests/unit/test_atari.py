"""Atari without its packages: what a user reads, one call for a batch, and the rules of lives and ends with an emulator made of JAX."""

import sys
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import atari, make
from causal_jax.types import UserError


@pytest.mark.parametrize(
    ("name", "package", "told"),
    [
        ("ale:breakout", "ale_py", "env = 'ale:breakout': needs the package ale-py (pip install \"causal_jax[atari]\"), which cannot be"),
        ("jaxtari:pong", "jaxtari", "env = 'jaxtari:pong': needs the package jaxtari, which cannot be imported here"),
    ],
)
def test_a_missing_package_is_told_in_one_line(name, package, told, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed, wherever the tests run
    with pytest.raises(UserError) as error:
        make(name)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_lanes_are_one_call_and_members_are_refused():
    sizes = []

    def run(num, x):
        sizes.append(num)
        return x + num

    one = atari._batched(run)
    assert int(one(jnp.asarray(5))) == 6
    np.testing.assert_array_equal(jax.vmap(one)(jnp.arange(3)), [3, 4, 5])
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(one)))(jnp.arange(4)[None]), [[4, 5, 6, 7]])
    assert set(sizes) == {1, 3, 4}
    with pytest.raises(UserError, match=r"^members = 2: must be 1 with ale:<game>"):
        jax.vmap(jax.vmap(one))(jnp.zeros((2, 3), int))


LOSE, SCORE = 1, 2


@pytest.fixture
def ale(monkeypatch):
    """Up to four games whose memory is the address itself: bytes 0-3 count steps, 4-7 lives; action 1 loses a life, 2 scores 7."""

    def call(target, num, kinds, handle, *args):
        t, lives = handle[:num], handle[4 : 4 + num]
        if target == "reset":
            t, lives, rest = t.at[args[0]].set(0), lives.at[args[0]].set(3), ()
        else:
            t, lives = t + 1, lives - (args[0] == LOSE)
            rest = (jnp.where(args[0] == SCORE, 7, 0), lives == 0, t == 20)
        obs = jnp.broadcast_to(t[:, None, None, None], (num, 84, 84, 4))
        return handle.at[:num].set(t).at[4 : 4 + num].set(lives), obs, *rest, lives.astype(jnp.int32)

    monkeypatch.setattr(atari, "_import", lambda name: None)
    monkeypatch.setattr(atari, "_emulators", lambda env, num, slot: np.zeros(8, np.uint8))
    monkeypatch.setattr(atari, "_call", call)


def test_lives_end_episodes_and_only_finished_games_begin_again(ale):
    env, params = make("ale:fake")
    keys = jax.random.split(jax.random.key(0), 3)
    step = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))
    obs, state = jax.vmap(env.reset, (0, None))(keys, params)
    assert (obs.shape, obs.dtype) == ((3, 84, 84, 4), jnp.uint8)
    ended, paid, lives = [], [], []
    for i in range(4):  # lane 0 loses its lives, lane 1 scores, lane 2 does nothing
        obs, state, reward, terminated, truncated, info = step(keys, state, jnp.asarray([LOSE, SCORE, 0]), params)
        ended.append(np.asarray(terminated).tolist())
        paid.append(np.asarray(reward).tolist())
        lives.append(np.asarray(state.lives).tolist())
        assert not truncated.any()
        assert np.asarray(info["points"]).tolist() == [0, 7, 0]
        assert np.asarray(info["final_observation"])[:, 0, 0, 0].tolist() == [i + 1 if i < 3 else 1, i + 1, i + 1]
    assert ended == [[True, False, False]] * 4
    assert paid == [[0, 1, 0]] * 4  # the sign
    assert lives == [[2, 3, 3], [1, 3, 3], [3, 3, 3], [2, 3, 3]]
    assert np.asarray(obs)[:, 0, 0, 0].tolist() == [1, 4, 4]  # lane 0 began again after its third step
    for _ in range(16):
        obs, state, _, _, truncated, info = step(keys, state, jnp.zeros(3, int), params)
    assert np.asarray(truncated).tolist() == [False, True, True]
    assert np.asarray(obs)[:, 0, 0, 0].tolist() == [17, 0, 0]
    assert np.asarray(info["final_observation"])[:, 0, 0, 0].tolist() == [17, 20, 20]


def test_evaluation_plays_whole_games_for_points(ale):
    env, params = make("ale:fake")

    def play(key):
        return rollout.evaluate(key, env, params, lambda key, obs: jnp.where(obs[0, 0, 0] % 2 == 0, SCORE, LOSE), 100)

    episode = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 2))
    assert np.asarray(episode.total).tolist() == [21, 21]
    assert np.asarray(episode.length).tolist() == [6, 6]
    played = jax.jit(play)(jax.random.key(1))
    assert (float(played.total), int(played.length)) == (21, 6)


def test_a_state_of_another_process_begins_anew(ale):
    env, params = make("ale:fake", episodic_life=False, clip=False)
    keys = jax.random.split(jax.random.key(0), 2)
    _, state = jax.vmap(env.reset, (0, None))(keys, params)
    state = state.replace(handle=state.handle + 9, lives=state.lives * 0)
    step = jax.vmap(env.step, (0, 0, 0, None))
    obs, *_ = step(keys, state, jnp.zeros(2, int), params)
    assert np.asarray(obs)[:, 0, 0, 0].tolist() == [10, 10]
    obs, new, reward, terminated, *_ = step(keys, state.replace(token=state.token + 1), jnp.asarray([SCORE, LOSE]), params)
    assert np.asarray(obs)[:, 0, 0, 0].tolist() == [1, 1]
    assert np.asarray(new.lives).tolist() == [3, 2]
    assert np.asarray(reward).tolist() == [7, 0]
    assert not terminated.any()


class Game:
    """Counts to 3, as jaxtari's wrapped games step: no key, no params."""

    def reset(self, key):
        return jnp.zeros((4, 84, 84, 1), jnp.uint8), jnp.zeros((), jnp.int32)

    def step(self, state, action):
        frames = jnp.full((4, 84, 84, 1), state + 1, jnp.uint8)
        return frames, state + 1, jnp.asarray(2.5), state + 1 == 3, jnp.zeros((), bool), {}


def fake_jaxtari(monkeypatch, make_game):
    package, core, wrappers = ModuleType("jaxtari"), SimpleNamespace(GAME_MODULES={"pong": "", "qbert": ""}), SimpleNamespace()
    wrappers.AtariWrapper = wrappers.PixelObsWrapper = lambda game, **options: game
    package.core, package.wrappers, package.make = core, wrappers, make_game
    monkeypatch.setitem(sys.modules, "jaxtari", package)
    atari._jaxtari.cache_clear()


def test_jaxtari_needs_its_sprites_and_then_plays(monkeypatch):
    def no_sprites(name):
        raise RuntimeError("\n  SPRITES NOT INSTALLED\n-----\nplease run\n")

    fake_jaxtari(monkeypatch, no_sprites)
    with pytest.raises(UserError) as error:
        make("jaxtari:pong")
    assert str(error.value) == (
        "env = 'jaxtari:pong': needs jaxtari's sprites, installed by python -m jaxtari.install_sprites (SPRITES NOT INSTALLED)"
    )
    with pytest.raises(UserError, match=r"^env = 'jaxtari:pog': unknown, did you mean pong"):
        make("jaxtari:pog")
    fake_jaxtari(monkeypatch, lambda name: Game())
    env, params = make("jaxtari:pong", max_steps=2)
    obs, state = env.reset(jax.random.key(0), params)
    assert obs.shape == env.observation_space(params).shape == (84, 84, 4)
    assert env.action_space(params).n == 18
    for t in (1, 2):
        obs, state, reward, terminated, truncated, info = env.step(jax.random.key(t), state, jnp.asarray(0), params)
    assert (float(reward), bool(terminated), bool(truncated), int(state.t)) == (2.5, False, True, 0)
    assert (int(obs[0, 0, 0]), int(info["final_observation"][0, 0, 0])) == (0, 2)
