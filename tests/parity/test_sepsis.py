"""The two sepsis simulators against every exact value known of them; MB-FPI's stopping values; blocks found from tables and data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.algorithms import tabular
from causal_jax.algorithms.tabular import factored_policy_iteration, policy_value, state_values, value_iteration
from causal_jax.causal import intervention
from causal_jax.envs import icu_sepsis, make, sepsis
from causal_jax.envs.sepsis import DEATH, DISCHARGE, EFFECTS, ICU_BLOCKS, SepsisState, icu_sepsis_mdp, sepsis_sim_mdp
from causal_jax.envs.sepsis_policies import follow, policies
from causal_jax.mdp import sample_log, uniform_policy
from causal_jax.types import UserError

CONSTANT = [-0.72921, -0.93150, -0.91576, -0.47849, -0.41504, -0.60852, -0.05443, -0.12606]


@pytest.fixture(scope="module")
def sim():
    return sepsis_sim_mdp()


@pytest.fixture(scope="module")
def best(sim):
    return value_iteration(sim, 0.99)


@pytest.fixture(scope="module")
def icu():
    return icu_sepsis_mdp()


def test_sepsis_sim_counts(sim):
    died, discharged = sepsis._outcome(sepsis._states()[:720])  # the observed 720: diabetes is the leading variable
    assert (died.sum(), discharged.sum()) == (416, 1)
    assert (sim.num_states, sim.num_actions, int((sim.initial > 0).sum())) == (1442, 8, 74)
    assert list(np.flatnonzero(sim.absorbing)) == [DEATH, DISCHARGE]


def test_sepsis_sim_values(sim, best):
    assert best.value == pytest.approx(0.7362638143538, abs=1e-11)
    assert float(sepsis_sim_mdp("uniform").initial @ best.values) == pytest.approx(0.6775418119368787, abs=1e-11)
    assert policy_value(sim, uniform_policy(sim), 0.99) == pytest.approx(-0.7591, abs=5e-5)
    assert [policy_value(sim, np.full(1442, a), 0.99) for a in range(8)] == pytest.approx(CONSTANT, abs=5.1e-6)


@pytest.mark.parametrize(
    ("split", "sweep", "value", "sweeps"),
    [("3", "one", 0.7361513, 5), ("3", "full", 0.7362638, 6), ("2", "one", 0.7361211, 5), ("2", "full", 0.7361211, 6)],
)
def test_mb_fpi_on_sepsis_sim(sim, split, sweep, value, sweeps):
    """`sweeps` counts the last one too, which changes nothing. The two separable blocks stop at a local optimum, the three do not."""
    found = factored_policy_iteration(sim, sepsis.blocks(split), 0.99, sweep)
    assert found.converged
    assert found.value == pytest.approx(value, abs=5.1e-8)
    assert len(found.history) == sweeps
    assert (np.diff(found.history) > 0).all()


def test_jacobi_sweeps_cycle(sim):
    found = factored_policy_iteration(sim, sepsis.blocks("3"), 0.99, "jacobi", max_sweeps=9)
    assert not found.converged
    assert found.history[-4:-2] == found.history[-2:]
    assert sorted(found.history[-2:]) == pytest.approx([0.7353677, 0.7356072], abs=1e-7)


@pytest.mark.parametrize(("split", "value", "alone"), [("3", 0.5533, None), ("2", 0.6443, (0.4161, -0.6385))])
def test_projected_sum_on_sepsis_sim(sim, best, split, value, alone):
    blocks = sepsis.blocks(split)
    solved = [value_iteration(intervention.projected_mdp(sim, blocks, k), 0.99) for k in range(blocks.num)]
    total = intervention.offset_sum([s.q for s in solved], state_values(sim, np.zeros(1442, int), 0.99), blocks)
    assert policy_value(sim, total.argmax(1), 0.99) == pytest.approx(value, abs=5e-5)
    if alone:
        assert [s.value for s in solved] == pytest.approx(alone, abs=5e-5)
    else:
        live = sim.reward[:, 0] == 0
        live[[DEATH, DISCHARGE]] = False
        assert live.sum() == 606
        assert (total.argmax(1) == best.policy)[live].mean() == pytest.approx(0.59, abs=0.01)
        assert np.abs(total - best.q)[live].mean() == pytest.approx(0.438, abs=5e-4)


def test_mb_fpi_from_elsewhere(sim):
    """From random policies it stops anywhere between .12 and .74: start from no-ops, and try several."""
    rng = np.random.default_rng(0)
    values = [factored_policy_iteration(sim, sepsis.blocks("3"), 0.99, "one", rng.integers(8, size=1442)).value for _ in range(4)]
    assert 0.12 < min(values) < max(values) <= 0.7362639
    assert max(values) - min(values) > 0.01


def test_separability_of_both_splits(sim):
    three = intervention.separability(sim, sepsis.blocks("3"), EFFECTS["3"])
    np.testing.assert_allclose(three, [0, 0, 0.5], atol=1e-12)  # {hr, abx}, {o2, vent}, {sbp, glu, vaso}
    two = intervention.separability(sim, sepsis.blocks("2"), EFFECTS["2"])
    np.testing.assert_allclose(two, 0, atol=1e-12)
    assert intervention.factorisation_error(sim, sepsis.blocks("2"), EFFECTS["2"]) < 1e-15
    assert intervention.factorisation_error(sim, sepsis.blocks("3"), EFFECTS["3"]) > 0.4


def test_blocks_are_found_from_the_tables_and_from_data(sim):
    blocks = sepsis.blocks("3")  # abx, vent, vaso
    strengths = intervention.effect_strengths(sim, blocks)
    np.testing.assert_allclose(strengths[:, 1:5], [[0.5, 0.5, 0, 0], [0, 0, 0.7, 0], [0, 0.9, 0, 0.3]], atol=1e-12)  # hr, sbp, o2, glu
    assert intervention.merge(strengths > 1e-9) == ((0, 2), (1,))
    rng = np.random.default_rng(0)
    states = rng.choice(np.flatnonzero(sepsis._starts("uniform")), 15_000)
    actions = rng.integers(8, size=len(states))
    rows = sim.kernel[states * 8 + actions]
    place = (np.asarray(rows.todense()).cumsum(1) > rng.random((len(states), 1))).argmax(1)
    evidence = intervention.effect_evidence(0, states, actions, sim.variables[place], blocks)
    assert intervention.merge(evidence > 6) == ((0, 2), (1,))
    assert (np.abs(evidence[strengths < 1e-9]) < 5).all()


def test_joint_index():
    blocks = sepsis.blocks("3")
    assert blocks.joint[1, 0, 1] == 4 * 1 + 2 * 0 + 1
    assert list(blocks.levels[6]) == [1, 1, 0]  # abx, vent, no vaso
    assert list(sepsis.blocks("2").levels[5]) == [3, 0]  # abx and vaso, no vent
    assert ICU_BLOCKS.joint[3, 2] == 5 * 3 + 2


def test_the_step_function_agrees_with_the_tables(sim):
    """The simulator is written twice: frequencies of 20,000 steps from each of a few states and actions, against the kernel's rows."""
    env, params = make("sepsis-sim")
    step = jax.jit(jax.vmap(env.step_env, (0, None, None, None)))
    index = jax.jit(jax.vmap(env.index))
    num = 20_000
    for i, (values, action) in enumerate(
        [((0, 2, 1, 0, 2, 0, 0, 0), (1, 1, 1)), ((1, 2, 0, 1, 2, 1, 0, 1), (0, 0, 1)), ((1, 1, 2, 1, 2, 0, 1, 0), (0, 1, 0)),
         ((0, 1, 1, 1, 2, 0, 0, 1), (0, 0, 0)), ((1, 0, 1, 0, 2, 0, 0, 0), (0, 0, 0))]
    ):  # fmt: skip
        state = SepsisState(jnp.asarray(values), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        _, new, reward, over, _ = step(jax.random.split(jax.random.key(i), num), state, jnp.asarray(action), params)
        row = int(env.index(state.values)) * 8 + 4 * action[0] + 2 * action[1] + action[2]
        p = np.asarray(sim.kernel[[row]].todense())[0]
        seen = np.bincount(np.asarray(index(new.values)), minlength=1442) / num
        assert np.abs(seen - p).max() < 5 * np.sqrt(0.25 / num)
        assert not seen[p == 0].any()
        assert not np.any(over)
        assert not np.any(reward)


def test_an_end_pays_in_the_next_step():
    env, params = make("sepsis-sim", split="2")
    for values, pays in (((0, 0, 0, 0, 2, 1, 0, 0), -1.0), ((1, 1, 1, 1, 2, 0, 0, 0), 1.0)):
        state = SepsisState(jnp.asarray(values), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        _, new, reward, over, info = env.step_env(jax.random.key(0), state, jnp.asarray([3, 0]), params)
        assert (float(reward), bool(over), bool(info["success"])) == (pays, True, pays > 0)
        np.testing.assert_array_equal(new.values, values)


def test_starts_of_the_simulator(sim):
    env, params = make("sepsis-sim")
    obs, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 20_000), params)
    assert obs.shape == (20_000, 21)
    assert (np.asarray(obs).sum(1) == 8).all()
    seen = np.bincount(np.asarray(jax.vmap(env.index)(state.values)), minlength=1442) / 20_000
    assert np.abs(seen - sim.initial).max() < 0.015
    assert not seen[sim.initial == 0].any()


def test_hidden_severity_has_a_known_truth(sim, best):
    """No confounding is the simulator; the more of it, the less the same policy is worth; the severe are treated more."""
    np.testing.assert_array_equal(sepsis._kernel(0.0, 1).toarray(), sim.kernel.toarray())
    strong = sepsis_sim_mdp(confounding=1.0)
    assert strong.num_states == 2884
    values = state_values(strong, np.tile(best.policy, 2), 0.99)
    mild, severe = sim.initial @ values[:1442], sim.initial @ values[1442:]
    assert mild == pytest.approx(best.value, abs=1e-11)  # u = 0 is the simulator
    assert severe < mild - 0.1
    log = sepsis.logging_policy(uniform_policy(sim), 0.5)
    np.testing.assert_allclose(log.sum(-1), 1)
    assert log[1, 0, 7] / log[0, 0, 7] == pytest.approx((np.exp(1.5) / np.exp(-1.5)) * (log[1, 0, 0] / log[0, 0, 0]))
    env, params = make("sepsis-sim", confounding=0.5)
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(jax.random.key(0), 400), params)
    assert 0.4 < float(state.severe.mean()) < 0.6


def test_icu_sepsis_values(icu):
    assert value_iteration(icu, 1.0).value == pytest.approx(0.875141699608, abs=1e-9)
    assert value_iteration(icu, 1.0, icu.allowed).value == pytest.approx(0.875141699608, abs=1e-9)
    assert value_iteration(icu_sepsis_mdp("terminate"), 1.0).value == pytest.approx(0.875141699608, abs=1e-9)
    assert policy_value(icu, uniform_policy(icu), 1.0) == pytest.approx(0.780070904612, abs=1e-9)
    assert policy_value(icu, uniform_policy(icu, icu.allowed), 1.0) == pytest.approx(0.780070904612, abs=1e-9)
    assert policy_value(icu, icu.expert, 1.0) == pytest.approx(0.781845, abs=5e-7)
    assert value_iteration(icu, 0.99).value == pytest.approx(0.801334, abs=5e-7)


def test_logs_of_icu_sepsis_pay_survivors_once_and_hold_no_decision_of_the_dead(icu):
    np.testing.assert_array_equal(np.flatnonzero(icu.over), [713, 714, 715])
    np.testing.assert_allclose((icu.kernel @ icu.entry).reshape(716, 25), icu.reward)
    log = sample_log(0, icu, icu.expert, 4000, 60)
    states, _, rewards, after = log.steps
    assert states.max() < 713
    np.testing.assert_array_equal(rewards, after == 714)
    total = log.rewards.sum(1)
    assert set(total) == {0.0, 1.0}
    assert total.mean() == pytest.approx(policy_value(icu, icu.expert, 1.0, horizon=60), abs=4 * total.std() / np.sqrt(4000))
    assert log.taken.sum(1).mean() == pytest.approx(9.238, abs=0.4)


def test_icu_sepsis_lengths(icu):
    """Expected decisions until the end: an MDP that pays 1 a step while the patient lives."""
    import dataclasses

    paid = np.repeat((np.arange(716) < 713).astype(float)[:, None], 25, 1)
    clock = dataclasses.replace(icu, reward=paid)
    best = value_iteration(icu, 1.0).policy
    lengths = [policy_value(clock, policy, 1.0) for policy in (best, uniform_policy(icu), icu.expert)]
    assert lengths == pytest.approx([10.992, 9.462, 9.238], abs=5e-4)


def test_mb_fpi_and_blocks_of_icu_sepsis(icu):
    found = factored_policy_iteration(icu, ICU_BLOCKS, 1.0, "one")
    assert found.history == pytest.approx((0.7824, 0.8566, 0.8685, 0.868960), abs=5e-5)
    assert not factored_policy_iteration(icu, ICU_BLOCKS, 1.0, "jacobi", max_sweeps=8).converged
    again = factored_policy_iteration(icu, ICU_BLOCKS, 1.0, "one", np.random.default_rng(0).integers(25, size=716))
    assert again.converged
    assert 0.82 < again.value < 0.85
    alone = [value_iteration(intervention.projected_mdp(icu, ICU_BLOCKS, k), 1.0) for k in (0, 1)]
    assert [x.value for x in alone] == pytest.approx([0.8649, 0.7831], abs=5e-5)
    nothing = state_values(icu, np.zeros(716, int), 1.0)
    assert icu.initial @ nothing == pytest.approx(0.7824, abs=5e-5)
    total = intervention.offset_sum([x.q for x in alone], nothing, ICU_BLOCKS).round(9)
    assert (total == total.max(1, keepdims=True))[:713].sum(1).mean() > 10  # ties decide what its greedy policy is worth
    assert policy_value(icu, total.argmax(1), 1.0) == pytest.approx(0.86377, abs=5e-6)
    assert policy_value(icu, 24 - total[:, ::-1].argmax(1), 1.0) == pytest.approx(0.77598, abs=5e-6)
    assert intervention.interaction_share(value_iteration(icu, 1.0).q[:713], ICU_BLOCKS) == pytest.approx(0.734, abs=5e-4)
    admissible = icu.allowed[:713]
    assert admissible.sum(1).mean() == pytest.approx(3.14, abs=5e-3)
    assert admissible[:, 0].mean() == pytest.approx(0.34, abs=5e-3)
    assert icu.initial[:713] @ admissible[:, 0] == pytest.approx(0.63, abs=5e-3)


def test_icu_sepsis_steps_as_its_tables_say(icu):
    env, params = make("icu-sepsis", features="onehot")
    assert env.observation_space(params).shape == (716,)
    step = jax.jit(jax.vmap(env.step_env, (0, None, None, None)))
    for index, action in ((5, (2, 1)), (300, (0, 0))):
        state = icu_sepsis.ICUState(jnp.asarray(index), jnp.zeros((), jnp.int32))
        obs, new, reward, over, info = step(jax.random.split(jax.random.key(index), 20_000), state, jnp.asarray(action), params)
        p = np.asarray(icu.kernel[[index * 25 + 5 * action[0] + action[1]]].todense())[0]
        seen = np.bincount(np.asarray(new.index), minlength=716) / 20_000
        assert np.abs(seen - p).max() < 5 * np.sqrt(0.25 / 20_000)
        assert not seen[p == 0].any()
        np.testing.assert_array_equal(reward, np.asarray(new.index) == 714)
        np.testing.assert_array_equal(over, np.asarray(new.index) >= 713)
        np.testing.assert_array_equal(np.asarray(obs).argmax(1), new.index)
        np.testing.assert_array_equal(info["allowed"], icu.allowed[np.asarray(new.index)])


def test_icu_sepsis_without_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    icu_sepsis.tables.cache_clear()
    with pytest.raises(UserError, match=r"needs the package icu-sepsis: pip install"):
        icu_sepsis.tables()
    with pytest.raises(UserError, match="inadmissible = 'raise'"):
        icu_sepsis_mdp("raise")


def test_scripted_policies_return_what_they_are_worth(sim, best, icu):
    """500 episodes of each, 30 steps at most, against the exact value."""
    cases = {"sepsis-sim": (sim, {"optimal": best.policy}), "icu-sepsis": (icu, {"optimal": value_iteration(icu, 1.0).policy})}
    exact = {
        "sepsis-sim": {
            "random": uniform_policy(sim),
            "untreated": np.zeros(1442, int),
            "treated": np.full(1442, 7),
            **cases["sepsis-sim"][1],
        },
        "icu-sepsis": {"random": uniform_policy(icu), "untreated": np.zeros(716, int), "expert": icu.expert, **cases["icu-sepsis"][1]},
    }
    for name, (mdp, tables) in cases.items():
        env, params = make(name, max_steps=30)
        acts = policies(env, params) | {label: follow(env, params, table) for label, table in tables.items()}
        assert acts.keys() == exact[name].keys()
        branches = list(acts.values())

        def play(key, which, env=env, params=params, branches=branches):
            return rollout.evaluate(key, env, params, lambda key, obs: jax.lax.switch(which, branches, key, obs), 30).total

        program = jax.jit(jax.vmap(play, (0, None)))
        for i, label in enumerate(acts):
            total = np.asarray(program(jax.random.split(jax.random.key(i), 500), jnp.asarray(i)))
            truth = policy_value(mdp, exact[name][label], 1.0, horizon=30)
            assert total.mean() == pytest.approx(truth, abs=4 * total.std() / np.sqrt(500) + 1e-6)


def test_picture_of_a_patient():
    env, params = make("sepsis-sim")
    zero = jnp.zeros((), jnp.int32)
    well = env.render(SepsisState(jnp.asarray([0, 1, 1, 1, 2, 0, 0, 0]), zero, zero), params, 100)
    ill = env.render(SepsisState(jnp.asarray([0, 0, 2, 1, 2, 1, 0, 0]), zero, zero), params, 100)
    red, blue = (214, 69, 65), (38, 110, 196)
    assert well.shape == (100, 100, 3)
    assert not (well == red).all(-1).any()
    assert (ill == red).all(-1).any()
    assert (ill == blue).all(-1).any()
    assert tabular.SWEEPS[0] == "full"
