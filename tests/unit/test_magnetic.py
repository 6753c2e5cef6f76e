"""Magnetic: who moves what, the reward, the graphs against what the dynamics really read, the test task, scripted policies, the picture."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make
from causal_jax.envs.magnetic import BALL, BALL_COLOUR, BOX, BOX_COLOUR, EEF, HIGH, LOW, TABLE, VARIABLES, MagneticState, graphs
from causal_jax.envs.magnetic_policies import policies
from causal_jax.types import UserError

N, M = 11, 3


def scene(red=(True, True), ball=(0.1, 0.2), box=(-0.1, 0.2), eef=(0.1, 0.2, 0.8)):
    return MagneticState(
        red=jnp.asarray(red), ball=jnp.asarray(ball), box=jnp.asarray(box), eef=jnp.asarray(eef), step=jnp.zeros((), jnp.int32)
    )


@partial(jax.jit, static_argnums=0)
def step(env, params, state, action):
    return env.step_env(jax.random.key(0), state, action, params)


@pytest.fixture(scope="module")
def episodes():
    """[2 levels, 64 episodes] of random play: (start states, transitions [.., 25], info of each step)."""
    env, params = make("magnetic", physics="closed")

    def one(key, level):
        key_reset, key_steps = jax.random.split(key)
        _, state = env.reset(key_reset, params.replace(level=level))

        def body(state, key):
            key_act, key_step = jax.random.split(key)
            action = 1.5 * env.action_space(params).sample(key_act)
            _, after, reward, terminated, info = env.step_env(key_step, state, action, params)
            return after, (state, action, after, reward, terminated, info)

        return jax.lax.scan(body, state, jax.random.split(key_steps, 25))[1]

    keys = jax.random.split(jax.random.key(1), 64)
    return jax.device_get(jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 0)))(keys, jnp.arange(2)))


def test_the_ball_moves_only_if_both_are_red_and_then_towards_the_box(episodes):
    before, _, after, *_ = episodes
    both = before.red.all(-1)
    moved = after.ball - before.ball
    assert not moved[~both].any()
    offset = before.box - before.ball
    distance = np.linalg.norm(offset, axis=-1)
    free = both & (distance > 0.07)
    assert free.sum() > 50
    assert ((moved * offset).sum(-1)[free] > 0).all()
    np.testing.assert_allclose((moved[..., 0] * offset[..., 1] - moved[..., 1] * offset[..., 0])[free], 0, atol=1e-6)  # in a straight line
    assert (np.linalg.norm(after.box - after.ball, axis=-1)[free] >= 0.06 - 1e-6).all()  # never into the box


@pytest.mark.parametrize(
    ("distance", "moved"),
    [(0.5, 0.01), (0.25, 0.02), (0.12, 0.03), (0.07, 0.01), (0.06, 0.0), (0.03, 0.0)],  # 0.1 s x min(0.05 / d, 0.3); up to the box; there
)
def test_force_law(distance, moved):
    env, params = make("magnetic", physics="closed", attraction=0.05, max_force=0.3, drag=1.0)
    state = scene(ball=(0.0, -0.2), box=(0.0, -0.2 + distance))
    after = step(env, params, state, jnp.zeros(3))[1]
    np.testing.assert_allclose(after.ball, [0.0, -0.2 + moved], atol=1e-6)
    slower = step(env, params.replace(drag=jnp.asarray(4.0)), state, jnp.zeros(3))[1]
    np.testing.assert_allclose(slower.ball[1] + 0.2, {0.12: 0.0075, 0.07: 0.0075}.get(distance, moved / 4), atol=1e-6)


def test_mujoco_and_the_closed_form_agree():
    scenes = [(0.5, True), (0.25, True), (0.12, True), (0.07, True), (0.03, True), (0.25, False)]
    distance, red = (jnp.asarray(x) for x in zip(*scenes, strict=True))
    ball = jnp.asarray([0.05, -0.2])
    box = ball + distance[:, None] * jnp.asarray([-0.6, 0.8])

    def after(env, params):
        def one(box, red):
            state = scene(ball=ball, box=box).replace(red=jnp.stack([red, True]))
            return env.step_env(jax.random.key(0), state, jnp.ones(3), params)[1]

        return jax.jit(jax.vmap(one))(box, red)

    closed, mujoco = (after(*make("magnetic", physics=physics)) for physics in ("closed", "mjx"))
    np.testing.assert_allclose(mujoco.ball, closed.ball, atol=2e-3)
    moved = np.linalg.norm(mujoco.ball - ball, axis=1)
    assert (moved[:4] > 0.008).all()
    np.testing.assert_array_equal(moved[4:], 0)  # inside the box; not red
    np.testing.assert_array_equal(mujoco.eef, closed.eef)


def test_only_the_action_moves_the_end_effector(episodes):
    before, action, after, _, terminated, _ = episodes
    assert (np.abs(action) > 1).any()
    expected = np.clip(before.eef + 0.0115 * np.clip(action, -1, 1), LOW, HIGH)
    np.testing.assert_allclose(after.eef, expected, atol=1e-6)
    np.testing.assert_array_equal(after.box, before.box)
    np.testing.assert_array_equal(after.red, before.red)
    assert not terminated.any()


@pytest.mark.parametrize(
    ("eef", "reward", "success"),
    [
        ((0.1, 0.2, 0.8), 1.0, True),
        ((0.11, 0.18, 0.81), 0.8026247, True),  # 1 - tanh(5 x 0.04)
        ((0.12, 0.18, 0.82), 0.7086874, False),  # 1 - tanh(5 x 0.06), although no axis is off by 0.05
        ((0.0, 0.0, 0.9), 0.0359724, False),  # 1 - tanh(5 x 0.4)
    ],
)
def test_reward_and_success(eef, reward, success):
    env, params = make("magnetic", physics="closed")
    obs, _, found, _, info = step(env, params, scene(red=(True, False), eef=eef), jnp.zeros(3))
    assert float(found) == pytest.approx(reward, abs=1e-6)
    assert bool(info["success"]) == success
    other = jnp.full(N, 7.0)  # the reward of a model's variables is theirs, whatever the observation
    assert float(env.imagined_reward(other, env.features(obs))) == pytest.approx(reward, abs=1e-6)


def test_graphs_differ_by_the_six_edges_of_the_paper():
    everywhere, local = graphs()
    _, minimal = graphs(minimal=True)
    gone = {(VARIABLES[source], VARIABLES[child]) for child, source in np.argwhere(everywhere & ~local)}
    assert {(source.replace("red", "colour").replace("black", "colour"), child) for source, child in gone} == {
        (source, child) for source in ("box_colour", "box_x", "box_y") for child in ("ball_x", "ball_y")
    }
    assert (len(gone), (everywhere & ~minimal).sum(), (local & ~everywhere).sum()) == (8, 8 + 6, 0)
    assert (everywhere.sum(), local.sum(), minimal.sum()) == (14 + 14, 14 + 6, 14)
    np.testing.assert_array_equal(everywhere[:, N:], np.eye(N, M, k=-8))  # an action moves its own axis of the end effector


def test_the_local_graph_is_what_the_next_state_can_be_changed_by():
    """The minimal graph against the environment itself: change one variable or action at a time, see which next variables change."""
    env, params = make("magnetic", physics="closed", minimal_graph=True)

    def after(values, action):
        red = jnp.stack([values[0] > values[1], values[4] > values[5]])
        state = MagneticState(red=red, ball=values[BALL], box=values[BOX], eef=values[EEF], step=jnp.zeros((), jnp.int32))
        return step(env, params, state, action)[0]

    for ball_red in (True, False):
        for box_red in (True, False):
            state = scene((ball_red, box_red), ball=(0.1, 0.2), box=(-0.12, -0.1), eef=(0.05, 0.1, 0.9))
            values, action = env._observe(state), jnp.asarray([0.3, -0.2, 0.1])
            graph = np.asarray(env.local_graph(env.features(values), action))
            found = np.zeros((N, N + M), bool)
            change = 0.01 * jnp.eye(N + M)
            for source in range(N + M):
                moved = after(values + change[source, :N], action + change[source, N:])
                found[:, source] = np.abs(moved - after(values, action)) > 1e-6
            real = [v for v in range(N + M) if v not in (0, 1, 4, 5)]  # a colour is not changed by a little
            np.testing.assert_array_equal(found[:, real], graph[:, real])
            if ball_red and box_red:  # either colour flipped stops the ball
                for colour in (BALL_COLOUR, BOX_COLOUR):
                    flipped = after(values.at[colour].set(values[colour][::-1]), action)
                    assert (np.asarray(flipped)[BALL] != np.asarray(after(values, action))[BALL]).all()
                    assert graph[BALL, colour].all()
            assert (make("magnetic", physics="closed")[0].local_graph(env.features(values), action) >= graph).all()


def test_info_tells_the_graph_in_force(episodes):
    before, *_, info = episodes
    everywhere, local = (graph[:, :N] & ~np.eye(N, dtype=bool) for graph in graphs())
    expected = np.where(before.red.all(-1)[..., None, None], everywhere, local)
    np.testing.assert_array_equal(info["parents"], expected)


def test_starts_of_training_and_test():
    env, params = make("magnetic", physics="closed")
    world = env.tests(params)
    assert list(world) == ["test"]
    keys = jax.random.split(jax.random.key(0), 1000)
    reset = jax.jit(jax.vmap(env.reset, (0, None)))
    (obs, train), (seen, test) = reset(keys, params), reset(keys, world["test"])
    for state in (train, test):
        assert (np.abs(state.ball) <= TABLE).all()
        assert ((state.eef >= LOW) & (state.eef <= HIGH)).all()
        np.testing.assert_allclose(np.asarray(state.ball).std(0), np.asarray(TABLE) / np.sqrt(3), rtol=0.1)
    assert (np.abs(train.box) <= TABLE).all()
    np.testing.assert_allclose(np.bincount(np.asarray(train.red) @ [1, 2], minlength=4), 250, atol=60)
    red = np.asarray(test.red)
    assert (red.sum(1) == 1).all()  # one red, one black: never an attraction
    assert red[:, 0].mean() == pytest.approx(0.5, abs=0.06)
    np.testing.assert_allclose(np.asarray(test.box).std(0), 100, rtol=0.1)
    assert (np.abs(test.box) > TABLE).any(1).mean() > 0.99
    np.testing.assert_array_equal(jax.vmap(env.features)(seen)[:, BOX, 0], test.box)
    one_hot = np.stack([train.red, ~np.asarray(train.red)], -1)
    np.testing.assert_array_equal(obs, np.concatenate([one_hot[:, 0], train.ball, one_hot[:, 1], train.box, train.eef], 1))
    assert env.features(obs[0]).shape == (env.factors.num_variables, env.factors.variable_size) == (N, 1)
    assert tuple(env.factors) == (11, 1, 3, 1, False, False)
    assert make("magnetic", physics="closed", level=1)[1] == world["test"]


def test_how_the_test_world_shows_a_state():
    env, params = make("magnetic", physics="closed")
    obs, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(3), 400), params)
    values = jax.vmap(env.features)(obs)
    np.testing.assert_array_equal(jax.vmap(env.in_tests)(values), np.asarray(state.red).sum(1) == 1)
    assert np.flatnonzero(env.counted(params)).tolist() == [2, 3, 8, 9, 10]
    show = jax.vmap(env.disturb, (0, 0, None))
    keys = jax.random.split(jax.random.key(4), 400)
    np.testing.assert_array_equal(show(keys, values, params), values)
    shown = np.asarray(show(keys, values, env.tests(params)["test"]))[..., 0]
    others = np.setdiff1d(np.arange(N), [6, 7])
    np.testing.assert_array_equal(shown[:, others], obs[:, others])
    np.testing.assert_allclose(shown[:, BOX].std(0), 100, rtol=0.15)


def test_an_episode_is_25_steps_and_nothing_ends_it():
    env, params = make("magnetic", physics="closed")
    act = lambda key, obs: (env.action_space(params).sample(key), {})  # noqa: E731
    cursor = rollout.start(jax.random.key(0), env, params)
    _, transitions, told = jax.jit(lambda cursor: rollout.unroll(jax.random.key(1), env, params, act, cursor, 60))(cursor)
    assert np.flatnonzero(transitions.truncated).tolist() == np.flatnonzero(told["done"]).tolist() == [24, 49]
    assert not transitions.terminated.any()


@pytest.fixture(scope="module")
def returns():
    """{policy: return [2 levels, 1024]}, and success."""
    env, params = make("magnetic", physics="closed")

    def play(key, level):
        world = params.replace(level=level)
        return {name: rollout.evaluate(key, env, world, act, 25) for name, act in policies(env, world).items()}

    keys = jax.random.split(jax.random.key(0), 1024)
    return jax.device_get(jax.jit(jax.vmap(jax.vmap(play, (0, None)), (None, 0)))(keys, jnp.arange(2)))


def test_scripted_policies(returns):
    total = {name: played.total.mean(1) for name, played in returns.items()}
    np.testing.assert_allclose(total["chase"][0], 8.5, atol=0.7)  # what was calibrated; the standard error is 0.22
    for name in ("random", "idle"):
        np.testing.assert_allclose(total[name], [1.0, 1.0], atol=0.3)
        assert returns[name].success.mean() < 0.05
    assert 0.4 < returns["chase"].success.mean() < 0.6
    np.testing.assert_array_equal(returns["lookahead"].total[1], returns["chase"].total[1])  # nothing to predict in the test
    gain = returns["lookahead"].total[0] - returns["chase"].total[0]
    assert gain.mean() > 3 * gain.std() / np.sqrt(1024)  # to know the attraction pays


def test_picture_shows_who_is_where():
    env, params = make("magnetic", physics="closed")
    red, black, blue, green, field = (214, 69, 65), (35, 35, 40), (38, 110, 196), (52, 152, 74), (235, 150, 145)
    count = lambda image, colour: int((image == colour).all(-1).sum())  # noqa: E731
    both = env.render(scene(ball=(0.1, 0.2), box=(-0.2, -0.3), eef=(0.0, 0.0, 0.9)), params)
    assert (both.shape, both.dtype) == ((240, 240, 3), np.uint8)
    assert count(both, field) > 20  # the pull
    assert count(both, black) == 0
    assert both[round(240 * 0.331), round(240 * 0.177)].tolist() == list(red)  # the box, left and up
    apart = env.render(scene((True, False), box=(90.0, -120.0), eef=(0.1, 0.2, 0.8)), params)
    assert count(apart, field) == 0
    assert count(apart, black) > 20  # a wedge
    assert (count(both, green), count(apart, blue)) == (0, 0)  # green: it is there
    assert min(count(both, blue), count(apart, green)) > 50
    low, high = (env.render(scene(eef=(0.0, 0.0, z)), params)[:, 223:].astype(int) for z in (0.85, 0.98))
    rows = [np.flatnonzero((image == blue).all(-1).any(1)).mean() for image in (low, high)]
    assert rows[0] > rows[1] + 50  # the mark of the height


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"level": 2}, "magnetic: level = 2: must be 0 <= x <= 1"),
        ({"drag": 0.0}, "magnetic: drag = 0.0: must be 0 < x"),
        ({"atraction": 1.0}, "magnetic: atraction = 1.0: unknown option, magnetic has physics, attraction, max_force"),
    ],
)
def test_one_line_per_mistake(options, told):
    with pytest.raises(UserError) as error:
        make("magnetic", **options)
    assert str(error.value).startswith(told)
