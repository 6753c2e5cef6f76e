"""The invariants of effects: literal answers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import effects
from causal_jax.types import UserError

KEY = jax.random.key(0)
CHAIN = jnp.asarray([[0.0, 9.0, 0.1], [9.0, 0.0, 0.1], [0.1, 0.1, 0.0]])  # 0 ~ 2, 1 ~ 2, 0 !~ 1


def select(selection, matrix, **kwargs):
    return np.flatnonzero(effects.select(selection, kwargs.pop("key", KEY), matrix, **kwargs)).tolist()


def test_the_two_orientations():
    matrix = jnp.asarray([[5.0, 1.0], [2.0, 9.0]])
    np.testing.assert_array_equal(effects.similarity(matrix), [[0, 4], [7, 0]])
    np.testing.assert_array_equal(effects.similarity(matrix, "authors"), [[0, 8], [3, 0]])


def test_a_later_leader_steals_unless_told_not_to():
    assert effects.group(CHAIN, 0.5).tolist() == [0, 1, 1]
    assert effects.group(CHAIN, 0.5, stealing=False).tolist() == [0, 1, 0]


def test_closeness_is_strict_two_sided_and_only_to_the_leader():
    half = jnp.asarray([[0.0, 0.5], [0.5, 0.0]])
    assert effects.group(half, 0.5).tolist() == [0, 1]
    assert effects.group(half, 0.50001).tolist() == [0, 0]
    assert effects.group(jnp.asarray([[0.0, 0.1], [3.0, 0.0]]), 0.5).tolist() == [0, 1]
    far_members = jnp.asarray([[0.0, 0.1, 0.1], [0.1, 0.0, 9.0], [0.1, 9.0, 0.0]])
    assert effects.group(far_members, 0.5).tolist() == [0, 0, 0]
    assert effects.group(jnp.asarray([[0.0, jnp.inf], [-jnp.inf, 0.0]]), 0.5).tolist() == [0, 1]


def test_an_action_never_leads_its_predecessors():
    # 1 belongs to 0; 2 is close to 1 but not to 0, so it leads alone and 1 stays where it is.
    close = jnp.asarray([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    assert effects.group(jnp.where(close, 0.0, 9.0), 0.5).tolist() == [0, 0, 1]


def test_shares_sum_to_one_in_a_group_and_do_not_overflow():
    labels = jnp.asarray([0, 1, 0, 2])
    share = effects.shares(jnp.asarray([jnp.log(3.0), -500.0, 0.0, 500.0]), labels)
    np.testing.assert_allclose(share, [0.75, 1.0, 0.25, 1.0], rtol=1e-6)
    np.testing.assert_allclose(
        effects.shares(jnp.asarray([2.0, 0.0]), jnp.asarray([0, 0]), 2.0), jax.nn.softmax(jnp.asarray([1.0, 0.0])), 1e-6
    )


def test_deterministic_effects_are_log_n_over_k_and_a_no_op_is_not_zero():
    next_obs = jnp.asarray([[0.0], [0.0], [0.0], [0.0], [1.0], [2.0], [3.0]])  # MiniGrid: four no-ops of seven actions
    matrix = effects.oracle_n_matrix(next_obs)
    np.testing.assert_allclose(jnp.diagonal(matrix), [0.5596] * 4 + [1.9459] * 3, atol=1e-4)
    sim = effects.similarity(matrix)
    np.testing.assert_allclose(sim[0, :5], [0, 0, 0, 0, 18.4207 - np.log(4)], atol=1e-3)
    np.testing.assert_allclose(effects.similarity(matrix, "authors")[4, 0], 18.4207 - np.log(4), atol=1e-3)
    assert select("cee", matrix) == [4, 5, 6]
    assert select("npm", matrix) == [3, 4, 5, 6]
    assert select("cee-woc", matrix) == list(range(7))
    assert effects.unique(next_obs).tolist() == [False] * 4 + [True] * 3
    assert select("cee", matrix, tau=0.25) == list(range(7))
    assert select("cee", matrix, tau=0.3) == [4, 5, 6]


def test_terminal_successors_are_distinct_when_told():
    next_obs, terminated = jnp.zeros((3, 2)), jnp.asarray([False, True, False])
    assert effects.unique(next_obs).tolist() == [False] * 3
    assert effects.unique(next_obs, terminated).tolist() == [False, True, False]
    np.testing.assert_allclose(jnp.diagonal(effects.oracle_n_matrix(next_obs, terminated)), np.log([1.5, 3, 1.5]), atol=1e-6)


def test_two_equal_members_both_survive_at_exactly_a_half():
    matrix = jnp.zeros((2, 2))
    assert select("cee", matrix, tau=0.5) == [0, 1]
    assert select("cee", matrix, tau=0.5001) == []
    counts = np.asarray(jax.vmap(lambda k: effects.select("cee", k, matrix, mode="authors", tau=0.5))(jax.random.split(KEY, 512)))
    assert (counts.sum(1) == 1).all()
    assert 200 < counts[:, 0].sum() < 312


def test_npm_keeps_the_last_and_npm_random_any_one():
    matrix = jnp.where(jnp.asarray([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool), 1.0, -17.0)
    assert select("npm", matrix) == [1, 2]
    assert select("cee", matrix) == [2]
    kept = np.asarray(jax.vmap(lambda k: effects.select("npm-random", k, matrix))(jax.random.split(KEY, 512)))
    assert (kept[:, 2]).all()
    assert (kept[:, :2].sum(1) == 1).all()
    assert 200 < kept[:, 0].sum() < 312


def test_an_untrained_model_drops_everything_and_the_fallback_says_so():
    kept = effects.select("cee", KEY, 0.01 * jax.random.normal(jax.random.key(1), (64, 64)))
    allowed, all_masked = effects.fallback(kept)
    assert (not kept.any(), allowed.all(), all_masked) == (True, True, True)
    allowed, all_masked = effects.fallback(jnp.asarray([False, True]))
    assert (allowed.tolist(), bool(all_masked)) == ([False, True], False)


def test_exact_n_is_an_information_gain():
    transition = jax.random.dirichlet(jax.random.key(2), jnp.ones(5), (4,))
    policy = jax.random.dirichlet(jax.random.key(3), jnp.ones(4))
    matrix = effects.exact_n(transition, policy)
    mixture = policy @ transition
    np.testing.assert_allclose(jnp.diagonal(matrix), jnp.sum(transition * jnp.log(transition / mixture), -1), atol=1e-5)
    np.testing.assert_allclose(effects.similarity(matrix), effects.kl_matrix(transition), atol=1e-5)
    assert effects.kl_matrix(transition).min() > -1e-6
    assert policy @ jnp.diagonal(matrix) <= -jnp.sum(policy * jnp.log(policy))


def test_target_floor_and_stopped_gradient():
    logits, policy = jnp.asarray([100.0, 0.0]), jnp.asarray([0.5, 0.5])
    np.testing.assert_allclose(effects.n_target(logits, policy), [np.log(2), np.log(1e-8 / 0.5)], atol=1e-4)
    assert jax.grad(lambda x: effects.n_target(x, policy).sum())(logits).tolist() == [0, 0]


def test_bad_names_are_told_in_one_line():
    with pytest.raises(UserError, match=r"^selection = 'nmp': must be one of cee, npm, npm-random, cee-woc, all$"):
        effects.select("nmp", KEY, jnp.zeros((2, 2)))
    with pytest.raises(UserError, match="mode = 'paper'"):
        effects.similarity(jnp.zeros((2, 2)), "paper")
