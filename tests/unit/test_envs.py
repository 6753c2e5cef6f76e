"""Every environment keeps gymnax 1.0's contract; literal facts of the maze and of the probes; what a user reads after a mistake."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from causal_jax.envs import list_envs, make
from causal_jax.envs.adapters import five_tuple
from causal_jax.envs.maze import motions
from causal_jax.spaces import Box, Discrete, Factored, Hybrid
from causal_jax.types import UserError

NUM_STEPS, NUM_ENVS = 9, 3
CONTRACT = {  # name -> options; limits are short so that episodes end within the test
    "maze-n1": {"max_steps": 4},
    "maze-n6": {"max_steps": 4},
    "maze-n10": {"max_steps": 4, "image": True},
    "chemical-full-fork": {"max_steps": 4, "num_objects": 4},
    "chemical-full-chain-drift": {"max_steps": 4, "num_objects": 4, "level": 2},
    "magnetic": {"max_steps": 4, "physics": "closed"},
    "platform": {"max_steps": 4},
    "goal": {"max_steps": 4},
    "hard-goal": {"max_steps": 4},
    "catch-point": {"max_steps": 4},
    "hard-move-6": {"max_steps": 4},
    "point-mass-9": {"max_steps": 4},
    "point-mass-hard-5": {"max_steps": 4},
    "sepsis-sim": {"max_steps": 4, "split": "2", "confounding": 0.5},
    "icu-sepsis": {"max_steps": 4, "features": "onehot"},
    **{name: {} for name in list_envs() if name.startswith("probe")},
    "gymnax:CartPole-v1": {"max_steps": 4},
    "gymnax:Pendulum-v1": {"max_steps": 4, "levels": 3},
}


def trace_with_key_check(function):
    """jax checks for reused keys when it traces; no compilation is needed."""
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: function(key)).trace(jax.random.key(0))


@pytest.mark.parametrize("name", dict.fromkeys([*CONTRACT, *list_envs(), "brax:inverted_pendulum"]))
def test_no_key_is_used_twice(name):
    env, params = make(name, **CONTRACT.get(name, {}))

    def two_steps(key):
        key_reset, key = jax.random.split(key)
        _, state = env.reset(key_reset, params)

        def one(state, key):
            key_act, key_step = jax.random.split(key)
            return env.step(key_step, state, env.action_space(params).sample(key_act), params)[1], None

        return jax.lax.scan(one, state, jax.random.split(key, 2))[0]

    trace_with_key_check(two_steps)


def test_the_key_check_can_fail():
    with pytest.raises(jax.errors.KeyReuseError):
        trace_with_key_check(lambda key: (jax.random.normal(key), jax.random.normal(key)))


@pytest.mark.parametrize("name", list_envs())
def test_every_name_makes_an_environment(name):
    env, params = make(name)
    space = env.observation_space(params)
    obs, state = jax.eval_shape(env.reset, jax.random.key(0), params)
    assert (obs.shape, obs.dtype) == (space.shape, space.dtype)
    action = env.action_space(params).sample(jax.random.key(0))
    assert env.action_space(params).contains(action)
    out = jax.eval_shape(env.step, jax.random.key(0), state, action, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), out[:2]) == jax.tree.map(lambda x: (x.shape, x.dtype), (obs, state))
    assert [(x.shape, x.dtype) for x in out[2:5]] == [((), jnp.float32), ((), bool), ((), bool)]
    assert env == make(name)[0]  # hashable and equal, so a jitted function that takes it compiles once
    assert hash(env) == hash(make(name)[0])


@pytest.mark.parametrize("name", CONTRACT)
def test_contract(name):
    env, params = make(name, **CONTRACT[name])
    keys = jax.random.split(jax.random.key(3), (NUM_STEPS, NUM_ENVS))
    actions = jax.device_get(jax.jit(jax.vmap(jax.vmap(env.action_space(params).sample)))(keys))
    first, state = jax.jit(jax.vmap(env.reset, (0, None)))(keys[0], params)
    many, alone = jax.jit(jax.vmap(env.step, (0, 0, 0, None))), jax.jit(env.step)
    num_done = 0
    for t in range(NUM_STEPS):
        action = jax.tree.map(lambda x, t=t: x[t], actions)
        before, batched = jax.device_get((state, action)), many(keys[t], state, action, params)
        i = t % NUM_ENVS
        got, (one_state, one_action) = jax.tree.map(lambda x, i=i: x[i], (jax.device_get(batched), before))
        looped = alone(keys[t, i], one_state, one_action, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, jax.device_get(looped))
        _, state, *_ = batched
        obs, _, reward, terminated, truncated, info = jax.device_get(batched)
        done = terminated | truncated
        num_done += done.sum()
        assert np.isfinite(reward).all()
        np.testing.assert_array_equal(obs[~done], info["final_observation"][~done])
        if name.startswith("maze"):  # every start is the same
            assert (obs[done] == first[0]).all()
            assert truncated.all() == (t % 4 == 3)
        if name.startswith("probe"):
            np.testing.assert_array_equal(np.asarray(state.t) == 0, done)
    assert num_done > 0


def test_gymnax_passes_through_unchanged():
    import gymnax

    theirs, their_params = gymnax.make("CartPole-v1")
    ours, params = make("gymnax:CartPole-v1")
    key = jax.random.key(0)
    obs, state = ours.reset(key, params)
    np.testing.assert_array_equal(obs, theirs.reset(key, their_params)[0])
    step = jax.jit(ours.step)
    for key in jax.random.split(jax.random.key(1), 12):  # pushing right: the pole falls, then a reset
        expected = theirs.step(key, state, 1, their_params)
        got = step(key, state, 1, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected)
        state = got[1]
    assert ours.action_space(params) == Discrete(2)
    assert make("gymnax:CartPole-v1", gravity=5)[1].gravity == 5.0


def test_real_actions_in_levels():
    env, params = make("gymnax:Pendulum-v1", levels=5)
    plain, _ = make("gymnax:Pendulum-v1")
    assert env.action_space(params) == Factored((5,))
    assert env.noop == (2,)
    assert env.blocks.sizes == (5,)
    _, state = env.reset(jax.random.key(0), params)
    for level, torque in ((0, -2.0), (2, 0.0), (3, 1.0)):
        got = env.step_env(jax.random.key(1), state, jnp.asarray([level]), params)
        expected = plain.step_env(jax.random.key(1), state, jnp.asarray([torque]), params)
        assert float(got[2]) == pytest.approx(float(expected[2]), abs=1e-6)
    with pytest.raises(UserError, match="levels = 4: none of them is 0"):
        _ = make("gymnax:Pendulum-v1", levels=4)[0].noop
    with pytest.raises(UserError, match="levels = 1: must be"):
        make("gymnax:Pendulum-v1", levels=1)
    with pytest.raises(UserError, match="levels = 3: actions are Discrete"):
        make("gymnax:CartPole-v1", levels=3)


@struct.dataclass
class CounterParams:
    max_steps_in_episode: int = 3
    end: int = 5


class Counter:
    """A gymnax environment as before 1.0: the state counts up, `done` mixes the end and the time limit."""

    default_params = CounterParams()

    def reset_env(self, key, params):
        return jnp.zeros(1), SimpleCounter(time=jnp.asarray(0))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        done = (time >= params.end) | (time >= params.max_steps_in_episode)
        return time[None].astype(jnp.float32), SimpleCounter(time=time), jnp.asarray(1.0), done, {"discount": 1.0 - done}

    def action_space(self, params):
        return Discrete(2)

    def observation_space(self, params):
        return Box(0.0, 9.0, (1,))


@struct.dataclass
class SimpleCounter:
    time: jax.Array


@pytest.mark.parametrize(
    ("rule", "end", "expected"),
    [
        ({}, 5, [(False, False), (False, False), (False, True)]),  # the limit of 3 is read from params and state
        ({}, 2, [(False, False), (True, False), (False, False)]),
        ({"is_truncated": lambda state, params: False}, 5, [(False, False), (False, False), (True, False)]),
    ],
)
def test_five_tuple(rule, end, expected):
    env = five_tuple(Counter(), **rule)
    params = env.default_params.replace(end=end)
    _, state = env.reset(jax.random.key(0), params)
    for i, flags in enumerate(expected):
        obs, state, reward, terminated, truncated, info = env.step(jax.random.key(i), state, 0, params)
        assert (bool(terminated), bool(truncated), float(reward)) == (*flags, 1.0)
        if any(flags):
            assert (float(obs[0]), float(info["final_observation"][0])) == (0.0, i + 1.0)


def test_five_tuple_names_what_is_missing():
    with pytest.raises(UserError, match=r"^env = SimpleNamespace: must have reset_env to be used as a five-tuple environment$"):
        five_tuple(SimpleNamespace(step_env=None))


def test_brax_shows_the_last_observation_and_starts_afresh():
    env, params = make("brax:inverted_pendulum", backend="spring", max_steps=3)

    step = jax.jit(env.step)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(env.reset, jax.random.key(0), params)[1])
    state = state.replace(t=jnp.asarray(2))  # the first step only serves to reset, which saves compiling `reset`
    obs, reward, truncated, final = [], [], [], []
    for key in jax.random.split(jax.random.key(0), 7):
        o, state, r, terminated, cut, info = step(key, state, jnp.ones(1), params)
        obs.append(np.asarray(o)), reward.append(float(r)), truncated.append(bool(cut)), final.append(np.asarray(info["final_observation"]))
    assert truncated == [True, False, False, True, False, False, True]
    assert not terminated
    assert reward == [1.0] * 7
    starts = np.stack([obs[0], obs[3], obs[6]])
    assert (np.abs(starts) <= 0.01).all()
    assert len({tuple(s) for s in starts.tolist()}) == 3
    assert all(np.abs(final[t]).max() > 0.01 for t in (3, 6))  # three pushes later it moves
    assert make("brax:ant")[0].action_space(None) == Box(-1.0, 1.0, (8,))


def test_third_party_packages_are_not_imported():
    code = "import sys, causal_jax.envs as e; e.make('maze-n6'); e.make('probe-box'); import causal_jax.envs.adapters; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"gymnax", "brax", "matplotlib", "gymnasium"} & set(loaded)


# --- the maze


@pytest.mark.parametrize(
    ("n", "multiplicity"),  # multiplicity -> number of distinct motions with it
    [
        (3, {1: 6, 2: 1}),
        (4, {1: 4, 2: 4, 4: 1}),
        (6, {1: 6, 2: 6, 6: 6, 10: 1}),
        (7, {1: 128}),
        (8, {1: 16, 2: 32, 4: 24, 8: 8, 16: 1}),
    ],
)
def test_maze_motions(n, multiplicity):
    _, counts = np.unique(np.round(motions(n), 9) + 0.0, axis=0, return_counts=True)
    assert {k: (counts == k).sum() for k in set(counts)} == multiplicity
    assert np.linalg.norm(motions(n), axis=1).max() == pytest.approx(1, abs=1e-15)


def test_maze_timeout_pays_minus_24_95():
    env, params = make("maze-n4")

    def one(state, _):
        _, state, reward, terminated, info = env.step_env(jax.random.key(0), state, 0, params)
        return state, (reward, terminated, env.is_truncated(state, params), info["success"])

    state = env.reset(jax.random.key(0), params)[1]
    reward, terminated, truncated, success = jax.device_get(jax.jit(lambda s: jax.lax.scan(one, s, None, 500)[1])(state))
    np.testing.assert_allclose(reward, [-0.05] * 499 + [0.0])
    assert reward.sum(dtype=np.float64) == pytest.approx(-24.95, abs=1e-5)
    assert truncated.tolist() == [False] * 499 + [True]
    assert not terminated.any()
    assert not success.any()


@pytest.mark.parametrize(("n", "length"), [(4, 11), (6, 9), (8, 9)])
def test_maze_shortest_solution(n, length):
    """Breadth-first search over positions rounded to 2 decimals, as in the recorded data."""
    env, params = make(f"maze-n{n}")
    successors = jax.jit(jax.vmap(env.successors, (0, None)))
    frontier, seen = np.array([params.start]), set()
    for depth in range(1, length + 1):
        padded = np.zeros((-len(frontier) % 2048, 2), np.float32)
        batches = np.concatenate([frontier, padded]).reshape(-1, 2048, 2)
        out = [jax.device_get(successors(batch, params)) for batch in batches]
        reached = np.concatenate([goal for _, goal in out])[: len(frontier)]
        assert reached.any() == (depth == length)
        points = np.concatenate([p for p, _ in out])[: len(frontier)].reshape(-1, 2)
        cells, first = np.unique(np.round(points * 100).astype(int) @ [1000, 1], return_index=True)
        new = [i for cell, i in zip(cells.tolist(), first, strict=True) if cell not in seen]
        seen |= set(cells.tolist())
        frontier = points[new]


def test_maze_worlds_of_a_population_differ():
    env, params = make("maze-n4")
    worlds = jax.tree.map(lambda x: jnp.stack([x, x]), params).replace(step_unit=jnp.array([0.045, 0.01]), max_steps=jnp.array([500, 1]))
    keys = jax.random.split(jax.random.key(0), 2)
    _, state = jax.vmap(env.reset)(keys, worlds)
    obs, _, reward, terminated, truncated, _ = jax.vmap(env.step)(keys, state, jnp.array([13, 13]), worlds)  # 13 = east
    np.testing.assert_allclose(obs, [[0.25 + 4 * 0.045 * 0.70710678, 0.1], [0.25, 0.1]], atol=1e-6)
    np.testing.assert_allclose(reward, [-0.05, 0.0], atol=1e-7)
    assert (terminated.tolist(), truncated.tolist()) == ([False, False], [False, True])


def test_maze_pictures():
    env, params = make("maze-n6", image=True)
    obs, state = env.reset(jax.random.key(0), params)
    wall, goal, agent, floor = obs[72, 25], obs[52, 27], obs[89, 24], obs[10, 10]
    assert [p.tolist() for p in (wall, goal, agent, floor)] == [[90, 90, 90], [60, 170, 80], [215, 50, 45], [255, 255, 255]]
    picture = env.render(state.replace(pos=jnp.array([0.8, 0.9])), params)
    assert (picture.shape, picture.dtype) == ((200, 200, 3), np.uint8)
    assert picture[20, 160].tolist() == [215, 50, 45]
    assert picture[179, 50].tolist() == [150, 190, 235]  # the start, in blue
    with pytest.raises(UserError, match=r"^image = True: successors needs the vector observation, image = False$"):
        env.successors(obs, params)


# --- the probes


@pytest.mark.parametrize("name", [name for name in list_envs() if name.startswith("probe")])
def test_probe_solutions_satisfy_bellman(name):
    env, params = make(name)
    solution = env.solution(0.9)
    value = {obs: v for obs, v, _ in solution}
    step = jax.jit(env.step_env)
    _, state = env.reset(jax.random.key(0), params)
    for obs, expected, best in solution:
        space = env.action_space(params)
        if isinstance(space, Hybrid):
            action = (jnp.asarray(best[0]), jnp.asarray(best[1], jnp.float32))
        else:
            action = jnp.asarray(0 if best is None else best, jnp.float32 if isinstance(space, Box) else jnp.int32)
        state = state.replace(obs=jnp.asarray(obs, jnp.float32))
        next_obs, _, reward, terminated, _ = step(jax.random.key(1), state, action, params)
        ahead = 0.0 if terminated else 0.9 * value[tuple(next_obs.tolist())]
        assert float(reward) + ahead == pytest.approx(expected, abs=1e-6)


def rewards(env, params, actions):
    """The reward of each action in one start state."""
    state = env.reset(jax.random.key(1), params)[1]
    return jax.vmap(lambda action: env.step_env(jax.random.key(0), state, action, params)[2])(actions)


def test_probe_answers():
    assert make("probe-truncation")[0].solution(0.9) == [((0.0,), pytest.approx(9.0), None), ((1.0,), pytest.approx(10.0), None)]
    assert make("probe-discount")[0].solution(0.9)[0] == ((0.0,), 0.9, None)
    env, params = make("probe-masked")
    next_obs, _ = env.successors(jnp.eye(8)[2], params)
    _, cls, size = np.unique(next_obs, axis=0, return_inverse=True, return_counts=True)
    size = size[cls.ravel()]
    assert tuple(np.flatnonzero(size == 1)) == env.kept_cee
    assert tuple(np.log(8 / size)) == pytest.approx(env.effects)
    assert float(rewards(env, params, jnp.arange(8)).mean()) == 1 / 8
    env, params = make("probe-factored")
    joint = jnp.stack(jnp.meshgrid(jnp.arange(2), jnp.arange(3), jnp.arange(4), indexing="ij"), -1).reshape(24, 3)
    assert float(rewards(env, params, joint).mean()) == pytest.approx(13 / 36)


# --- mistakes


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("maze-n11", {}, "env = 'maze-n11': must be maze-n1 .. maze-n10"),
        ("maze-n6", {"max_steps": 0}, "maze-n6: max_steps = 0: must be 1 <= x"),
        ("maze-n6", {"max_steps": 2.5}, "maze-n6: max_steps = 2.5: must be of type int"),
        ("maze-n6", {"image": 1}, "maze-n6: image = 1: must be of type bool"),
        ("maze-n6", {"n": 4}, "maze-n6: n = 4: unknown option, maze-n6 has image, max_steps"),
        ("probe-value", {"size": 1}, "probe-value: size = 1: unknown option, probe-value has none"),
        ("probe-hybird", {}, "env = 'probe-hybird': unknown, did you mean probe-hybrid, probe-credit, probe-box?"),
        ("gymnax:CartPole-v0", {}, "env = 'gymnax:CartPole-v0': unknown, did you mean CartPole-v1?"),
        ("gymnax:CartPole-v1", {"max_steps": 0}, "gymnax:CartPole-v1: max_steps = 0: must be 1 <= x"),
        ("gymnax:CartPole-v1", {"max_steps": 1.5}, "gymnax:CartPole-v1: max_steps = 1.5: must be an integer"),
        ("gymnax:CartPole-v1", {"gravity": "g"}, "gymnax:CartPole-v1: gravity = 'g': must be a finite number"),
        ("brax:hoper", {}, "env = 'brax:hoper': unknown, did you mean hopper, pusher, reacher?"),
        ("brax:ant", {"backend": "x"}, "brax:ant: backend = 'x': must be one of generalized, spring, positional, mjx"),
        ("brax:swimmer", {"backend": "spring"}, "brax:swimmer: backend = 'spring': Unsupported backend: spring."),
    ],
)
def test_one_line_per_mistake(name, options, told):
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert str(error.value) == told
