"""Honest summaries of few members: interquartile means, stratified bootstrap intervals, areas under curves, comparisons.

The practice is that of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (their library is
rliable): interquartile mean (IQM), percentile bootstrap in which the members of each task are resampled apart (stratified), probability
of improvement, performance profiles. Arrays have the members FIRST: scores are [members] or [members, tasks], curves [members, points].
Scores of several tasks are pooled, so bring them to one scale first. One member is allowed: its interval is the point itself, which
says nothing about seeds. NaN and infinite scores are refused: a diverged member is a result to be told, not an average to be made.
Everything runs in NumPy and SciPy on the host and is deterministic given `seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causal_jax.types import UserError

Array = NDArray[Any]
Statistic = Callable[..., Any]  # statistic(scores, axis=k): the k-th axis is reduced


class Estimate(NamedTuple):
    """A statistic with its interval; floats, or arrays [points] for a curve."""

    value: Any
    low: Any
    high: Any


class Comparison(NamedTuple):
    """`scores[label]` is the IQM over members and tasks, `improvement[a, b]` the probability that a member of a beats one of b.

    `profiles[label]` is the share of scores above each of `thresholds` [points], Estimates of [points].
    """

    scores: dict[str, Estimate]
    improvement: dict[tuple[str, str], Estimate]
    thresholds: Array
    profiles: dict[str, Estimate]


def _checked(scores: ArrayLike, name: str) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 0 or array.size == 0:
        raise UserError(f"{name}: got shape {array.shape}, expected [members, ...] with at least one member")
    if not np.all(np.isfinite(array)):
        bad = int(np.sum(~np.all(np.isfinite(array.reshape(array.shape[0], -1)), axis=1)))
        raise UserError(f"{name}: {bad} of {array.shape[0]} members hold NaN or infinite values, expected finite numbers only")
    return array


def mean(scores: ArrayLike, axis: int = 0) -> Any:
    """Plain mean over one axis (default: members, the first). [members, ...] -> [...]. Raises UserError on NaN."""
    return np.mean(_checked(scores, "scores"), axis=axis)


def iqm(scores: ArrayLike, axis: int = 0) -> Any:
    """Interquartile mean over one axis (default: members, the first): floor(n / 4) values are cut at either end, the rest averaged.

    [members, ...] -> [...]. Up to 3 members nothing is cut and it is the mean. Source: Agarwal et al. 2021, section 4.3, with
    scipy.stats.trim_mean as in rliable. Raises UserError on NaN or an empty array.
    """
    from scipy import stats

    return stats.trim_mean(_checked(scores, "scores"), 0.25, axis=axis)


def _bootstrap(samples: list[Array], statistic: Callable[..., Any], confidence: float, resamples: int, seed: int) -> tuple[Any, Any]:
    """Percentile bootstrap; each sample [..., n] is resampled apart along its last axis. Samples of one member stay as they are."""
    from scipy import stats

    if not 0 < confidence < 1:
        raise UserError(f"confidence: got {confidence}, expected a number between 0 and 1, both excluded")
    if resamples < 1:
        raise UserError(f"resamples: got {resamples}, expected at least 1")
    if all(sample.shape[-1] == 1 for sample in samples):
        point = statistic(*samples, axis=-1)
        return point, point
    # SciPy refuses a sample of one. Resampling it changes nothing, so it is held fixed while the others are drawn.
    varied = [i for i, sample in enumerate(samples) if sample.shape[-1] > 1]

    def rebuilt(*drawn: Array, axis: int) -> Any:
        full = list(samples)
        for i, sample in zip(varied, drawn, strict=True):
            full[i] = sample
        return statistic(*full, axis=axis)

    largest = max(1, sum(sample.size for sample in samples))
    result = stats.bootstrap(
        [samples[i] for i in varied], rebuilt, n_resamples=resamples, confidence_level=confidence, method="percentile", vectorized=True,
        axis=-1, batch=int(max(1, 4_000_000 // largest)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return result.confidence_interval.low, result.confidence_interval.high


def bootstrap_interval(
    scores: ArrayLike, statistic: Statistic = iqm, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """A statistic of the pooled scores with its stratified bootstrap interval.

    Args: scores: [members] or [members, tasks]; members are resampled within each task, then all are pooled. statistic: called as
      statistic(scores, axis=-1). confidence: in (0, 1). resamples: number of bootstrap draws. seed: of NumPy's generator.
    Returns: Estimate of floats; with one member low == value == high. Raises UserError on NaN, bad shapes or ranges.
    """
    array = _checked(scores, "scores")
    if array.ndim > 2:
        raise UserError(f"scores: got shape {array.shape}, expected [members] or [members, tasks]")
    tasks = [array] if array.ndim == 1 else list(array.T)

    def pooled(*samples: Array, axis: int) -> Any:
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    low, high = _bootstrap(tasks, pooled, confidence, resamples, seed)
    return Estimate(float(pooled(*tasks, axis=-1)), float(low), float(high))


def curve_interval(
    curves: ArrayLike, statistic: Statistic = iqm, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Pointwise statistic of curves [members, points] with its bootstrap interval: Estimate of arrays [points].

    A draw takes whole members, so the points of one draw belong together. Raises UserError on NaN or a wrong shape.
    """
    array = _checked(curves, "curves")
    if array.ndim != 2:
        raise UserError(f"curves: got shape {array.shape}, expected [members, points]")
    low, high = _bootstrap([array.T], statistic, confidence, resamples, seed)
    return Estimate(np.asarray(statistic(array.T, axis=-1)), np.asarray(low), np.asarray(high))


def _curve(steps: ArrayLike, values: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(steps, dtype=np.float64), _checked(values, "values")
    if x.ndim != 1 or y.shape[-1] != x.shape[0]:
        raise UserError(f"values: got shape {y.shape} for {x.shape} steps, expected [..., points] for steps [points]")
    if np.any(np.diff(x) <= 0):
        raise UserError("steps: got an order that does not rise, expected strictly increasing steps")
    return x, y


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> Any:
    """Mean height of curves over the budget: trapezoids from the first to the last step, divided by that distance.

    Args: steps [points] strictly increasing; values [..., points]. Returns [...] in the unit of values; one point is its own area.
    Compare areas of the same evaluation steps only. Raises UserError on NaN or shapes that do not fit.
    """
    x, y = _curve(steps, values)
    return y[..., 0] if x.shape[0] == 1 else np.trapezoid(y, x, axis=-1) / (x[-1] - x[0])


def steps_to(steps: ArrayLike, values: ArrayLike, threshold: float) -> Any:
    """First evaluated step at which a curve is at or above `threshold` (no interpolation), inf when it never is.

    Args: steps [points], values [..., points]. Returns [...]. Raises UserError on NaN or shapes that do not fit.
    """
    x, y = _curve(steps, values)
    reached = y >= threshold
    return np.where(np.any(reached, axis=-1), x[np.argmax(reached, axis=-1)], np.inf)


def probability_of_improvement(
    scores: ArrayLike, others: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """P(a random member of `scores` beats a random member of `others` on the same task), ties count half, averaged over tasks.

    The Mann-Whitney U statistic divided by the number of pairs (Agarwal et al. 2021, section 4.3).
    Args: scores [members] or [members, tasks]; others likewise, with the same tasks. Returns: Estimate of floats in [0, 1].
    """
    first, second = _checked(scores, "scores"), _checked(others, "others")
    first, second = (array[:, None] if array.ndim == 1 else array for array in (first, second))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise UserError(f"others: got shape {second.shape} against {first.shape}, expected [members, tasks] with the same tasks")
    num_tasks = first.shape[1]

    def statistic(*samples: Array, axis: int) -> Any:
        del axis  # always the last
        wins = [
            np.mean((np.sign(a[..., :, None] - b[..., None, :]) + 1) / 2, axis=(-2, -1))
            for a, b in zip(samples[:num_tasks], samples[num_tasks:], strict=True)
        ]
        return np.mean(wins, axis=0)

    samples = [*first.T, *second.T]
    low, high = _bootstrap(samples, statistic, confidence, resamples, seed)
    return Estimate(float(statistic(*samples, axis=-1)), float(low), float(high))


def performance_profile(
    scores: ArrayLike, thresholds: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Share of scores above each threshold, pooled over members and tasks: Estimate of arrays [points] in [0, 1], falling.

    The run-score distribution with pointwise stratified bootstrap intervals (Agarwal et al. 2021, section 4.2): where one method's
    profile lies above another's everywhere, it is better at every quantile.
    Args: scores [members] or [members, tasks]; thresholds [points] finite. Raises UserError on NaN or bad shapes.
    """
    array, taus = _checked(scores, "scores"), np.asarray(thresholds, dtype=np.float64)
    if array.ndim > 2:
        raise UserError(f"scores: got shape {array.shape}, expected [members] or [members, tasks]")
    if taus.ndim != 1 or taus.size == 0 or not np.all(np.isfinite(taus)):
        raise UserError(f"thresholds: got shape {taus.shape}, expected at least one finite number [points]")
    tasks = [task[None, :] > taus[:, None] for task in np.atleast_2d(array.T)]

    def pooled(*samples: Array, axis: int) -> Any:
        return np.mean(np.concatenate(samples, axis=axis), axis=axis)

    low, high = _bootstrap(tasks, pooled, confidence, resamples, seed)
    return Estimate(pooled(*tasks, axis=-1), np.asarray(low), np.asarray(high))


def compare(scores: Mapping[str, ArrayLike], confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Several methods on the same tasks: IQM and performance profile of each, probability of improvement of each over each later one.

    Args: scores: label -> [members] or [members, tasks], the same tasks in the same order and on one scale.
    Returns: Comparison; improvement[a, b] is given for a before b in the mapping (the reverse is one minus it); the thresholds of the
      profiles are 51 from the lowest to the highest score of all. Raises UserError on NaN, bad shapes or tasks that do not match.
    """
    labels = list(scores)
    if not labels:
        raise UserError("scores: got no method, expected at least one")
    pool = np.concatenate([np.ravel(_checked(scores[label], f"scores of {label}")) for label in labels])
    thresholds = np.linspace(pool.min(), pool.max(), 51)
    profiles = {label: performance_profile(scores[label], thresholds, confidence, resamples, seed) for label in labels}
    estimates = {label: bootstrap_interval(scores[label], iqm, confidence, resamples, seed) for label in labels}
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    improvement = {(a, b): probability_of_improvement(scores[a], scores[b], confidence, resamples, seed) for a, b in pairs}
    return Comparison(estimates, improvement, thresholds, profiles)
