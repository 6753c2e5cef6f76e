"""Actions as interventions on blocks of mechanisms: what AD-RL (Lee et al., AISTATS 2025, arXiv 2504.21326) decomposes a Q-function by.

An action is K blocks (torques per axis, doses per drug), each with a level that does nothing. M_k, the projected MDP of block k, is the
world in which block k acts and all others do nothing. Where the blocks' effects are separable (the next-state variables that block k
sets, S'_k, do not depend on the other blocks: `separability` is 0) and the reward is a sum over blocks,
    Q*(s, a) = sum_k Q*_k(s, a_k) - (K - 1) V_noop(s),
with Q*_k the optimal Q of M_k under the full reward and V_noop the value of always doing nothing: `offset_sum`. The sum of the projected
Q-functions is the true one only up to an offset that depends on the state; a mixer without the state in it cannot represent it.

The paper's full text was not at hand; the reward of M_k (the full one at the completion by no-ops) and the diagnostics are ours. The
structure learner is not in the paper: it takes what blocks there are from data, where the paper is given them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from causal_jax.mdp import Array, TabularMDP
from causal_jax.types import UserError

PERMUTATIONS = 20


class Blocks(NamedTuple):
    """K blocks of a joint action among A. The one table that environments, masks, scores and tests share.

    sizes: [K], |A_k|. noop: [K], the level of each block that does nothing. levels: int [A, K], the blocks' levels of every joint action.
    joint: int [*sizes], the joint action of every tuple of levels.
    """

    sizes: tuple[int, ...]
    noop: tuple[int, ...]
    levels: Array
    joint: Array

    @staticmethod
    def of(sizes: Sequence[int], noop: Sequence[int], groups: Sequence[Sequence[int]] | None = None) -> Blocks:
        """Blocks of the action variables in `groups` (None: each its own); the joint index is the mixed radix, first variable major.

        Args: sizes, noop: per action variable. groups: a partition of the variables; a block's level is the mixed radix of its own.
        Raises: UserError where noop is out of range or groups is no partition.
        """
        sizes, noop = tuple(map(int, sizes)), tuple(map(int, noop))
        if len(noop) != len(sizes) or not all(0 <= n < size for n, size in zip(noop, sizes, strict=True)):
            raise UserError(f"noop = {noop}: must be a level of each of the sizes {sizes}")
        groups = tuple(tuple(group) for group in (groups if groups is not None else [(i,) for i in range(len(sizes))]))
        if sorted(i for group in groups for i in group) != list(range(len(sizes))):
            raise UserError(f"groups = {groups}: must be a partition of the action variables 0 .. {len(sizes) - 1}")
        variables = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), -1)

        def merged(group: tuple[int, ...], values: Array) -> Array:
            return np.asarray(np.ravel_multi_index(tuple(values[..., i] for i in group), tuple(sizes[i] for i in group)))

        levels = np.stack([merged(group, variables) for group in groups], -1)
        block_sizes = tuple(int(np.prod([sizes[i] for i in group])) for group in groups)
        joint = np.zeros(block_sizes, int)
        joint[tuple(levels.T)] = np.arange(len(levels))
        return Blocks(block_sizes, tuple(int(merged(group, np.asarray(noop))) for group in groups), levels, joint)

    @property
    def num(self) -> int:
        """K."""
        return len(self.sizes)

    def completions(self, k: int) -> Array:
        """int [A_k]: the joint actions in which block k has each of its levels and all others do nothing."""
        return np.asarray(self.joint[tuple(slice(None) if i == k else self.noop[i] for i in range(self.num))])

    @property
    def nothing(self) -> int:
        """The joint action in which no block does anything."""
        return int(self.joint[self.noop])


def complete(action: jax.Array, noop: Any) -> jax.Array:
    """The K completions by no-ops of an action int [K]: int [K, K], row k keeps block k alone. noop: int [K]. Not batched."""
    return jnp.where(jnp.eye(action.shape[-1], dtype=bool), action, jnp.asarray(noop, action.dtype))


def projected_mdp(mdp: TabularMDP, blocks: Blocks, k: int) -> TabularMDP:
    """M_k: block k acts, the others do nothing; kernel and reward are those of the completions by no-ops. A_k actions."""
    return mdp.only(blocks.completions(k))


def offset_sum(projected: Sequence[Array], noop_values: Array, blocks: Blocks) -> Array:
    """sum_k Q_k(s, a_k) - (K - 1) V_noop(s), float64 [S, A], of projected Q-functions [S, A_k] and V_noop [S]."""
    total = sum(q[:, blocks.levels[:, k]] for k, q in enumerate(projected))
    return np.asarray(total - (blocks.num - 1) * noop_values[:, None])


def interaction_share(q: Array, blocks: Blocks) -> float:
    """Share of the variance of Q(s, .) within states that no sum over blocks can represent, in [0, 1]. q: [S, A].

    A two-way analysis of variance in every state, all joint actions weighing the same, sums of squares added over states.
    """
    table = q.reshape(len(q), -1)[:, blocks.joint.ravel()].reshape(len(q), *blocks.sizes)
    axes = tuple(range(1, blocks.num + 1))
    centred = table - table.mean(axis=axes, keepdims=True)
    additive = sum(centred.mean(axis=tuple(a for a in axes if a != axis), keepdims=True) for axis in axes)
    return float(((centred - additive) ** 2).sum() / (centred**2).sum())


def marginal(mdp: TabularMDP, variables: Sequence[int]) -> Array:
    """P(the state variables `variables` of the next state | s, a), float64 [S, A, cells]; states without variables are cells too.

    Raises: UserError where the MDP has no state variables.
    """
    if mdp.variables is None:
        raise UserError("mdp.variables = None: the states of this MDP are not made of variables")
    values = mdp.variables[:, list(variables)]
    _, cell = np.unique(values, axis=0, return_inverse=True)
    into = sp.csr_array((np.ones(len(values)), (np.arange(len(values)), cell.ravel())))
    return np.asarray((mdp.kernel @ into).toarray().reshape(mdp.num_states, mdp.num_actions, -1))


def distance(p: Array, q: Array) -> Array:
    """Total variation distance of distributions along the last axis, in [0, 1]."""
    return np.asarray(np.abs(p - q).sum(-1) / 2)


def separability(mdp: TabularMDP, blocks: Blocks, effects: Sequence[Sequence[int]]) -> Array:
    """D_k, float64 [K]: how far other blocks reach into the variables `effects[k]` of block k; 0 for all k is Assumption 1.

    D_k = max over s, a of TV(P(S'_k | s, a), P(S'_k | s, [a_k, no-op])). effects: per block, indices into mdp.names.
    """
    found = []
    for k, variables in enumerate(effects):
        p = marginal(mdp, variables)
        found.append(distance(p, p[:, blocks.completions(k)][:, blocks.levels[:, k]]).max())
    return np.asarray(found)


def factorisation_error(mdp: TabularMDP, blocks: Blocks, effects: Sequence[Sequence[int]]) -> float:
    """max |P(s' | s, a) - prod_k P(s'_k | s, [a_k, no-op])| over states of variables, where P(s' | s, a) > 0. effects as above.

    The effects must cover all variables. The product is a distribution too, so that nothing is hidden where the kernel is 0.
    """
    assert mdp.variables is not None
    rows, columns = mdp.kernel.nonzero()
    product = np.ones(len(rows))
    for k, variables in enumerate(effects):
        p = marginal(mdp, variables)
        _, cell = np.unique(mdp.variables[:, list(variables)], axis=0, return_inverse=True)
        state, action = np.divmod(rows, mdp.num_actions)
        product *= p[state, blocks.completions(k)[blocks.levels[action, k]], cell.ravel()[columns]]
    live = (mdp.variables[columns] >= 0).all(-1)
    return float(np.abs(mdp.kernel[rows, columns] - product)[live].max())


def effect_strengths(mdp: TabularMDP, blocks: Blocks) -> Array:
    """float64 [K, M]: the most that block k's level, the others held at anything, can change the next value of variable m (TV).

    Its support is Eff(A_k). Exact: every state and action counts.
    """
    strengths = np.zeros((blocks.num, len(mdp.names)))
    for m in range(len(mdp.names)):
        p = marginal(mdp, [m])
        for k in range(blocks.num):
            levels = blocks.levels.copy()
            levels[:, k] = blocks.noop[k]
            strengths[k, m] = distance(p, p[:, blocks.joint[tuple(levels.T)]]).max()
    return strengths


def effect_evidence(seed: int, states: Array, actions: Array, next_variables: Array, blocks: Blocks) -> Array:
    """z-scores float64 [K, M]: does block k's level change the next value of variable m? From logged transitions alone.

    Within rows of equal state and equal levels of the other blocks, the levels of block k are permuted: the statistic (chi-squared of
    level and next value, summed over such groups) has no reason to be larger than for permuted levels unless the level has an effect.
    Sound if nothing that is not in the state drives both the level and what comes next.
    Args: states: int [N], an index of the state. actions: int [N], joint. next_variables: int [N, M], values >= 0. seed: of the
      permutations. A block that the behaviour never varies within a group has no evidence: 0.
    """
    rng, (num, num_variables) = np.random.default_rng(seed), next_variables.shape
    evidence = np.zeros((blocks.num, num_variables))
    for k in range(blocks.num):
        level, others = blocks.levels[actions, k], np.delete(blocks.levels[actions], k, axis=1)
        _, group = np.unique(np.column_stack([states, others]), axis=0, return_inverse=True)
        group = group.ravel()
        order = np.argsort(group, kind="stable")
        shuffled = [level]
        for _ in range(PERMUTATIONS):  # the same rows of a group, in another order
            permuted = np.empty_like(level)
            permuted[order] = level[np.lexsort((rng.random(num), group))]
            shuffled.append(permuted)
        for m in range(num_variables):
            values = [_dependence(group, some, next_variables[:, m], blocks.sizes[k]) for some in shuffled]
            spread = np.std(values[1:])
            evidence[k, m] = (values[0] - np.mean(values[1:])) / spread if spread > 0 else 0.0
    return evidence


def _dependence(group: Array, level: Array, value: Array, num_levels: int) -> float:
    """Pearson's chi-squared of level and value within groups, summed over the groups (up to a constant of the margins)."""
    num_values = int(value.max()) + 1
    in_cell, of_cell = np.unique((group * num_levels + level) * num_values + value, return_counts=True)
    row = np.bincount(group * num_levels + level)
    column = np.bincount(group * num_values + value)
    total = np.bincount(group)
    rest, v = np.divmod(in_cell, num_values)
    g = rest // num_levels
    return float((of_cell**2 * total[g] / (row[rest] * column[g * num_values + v])).sum())


def merge(touches: Array) -> tuple[tuple[int, ...], ...]:
    """Blocks that touch a common variable belong together: the groups of a partition of 0 .. K - 1. touches: bool [K, M].

    The result is `groups` of `Blocks.of`, each block being one action variable. Blocks without any effect stay alone.
    """
    touches = np.asarray(touches, bool)
    joined = (touches.astype(int) @ touches.T.astype(int)) > 0
    _, label = sp.csgraph.connected_components(sp.csr_array(joined), directed=False)
    groups = [tuple(int(k) for k in np.flatnonzero(label == group)) for group in np.unique(label)]
    return tuple(sorted(groups))
