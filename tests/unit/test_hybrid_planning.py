"""Plans of hybrid actions: DLPA's refit to the number, what every proposal promises, and a problem whose best plan is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import hybrid_planning as hp
from causal_jax import planning
from causal_jax.spaces import Hybrid

ONE = Hybrid((1, 1, 1))
MIXED = Hybrid((2, 0, 1))
KEY = jax.random.key(0)
K = jnp.asarray([[0, 1, 0, 2, 0, 1], [1, 1, 2, 2, 0, 0]]).T
Z = jnp.asarray([[0.5, -0.2, 0.1, 0.9, -0.7, 0.3], [0.2, 0.4, -0.6, 0.8, 0.1, -0.9]]).T[..., None]
VALUES = jnp.asarray([1.0, 3.0, 2.5, -1.0, 2.0, 0.0])


def refit(proposal: hp.HybridProposal, values: jax.Array = VALUES) -> hp.Table:
    rows, weights = planning.soft_elite(4, 0.5)(values)
    fitted = proposal.proposal.fit(proposal.start, (K[rows], Z[rows]), weights)
    assert isinstance(fitted, hp.Table)
    return fitted


def test_one_refit_equals_the_authors_program() -> None:
    theta = refit(hp.table(ONE, 2))
    np.testing.assert_allclose(theta.probs, [[0.606442, 0.360224, 0.033333], [0.231603, 0.480481, 0.287916]], atol=1e-6)
    np.testing.assert_allclose(theta.mean, [[-0.083548, -0.18, 0.0], [0.09, 0.311591, -0.54]], atol=1e-6)
    np.testing.assert_allclose(theta.std, [[0.620022, 0.2, 2.0], [0.2, 0.279814, 0.2]], atol=1e-6)


def test_properties_of_a_refit() -> None:
    proposal = hp.table(ONE, 2, momentum=0.0)
    theta = refit(proposal)
    np.testing.assert_allclose(theta.probs.sum(axis=1), 1.0, atol=1e-6)
    assert (float(theta.mean[0, 2]), float(theta.std[0, 2])) == (0.0, 2.0)  # no elite chose it
    np.testing.assert_allclose(theta.std[[0, 1], [1, 2]], 0.0, atol=1e-6)  # one elite did
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), refit(proposal, VALUES + 7.0), theta)
    floored = refit(hp.table(ONE, 2, momentum=0.0, least_std=0.3))
    np.testing.assert_allclose(floored.std, np.maximum(theta.std, 0.3), rtol=1e-6)


def test_a_joint_distribution_does_not_ask_who_chose_the_parameters() -> None:
    theta = refit(hp.table(ONE, 2, momentum=0.0, joint=True))
    rows, weights = planning.soft_elite(4, 0.5)(VALUES)
    share, z = np.asarray(weights / weights.sum()), np.asarray(Z[rows, :, 0])
    np.testing.assert_allclose(theta.mean[:, 0], share @ z, rtol=1e-5)
    np.testing.assert_allclose(theta.std[:, 0], np.sqrt(share @ (z - share @ z) ** 2), rtol=1e-5)
    assert theta.mean.shape == (2, 1)


PROPOSALS = {
    "table": hp.table(MIXED, 2), "joint": hp.table(MIXED, 2, joint=True), "sampled": hp.sampled(MIXED, 2, 100),
    "uniform": hp.uniform(MIXED, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", hp.PROPOSALS)
def test_first_draws(name: str) -> None:
    """Actions alike, parameters in the unit box, 2 Phi(-0.5) of them on its edge, zeros where the action has no parameter.

    sampled: half of them by two fair digits modulo three, which make action 0 twice: (1/3, 1/3, 1/3) / 2 + (1/2, 1/4, 1/4) / 2.
    """
    k, z = PROPOSALS[name].proposal.sample(KEY, PROPOSALS[name].start, 4000)
    counts = np.bincount(k.ravel(), minlength=3) / 8000
    np.testing.assert_allclose(counts, [5 / 12, 7 / 24, 7 / 24] if name == "sampled" else [1 / 3] * 3, atol=0.02)
    exists = np.asarray([[1, 1], [0, 0], [1, 0]], bool)[k]
    assert float(jnp.abs(z).max()) <= 1.0
    assert not np.any(np.asarray(z)[~exists])
    on_edge = np.mean(np.abs(np.asarray(z)[exists]) == 1.0)
    assert on_edge == pytest.approx(0.0 if name == "uniform" else 0.617, abs=0.02)


def test_half_of_the_new_actions_of_sampled_are_any_whatever_the_digits_of_the_elites() -> None:
    """The digits say action 2 only: it has what is joined and its third of what is fair."""
    proposal = hp.sampled(MIXED, 2, 100)
    theta = proposal.start._replace(bits=jnp.asarray([[0.0, 1.0]] * 2))
    k, _ = proposal.proposal.sample(KEY, theta, 4000)
    np.testing.assert_allclose(np.bincount(k.ravel(), minlength=3) / 8000, [1 / 6, 1 / 6, 2 / 3], atol=0.02)


@pytest.mark.parametrize("name", ["table", "joint", "sampled"])
def test_a_warm_start_moves_one_step_on_and_forgets_the_deviations(name: str) -> None:
    proposal = PROPOSALS[name]
    k, z = proposal.proposal.sample(KEY, proposal.start, 100)
    theta = proposal.proposal.fit(proposal.start, (k, z), jnp.linspace(1.0, 0.1, 100))
    shifted = proposal.shift(theta)
    for field in theta._fields:
        now, at_start = getattr(shifted, field), getattr(proposal.start, field)
        expected = at_start if field == "std" else jnp.concatenate([getattr(theta, field)[1:], at_start[-1:]])
        np.testing.assert_array_equal(now, expected)
    assert float(theta.std.max()) < 2.0


def test_sampled_equals_the_table_where_the_same_actions_stay_elites() -> None:
    table, sampled = hp.table(ONE, 2), hp.sampled(ONE, 2, 4)
    a, b = table.start, sampled.start
    for values in (VALUES, VALUES[::-1]):
        rows, weights = planning.soft_elite(4, 0.5)(values)
        plans = K[rows] % 2, Z[rows]
        a, b = table.proposal.fit(a, plans, weights), sampled.proposal.fit(b, plans, weights)
    for h in range(2):
        np.testing.assert_allclose(b.mean[h, :, 0], a.mean[h][b.k[h]], rtol=1e-5)
        np.testing.assert_allclose(b.std[h, :, 0], a.std[h][b.k[h]], rtol=1e-4)
    np.testing.assert_allclose(b.probs.sum(axis=1), 0.9, rtol=1e-5)


def test_nothing_of_sampled_depends_on_the_number_of_actions() -> None:
    """The same program but for the number of digits: no array has an axis of K, and no constant either."""
    size = 16_384
    proposal = hp.sampled(Hybrid((1,) * size), 2, 4)
    program = jax.make_jaxpr(lambda theta: proposal.proposal.fit(theta, proposal.proposal.sample(KEY, theta, 4), jnp.ones(4)))(
        proposal.start
    )
    shapes = [v.aval.shape for eqn in program.jaxpr.eqns for v in eqn.outvars] + [np.shape(x) for x in program.consts]
    assert max(np.prod(shape, dtype=int) for shape in shapes) < 1000


def test_spread_is_the_deviation_of_those_who_begin_alike() -> None:
    weights = jnp.asarray([1.0, 1.0, 3.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(hp.spread((K, Z), weights, jnp.int32(0)), [np.sqrt(0.25 * 0.09 + 0.75 * 0.01)], rtol=1e-5)
    np.testing.assert_allclose(hp.spread((K, Z), weights, jnp.int32(2)), [0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["table", "joint", "sampled"])
def test_finds_the_action_and_its_parameter(name: str) -> None:
    """Action 5 of 8 in each of two steps with parameters 0.25 and -0.5."""
    space = Hybrid((1,) * 8)
    proposal = hp.sampled(space, 2, 64) if name == "sampled" else hp.table(space, 2, joint=name == "joint")

    def value(key: jax.Array, plans: hp.Plans) -> jax.Array:
        k, z = plans
        return jnp.sum(jnp.where(k == 5, 1.0 - jnp.abs(z[..., 0] - jnp.asarray([0.25, -0.5])), 0.0), axis=1) * 10.0

    weigh = planning.soft_elite(64, 0.5)
    theta, history = jax.jit(lambda key: planning.plan(key, proposal.start, value, proposal.proposal, weigh, iterations=8, samples=512))(
        KEY
    )
    k, z = proposal.proposal.mode(theta)
    np.testing.assert_array_equal(k, [5, 5])
    np.testing.assert_allclose(z[:, 0], [0.25, -0.5], atol=0.1)
    assert float(history.scores[-1, 0]) > float(history.scores[0, 0])
