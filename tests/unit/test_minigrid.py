"""MiniGrid: the exact kept sets, reachable states and shortest solutions, observations, random layouts, the position bonus."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import effects
from causal_jax.envs import list_envs, make
from causal_jax.envs import minigrid_layouts as layouts
from causal_jax.envs import minigrid_physics as physics
from causal_jax.envs import minigrid_views as views
from causal_jax.envs.minigrid_search import reachable, shortest
from causal_jax.types import UserError

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
BLUE_KEY, RED_KEY, PURPLE_BOX, GREEN_BOX = (5, 2), (5, 0), (7, 3), (7, 1)


@pytest.fixture(scope="module")
def unlock():
    """(env, params, every reachable state, kept(effect, selection, with_end) -> bool [S, 7]) of unlockpickup."""
    env, params = make("minigrid-unlockpickup")
    graph = reachable(env, params)
    obs = jax.jit(jax.vmap(views.symbolic))(graph.states.grid, graph.states.agent, graph.states.carry)

    @functools.cache
    def all_kept(effect):  # one program for all masks
        world = make("minigrid-unlockpickup", effect=effect)[0]

        def one(obs):
            after, ends = world.successors(obs, params)
            exact = [effects.oracle_n_matrix(after, ends if with_end else None) for with_end in (False, True)]
            return {name: [effects.select(name, jax.random.key(0), n) for n in exact] for name in ("cee", "npm", "cee-woc")}

        return jax.device_get(jax.jit(jax.vmap(one))(obs))

    def kept(selection, with_end, effect="picture"):
        return all_kept(effect)[selection][with_end]

    return env, params, graph, kept


def test_every_reachable_state_and_the_shortest_solution(unlock):
    _, _, graph, _ = unlock
    assert len(graph.ends) == 17_164
    assert shortest(graph) == layouts.layouts()["unlockpickup"].shortest == 18
    assert graph.ends.sum() == 180
    assert (graph.after[~graph.ends] >= 0).all()
    assert (graph.after[graph.ends] == -1).all()


def test_the_sizes_of_the_kept_sets_and_the_terminal_frame_trap(unlock):
    _, _, graph, kept = unlock
    cee = kept("cee", with_end=True)
    assert dict(zip(*np.unique(cee.sum(1), return_counts=True), strict=True)) == {2: 4103, 3: 12331, 4: 730}
    assert shortest(graph, cee) == 18
    assert shortest(graph, kept("npm", with_end=True)) == 18
    # in the picture a box that is picked up and one that is destroyed look the same: both are masked, and the goal cannot be reached
    for selection in ("cee", "npm"):
        assert shortest(graph, kept(selection, with_end=False)) is None
        assert shortest(graph, kept(selection, with_end=False, effect="state")) == 18
    assert shortest(graph, kept("cee-woc", with_end=False)) == 18


KEPT = [  # the cell in front, what is carried, what CEE keeps; NPM keeps `done` too, and where it is said `toggle`
    ((1, 0, 0), (0, 0), {LEFT, RIGHT, FORWARD}, {DONE}),
    ((2, 5, 0), (0, 0), {LEFT, RIGHT}, {DONE}),
    ((*BLUE_KEY, 0), (0, 0), {LEFT, RIGHT, PICKUP}, {DONE}),
    ((1, 0, 0), BLUE_KEY, {LEFT, RIGHT, FORWARD, DROP}, {DONE}),
    ((4, 2, 2), BLUE_KEY, {LEFT, RIGHT, TOGGLE}, {DONE}),
    ((4, 2, 2), RED_KEY, {LEFT, RIGHT}, {DONE}),
    ((4, 2, 0), (0, 0), {LEFT, RIGHT, FORWARD, TOGGLE}, {DONE}),
    ((*GREEN_BOX, 0), (0, 0), {LEFT, RIGHT}, {TOGGLE, DONE}),
    ((*PURPLE_BOX, 0), (0, 0), {LEFT, RIGHT, PICKUP, TOGGLE}, {DONE}),  # the goal: its pick-up ends the episode
]


def test_kept_sets():
    env, params = make("minigrid-unlockpickup")

    def one(ahead, carry):
        walled = ahead[0] == physics.WALL
        grid = params.grid.at[3, 2].set(jnp.where(walled, params.grid[3, 2], ahead))
        agent = jnp.where(walled, jnp.asarray((4, 2, 0)), jnp.asarray((2, 2, 0)))
        n_matrix = effects.oracle_n_matrix(*env.successors(views.symbolic(grid, agent, carry), params))
        return [effects.select(name, jax.random.key(0), n_matrix) for name in ("cee", "npm")], jnp.diagonal(n_matrix)

    ahead, carry = (jnp.asarray([row[i] for row in KEPT], jnp.uint8) for i in (0, 1))
    (cee, npm), effect = jax.device_get(jax.jit(jax.vmap(one))(ahead, carry))
    for i, (_, _, expected, npm_adds) in enumerate(KEPT):
        assert set(np.flatnonzero(cee[i]).tolist()) == expected, KEPT[i]
        assert set(np.flatnonzero(npm[i]).tolist()) == expected | npm_adds, KEPT[i]
    np.testing.assert_allclose(effect[0], np.log([7, 7, 7, 7 / 4, 7 / 4, 7 / 4, 7 / 4]), atol=1e-5)


@pytest.mark.parametrize(
    ("task", "length", "reward"),
    [
        ("gotolocal", 8, 0.8875),
        pytest.param("putnextlocal", 12, 0.915625, marks=pytest.mark.slow),
        pytest.param("keycorridors3r3", 23, 1 - 0.9 * 23 / 270, marks=pytest.mark.slow),
    ],
)
def test_shortest_solutions_that_move_one_object(task, length, reward):
    """Breadth first over the few steps that are needed, by the physics themselves."""
    env, params = make(f"minigrid-{task}")

    def expand(state, action):
        _, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action, params)
        return state, reward, terminated

    program = jax.jit(jax.vmap(jax.vmap(expand, (None, 0)), (0, None)))
    start = env.reset(jax.random.key(0), params)[1]
    frontier, seen = jax.tree.map(lambda x: np.asarray(x)[None], start), set()
    for depth in range(1, length + 1):
        num = len(frontier.t)
        rows = 1 << (num - 1).bit_length()
        padded = jax.tree.map(lambda x, r=rows: np.resize(x, (r, *x.shape[1:])), frontier)
        states, paid, ended = jax.device_get(program(padded, np.arange(7)))
        assert ended[:num].any() == (depth == length)
        states = jax.tree.map(lambda x, n=num: x[:n].reshape(-1, *x.shape[2:]), states)
        names = [g.tobytes() + a.tobytes() + c.tobytes() for g, a, c in zip(states.grid, states.agent, states.carry, strict=True)]
        fresh = [i for i, name in enumerate(names) if not (name in seen or seen.add(name))]
        frontier = jax.tree.map(lambda x, f=fresh: x[f], states)
    assert paid[:num].max() == pytest.approx(reward, abs=1e-6) == pytest.approx(env.best_return(params), abs=1e-6)


def test_cells_are_the_grid_with_the_agent_in_it():
    env, params = make("minigrid-keycorridors3r3", observation="cells")
    obs, state = env.reset(jax.random.key(0), params)
    assert (obs.shape, obs.dtype) == (env.observation_space(params).shape, jnp.uint8)
    assert obs[3, 3].tolist() == [10, 0, 3]  # the agent looks north
    assert obs[4, 1].tolist() == [4, 0, 2]  # a red door, locked
    np.testing.assert_array_equal(
        np.asarray(obs).reshape(-1, 3)[np.arange(49) != 24], np.asarray(state.grid).reshape(-1, 3)[np.arange(49) != 24]
    )


def test_the_symbolic_vector_holds_everything(unlock):
    _, params, graph, _ = unlock
    states = graph.states

    def back(grid, agent, carry):
        return views.from_symbolic(views.symbolic(grid, agent, carry), params.grid)

    got = jax.device_get(jax.jit(jax.vmap(back))(states.grid, states.agent, states.carry))
    for name, value in zip(("grid", "agent", "carry"), got, strict=True):
        np.testing.assert_array_equal(value, getattr(states, name), err_msg=name)
    obs = np.asarray(views.symbolic(params.grid, params.agent, jnp.asarray(BLUE_KEY, jnp.uint8)))
    planes = obs[: 9 * 66].reshape(9, 11, 6)
    assert planes[0, 5, 1] == pytest.approx(3 / 6)  # the blue door
    assert planes[1, 1, 2] == pytest.approx(3 / 6)  # the blue key
    assert planes[3, 7, 1] == pytest.approx(4 / 6)  # the purple box
    assert planes[4, 5, 1] == 1.0  # locked
    assert planes[7, 4, 3] == 1.0  # the agent looks west
    assert np.count_nonzero(planes) == 5
    assert obs[9 * 66 :].tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 3 / 6, 0, 0])  # nothing in front; the blue key in hand
    assert obs.max() <= 1.0


@pytest.mark.parametrize("task", ["unlockpickup", "gotor3-redbox"])
def test_random_layouts(task):
    env, params = make(f"minigrid-{task}", layout="random")
    published = layouts.layouts()[task]
    states = jax.device_get(jax.jit(jax.vmap(lambda key: env.reset(key, params)[1]))(jax.random.split(jax.random.key(0), 200)))
    codes, counts = np.unique(np.asarray(params.grid).reshape(-1, 3), axis=0, return_counts=True)
    pitch = published.side - 1
    home = sorted((x // pitch, y // pitch, kind, colour) for x, y, kind, colour, _ in published.objects if kind != physics.DOOR)
    for grid, (x, y, _) in zip(states.grid, states.agent, strict=True):
        for code, count in zip(codes, counts, strict=True):  # the same things, one by one
            assert (grid == code).all(-1).sum() == count
        assert grid[x, y, 0] == physics.EMPTY
        assert (x // pitch, y // pitch) == (published.agent[0] // pitch, published.agent[1] // pitch)
        there = [(int(i), int(j), *map(int, grid[i, j, :2])) for i, j in np.argwhere(grid[..., 0] >= physics.KEY)]
        assert sorted((i // pitch, j // pitch, kind, colour) for i, j, kind, colour in there) == home
        doors = np.argwhere(grid[..., 0] == physics.DOOR)
        assert ((doors % pitch == 0).sum(1) == 1).all()  # in a wall, in no corner
    assert len({agent.tobytes() for agent in states.agent}) > 40
    assert len({grid.tobytes() for grid in states.grid}) > 150


def test_starts_anywhere():
    env, params = make("minigrid-unlockpickup", layout="anywhere")
    states = jax.device_get(jax.jit(jax.vmap(lambda key: env.reset(key, params)[1]))(jax.random.split(jax.random.key(0), 400)))
    held = (states.carry[:, 0] > 0).sum()
    assert 150 < held < 250  # half of them
    assert {tuple(c) for c in states.carry.tolist()} == {(0, 0), BLUE_KEY, PURPLE_BOX}
    things = (states.grid[..., 0] >= physics.KEY).sum((1, 2)) + (states.carry[:, 0] > 0)
    assert (things == 2).all()  # in hand or on the floor
    doors = states.grid[states.grid[..., 0] == physics.DOOR]
    assert len(doors) == 400
    assert set(doors[:, 2].tolist()) == {0, 1, 2}
    assert {bool(x > 5) for x in states.agent[:, 0]} == {True, False}
    assert all(grid[x, y, 0] == physics.EMPTY for grid, (x, y, _) in zip(states.grid, states.agent, strict=True))


def test_visits_are_counted_over_episodes():
    env, params = make("minigrid-gotolocal", bonus="only", max_steps=3)
    step = jax.jit(env.step)
    state, rewards = env.reset(jax.random.key(0), params)[1], []
    for i in range(7):
        _, state, reward, terminated, truncated, _ = step(jax.random.key(i), state, DONE, params)
        assert bool(truncated) == (i % 3 == 2)
        assert not terminated
        rewards.append(float(reward))
    np.testing.assert_allclose(rewards, 1 / np.sqrt(np.arange(1, 8)), atol=1e-6)
    assert (int(state.visits[5, 6]), int(state.visits.sum()), int(state.t)) == (7, 7, 1)


def test_bonus_only_does_not_end_with_success():
    env, params = make("minigrid-unlockpickup", bonus="only")
    state = env.reset(jax.random.key(0), params)[1]
    state = state.replace(agent=jnp.asarray((6, 1, 0), jnp.uint8))  # in front of the purple box
    _, state, reward, terminated, info = env.step_env(jax.random.key(0), state, PICKUP, params)
    assert (float(reward), bool(terminated), bool(info["success"])) == (1.0, False, True)
    assert tuple(state.carry.tolist()) == PURPLE_BOX


def test_observations_and_the_render():
    env, params = make("minigrid-unlockpickup", observation="rgb")
    obs, state = env.reset(jax.random.key(0), params)
    assert (obs.shape, obs.dtype) == ((48, 88, 3), jnp.uint8)
    assert env.observation_space(params).shape == (48, 88, 3)
    picture = env.render(state.replace(carry=jnp.asarray(BLUE_KEY, jnp.uint8)), params, size=16)
    assert (picture.shape, picture.dtype) == ((7 * 16, 11 * 16, 3), np.uint8)
    assert picture[:96].reshape(6, 16, 11, 16, 3)[0, 8, 0, 8].tolist() == [100, 100, 100]  # a wall
    assert (picture[96:, :16] == (0, 0, 255)).all(-1).any()  # the key in hand
    assert not (picture[96:, 16:] != 40).any()
    with pytest.raises(UserError, match=r"^observation = 'rgb': successors needs the symbolic observation, which shows the whole state$"):
        env.successors(obs, params)
    assert make("minigrid-gotolocal", observation="view")[0].observation_space(params).shape == (7, 7, 3)


def test_every_task_of_the_sheet_has_a_name():
    assert [name for name in list_envs() if name.startswith("minigrid")] == [f"minigrid-{task}" for task in layouts.layouts()]
    assert len(layouts.layouts()) == 15
