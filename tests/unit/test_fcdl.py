"""FCDL's algorithm: windows, the held-out tenth, the schedule, the automatic sparsity, the planner, the measures."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import make, replay
from causal_jax.algorithms import fcdl
from causal_jax.causal import fitting, graphs, measures
from causal_jax.causal.fitting import Episode
from causal_jax.types import UserError

SMALL = {"width": 8, "batch_size": 16, "num_codes": 4, "code_dim": 3, "init_steps": 12, "capacity": 40, "num_steps": 6, "hidden": (8,)}
SMALL |= {"num_candidates": 12, "num_elites": 4, "plan_iterations": 2}


@pytest.fixture(scope="module")
def world() -> Any:
    return make("chemical-full-fork", num_objects=4, num_colours=3, max_steps=6)


def hyper(**fields: float) -> fcdl.Hyper:
    return jax.tree.map(jnp.float32, fcdl.Hyper(**fields))


def ring(num: int, capacity: int, length: int = 5) -> replay.Buffer:
    """Episodes in which the value at step t of episode e is 10 e + t, and the action too."""
    e, t = jnp.arange(num)[:, None, None], jnp.arange(length + 1)[None, :, None]
    values = (10.0 * e + t) * jnp.ones((1, 1, 2))
    episodes = Episode(values, values[:, :-1, None, :1])
    return replay.add(replay.init(jax.tree.map(lambda x: x[0], episodes), capacity), episodes)


def continuous_spec() -> Any:
    config = fcdl.predictors.Spec(2, 1, 1, 1, discrete=False)
    return config


@pytest.mark.parametrize("held_out", [False, True])
def test_windows_are_consecutive_and_the_tenth_episode_is_held_out(held_out: bool) -> None:
    batch = fitting.windows(jax.random.key(0), continuous_spec(), ring(20, 40), 500, 3, held_out)
    first = np.asarray(batch.obs[:, 0, 0])
    np.testing.assert_array_equal(batch.target[:, :, 0], first[:, None] + [1, 2, 3])
    np.testing.assert_array_equal(batch.actions[:, :, 0, 0], first[:, None] + [0, 1, 2])
    assert set(first % 10) == {0, 1, 2}  # starts from which three steps are left
    assert set(first // 10) == ({9, 19} if held_out else set(range(20)) - {9, 19})


def test_one_hot_encoding_of_recorded_colours(world: Any) -> None:
    spec = fcdl.dynamics_model(world[0], fcdl.Config()).spec
    np.testing.assert_array_equal(fitting.encode(spec, jnp.asarray([[2, 0]], jnp.int8)), [[[0, 0, 1], [1, 0, 0]]])


def test_free_share_undoes_the_mean_over_all_entries() -> None:
    spec = fcdl.predictors.Spec(3, 2, 1, 4)
    logits = graphs.place(jnp.asarray([0.0, 100.0, -100.0]), graphs.free_edges(3, 1))
    np.testing.assert_allclose(fitting.free_share(spec, jnp.mean(jax.nn.sigmoid(logits))), 0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "schedule", "contexts"),
    [
        ("fcdl", "online", "vq"),
        ("fcdl", "offline", "tree"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("cdl", "online", "vq"), ("fcdl", "offline", "kmeans"), *((model, "offline", "vq") for model in fcdl.MODELS)]
        ),
    ],
)
def test_every_model_learns_to_predict(world: Any, model: str, schedule: str, contexts: str) -> None:
    env, params = world
    config = fcdl.Config(model=model, schedule=schedule, contexts=contexts, **SMALL)
    algorithm = fcdl.build(env, params, config)
    task = fcdl.Task(params)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyper(lr=1e-2), task)
    assert int(state.buffer.size) == 20
    step = jax.jit(algorithm.step)
    losses = []
    for key in jax.random.split(jax.random.key(1), 8):
        state, metrics = step(key, state, hyper(lr=1e-2), task)
        losses.append(float(metrics["loss_pred"]))
    assert losses[-1] < losses[0] - 0.05
    assert int(state.buffer.size) == (40 if schedule == "online" else 20)
    assert ("episode_return" in metrics) == (schedule == "online")


def test_online_episodes_are_recorded_as_they_were_played(world: Any) -> None:
    """The recorded values follow the rules: under a fork in context 0 only the set object may change."""
    env, params = world
    config = fcdl.Config(**SMALL)
    algorithm, task = fcdl.build(env, params, config), fcdl.Task(params)
    state = algorithm.init(jax.random.key(0), hyper(), task)
    state, _ = jax.jit(algorithm.step)(jax.random.key(1), state, hyper(epsilon=1.0), task)
    rows = jax.tree.map(np.asarray, state.buffer.rows)
    checked = 0
    for values, actions in zip(rows.values[:30], rows.actions[:30], strict=True):
        for before, action, after in zip(values[:-1], actions, values[1:], strict=True):
            node, colour = divmod(int(action), 3)
            assert after[node] == colour
            assert (after[:node] == before[:node]).all()
            if after[0] == 0 and node != 0:
                assert (after[node + 1 :] == before[node + 1 :]).all()
                checked += 1
    assert checked > 10


def test_the_planner_sets_the_one_wrong_object(world: Any) -> None:
    """With the true dynamics in the place of a model the plan is the obvious one."""
    env, params = world
    config = fcdl.Config(model="oracle-local", **{**SMALL, "num_candidates": 128, "num_elites": 16, "plan_iterations": 5, "horizon": 1})
    spec = fcdl.dynamics_model(env, config).spec

    def step(p: Any, rows: Any, state: Any, obs: jax.Array, action: jax.Array, noise: Any) -> Any:
        set_ = jax.nn.one_hot(action // 3, 4)[..., None] * jax.nn.one_hot(action % 3, 3)[:, None]
        kept = obs * (1 - jax.nn.one_hot(action // 3, 4)[..., None])
        return fcdl.dynamics.Step(set_ + kept), state

    model = fcdl.dynamics.Model(spec, lambda key: ({}, None), lambda params, obs=None: None, step)
    plan = fcdl.planner(env, model, config, env.action_space(params))
    colours, target = jax.nn.one_hot(jnp.asarray([0, 2, 1, 1]), 3), jax.nn.one_hot(jnp.asarray([0, 2, 0, 1]), 3)
    obs = jnp.concatenate([colours.ravel(), target.ravel(), jnp.ones(4)])
    fit = fitting.Fit({}, None, None, jnp.zeros(()))
    assert int(plan(jax.random.key(0), fit, None, obs)) == 2 * 3 + 0


def test_automatic_sparsity_moves_the_weight_towards_its_target(world: Any) -> None:
    env, params = world
    config = fcdl.Config(sparsity="target", schedule="offline", **SMALL)
    algorithm, task = fcdl.build(env, params, config), fcdl.Task(params)
    fresh, step = algorithm.init(jax.random.key(0), hyper(), task), jax.jit(algorithm.step)
    for target, sign in ((0.0, 1), (1.0, -1)):
        at = hyper(edge_target=target, dual_lr=0.1)
        state, metrics = step(jax.random.key(1), fresh, at, task)
        assert np.sign(float(state.fit.log_reg)) == sign
        assert float(metrics["reg_weight"]) > 0.0


def test_measures_of_a_perfect_graph_and_of_rows(world: Any) -> None:
    env, params = world
    config = fcdl.Config(model="oracle-local", schedule="offline", **SMALL)
    algorithm, task = fcdl.build(env, params, config), fcdl.Task(params)
    state = algorithm.init(jax.random.key(0), hyper(), task)
    found = fcdl.measure(env, params, config)(jax.random.key(1), state, task)
    assert {"accuracy_id", "accuracy_n2", "f1_local", "shd_n2"} <= set(found)
    assert float(found["f1_local"]) == float(found["f1_global"]) == float(found["f1_n2"]) == 1.0
    assert float(found["shd_n2"]) == 0.0
    batch, real = measures.rows_of_tests(jax.random.key(2), env, fcdl.dynamics_model(env, config), state.buffer, 64)
    roots = np.argmax(np.asarray(batch.obs)[:, 0], -1)
    assert real.any()
    assert not roots[np.asarray(real)].any()
    assert not np.asarray(batch.target)[np.asarray(real), 0, 0].any()


def test_the_oracle_of_the_global_graph_has_every_true_edge(world: Any) -> None:
    """Chemical: everything before a variable, itself and the action. Magnetic: colours and places of both objects move the ball."""
    for env in (world[0], make("chemical-full-chain", num_objects=5)[0]):
        n = env.num_objects
        np.testing.assert_array_equal(env.global_graph, np.hstack([np.tril(np.ones((n, n), bool)), np.ones((n, 1), bool)]))
    magnetic, params = make("magnetic", physics="closed")
    edges = [(i, i) for i in range(11)] + [(ball, source) for ball in (2, 3) for source in range(8)] + [(8 + k, 11 + k) for k in range(3)]
    everywhere = np.zeros((11, 14), bool)
    everywhere[tuple(np.transpose(edges))] = True
    np.testing.assert_array_equal(magnetic.global_graph, everywhere)
    for env in (world[0], magnetic):
        model = fcdl.dynamics_model(env, fcdl.Config(model="oracle-graph", width=4))
        net, state = model.init(jax.random.key(0))
        obs = env.features(env.reset(jax.random.key(1), env.default_params)[0])[None]
        action = env.action_space(env.default_params).sample(jax.random.key(2))
        action = action[None] if model.spec.discrete else action[None, :, None]
        step, _ = model.step(net, model.prepare(net), state, obs, action, None)
        np.testing.assert_array_equal(step.edges[0] > 0.5, env.global_graph)
    with pytest.raises(UserError, match=r"everywhere = an array \(3, 3\): must be \(4, 5\)"):
        fcdl.dynamics.build(fcdl.predictors.Spec(4, 3, 1, 12, adjacency="global"), everywhere=np.ones((3, 3), bool))


def stub(env: Any, config: fcdl.Config, step: Any) -> fcdl.dynamics.Model:
    """A model of which only the step is real: step(obs [B, N, C]) -> Step."""
    spec = fcdl.dynamics_model(env, config).spec
    return fcdl.dynamics.Model(spec, lambda key: ({}, None), lambda params, obs=None: None, lambda p, r, s, obs, a, n: (step(obs), s))


def test_measures_of_an_imperfect_graph(world: Any) -> None:
    """Edges 1 <- 0, 2 <- 1 and, against the order, 0 <- 3. Fork of 4: 3 true edges in context 0, of which 1 is found, else 6, 2 found."""
    env, params = world
    config = fcdl.Config(model="cdl", schedule="offline", **SMALL)
    state = fcdl.build(env, params, config).init(jax.random.key(0), hyper(), fcdl.Task(params))
    edges = jnp.zeros((4, 5)).at[[1, 2, 0], [0, 1, 3]].set(1.0) + jnp.eye(4, 5)

    def step(obs: jax.Array) -> Any:
        return fcdl.dynamics.Step(obs, edges=jnp.broadcast_to(edges, (obs.shape[0], 4, 5)))

    model, fit = stub(env, config, step), fitting.Fit({}, None, None, jnp.zeros(()))
    found = measures.in_distribution(jax.random.key(1), env, model, fit, state.buffer, 1)
    found |= measures.in_test_worlds(jax.random.key(2), env, model, fit, state.buffer, params)
    for name, f1, shd in (("local", 2 / 6, 4.0), ("global", 4 / 9, 5.0), ("n2", 2 / 6, 4.0)):
        np.testing.assert_allclose(found[f"f1_{name}"], f1, rtol=1e-6)
        assert float(found[f"shd_{name}"]) == shd
    assert not {"graph_kept_n2", "code_kept_n2"} & set(found)  # it has no code, and infers no graph


def test_edges_that_count_in_magnetic() -> None:
    """Those of the action are not all there, so they count: the global graph has 14 + 3 edges, the local one 6 + 3 of them."""
    env, _ = make("magnetic", physics="closed")
    spec = fcdl.dynamics_model(env, fcdl.Config(model="modular")).spec
    assert measures.counted_edges(env, spec).sum() == 11 * 10 + 33
    local = env.local_graph(jnp.zeros((11, 1)), jnp.zeros((3, 1)))
    step = fcdl.dynamics.Step(jnp.zeros(()), edges=jnp.asarray(env.global_graph, jnp.float32)[None])
    found = measures.agreement(env, fcdl.dynamics.Model(spec, None, None, None), step, local[None])  # type: ignore[arg-type]
    np.testing.assert_allclose(found["f1"], [18 / 26], rtol=1e-6)
    assert found["shd"].tolist() == [8.0]


def test_what_the_noise_leaves_of_codes_and_graphs(world: Any) -> None:
    """The code is the colour of object 1, edge 3 <- 2 is there for colour 0 of object 2; noise of scale 0 hides both, as if of colour 0."""
    env, params = world
    config = fcdl.Config(model="fcdl", schedule="offline", **SMALL)
    state = fcdl.build(env, params, config).init(jax.random.key(0), hyper(), fcdl.Task(params))

    def step(obs: jax.Array) -> Any:
        edges = jnp.zeros((obs.shape[0], 4, 5)).at[:, 3, 2].set(jnp.argmax(obs[:, 2], -1) == 0)
        return fcdl.dynamics.Step(obs, edges=edges, code=jnp.argmax(obs[:, 1], -1))

    model, fit, key = stub(env, config, step), fitting.Fit({}, None, None, jnp.zeros(())), jax.random.key(1)
    worlds = {"here": params, "hidden": params.replace(level=jnp.asarray(2), noise_scale=jnp.asarray(0.0))}
    found = measures.in_worlds(key, env, model, fit, state.buffer, worlds)
    batch, real = measures.rows_of_tests(jax.random.split(key)[0], env, model, state.buffer)
    zero = np.argmax(np.asarray(batch.obs), -1)[np.asarray(real)] == 0
    assert float(found["code_kept_here"]) == float(found["graph_kept_here"]) == 1.0
    for name, node in (("code", 1), ("graph", 2)):
        assert 0.1 < zero[:, node].mean() < 0.9
        np.testing.assert_allclose(found[f"{name}_kept_hidden"], zero[:, node].mean(), rtol=1e-5)


@pytest.mark.parametrize("model", ["fcdl", "ncd", "grader"])
def test_no_order_is_made_up_where_there_is_none(model: str) -> None:
    env, params = make("magnetic", physics="closed")
    with pytest.raises(UserError, match="learn_upper = False: must be True for Magnetic, whose variables have no order"):
        fcdl.build(env, params, fcdl.Config(model=model))
    fcdl.build(env, params, fcdl.Config(model=model, learn_upper=True))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"num_elites": 13}, "num_elites = 13: must be at most num_candidates = 12"),
        ({"num_envs": 7}, "num_envs = 7: must be a multiple of 10"),
        ({"num_envs": 5, "init_steps": 6, "schedule": "offline"}, "init_steps = 6: must be at least 7 with num_envs = 5, for 10 episodes"),
        ({"capacity": 10}, "capacity = 10: must be a multiple of 10 and at least 20"),
        ({"num_steps": 25}, "num_steps = 25: must be 6"),
        ({"horizon": 7}, "horizon = 7: must be at most 6"),
        ({"model": "mlp", "sparsity": "target"}, "sparsity = 'target': must be mean for mlp; only fcdl, ncd can have another"),
        ({"model": "mlp", "sparsity": "sum"}, "sparsity = 'sum': must be mean for mlp; only fcdl, ncd can have another"),
        ({"model": "mlp", "label": "yes"}, "label = 'yes': must be auto or no for mlp"),
        ({"model": "ncd", "contexts": "tree", "num_codes": 5}, "contexts = 'tree': must be vq for ncd; only fcdl can have another"),
        ({"model": "ncd", "ema": False}, "ema = False: must be True for ncd; only fcdl can have another"),
        ({"model": "oracle-graph", "learn_upper": True}, "learn_upper = True: must be False for oracle-graph"),
        ({"model": "cdl", "learn_upper": True}, "learn_upper = True: must be False for cdl; only fcdl, ncd, grader can have another"),
        ({"model": "grader", "learn_action": True}, "learn_action = True: must be False for grader"),
        ({"num_rules": 3}, "num_rules = 3: must be 0 for fcdl; only nps can have another"),
        ({"learn_std": True}, "learn_std = True: must be False for Chemical, whose variables are discrete"),
        ({"model": "fcd"}, "model = 'fcd': must be one of"),
    ],
)
def test_bad_fields_are_named(world: Any, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        fcdl.build(*world, dataclasses.replace(fcdl.Config(**SMALL), **fields))


def test_what_may_be_asked_of_every_model(world: Any) -> None:
    """No label is what they have, and NPS has as many rules as it is told, or those published."""
    for model in fcdl.MODELS:
        fcdl.build(*world, fcdl.Config(model=model, label="no", **SMALL))
    for env, rules, expected in ((world[0], 0, 20), (world[0], 3, 3), (make("magnetic", physics="closed")[0], 0, 15)):
        model = fcdl.dynamics_model(env, fcdl.Config(model="nps", num_rules=rules, width=4))
        assert jax.eval_shape(model.init, jax.random.key(0))[0]["embed"].shape == (expected, 4)


def test_a_tree_asks_discrete_variables_only() -> None:
    env, params = make("magnetic", physics="closed")
    with pytest.raises(UserError, match="contexts = 'tree': must be vq or kmeans for continuous variables"):
        fcdl.build(env, params, fcdl.Config(contexts="tree", learn_upper=True))


def test_an_environment_without_factors_is_refused() -> None:
    with pytest.raises(UserError, match="needs an environment with factors"):
        fcdl.build(*make("maze-n2"))
