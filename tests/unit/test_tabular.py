"""Tabular truths of AD-RL in small worlds: the offset identity, where projection fails, where MB-FPI is only locally optimal."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.algorithms.tabular import (
    empirical_mdp,
    factored_mdp,
    factored_policy_iteration,
    policy_value,
    state_values,
    value_iteration,
)
from causal_jax.causal.intervention import Blocks, complete, interaction_share, merge, offset_sum, projected_mdp, separability
from causal_jax.mdp import make_mdp, sample_log, sample_next, uniform_policy
from causal_jax.types import UserError


def product_mdp(kernels, reward, variables=True):
    """Independent chains: kernels, a list of [n, A_k, n]; reward [*n, *A]. States and actions are mixed radix, first chain major."""
    transition = kernels[0]
    for kernel in kernels[1:]:
        transition = np.einsum("iaj,kbl->ikabjl", transition, kernel).reshape(
            len(transition) * len(kernel), transition.shape[1] * kernel.shape[1], -1
        )
    num, names = len(transition), tuple(f"s{k}" for k in range(len(kernels)))
    values = np.stack(np.unravel_index(np.arange(num), [len(k) for k in kernels]), -1)
    fields = {"variables": values, "names": names} if variables else {}
    return make_mdp(transition, reward.reshape(num, -1), np.full(num, 1 / num), **fields)


def chains(both):
    """Two chains, go: 0 -> 1, 1 stays. Reward of the next states: their sum, or 1 if both are 1."""
    kernel = np.zeros((2, 2, 2))
    kernel[0, 0, 0] = kernel[0, 1, 1] = kernel[1, :, 1] = 1
    new = kernel.argmax(-1)
    pair = new[:, None, :, None] & new[None, :, None, :] if both else new[:, None, :, None] + new[None, :, None, :]
    return product_mdp([kernel, kernel], pair.astype(float)), Blocks.of((2, 2), (0, 0))


def projections(mdp, blocks, gamma):
    q = [value_iteration(projected_mdp(mdp, blocks, k), gamma).q for k in range(blocks.num)]
    return q, state_values(mdp, np.full(mdp.num_states, blocks.nothing), gamma)


def test_chains_with_additive_reward():
    mdp, blocks = chains(both=False)
    best = value_iteration(mdp, 0.9)
    np.testing.assert_allclose(best.q[0], [18, 19, 19, 20], atol=1e-10)
    q, nothing = projections(mdp, blocks, 0.9)
    np.testing.assert_allclose([x[0] for x in q], [[9, 10], [9, 10]], atol=1e-10)
    assert nothing[0] == 0
    np.testing.assert_allclose(offset_sum(q, nothing, blocks), best.q, atol=1e-9)


def test_chains_that_pay_for_both_only():
    mdp, blocks = chains(both=True)
    best = value_iteration(mdp, 0.9)
    np.testing.assert_allclose(best.q[0], [9, 9, 9, 10], atol=1e-10)  # after a no-op, as after one go, both can be there in a step
    q, _ = projections(mdp, blocks, 0.9)
    assert not q[0][0].any()
    assert not q[1][0].any()
    assert state_values(mdp, factored_policy_iteration(mdp, blocks, 0.9).policy, 0.9)[0] == pytest.approx(10)


def random_product(seed, num_chains, kind):
    rng, n = np.random.default_rng(seed), 4 if num_chains == 2 else 3
    kernels = [rng.dirichlet(np.full(n, 0.5), (n, 3)) for _ in range(num_chains)]
    parts = [rng.normal(size=n) for _ in range(num_chains)]
    reward = parts[0]
    for part in parts[1:]:
        reward = np.add.outer(reward, part) if kind == "additive" else np.multiply.outer(reward, part)
    full = np.broadcast_to(reward.reshape(-1, 1), (n**num_chains, 3**num_chains))
    return product_mdp(kernels, full.copy()), Blocks.of((3,) * num_chains, (1,) * num_chains)


@pytest.mark.parametrize(("seed", "num_chains"), [(s, k) for k in (2, 3) for s in range(3)])
def test_offset_identity(seed, num_chains):
    """Separable effects and additive reward: the projected Qs sum to Q* up to (K - 1) V_noop, and MB-FPI is optimal."""
    mdp, blocks = random_product(seed, num_chains, "additive")
    best = value_iteration(mdp, 0.9)
    np.testing.assert_allclose(offset_sum(*projections(mdp, blocks, 0.9), blocks), best.q, atol=1e-9)
    assert interaction_share(best.q, blocks) < 1e-12
    np.testing.assert_allclose(separability(mdp, blocks, [(k,) for k in range(num_chains)]), 0, atol=1e-12)
    for sweep in ("one", "full"):
        found = factored_policy_iteration(mdp, blocks, 0.9, sweep)
        assert found.converged
        assert len(found.history) <= 5
        np.testing.assert_allclose(found.values, best.values, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_multiplicative_reward_ends_person_by_person(seed):
    mdp, blocks = random_product(seed, 2, "multiplicative")
    for sweep in ("one", "full"):
        found = factored_policy_iteration(mdp, blocks, 0.9, sweep)
        assert found.converged
        assert found.value <= value_iteration(mdp, 0.9).value + 1e-12
        q = mdp.reward + 0.9 * (mdp.kernel @ found.values).reshape(mdp.reward.shape)
        levels = blocks.levels[found.policy]
        for k in range(2):
            for level in range(3):
                changed = levels.copy()
                changed[:, k] = level
                assert (q[np.arange(16), blocks.joint[tuple(changed.T)]] <= found.values + 1e-9).all()
        if sweep == "full":
            assert (np.diff(found.history) >= -1e-12).all()


def test_jacobi_may_never_end():
    """A game of matching: both blocks flip together for ever."""
    reward = np.asarray([[0.0, 1.0], [1.0, 0.0]])
    transition = np.zeros((2, 4, 2))
    transition[..., 1] = 1
    mdp = make_mdp(transition, np.stack([reward.ravel(), np.zeros(4)]), [1, 0])
    blocks = Blocks.of((2, 2), (0, 0))
    assert not factored_policy_iteration(mdp, blocks, 0.9, "jacobi", max_sweeps=20).converged
    assert factored_policy_iteration(mdp, blocks, 0.9, "full").value == 1


def test_local_optimum():
    table = np.asarray([[8, -12, -12], [-12, 0, 0], [-12, 0, 0.0]])
    transition = np.zeros((2, 9, 2))
    transition[..., 1] = 1
    mdp = make_mdp(transition, np.stack([table.ravel(), np.zeros(9)]), [1, 0])
    blocks = Blocks.of((3, 3), (1, 1))
    for sweep in ("one", "full"):
        found = factored_policy_iteration(mdp, blocks, 1.0, sweep)
        assert (found.value, found.converged) == (0, True)
    assert value_iteration(mdp, 1.0).value == 8
    assert interaction_share(table.reshape(1, 9), blocks) > 0.3


def test_blocks_merge_and_complete():
    blocks = Blocks.of((2, 3, 2), (0, 1, 1), [(0, 2), (1,)])
    assert (blocks.sizes, blocks.noop, blocks.nothing) == ((4, 3), (1, 1), 3)  # 0 * 6 + 1 * 2 + 1
    np.testing.assert_array_equal(blocks.joint[tuple(blocks.levels.T)], np.arange(12))
    assert list(blocks.completions(1)) == [1, 3, 5]
    np.testing.assert_array_equal(complete(jnp.asarray([3, 2]), blocks.noop), [[3, 1], [1, 2]])
    assert merge(np.asarray([[1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])) == ((0,), (1, 2), (3,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Blocks.of((2, 2), (0, 2)), r"noop = \(0, 2\)"),
        (lambda m: Blocks.of((2, 2), (0, 0), [(0,)]), "must be a partition"),
        (lambda m: policy_value(m, np.full(4, 4), 0.9), r"policy = 4 .. 4: actions must be 0 .. 3"),
        (lambda m: policy_value(m, np.ones((4, 4)), 0.9), "must be a distribution"),
        (lambda m: policy_value(m, np.zeros(3, int), 0.9), r"shape \(3,\)"),
        (lambda m: policy_value(m, np.zeros(4, int), 1.5), "gamma = 1.5: must be 0 <= x <= 1"),
        (lambda m: policy_value(m, np.zeros(4, int), 1.0), "gamma = 1.0: must be below 1"),
        (lambda m: value_iteration(m, 0.9, np.zeros((4, 4), bool)), "state 0 has no allowed action"),
        (lambda m: factored_policy_iteration(m, Blocks.of((2, 2), (0, 0)), 0.9, "sideways"), "sweep = 'sideways'"),
        (lambda m: make_mdp(np.ones((2, 1, 2)), np.zeros((2, 1)), [1, 0]), "every row must be a distribution"),
        (lambda m: make_mdp(np.ones((2, 1, 3)), np.zeros((2, 1)), [1, 0]), r"must be \[S, A, S\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call(chains(both=True)[0])


def test_horizon_and_counts():
    mdp, _ = chains(both=False)
    assert state_values(mdp, np.full(4, 3), 0.9, horizon=2)[0] == pytest.approx(2 + 0.9 * 2)
    rng = np.random.default_rng(0)
    states, actions = rng.integers(4, size=500), rng.integers(4, size=500)
    following = mdp.transition.argmax(-1)[states, actions]
    learned = empirical_mdp(mdp, states, actions, mdp.reward[states, actions], following)
    np.testing.assert_allclose(learned.transition, mdp.transition)
    assert policy_value(learned, uniform_policy(mdp), 0.9) == pytest.approx(policy_value(mdp, uniform_policy(mdp), 0.9))
    none = empirical_mdp(mdp, states[:0], actions[:0], states[:0], following[:0])
    assert none.absorbing.all()


def test_logs_follow_kernel_and_policy():
    rng = np.random.default_rng(0)
    transition, table = rng.dirichlet(np.ones(3), (3, 2)), rng.dirichlet(np.ones(2), 3)
    transition[2] = [0, 0, 1]
    mdp = make_mdp(transition, np.asarray([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]), [0.5, 0.5, 0.0])
    log = sample_log(1, mdp, table, 20_000, 6)
    states, actions, rewards, after = log.steps
    assert not (states == 2).any()  # absorbing
    assert ((log.states[:, :-1] == 2) == ~log.taken).all()
    np.testing.assert_array_equal(rewards, mdp.reward[states, actions])
    np.testing.assert_array_equal(log.prob[log.taken], table[states, actions])
    for s in range(2):
        assert (actions[states == s] == 0).mean() == pytest.approx(table[s, 0], abs=0.01)
        for a in range(2):
            seen = np.bincount(after[(states == s) & (actions == a)], minlength=3)
            np.testing.assert_allclose(seen / seen.sum(), transition[s, a], atol=0.02)
    total = log.rewards.sum(1)
    assert total.mean() == pytest.approx(policy_value(mdp, table, 1.0, horizon=6), abs=4 * total.std() / np.sqrt(len(total)))
    with pytest.raises(UserError, match="num = 0: must be at least 1"):
        sample_log(1, mdp, table, 0, 6)


def test_a_factored_model_needs_columns_of_single_blocks_only():
    """Steps in which one block acts and the other does nothing, or all joint actions: the product of mechanisms is the kernel."""
    mdp, blocks = random_product(0, 2, "additive")
    rng, effects = np.random.default_rng(0), ((0,), (1,))
    alone = np.unique(np.concatenate([blocks.completions(k) for k in range(2)]))
    for actions in (alone, np.arange(9)):
        states, chosen = (x.ravel() for x in np.meshgrid(np.arange(16), np.repeat(actions, 20_000 // len(actions)), indexing="ij"))
        learned = factored_mdp(mdp, blocks, effects, states, chosen, sample_next(rng, mdp, states, chosen))
        assert np.abs(learned.transition - mdp.transition).max() < 0.03
        np.testing.assert_array_equal(learned.reward, mdp.reward)
    none = factored_mdp(mdp, blocks, effects, *(np.zeros(0, int),) * 3)
    np.testing.assert_array_equal(none.transition, np.broadcast_to(np.eye(16)[:, None], (16, 9, 16)))
    with pytest.raises(UserError, match="not made of variables"):
        factored_mdp(dataclasses.replace(mdp, variables=None), blocks, effects, *(np.zeros(0, int),) * 3)
