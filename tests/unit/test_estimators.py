"""Off-policy estimators: literal scores, what must hold for any data, and agreement with exact values where the MDP is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import networks
from causal_jax.algorithms.tabular import policy_value, q_values, state_values, value_iteration
from causal_jax.causal import estimators as est
from causal_jax.envs import sepsis
from causal_jax.mdp import make_mdp, uniform_policy
from causal_jax.types import UserError

HORIZON = 20


def test_literal_wis_and_ess():
    ratio = jnp.asarray([[1.0, 1.0], [3.0, 1.0], [40.0, 50.0]])
    weight = est.prefix_weights(ratio)[:, -1]
    np.testing.assert_allclose(weight, [1, 3, 1000], rtol=1e-5)
    value = jnp.asarray([100.0, 0.0, 100.0])
    assert float(est.wis(weight, value)) == pytest.approx(99.7012, abs=1e-4)
    assert float(est.ess(weight)) == pytest.approx(1.008006, abs=1e-4)


def test_literal_step_ratios():
    action, greedy = jnp.asarray([0, 1]), jnp.asarray([0, 0])
    soft = est.softened(greedy, action, jnp.full((2, 2), 0.4), 0.01)
    np.testing.assert_allclose(est.ratios(soft, jnp.full(2, 0.5), jnp.ones(2, bool)), [1.988, 0.008], atol=1e-6)
    np.testing.assert_array_equal(est.ratios(soft, jnp.zeros(2), jnp.zeros(2, bool)), 1.0)  # padding


def test_the_product_is_clipped_and_not_the_steps():
    np.testing.assert_allclose(est.prefix_weights(jnp.asarray([5000.0, 0.001, 0.5])), [1000, 5, 2.5], rtol=1e-5)
    np.testing.assert_array_equal(est.prefix_weights(jnp.asarray([1e30, 1e30, 0.0])), [1000, 1000, 0])  # neither overflow nor NaN


def logs(seed=0, num=50, num_actions=5):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, HORIZON + 1, num)
    mask = np.arange(HORIZON) < length[:, None]
    behaviour = rng.dirichlet(np.ones(num_actions), (num, HORIZON))
    action = (behaviour.cumsum(-1) > rng.random((num, HORIZON, 1))).argmax(-1)
    reward = np.where(np.arange(HORIZON) == length[:, None] - 1, 100.0 * rng.integers(0, 2, (num, 1)), 0.0)
    return [jnp.asarray(x) for x in (action, behaviour, reward, mask)]


def test_what_holds_for_any_data():
    action, behaviour, reward, mask = logs()
    same = est.wis_ess(action, jnp.zeros_like(action), behaviour, behaviour, reward, mask, eps=1.0)
    value = est.returns(reward, mask)
    np.testing.assert_allclose(same.weight, 1.0, rtol=1e-5)
    assert float(same.wis) == pytest.approx(float(value.mean()), rel=1e-5)
    assert float(same.ess) == pytest.approx(50, rel=1e-5)
    other = est.wis_ess(action, behaviour.argmax(-1), behaviour, behaviour, reward, mask)
    assert 0 <= float(other.wis) <= 100
    assert 1 <= float(other.ess) <= 50
    assert float(est.wis(other.weight * 7, value)) == pytest.approx(float(other.wis), rel=1e-5)
    assert float(est.ess(other.weight * 7)) == pytest.approx(float(other.ess), rel=1e-5)
    worse = est.wis_ess(action, behaviour.argmin(-1), behaviour, behaviour, reward, mask)
    assert float(worse.ess) < float(other.ess)


def test_many_checkpoints_in_one_call():
    action, behaviour, reward, mask = logs()
    greedy = jnp.stack([behaviour.argmax(-1), behaviour.argmin(-1)])
    score = jax.vmap(lambda greedy: est.wis_ess(action, greedy, behaviour, behaviour, reward, mask))
    for i, one in enumerate(greedy):
        alone = est.wis_ess(action, one, behaviour, behaviour, reward, mask)
        np.testing.assert_allclose(jax.tree.map(lambda x, i=i: x[i], score(greedy)).wis, alone.wis, rtol=1e-5)


def test_per_decision_wis_of_equal_policies_is_the_mean_return():
    _, _, reward, mask = logs()
    found = est.per_decision_wis(jnp.ones_like(reward), reward, mask, 0.9)
    assert float(found) == pytest.approx(float(est.returns(reward, mask, 0.9).mean()), rel=1e-5)


@pytest.fixture(scope="module")
def study():
    """4,000 episodes of sepsis-sim under a half-random policy, padded to 20 decisions, and a better policy with its exact value."""
    mdp = sepsis.sepsis_sim_mdp()
    best = np.eye(8)[value_iteration(mdp, 0.99).policy]
    behaviour, policy = 0.5 * best + 0.5 / 8, 0.7 * best + 0.3 / 8
    rng, num = np.random.default_rng(1), 4000
    state = rng.choice(1442, num, p=mdp.initial)
    columns = {name: [] for name in ("state", "action", "reward", "mask", "next")}
    absorbing = mdp.absorbing
    cumulative, successors, starts = mdp.kernel.data, mdp.kernel.indices, mdp.kernel.indptr
    running = np.append(0.0, np.cumsum(cumulative))
    for _ in range(HORIZON):
        action = (behaviour[state].cumsum(1) > rng.random((num, 1))).argmax(1)
        row = state * 8 + action
        # rows lie behind each other in `running`, each of mass 1
        place = (
            np.searchsorted(running, running[starts[row]] + rng.random(num) * (running[starts[row + 1]] - running[starts[row]]), "right")
            - 1
        )
        following = successors[place]
        for name, x in zip(columns, (state, action, mdp.reward[state, action], ~absorbing[state], following), strict=True):
            columns[name].append(x)
        state = following
    return mdp, behaviour, policy, {name: np.stack(x, 1) for name, x in columns.items()}


def test_estimates_agree_with_the_exact_value(study):
    """With the true behaviour all estimators are within 4 standard errors of the truth, and the naive mean is not."""
    mdp, behaviour, policy, data = study
    truth = policy_value(mdp, policy, 0.99, horizon=HORIZON)
    state, action, reward, mask = (data[name] for name in ("state", "action", "reward", "mask"))
    ratio = est.ratios(jnp.asarray(policy[state, action]), jnp.asarray(behaviour[state, action]), jnp.asarray(mask))
    weight, value = est.prefix_weights(ratio)[:, -1], est.returns(jnp.asarray(reward), jnp.asarray(mask), 0.99)
    spread = float(jnp.std(est.bootstrap(jax.random.key(0), est.wis, weight, value)))
    assert 0.005 < spread < 0.1
    assert abs(float(est.wis(weight, value)) - truth) < 4 * spread
    assert abs(float(value.mean()) - truth) > 4 * spread
    assert abs(float(est.per_decision_wis(ratio, jnp.asarray(reward), jnp.asarray(mask), 0.99)) - truth) < 4 * spread
    values = state_values(mdp, policy, 0.99)
    q = q_values(mdp, values, 0.99)
    for offset in (0.0, 0.3):  # right ratios, the model right or wrong
        arrays = [jnp.asarray(x, jnp.float32) for x in (q[state, action] + offset, values[state] + offset, reward)]
        robust = jax.vmap(lambda rho, q, v, r, m: est.doubly_robust(rho, q, v, r, m, 0.99))(ratio, *arrays, jnp.asarray(mask))
        error = float(robust.std()) / np.sqrt(len(robust))
        assert abs(float(robust.mean()) - truth) < 4 * error + 0.03  # the model's V is that of no horizon
    assert float(robust.mean()) != pytest.approx(truth, abs=1e-6)


def test_fqe_on_a_chain():
    """Two states, two actions, known Q: linear FQE on one-hot states finds it."""
    transition = np.asarray([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]])
    mdp = make_mdp(transition, [[0.0, 0.2], [1.0, 0.5]], [1, 0])
    policy = np.asarray([[0.25, 0.75], [0.5, 0.5]])
    q = q_values(mdp, state_values(mdp, policy, 0.8), 0.8)
    states, actions = np.divmod(np.arange(4).repeat(16), 2)
    following = transition.argmax(-1)[states, actions]
    eye = jnp.eye(2)
    steps = est.Steps(
        eye[states], jnp.asarray(actions), jnp.asarray(mdp.reward[states, actions], jnp.float32), eye[following], jnp.zeros(64, bool),
        jnp.asarray(policy, jnp.float32)[following],
    )  # fmt: skip
    network = networks.mlp(2, (), 2)
    params = jax.jit(lambda key: est.fqe(key, network, steps, 0.8, 1e-2, 3000, 32, 0.02))(jax.random.key(0))
    np.testing.assert_allclose(network.apply(params, eye), q, atol=0.03)


def test_pareto_front_and_selection():
    score, size = jnp.asarray([90.0, 95.0, 93.0, 92.0]), jnp.asarray([400.0, 50.0, 220.0, 210.0])
    np.testing.assert_array_equal(est.pareto_front(score, size), [True, True, True, False])
    assert est.select(score, size) == 2
    with pytest.raises(UserError, match=r"min_size = 500: the largest ESS is 400.0"):
        est.select(score, size, 500)


def test_confounding_bounds():
    weight, value = jnp.asarray([1.0, 1.0, 2.0]), jnp.asarray([0.0, 1.0, 1.0])
    length = jnp.asarray([1, 1, 1])
    np.testing.assert_allclose(est.confounding_bounds(weight, value, length, 1.0), [0.75, 0.75], rtol=1e-6)
    np.testing.assert_allclose(est.confounding_bounds(weight, value, length, 2.0), [1.5 / 3.5, 6 / 6.5], rtol=1e-6)
    wide = est.confounding_bounds(weight, value, 2 * length, 2.0)
    np.testing.assert_allclose(wide, [0.75 / 4.75, 12 / 12.25], rtol=1e-6)


def test_hidden_severity_biases_importance_sampling(study):
    """The log's policy knows the severity: weights by its u-blind mixture are wrong, by the truth right."""
    mdp = study[0]
    base, strength = uniform_policy(mdp), 1.0
    log = sepsis.logging_policy(base, strength)
    assert np.abs(log.mean(0) - base).max() > 0.01
    odds = log / log.mean(0)
    assert 1.0 < odds.max() < np.exp(3 * strength)
