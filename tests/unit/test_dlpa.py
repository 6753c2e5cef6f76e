"""DLPA: what its config refuses, what a step stores, how it plans and plays, that updates lower the losses; learning is in tests/slow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import episodes, hybrid_planning, make, spaces, world_models
from causal_jax.algorithms import dlpa
from causal_jax.types import UserError

TINY = dlpa.Config(
    width=4, horizon=2, num_samples=16, num_elites=4, plan_iterations=2, random_episodes=3, episode_steps=4, capacity=6, num_updates=1,
    batch_size=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_elites": 17}, "num_elites = 17: must be at most num_samples = 16"),
        ({"horizon": 4}, "episode_steps = 4: must be more than the steps of a training window, 4"),
        ({"capacity": 3}, "capacity = 3: must be more than random_episodes = 3"),
        ({"residual": True}, "residual = True: only for bounded = False"),
        ({"structure": "deep"}, "structure = 'deep'"),
        ({"code": "bits"}, "code = bits: only for structure = parallel or sequential, not masking, which does not read k"),
        ({"proposal": "uniform", "least_std": 0.1}, "least_std = 0.1: only for proposal = table, joint or sampled, not uniform"),
        ({"break_every": -2}, "break_every = -2: must be -1 <= x"),
    ],
)
def test_config_errors(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        dlpa.build(*make("platform"), dataclasses.replace(TINY, **fields))


def test_masking_is_for_few_actions() -> None:
    dlpa.build(*make("hard-move-6"), TINY)
    with pytest.raises(UserError, match="^structure = masking: only for up to 64 actions, not 256; use parallel or sequential$"):
        dlpa.build(*make("hard-move-8"), TINY)


def test_a_proposal_is_given_what_the_config_says() -> None:
    """least_std and joint: the elites of a refit all chose action 0 with z = 0.5, so that every fitted deviation is the floor."""
    space = spaces.Hybrid((1, 1, 1))
    plans = jnp.zeros((4, 2), jnp.int32), jnp.full((4, 2, 1), 0.5)
    for proposal, columns in (("table", 3), ("joint", 1), ("sampled", 4)):
        config = dataclasses.replace(TINY, proposal=proposal, least_std=0.3)
        built = hybrid_planning.proposal_of(space, config, 0.0)
        std = np.asarray(built.proposal.fit(built.start, plans, jnp.ones(4)).std).reshape(2, -1)
        assert std.shape == (2, columns)
        assert (std == (2.0 if proposal == "table" else np.float32(0.3)))[:, 1:].all()
        np.testing.assert_allclose(std[:, 0], 0.3)
    assert hybrid_planning.proposal_of(space, dataclasses.replace(TINY, proposal="uniform"), 0.0).start == ()


def test_needs_hybrid_actions() -> None:
    with pytest.raises(UserError, match="dlpa needs hybrid actions"):
        dlpa.build(*make("maze-n2"), TINY)


@pytest.fixture(scope="module")
def run() -> tuple[dlpa.State, list[dlpa.State], list[dict[str, np.ndarray]]]:
    """(initial state, states after 1 .. 9 steps, their metrics) on Hard Move with a cut of every 4 steps."""
    env, params = make("hard-move-4")
    algorithm = dlpa.build(env, params, dataclasses.replace(TINY, structure="sequential", reward="linear", reward_nets=2, bounded=False))
    hyper, task = dlpa.Hyper(), dlpa.Task(params)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper, task)
    first, states, rows, step = state, [], [], jax.jit(algorithm.step)
    for t in range(9):
        state, metrics = step(jax.random.key(100 + t), state, hyper, task)
        states.append(jax.device_get(state))
        rows.append(jax.device_get(metrics))
    return jax.device_get(first), states, rows


def test_random_episodes_fill_the_first_slots(run: tuple) -> None:
    buffer = run[0].buffer
    assert buffer.head == 3
    assert buffer.length.tolist()[3:] == [0, 0, 0]
    for length, ended, starts in zip(buffer.length[:3], buffer.terminated[:3], buffer.starts[:3], strict=True):
        assert length == 4 or ended
        assert starts == min(length, 2)
    written = np.arange(4) < buffer.length[:3, None]
    assert np.unique(np.abs(buffer.z[:3, :, 0][written])).size == written.sum()  # no draw twice
    assert (np.abs(buffer.z) <= 1).all()
    assert (buffer.k < 16).all()


def test_an_episode_is_learned_from_once_it_is_over(run: tuple) -> None:
    _, states, rows = run
    head = [int(state.buffer.head) for state in states]
    ended = [not np.isnan(row["episode_return"]) for row in rows]
    assert [(b - a) % 6 for a, b in zip([3, *head[:-1]], head, strict=True)] == ended
    assert sum(ended) >= 2  # 9 steps, at most 4 of an episode
    assert all(state.buffer.starts[h] == 0 for state, h in zip(states, head, strict=True))  # the running one is not ready
    assert all(state.running.t == 0 for state, e in zip(states, ended, strict=True) if e)


def test_a_warm_start_is_forgotten_with_the_episode(run: tuple) -> None:
    _, states, rows = run
    for state, row in zip(states, rows, strict=True):
        probs = state.running.theta.probs
        np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(probs[-1], 1 / 16, rtol=1e-6)  # the step that is new
        assert (np.ptp(probs[0]) == 0) == (not np.isnan(row["episode_return"]))


def test_who_breaks_episodes_off() -> None:
    assert dlpa.break_steps(dlpa.Config()) == 0
    assert dlpa.break_steps(dlpa.Config(mode="authors")) == 50
    assert dlpa.break_steps(dlpa.Config(mode="authors", break_every=0)) == 0
    assert dlpa.break_steps(dlpa.Config(break_every=7)) == 7


def test_the_authors_mode_reads_a_step_that_never_was() -> None:
    """By default it breaks the episode off after step 50, with two steps behind it (of 6 but for that), and begins a window there."""
    env, params = make("hard-move-4")
    config = dataclasses.replace(TINY, mode="authors", episode_steps=6, num_samples=4, num_elites=2, plan_iterations=1, capacity=20)
    algorithm = dlpa.build(env, params, config)
    hyper, task = dlpa.Hyper(), dlpa.Task(params)

    def run(key: jax.Array) -> tuple[episodes.Episodes, episodes.Window]:
        state = algorithm.init(key, hyper, task)
        keys = jax.random.split(key, 50)
        buffer = jax.lax.scan(lambda s, key: (algorithm.step(key, s, hyper, task)[0], None), state, keys)[0].buffer
        return buffer, episodes.windows(buffer, key, 500, config.horizon)

    buffer, window = jax.device_get(jax.jit(run)(jax.random.key(0)))
    over = (np.arange(20) < buffer.head) & ~buffer.terminated
    assert (buffer.length[over] < 6).sum() == 1
    first = window.inside[:, 0]
    assert 0 < (~first).sum() < 250
    assert not window.going[:, 0][~first].any()
    assert not window.reward[:, 0][~first].any()


@pytest.mark.parametrize(
    "fields",
    [
        {"proposal": "joint"},
        {"proposal": "sampled"},
        {"proposal": "uniform"},
        {"mode": "authors", "break_every": 3},
        {"terminal_value": True},
    ],
)
def test_ablations_run(fields: dict[str, object]) -> None:
    """One step of each; its plan lies in the environment's space."""
    env, params = make("probe-hybrid")
    algorithm = dlpa.build(env, params, dataclasses.replace(TINY, structure="parallel", loss_horizon=1, **fields))
    hyper, task = dlpa.Hyper(), dlpa.Task(params)

    def both(key: jax.Array) -> tuple[object, dict[str, jax.Array]]:
        state, metrics = algorithm.step(key, algorithm.init(key, hyper, task), hyper, task)
        return algorithm.act(key, state, jnp.ones(3), True), metrics

    (k, z), metrics = jax.jit(both)(jax.random.key(0))
    assert 0 <= int(k) < 3
    assert z.shape == (2,)
    assert float(jnp.abs(z).max()) <= 1.0
    assert all(np.isfinite(metrics[name]) for name in ("loss", "loss_state", "loss_reward", "loss_going", "plan_return"))


@pytest.mark.parametrize("greedy", [True, False])
def test_only_training_asks_for_the_models_draws_and_adds_noise_to_z(greedy: bool) -> None:
    """What is played is an elite's first action; in training, plus the deviation of the elites that begin with it times a unit normal."""
    asked = []

    def returns(params: None, key: object, obs: jax.Array, plans: tuple[jax.Array, jax.Array], gamma: jax.Array) -> jax.Array:
        asked.append(key is None)  # None: its means
        return jnp.sum(plans[1][..., 0], axis=1)

    space = spaces.Hybrid((1, 1))
    plan, start = dlpa.planner(returns, space, TINY), hybrid_planning.proposal_of(space, TINY, 0.1).start
    keys = jax.random.split(jax.random.key(0), 20)
    (k, z), _, iterations = jax.jit(jax.vmap(lambda key: plan(key, None, dlpa.Hyper(), jnp.zeros(1), start, greedy)))(keys)
    assert set(asked) == {greedy}
    plans, weights = jax.tree.map(lambda x: x[:, -1], (iterations.plans, iterations.weights))
    spread = jax.vmap(hybrid_planning.spread)(plans, weights, k)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 3)[2], (1,)))(keys)
    elite = z - (0.0 if greedy else spread * noise)
    off = np.where(plans[0][:, :, 0] == k[:, None], np.abs(plans[1][:, :, 0, 0] - elite), np.inf)
    np.testing.assert_allclose(off.min(axis=1), 0.0, atol=1e-6)
    assert (spread > 0.01).mean() > 0.5


@pytest.mark.parametrize(("logit", "value"), [(1.0, 0.2 + 0.5 * 0.2), (-1.0, 0.7)])
def test_imagined_steps_that_end_pay_the_last_reward(logit: float, value: float) -> None:
    """Rewards 0.2 of a step that goes on, 0.7 of one that ends, two steps, discount 0.5."""
    config = dataclasses.replace(TINY, structure="parallel", reward="linear", reward_nets=2)
    spec = world_models.model_spec(*make("probe-hybrid"), config)
    assert spec._asdict() == {  # in the right order
        "obs_size": 3, "num_actions": 3, "num_parameters": 2, "structure": "parallel", "width": 4, "bounded": True, "reward": "linear",
        "two_rewards": True, "code": "one-hot", "shared": False, "state_only": "none", "residual": False,
    }  # fmt: skip
    params = jax.tree.map(jnp.zeros_like, world_models.init(jax.random.key(0), spec))
    for name, bias in (("reward", [0.2]), ("last_reward", [0.7]), ("going", [0.0, logit])):
        params[name]["mean"]["bias"] = jnp.asarray(bias)
    plans = jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, 2, 2))
    np.testing.assert_allclose(dlpa.imagined(spec, config)(params, None, jnp.zeros(3), plans, 0.5), [value], rtol=1e-6)


def test_updates_lower_every_loss() -> None:
    """Of a member that has had 80 updates, against one whose step size is 0, on a probe whose steps all end where they began."""
    env, params = make("probe-hybrid")
    config = dataclasses.replace(TINY, structure="parallel", width=16, bounded=False, num_updates=40, batch_size=16, loss_horizon=1)
    algorithm, task = dlpa.build(env, params, config), dlpa.Task(params)

    def run(lr: jax.Array) -> dict[str, jax.Array]:
        hyper, key = dlpa.Hyper(lr=lr), jax.random.key(0)
        state = algorithm.init(key, hyper, task)
        return jax.lax.scan(lambda s, key: algorithm.step(key, s, hyper, task), state, jax.random.split(key, 3))[1]

    metrics = jax.jit(jax.vmap(run))(jnp.asarray([0.0, 1e-2]))
    for name in ("loss", "loss_state", "loss_reward", "loss_going"):
        still, moved = metrics[name][:, 2]
        assert moved < 0.5 * still, name


def test_values_are_those_of_td() -> None:
    """V(s) = 3 s, target 2 s: errors of a step that goes on (1 + 0.5 * 2 * 2 - 3), one that ends (4 - 6) and one that is not there."""
    window = episodes.Window(
        obs=jnp.asarray([[1.0], [2.0], [9.0]]), k=jnp.zeros((3, 1), jnp.int32), z=jnp.zeros((3, 1, 1)),
        reward=jnp.asarray([[1.0], [4.0], [0.0]]), next_obs=jnp.asarray([[[2.0]], [[5.0]], [[0.0]]]),
        going=jnp.asarray([[True], [False], [False]]), inside=jnp.asarray([[True], [True], [False]]),
    )  # fmt: skip
    loss, grads = jax.value_and_grad(lambda w, target: world_models.value_loss(lambda w, x: w * x, w, target, window, 0.5), (0, 1))(
        3.0, 2.0
    )
    np.testing.assert_allclose(loss, (0.0 + 4.0) / 3, rtol=1e-6)
    assert grads[1] == 0.0


def test_no_key_is_used_twice() -> None:
    """fold_in(key, i) is split(key, n)[i]: the value network has no head's key, the random action none of the planner's."""
    env, params = make("hard-move-4")
    config = dataclasses.replace(TINY, structure="parallel", terminal_value=True)
    algorithm, hyper, task = dlpa.build(env, params, config), dlpa.Hyper(epsilon=1.0), dlpa.Task(params)
    key_init, key_step = jax.random.split(jax.random.key(0))

    def both(key: jax.Array) -> tuple[dlpa.State, dlpa.State]:
        state = algorithm.init(key, hyper, task)
        return state, algorithm.step(key_step, state, hyper, task)[0]

    first, then = jax.jit(both)(key_init)
    network = world_models.value_network(world_models.model_spec(env, params, config))
    for key in jax.random.split(jax.random.split(key_init, 3)[0], len(world_models.HEADS)):
        drawn = jax.tree.leaves(network.init(key))[-1]
        assert not np.allclose(drawn, jax.tree.leaves(first.params["value"])[-1])
    played = then.buffer.z[3, 0, 0]
    for key in (jax.random.split(key_step, 5)[0], *jax.random.split(jax.random.split(key_step, 5)[0], 3)):
        _, z = spaces.Hybrid((1,) * 16).sample(jax.random.split(key)[1])
        assert abs(float(z[0] - played)) > 1e-3


@pytest.mark.parametrize(("epsilon", "end_epsilon", "ends"), [(0.0, 0.0, True), (1.0, 0.0, False), (0.0, 1.0, False), (0.0, 1.0, True)])
def test_exploration_plays_within_the_box(epsilon: float, end_epsilon: float, ends: bool) -> None:
    """On Hard Move 4, whose plans in training leave the box by their noise: with epsilon = 1 no action does, and they are no plan's.

    The same of end_epsilon where the model expects ends; it is made to expect them always, or never.
    """
    env, params = make("hard-move-4")
    config = dataclasses.replace(TINY, structure="parallel", num_samples=8, plan_iterations=1, episode_steps=20, break_every=20)
    algorithm = dlpa.build(env, params, config)
    hyper, task = dlpa.Hyper(epsilon=epsilon, end_epsilon=end_epsilon), dlpa.Task(params)
    random = epsilon == 1.0 or (end_epsilon == 1.0 and ends)

    def run(key: jax.Array) -> episodes.Episodes:
        state = algorithm.init(key, hyper, task)
        state.params["going"]["mean"]["bias"] = jnp.asarray([50.0, -50.0]) * (1.0 if ends else -1.0)
        return jax.lax.scan(lambda s, key: (algorithm.step(key, s, hyper, task)[0], None), state, jax.random.split(key, 20))[0].buffer

    buffer = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 4))
    z = np.abs(buffer.z[:, 3])  # the first episode that was not random
    assert (z.max() > 1.0) == (not random)
    assert len(np.unique(buffer.k[:, 3])) > 10 or not random


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_evaluation_plans_with_the_average_of_the_weights(share: float) -> None:
    env, params = make("probe-hybrid")
    algorithm, hyper, task = dlpa.build(env, params, dataclasses.replace(TINY, num_updates=1)), dlpa.Hyper(average=share), dlpa.Task(params)

    def both(key: jax.Array) -> tuple[dlpa.State, dlpa.State]:
        state = algorithm.init(key, hyper, task)
        return state, algorithm.step(key, state, hyper, task)[0]

    first, then = jax.jit(both)(jax.random.key(0))
    jax.tree.map(
        lambda old, new, average: np.testing.assert_allclose(average, old + share * (new - old), atol=1e-7),
        first.params, then.params, then.average,
    )  # fmt: skip
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(then.params), strict=True))
    other = jax.tree.map(lambda x: -x, then.params)
    act = jax.jit(algorithm.act, static_argnums=3)
    obs = then.running.obs
    plans = [act(jax.random.key(1), state, obs, True)[1] for state in (then, then._replace(params=other), then._replace(average=other))]
    assert (plans[0] == plans[1]).all()
    assert (plans[0] != plans[2]).any()
