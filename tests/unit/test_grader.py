"""GRADER: p-values against scipy and by hand, graphs of small mechanisms, the network against its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from causal_jax.causal import dynamics, grader, imagination, independence, predictors
from causal_jax.types import UserError

N, C, A, B = 3, 3, 9, 400
KEY = jax.random.key(0)
SPEC = predictors.Spec(num_variables=N, variable_size=C, action_size=A, width=8, learn_upper=True)
REAL = predictors.Spec(
    num_variables=N, variable_size=1, num_actions=2, action_size=2, discrete=False, width=8, learn_upper=True, learn_action=True
)


def test_chi_squared_against_literal_numbers() -> None:
    """[[10, 20], [30, 20]]: expected 15, 15, 25, 25; statistic 25 (2 / 15 + 2 / 25) = 16 / 3; one degree of freedom."""
    table = jnp.asarray([[[10.0, 20.0], [30.0, 20.0]]])
    np.testing.assert_allclose(independence.chi_squared(table), 0.020921335, rtol=1e-4)
    np.testing.assert_allclose(independence.chi_squared(jnp.concatenate([table, 0 * table])), 0.020921335, rtol=1e-4)
    np.testing.assert_allclose(independence.chi_squared(jnp.concatenate([table, table])), np.exp(-16 / 3), rtol=1e-4)  # 32 / 3, df 2
    assert independence.chi_squared(jnp.asarray([[[10.0, 0.0], [30.0, 0.0]]])) == 1.0  # the target never varied
    assert independence.chi_squared(jnp.zeros((2, 3, 4))) == 1.0


def test_chi_squared_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for shape in ((4, 5), (50, 21), (3, 3)):
        table = rng.poisson(rng.uniform(0, 6, shape)).astype(np.float32)
        table[0] = 0  # a value that never occurs has no degree of freedom
        want = stats.chi2_contingency(table[1:][:, table.sum(0) > 0], correction=False).pvalue
        np.testing.assert_allclose(independence.chi_squared(jnp.asarray(table)[None]), want, atol=1e-4)


def test_partial_correlations_against_regression() -> None:
    """r is the correlation of what regressions on the other sources leave; z and p from their definitions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    y = 0.1 * x[:, :1] + rng.normal(size=(60, 1))
    deviations = np.concatenate([x, y], axis=1)
    deviations = deviations - deviations.mean(axis=0)
    got = independence.partial_correlations(jnp.asarray(deviations.T @ deviations, jnp.float32), jnp.asarray(60.0), 1)
    for i in range(3):
        others = np.delete(deviations[:, :3], i, axis=1)
        left = deviations - others @ np.linalg.lstsq(others, deviations, rcond=None)[0]
        z = np.arctanh(np.corrcoef(left[:, i], left[:, 3])[0, 1]) * np.sqrt(60 - 2 - 3)
        np.testing.assert_allclose(got[0, i], 2 * stats.norm.sf(abs(z)), atol=2e-3)


def discrete(key: jax.Array, size: int = B, tied: float = 0.7) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Variable 0 stays, 1 copies 0, and 2 is set by the action in two thirds of the cases; 2 equals 0 at first in a share `tied`."""
    keys = jax.random.split(key, 4)
    colours = jax.random.randint(keys[0], (size, N), 0, C)
    colours = colours.at[:, 2].set(jnp.where(jax.random.uniform(keys[1], (size,)) < tied, colours[:, 0], colours[:, 2]))
    action = jax.random.randint(keys[2], (size,), 0, A)
    new = jnp.where(action < 6, action % C, colours[:, 2])
    return jax.nn.one_hot(colours, C), action, jnp.stack([colours[:, 0], colours[:, 0], new], axis=-1)


def update(net: dynamics.Model, given: str, level: float = 1e-3) -> Any:
    def run(state: dynamics.State, rows: Any) -> tuple[dynamics.State, None]:
        return grader.update_graph(net, state, *rows, level=level, given=given), None

    return jax.jit(lambda state, rows: jax.lax.scan(run, state, rows)[0])


@pytest.mark.parametrize(
    ("tied", "given", "graph"),
    [
        (0.0, "self", [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]),
        (0.0, "nothing", [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]),
        (0.7, "self", [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]),
        (0.7, "nothing", [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]]),
    ],
)
def test_discrete_graph(tied: float, given: str, graph: Any) -> None:
    """The true graph; where 2 goes with 0, it is taken for a parent of 1, and given nothing 0 for one of 2, whose old value it tells."""
    net = grader.build(SPEC)
    _, state = net.init(KEY)
    np.testing.assert_array_equal(state.evidence.graph, np.ones((N, N + 1)))  # every allowed edge before there is evidence
    rows = jax.tree.map(lambda x: x.reshape(4, B // 4, *x.shape[1:]), discrete(KEY, tied=tied))
    state = update(net, given)(state, rows)
    np.testing.assert_array_equal(state.evidence.graph, graph)
    assert sum(float(counts.sum()) for counts in state.evidence.data) == B * N * (N + 1)


def test_the_authors_test_is_of_changes() -> None:
    """Against a table made by hand: source value x (unchanged, or old and new value of the target)."""
    net = grader.build(SPEC)
    obs, action, target = discrete(KEY)
    state = jax.jit(lambda state: grader.update_graph(net, state, obs, action, target))(net.init(KEY)[1])
    p = grader.p_values(SPEC, state.evidence.data, "nothing")
    old = np.asarray(jnp.argmax(obs, axis=-1))
    became = np.where(old == target, 0, 1 + C * old + target)
    for j, i, source in ((2, 0, old[:, 0]), (1, 2, old[:, 2]), (2, 3, np.asarray(action)), (0, 1, old[:, 1])):
        table = stats.contingency.crosstab(source, became[:, j]).count
        want = stats.chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1.0
        np.testing.assert_allclose(p[j, i], want, atol=1e-4)


def test_given_order_and_rows_that_do_not_count() -> None:
    net = grader.build(predictors.Spec(num_variables=N, variable_size=C, action_size=A, width=8))
    _, state = net.init(KEY)
    np.testing.assert_array_equal(state.evidence.graph, [[1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]])
    obs, action, target = discrete(KEY)
    counted = jnp.arange(B) < B // 2
    run = jax.jit(lambda *args: grader.update_graph(net, *args))
    half = run(state, obs, action, target, counted)
    jax.tree.map(np.testing.assert_array_equal, half, run(state, obs[: B // 2], action[: B // 2], target[: B // 2]))
    none = run(state, obs, action, target, jnp.zeros(B, bool))
    np.testing.assert_array_equal(none.evidence.graph, np.eye(N, N + 1))


def test_continuous_graph_in_batches() -> None:
    """Variable 0 drifts by action 0, 1 moves by 0, 2 by the second component of action 1; 2 goes with 0. Batches add up to one."""
    keys = jax.random.split(KEY, 3)
    state = jax.random.normal(keys[0], (B, N)) @ jnp.asarray([[1.0, 0, 0.8], [0, 0.1, 0], [0, 0, 0.6]]) + jnp.asarray([5.0, 0, -3])
    action = jax.random.normal(keys[1], (B, 2, 2))
    change = jnp.stack([0.1 * action[:, 0, 0], 0.05 * state[:, 0], 0.1 * action[:, 1, 1]], axis=-1)
    target = state + change + 0.02 * jax.random.normal(keys[2], (B, N))
    net = grader.build(REAL)
    before = net.init(KEY)[1]
    rows = state[..., None], action, target
    after = update(net, "self")(before, jax.tree.map(lambda x: x.reshape(4, B // 4, *x.shape[1:]), rows))
    np.testing.assert_array_equal(after.evidence.graph, [[1, 0, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
    whole = update(net, "self")(before, jax.tree.map(lambda x: x[None], rows))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), after, whole)
    number, mean, squares = after.evidence.data
    x = np.concatenate([state, action.reshape(B, -1), target - state], axis=1)
    np.testing.assert_allclose(mean, x.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(squares / number, np.cov(x.T, bias=True), atol=1e-4)


def test_continuous_evidence_of_nothing_and_of_constants() -> None:
    net = grader.build(REAL)
    constant = jax.jit(lambda *args: grader.update_graph(net, *args))(
        net.init(KEY)[1], jnp.ones((B, N, 1)), jnp.zeros((B, 2, 2)), jnp.ones((B, N))
    )
    np.testing.assert_array_equal(constant.evidence.graph, np.eye(N, N + 2))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(constant))


def test_the_network_is_what_it_says() -> None:
    """Against PyTorch's GRU written out: action first, then variables in order, starting from the variable's own embedding."""
    net = grader.build(SPEC)
    params, state = net.init(KEY)
    graph = jnp.asarray([[1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0]], jnp.float32)
    state = state._replace(evidence=state.evidence._replace(graph=graph))
    obs, action, _ = discrete(KEY, 4)
    result, after = net.step(params, None, state, obs, action, None)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    np.testing.assert_array_equal(result.edges, np.broadcast_to(graph, (4, N, N + 1)))
    p = jax.tree.map(np.asarray, params)
    x = [np.maximum(np.asarray(obs)[0, i] @ p["state"]["w"][i] + p["state"]["b"][i], 0) for i in range(N)]
    x.append(np.maximum(np.eye(A)[int(action[0])] @ p["action"]["w"][0] + p["action"]["b"][0], 0))

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    for j, parents in enumerate(([], [3, 0], [0, 1])):
        h, gru = x[j], {name: w[j] for name, w in p["gru"].items()}
        for i in parents:
            by_x, by_h = np.split(x[i] @ gru["wi"] + gru["bi"], 3), np.split(h @ gru["wh"] + gru["bh"], 3)
            reset, update = sigmoid(by_x[0] + by_h[0]), sigmoid(by_x[1] + by_h[1])
            h = (1 - update) * np.tanh(by_x[2] + reset * by_h[2]) + update * h
        np.testing.assert_allclose(result.output[0, j], np.maximum(h, 0) @ p["out"]["w"][j] + p["out"]["b"][j], atol=1e-5)


def test_table_rows_equal_the_plain_pass() -> None:
    net = grader.build(SPEC)
    params, state = net.init(KEY)
    obs, action, _ = discrete(KEY, 16)
    fast, _ = jax.jit(lambda p: net.step(p, net.prepare(p), state, obs, action, None))(params)
    plain, _ = jax.jit(lambda p: net.step(p, None, state, obs, action, None))(params)
    np.testing.assert_allclose(fast.output, plain.output, atol=1e-5)
    noisy, plans = obs[0].at[1:].multiply(-30.0), jnp.stack([action, action[::-1]], axis=1)
    shared = jax.jit(lambda p: imagination.imagine(net, p, state, noisy, plans))(params)
    want = jax.jit(lambda p: imagination.rollout_encoded(net, p, state, jnp.broadcast_to(noisy, obs.shape), plans))(params)
    np.testing.assert_allclose(shared.output, want.output, atol=1e-4)


def test_who_is_no_parent_does_not_matter() -> None:
    net = grader.build(SPEC)
    params, state = net.init(KEY)
    state = state._replace(evidence=state.evidence._replace(graph=jnp.ones((N, N + 1)).at[2, 0].set(0.0)))
    obs, action, _ = discrete(KEY, 16)
    step = jax.jit(lambda obs: imagination.rollout(net, params, state, obs, action[:, None])[0].output[0])
    before, after = step(obs), step(obs.at[:, 0].set(jnp.roll(obs[:, 0], 1, axis=-1)))
    np.testing.assert_array_equal(before[:, 2], after[:, 2])
    assert np.any(before[:, 1] != after[:, 1])


def test_an_unknown_test_is_an_error() -> None:
    net = grader.build(SPEC)
    with pytest.raises(UserError, match="given = 'x'"):
        grader.update_graph(net, net.init(KEY)[1], *discrete(KEY), given="x")
