"""Exact answers in tabular MDPs: optimal and evaluated policies, and MB-FPI, the model-based factored policy iteration of AD-RL.

MB-FPI (Lee et al., AISTATS 2025, arXiv 2504.21326, Theorem 1) improves one action block at a time with the others held at the current
policy: a sweep compares sum_k |A_k| actions per state and not prod_k |A_k|. It ends at a policy that no change of a single block improves,
which is optimal where Q is monotonic in the blocks' own values, and in general only locally so. The pseudo-code was not at hand; the
variants of a sweep are ours: `one` evaluates once per sweep and updates block after block against that Q, `full` evaluates anew after
each block (values never fall), `jacobi` updates all blocks at once and may cycle for ever: it is here to show that it does.

References and no learners, so not entries of ALGORITHMS: float64 on the host, exact to rounding. A value J is the initial distribution's
mean of V. Numbers of the two sepsis simulators: tests/parity/test_sepsis.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from causal_jax.causal.intervention import Blocks
from causal_jax.mdp import Array, TabularMDP, policy_table
from causal_jax.types import UserError

SWEEPS = ("full", "one", "jacobi")
BACKUPS = 50  # of value iteration, before its greedy policy is evaluated exactly
BETTER = 1e-10  # an action replaces the incumbent only if it is better by more


@dataclasses.dataclass(frozen=True)
class Solution:
    """An optimal policy int [S], its values float64 [S] and Q [S, A] (-inf where not allowed), J and how many policies were evaluated."""

    policy: Array
    values: Array
    q: Array
    value: float
    iterations: int


@dataclasses.dataclass(frozen=True)
class FactoredSolution:
    """Where MB-FPI ended: policy int [S], its values [S], J before every sweep and at the end, and whether a sweep changed nothing."""

    policy: Array
    values: Array
    history: tuple[float, ...]
    converged: bool

    @property
    def value(self) -> float:
        """J of the policy that it ended at."""
        return self.history[-1]


def state_values(mdp: TabularMDP, policy: Any, gamma: float, horizon: int | None = None) -> Array:
    """V of a policy, float64 [S]: a linear solve over the states that are not absorbing, or `horizon` exact backups.

    Args: policy: int [S] or probabilities [S, A]. gamma: in [0, 1]; at 1 every state must reach an absorbing one.
    Raises: UserError for gamma out of range, a policy that is none, or one that at gamma = 1 never ends.
    """
    if not 0.0 <= gamma <= 1.0:
        raise UserError(f"gamma = {gamma}: must be 0 <= x <= 1")
    table = policy_table(mdp, policy)
    states = np.repeat(np.arange(mdp.num_states), mdp.num_actions)
    chosen = table.ravel() > 0
    mix = sp.csr_array(
        (table.ravel()[chosen], (states[chosen], np.flatnonzero(chosen))), shape=(mdp.num_states, mdp.num_states * mdp.num_actions)
    )
    kernel, reward = sp.csr_array(mix @ mdp.kernel), (table * mdp.reward).sum(1)
    if horizon is not None:
        values = np.zeros(mdp.num_states)
        for _ in range(horizon):
            values = reward + gamma * (kernel @ values)
        return values
    live = np.flatnonzero(~mdp.absorbing)
    values = np.zeros(mdp.num_states)
    matrix = np.eye(len(live)) - gamma * kernel[live][:, live].toarray()
    try:
        values[live] = np.linalg.solve(matrix, reward[live])
    except np.linalg.LinAlgError:
        values[live] = np.nan
    if not np.isfinite(values).all() or np.abs(matrix @ values[live] - reward[live]).max() > 1e-6:
        raise UserError(f"gamma = {gamma}: must be below 1 for a policy under which episodes may never end")
    return values


def policy_value(mdp: TabularMDP, policy: Any, gamma: float, horizon: int | None = None) -> float:
    """J, the exact expected discounted return of a policy from the initial distribution: initial . V. See `state_values`."""
    return float(mdp.initial @ state_values(mdp, policy, gamma, horizon))


def q_values(mdp: TabularMDP, values: Array, gamma: float) -> Array:
    """R + gamma P V, float64 [S, A], of V [S]."""
    return np.asarray(mdp.reward + gamma * (mdp.kernel @ values).reshape(mdp.reward.shape))


def value_iteration(mdp: TabularMDP, gamma: float, allowed: Array | None = None, max_iterations: int = 200) -> Solution:
    """An optimal policy and its exact values.

    A few backups of value iteration, then policy iteration from their greedy policy (Howard 1960): the same fixed point, but reached
    exactly. The first of equally good actions is taken. Args: allowed: bool [S, A], actions to choose from; None: all.
    Raises: UserError as `state_values`, and where a state has no allowed action.
    """
    mask = np.ones(mdp.reward.shape, bool) if allowed is None else np.asarray(allowed, bool)
    if not mask.any(1).all():
        raise UserError(f"allowed: state {int(np.argmin(mask.any(1)))} has no allowed action, must have one")
    values = np.zeros(mdp.num_states)
    for _ in range(BACKUPS):
        q = np.where(mask, q_values(mdp, values, gamma), -np.inf)
        values = q.max(1)
    policy, rows = q.argmax(1), np.arange(mdp.num_states)
    for iteration in range(1, max_iterations + 1):
        values = state_values(mdp, policy, gamma)
        q = np.where(mask, q_values(mdp, values, gamma), -np.inf)
        better = q.max(1) > q[rows, policy] + 1e-12
        if not better.any():
            return Solution(policy, values, q, float(mdp.initial @ values), iteration)
        policy = np.where(better, q.argmax(1), policy)
    raise UserError(f"max_iterations = {max_iterations}: must be larger, the policy still changes")


def factored_policy_iteration(
    mdp: TabularMDP, blocks: Blocks, gamma: float, sweep: str = "full", initial: Array | None = None, max_sweeps: int = 40
) -> FactoredSolution:
    """MB-FPI: improve one block at a time until no block changes; the incumbent stays unless another level is strictly better.

    Args: sweep: full, one or jacobi, see the module. initial: joint actions int [S], default no-ops everywhere.
    Raises: UserError for an unknown sweep, or as `state_values`.
    """
    if sweep not in SWEEPS:
        raise UserError(f"sweep = {sweep!r}: must be one of {', '.join(SWEEPS)}")
    rows = np.arange(mdp.num_states)
    policy = np.full(mdp.num_states, blocks.nothing) if initial is None else np.asarray(initial)
    values = state_values(mdp, policy, gamma)
    history = [float(mdp.initial @ values)]
    for _ in range(max_sweeps):
        before, q = policy, q_values(mdp, values, gamma)
        new = blocks.levels[policy].copy()  # [S, K]
        for k in range(blocks.num):
            held = blocks.levels[before] if sweep == "jacobi" else new
            options = np.repeat(held[:, None, :], blocks.sizes[k], axis=1)
            options[:, :, k] = np.arange(blocks.sizes[k])
            scores = q[rows[:, None], blocks.joint[tuple(np.moveaxis(options, -1, 0))]]
            better = scores.max(1) > scores[rows, held[:, k]] + BETTER
            new[:, k] = np.where(better, scores.argmax(1), held[:, k])
            if sweep == "full" and better.any():
                policy = blocks.joint[tuple(new.T)]
                values = state_values(mdp, policy, gamma)
                q = q_values(mdp, values, gamma)
        policy = blocks.joint[tuple(new.T)]
        if (policy == before).all():
            return FactoredSolution(policy, values, tuple(history), True)
        values = state_values(mdp, policy, gamma)
        history.append(float(mdp.initial @ values))
    return FactoredSolution(policy, values, tuple(history), False)


def empirical_mdp(mdp: TabularMDP, states: Array, actions: Array, rewards: Array, next_states: Array) -> TabularMDP:
    """The maximum-likelihood MDP of logged transitions, all [N]; sizes, starts and variables are those of `mdp`.

    A state and action that was never seen stays where it is and pays nothing. Its `state_values` are what tabular fitted Q evaluation
    converges to on these data.
    """
    num, index = mdp.num_states * mdp.num_actions, states * mdp.num_actions + actions
    count = np.bincount(index, minlength=num)
    seen = np.maximum(count, 1)
    unseen = np.flatnonzero(count == 0)
    kernel = sp.coo_array(
        (
            np.append(1.0 / seen[index], np.ones(len(unseen))),
            (np.append(index, unseen), np.append(next_states, unseen // mdp.num_actions)),
        ),
        shape=(num, mdp.num_states),
    )
    reward = np.bincount(index, weights=rewards, minlength=num) / seen
    return dataclasses.replace(mdp, kernel=sp.csr_array(kernel), reward=reward.reshape(mdp.reward.shape))


def factored_mdp(
    mdp: TabularMDP, blocks: Blocks, effects: Sequence[Sequence[int]], states: Array, actions: Array, next_states: Array
) -> TabularMDP:
    """The maximum-likelihood MDP under separable effects: P(s' | s, a) = P(rest' | s) prod_k P(S'_k | s, a_k), rewards as in `mdp`.

    Every block's mechanism is counted over all logged steps whatever the other blocks did, which is sound where effects are separable and
    no hidden variable drives both the action and what follows. A mechanism that was never seen keeps its variables.
    Args: effects: per block, the indices into mdp.names of S'_k; variables of no block are the rest. states, actions, next_states: [N].
    Raises: UserError where the MDP has no state variables.
    """
    if mdp.variables is None:
        raise UserError("mdp.variables = None: the states of this MDP are not made of variables")
    rest = [m for m in range(mdp.variables.shape[1]) if not any(m in effect for effect in effects)]
    parts = [(effect, blocks.levels[:, k]) for k, effect in enumerate(effects)]
    if rest:
        parts.append((rest, np.zeros(mdp.num_actions, int)))
    kernel, place = sp.csr_array(np.ones((mdp.num_states * mdp.num_actions, 1))), np.zeros(mdp.num_states, int)
    for effect, level in parts:
        _, cell = np.unique(mdp.variables[:, list(effect)], axis=0, return_inverse=True)
        cell, num_cells, num_levels = cell.ravel(), int(cell.max()) + 1, int(level.max()) + 1
        row, num = states * num_levels + level[actions], mdp.num_states * num_levels
        unseen = np.flatnonzero(np.bincount(row, minlength=num) == 0)
        rows, columns = np.append(row, unseen), np.append(cell[next_states], cell[unseen // num_levels])
        counts = sp.csr_array(sp.coo_array((np.ones(len(rows)), (rows, columns)), shape=(num, num_cells)))
        chances = sp.csr_array(sp.dia_array((1.0 / np.bincount(rows, minlength=num)[None], [0]), shape=(num, num)) @ counts)
        kernel = _row_products(kernel, chances[(np.arange(mdp.num_states)[:, None] * num_levels + level).ravel()])
        place = place * num_cells + cell
    known, index = np.unique(place, return_index=True)
    states_of = sp.csr_array((np.ones(len(known)), (known, index)), shape=(kernel.shape[1], mdp.num_states))
    kernel = sp.csr_array(kernel @ states_of)  # combinations of cells that are no state are left out
    total = np.asarray(kernel.sum(1)).ravel()
    lost = np.flatnonzero(total == 0)
    stay = sp.csr_array((np.ones(len(lost)), (lost, lost // mdp.num_actions)), shape=kernel.shape)
    scale = sp.dia_array((1.0 / np.where(total > 0, total, 1.0)[None], [0]), shape=(len(total), len(total)))
    return dataclasses.replace(mdp, kernel=sp.csr_array(scale @ kernel + stay))


def _row_products(a: sp.csr_array, b: sp.csr_array) -> sp.csr_array:
    """Row by row the outer product, flattened: CSR [R, C * D] of [R, C] and [R, D]."""
    row = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
    times = np.diff(b.indptr)[row]
    first = np.repeat(np.arange(a.nnz), times)
    second = b.indptr[row[first]] + np.arange(len(first)) - np.repeat(np.cumsum(times) - times, times)
    columns = a.indices[first].astype(np.int64) * b.shape[1] + b.indices[second]
    return sp.csr_array((a.data[first] * b.data[second], (row[first], columns)), shape=(a.shape[0], a.shape[1] * b.shape[1]))
