"""Literal answers for the summaries: IQM, stratified bootstrap intervals, areas, first steps, comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from causal_jax import statistics
from causal_jax.types import UserError


def test_iqm_cuts_a_quarter_at_either_end():
    assert statistics.iqm([0.0, 1, 2, 3, 4, 5, 6, 1000]) == 3.5  # the mean of 2, 3, 4, 5
    assert statistics.iqm([1.0, 2, 6]) == 3.0  # up to three members: the mean
    np.testing.assert_array_equal(statistics.iqm([[0.0, 10], [1, 20], [2, 30], [9, 40]]), [1.5, 25.0])


def test_bootstrap_interval_agrees_with_enumeration():
    # All 27 resamples of three members under the mean: P(mean <= 0) = 1/27 > 2.5%, so the 95% percentile interval is [0, 9].
    value, low, high = statistics.bootstrap_interval([0.0, 3.0, 9.0], statistics.mean, resamples=4000)
    assert (value, low, high) == (4.0, 0.0, 9.0)
    # 80%: the 10th percentile of the 27 means is 1 (P(mean <= 0) = 1/27, P(mean <= 1) = 4/27), the 90th is 7.
    assert statistics.bootstrap_interval([0.0, 3.0, 9.0], statistics.mean, confidence=0.8, resamples=20_000)[1:] == (1.0, 7.0)


def test_bootstrap_is_stratified_by_task():
    # Within a task all members agree, so resampling members inside each task cannot change the pooled mean; pooling first would.
    scores = np.tile([0.0, 10.0], (6, 1))
    assert statistics.bootstrap_interval(scores, statistics.mean) == (5.0, 5.0, 5.0)
    assert statistics.bootstrap_interval(scores.reshape(-1), statistics.mean).low < 4.0


def test_bootstrap_is_deterministic_given_the_seed():
    scores = np.random.default_rng(0).normal(size=8)
    assert statistics.bootstrap_interval(scores, seed=3) == statistics.bootstrap_interval(scores, seed=3)
    assert statistics.bootstrap_interval(scores, seed=3) != statistics.bootstrap_interval(scores, seed=4)


def test_one_member_is_its_own_interval():
    assert statistics.bootstrap_interval([2.5]) == (2.5, 2.5, 2.5)
    value, low, high = statistics.curve_interval([[1.0, 2.0, 3.0]])
    for part in (value, low, high):
        np.testing.assert_array_equal(part, [1.0, 2.0, 3.0])


def test_curve_interval_is_pointwise():
    curves = np.random.default_rng(1).normal(size=(6, 4)).cumsum(axis=1)
    value, low, high = statistics.curve_interval(curves, resamples=500)
    assert value.shape == low.shape == high.shape == (4,)
    assert np.all(low <= value)
    assert np.all(value <= high)
    np.testing.assert_array_equal(value, statistics.iqm(curves))
    alone = statistics.bootstrap_interval(curves[:, 2], resamples=500)
    np.testing.assert_allclose([low[2], high[2]], alone[1:], rtol=1e-12)  # one draw takes whole members: the same draws as alone


def test_area_is_the_mean_height_over_the_budget():
    np.testing.assert_array_equal(statistics.area_under_curve([0, 10, 20], [[0, 10, 10], [1, 1, 1]]), [7.5, 1.0])
    assert statistics.area_under_curve([0, 10, 110], [0.0, 2.0, 2.0]) == pytest.approx((1 * 10 + 2 * 100) / 110)
    assert statistics.area_under_curve([5], [3.0]) == 3.0


def test_steps_to_is_the_first_evaluated_step_or_never():
    got = statistics.steps_to([0, 10, 20], [[0.0, 0.9, 0.2], [0.0, 0.5, 0.89], [1.0, 0.0, 0.0]], 0.9)
    np.testing.assert_array_equal(got, [10.0, np.inf, 0.0])


def test_probability_of_improvement_counts_pairs():
    better = statistics.probability_of_improvement([1.0, 2.0, 3.0], [0.0, 2.0])
    assert better.value == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 1) / 6)
    assert statistics.probability_of_improvement([1.0, 2.0], [1.0, 2.0]).value == 0.5
    # two tasks: 1 on the first, 0 on the second; the average of the two, not the pairs across tasks
    assert statistics.probability_of_improvement([[5.0, 0.0], [6.0, 0.0]], [[1.0, 9.0], [2.0, 9.0]]) == (0.5, 0.5, 0.5)
    assert statistics.probability_of_improvement([3.0], [1.0, 2.0]) == (1.0, 1.0, 1.0)  # one member against two


def test_compare_gives_each_method_and_each_pair():
    result = statistics.compare({"cee": [3.0, 4.0], "npm": [1.0, 2.0], "ppo": [0.0, 5.0]}, resamples=200)
    assert {label: estimate.value for label, estimate in result.scores.items()} == {"cee": 3.5, "npm": 1.5, "ppo": 2.5}
    assert {pair: estimate.value for pair, estimate in result.improvement.items()} == {
        ("cee", "npm"): 1.0, ("cee", "ppo"): 0.5, ("npm", "ppo"): 0.5,
    }  # fmt: skip


def test_profile_is_the_share_above_each_threshold():
    scores = [[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]  # six scores: 0 1 1 1 2 4
    value, low, high = statistics.performance_profile(scores, [-1.0, 0.0, 1.0, 3.0, 4.0])
    np.testing.assert_allclose(value, [1.0, 5 / 6, 2 / 6, 1 / 6, 0.0])
    # Task 2 never varies; of task 1 all 27 resamples: none above 3 in 8 of 27, all three above 3 in 1 of 27 (both over 2.5%).
    np.testing.assert_allclose([low[3], high[3]], [0.0, 0.5])
    np.testing.assert_allclose([low[0], high[0], low[4], high[4]], [1.0, 1.0, 0.0, 0.0])
    alone = statistics.performance_profile([1.0], [0.0, 1.0])
    np.testing.assert_array_equal(np.stack(alone), [[1.0, 0.0]] * 3)


def test_compare_draws_profiles_over_the_common_range():
    result = statistics.compare({"a": [0.0, 10.0], "b": [5.0, 5.0]}, resamples=100)
    assert (result.thresholds[0], result.thresholds[-1], len(result.thresholds)) == (0.0, 10.0, 51)
    np.testing.assert_array_equal(result.profiles["b"].value, result.thresholds < 5.0)
    np.testing.assert_array_equal(result.profiles["a"].value, [0.5] * 50 + [0.0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.performance_profile([1.0, 2.0], []), "at least one finite number"),
        (lambda: statistics.compare({}), "got no method"),
        (lambda: statistics.compare({"a": [1.0, np.nan]}), "scores of a: 1 of 2 members"),
        (lambda: statistics.iqm([1.0, np.nan]), "1 of 2 members hold NaN"),
        (lambda: statistics.bootstrap_interval([[1.0, np.inf], [1.0, 2.0]]), "1 of 2 members"),
        (lambda: statistics.bootstrap_interval([]), "at least one member"),
        (lambda: statistics.bootstrap_interval([1.0, 2.0], confidence=1.0), "confidence: got 1.0"),
        (lambda: statistics.bootstrap_interval([1.0, 2.0], resamples=0), "resamples: got 0"),
        (lambda: statistics.curve_interval([1.0, 2.0]), r"\[members, points\]"),
        (lambda: statistics.area_under_curve([0, 0], [1.0, 2.0]), "strictly increasing"),
        (lambda: statistics.steps_to([0, 1], [1.0, 2.0, 3.0], 0.9), r"\(3,\) for \(2,\) steps"),
        (lambda: statistics.probability_of_improvement([[1.0, 2.0]], [1.0]), "same tasks"),
    ],
)
def test_bad_input_is_one_clear_line(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
