"""Markov decision processes small enough to be written down: float64 tables on the host, for answers that are exact.

The kernel is sparse, one row per state and action, so that 1,442 states with 8 actions are 4 MB and not 133. Numpy and scipy only: these
are the truths that learned things are compared with, and no algorithm steps through them. `algorithms/tabular.py` solves them,
`causal/intervention.py` takes them apart.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp

from causal_jax.types import UserError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class TabularMDP:
    """S states, A actions. An absorbing state stays where it is and pays nothing, whatever is done: its value is 0 at every discount.

    kernel: float64 CSR [S * A, S], row s * A + a is P(. | s, a). reward: float64 [S, A], the expected reward of a step. initial: float64
    [S], the distribution of starts. allowed: bool [S, A] or None, admissible actions. expert: float64 [S, A] or None, a shipped policy.
    entry: float64 [S] or None, what entering a state pays, where that is all that is ever paid; logs pay it, and `reward` is its mean.
    variables: int [S, M] or None, what each state variable is in each state (-1 where the state has none), named by `names`.
    """

    kernel: sp.csr_array
    reward: Array
    initial: Array
    allowed: Array | None = None
    expert: Array | None = None
    entry: Array | None = None
    variables: Array | None = None
    names: tuple[str, ...] = ()

    @property
    def num_states(self) -> int:
        """S."""
        return int(self.reward.shape[0])

    @property
    def num_actions(self) -> int:
        """A."""
        return int(self.reward.shape[1])

    @property
    def transition(self) -> Array:
        """The kernel as a dense float64 [S, A, S]: 8 S^2 A bytes, made anew at every call."""
        return self.kernel.toarray().reshape(self.num_states, self.num_actions, self.num_states)

    @property
    def absorbing(self) -> Array:
        """bool [S]: no action leaves the state or pays."""
        own = np.repeat(np.arange(self.num_states), self.num_actions)
        stays = np.asarray(self.kernel[np.arange(own.size), own]).reshape(self.reward.shape)
        return (stays == 1.0).all(1) & (self.reward == 0.0).all(1)

    @property
    def over(self) -> Array:
        """bool [S]: absorbing, or left for an absorbing state at once and unpaid, whatever is done: no decision is taken here."""
        ends = self.absorbing
        after = np.asarray(self.kernel @ ends.astype(float)).reshape(self.reward.shape)
        return ends | ((after == 1.0).all(1) & (self.reward == 0.0).all(1))

    def only(self, actions: Array) -> TabularMDP:
        """The same world where only `actions` (int [B], of A) can be chosen, renumbered 0 .. B - 1."""
        rows = (np.arange(self.num_states)[:, None] * self.num_actions + actions[None, :]).ravel()
        allowed = None if self.allowed is None else self.allowed[:, actions]
        return dataclasses.replace(self, kernel=self.kernel[rows], reward=self.reward[:, actions], allowed=allowed, expert=None)


def make_mdp(transition: Any, reward: Any, initial: Any, **fields: Any) -> TabularMDP:
    """A checked MDP from a dense [S, A, S] or sparse [S * A, S] kernel, rewards [S, A] and starts [S]; `fields` as in `TabularMDP`.

    Raises: UserError where shapes disagree, or a row or the starts are no distribution (to 1e-9).
    """
    reward, initial = np.asarray(reward, float), np.asarray(initial, float)
    if reward.ndim != 2 or initial.shape != reward.shape[:1]:
        raise UserError(f"reward, initial: shapes {reward.shape}, {initial.shape}: must be [S, A] and [S]")
    num_states, num_actions = reward.shape
    kernel = sp.csr_array(transition) if sp.issparse(transition) else None
    if kernel is None:
        dense = np.asarray(transition, float)
        if dense.shape != (num_states, num_actions, num_states):
            raise UserError(f"transition: shape {dense.shape}: must be [S, A, S] = {(num_states, num_actions, num_states)}")
        kernel = sp.csr_array(dense.reshape(-1, num_states))
    if kernel.shape != (num_states * num_actions, num_states):
        raise UserError(f"transition: shape {kernel.shape}: must be [S * A, S] = {(num_states * num_actions, num_states)}")
    sums = np.append(np.asarray(kernel.sum(1)).ravel(), initial.sum())
    if np.abs(sums - 1.0).max() > 1e-9 or min(kernel.data.min(initial=0.0), initial.min()) < 0.0:
        raise UserError(f"transition, initial: sums from {sums.min():g} to {sums.max():g}: every row must be a distribution")
    return TabularMDP(kernel, reward, initial, **fields)


def policy_table(mdp: TabularMDP, policy: Any) -> Array:
    """float64 [S, A]: probabilities of a policy given as actions, int [S], or as probabilities [S, A].

    Raises: UserError for another shape, an action out of range, or rows that are no distribution (to 1e-6).
    """
    policy = np.asarray(policy)
    if policy.shape == (mdp.num_states,) and np.issubdtype(policy.dtype, np.integer):
        if policy.min() < 0 or policy.max() >= mdp.num_actions:
            raise UserError(f"policy = {policy.min()} .. {policy.max()}: actions must be 0 .. {mdp.num_actions - 1}")
        return np.asarray(np.eye(mdp.num_actions)[policy])
    if policy.shape != mdp.reward.shape:
        raise UserError(f"policy: shape {policy.shape}: must be int [S] or probabilities [S, A] = {mdp.reward.shape}")
    if policy.min() < 0 or np.abs(policy.sum(1) - 1.0).max() > 1e-6:
        raise UserError("policy: every row of probabilities must be a distribution")
    return policy.astype(float)


def uniform_policy(mdp: TabularMDP, allowed: Array | None = None) -> Array:
    """float64 [S, A]: all actions alike, or all of `allowed` bool [S, A]."""
    mask = np.ones(mdp.reward.shape) if allowed is None else allowed.astype(float)
    return np.asarray(mask / mask.sum(1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class Log:
    """N episodes of at most T steps, padded at the end: states int [N, T + 1], actions int [N, T], rewards float64 [N, T] (what the state
    entered pays, or the expected reward of the step where no `entry` says so), taken bool [N, T], prob float64 [N, T], of the action."""

    states: Array
    actions: Array
    rewards: Array
    taken: Array
    prob: Array

    @property
    def steps(self) -> tuple[Array, Array, Array, Array]:
        """The steps taken: states, actions, rewards, next states, each [R]."""
        on = self.taken
        return self.states[:, :-1][on], self.actions[on], self.rewards[on], self.states[:, 1:][on]


def sample_next(rng: np.random.Generator, mdp: TabularMDP, states: Array, actions: Array) -> Array:
    """One next state of every state and action, int [N] of int [N] both: a generative model."""
    running, begin = np.cumsum(mdp.kernel.data), mdp.kernel.indptr
    row = states * mdp.num_actions + actions
    before = np.where(begin[row] > 0, running[begin[row] - 1], 0.0)
    draw = before + rng.random(len(row)) * (running[begin[row + 1] - 1] - before)
    place = np.clip(np.searchsorted(running, draw, side="right"), begin[row], begin[row + 1] - 1)
    return np.asarray(mdp.kernel.indices[place], int)


def sample_log(seed: int, mdp: TabularMDP, policy: Any, num: int, horizon: int) -> Log:
    """`num` episodes of a policy (int [S] or probabilities [S, A]) until they are `over` or `horizon` steps long.

    Raises: UserError as `policy_table`, and for fewer than one episode or step.
    """
    for name, value in (("num", num), ("horizon", horizon)):
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")
    rng, table, over = np.random.default_rng(seed), policy_table(mdp, policy), mdp.over
    state = rng.choice(mdp.num_states, num, p=mdp.initial)
    columns = []
    for _ in range(horizon):
        action = np.minimum((table[state].cumsum(1) < rng.random((num, 1))).sum(1), mdp.num_actions - 1)
        new = sample_next(rng, mdp, state, action)
        reward = mdp.reward[state, action] if mdp.entry is None else mdp.entry[new]
        columns.append((state, action, np.where(over[state], 0.0, reward), ~over[state], table[state, action]))
        state = new
    states, actions, rewards, taken, prob = (np.stack(x, 1) for x in zip(*columns, strict=True))
    return Log(np.column_stack([states, state]), actions, rewards, taken, prob)
