"""Probe environments: tiny problems whose answers are known, each failing for one kind of mistake in an algorithm.

`solution(gamma)` lists the answers as `(obs, value, action)`: the optimal value of every observation (or of a few, where
observations are continuous) and the optimal action, None where any will do. Every reward is at most 1.

value        one action, one step, reward 1: can the critic learn a constant?
credit       two steps, the first action decides the last reward: does credit travel back in time?
policy       one step, the right action depends on the observation: does the policy read it?
discount     one action, two steps, reward at the end: V(first) = gamma
truncation   reward 1 for ever under a time limit: is the limit bootstrapped, and from the observation before the reset?
masked       eight actions, four of which do the same nothing: the causal masks are known
factored     one choice among (2, 3, 4), each factor paid apart
hybrid       one of three choices, with the right parameters of its own
box          one real number
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.spaces import Box, Discrete, Factored, Hybrid, Space
from causal_jax.types import Action, Key

Solution = list[tuple[tuple[float, ...], float, Any]]  # (obs, optimal value, optimal action or None)


@struct.dataclass
class ProbeState:
    """`obs` float32 [D] is what the agent sees and all there is; `t` int32 []: steps taken."""

    obs: jax.Array
    t: jax.Array


@struct.dataclass
class ProbeParams:
    """`max_steps` int32 []: the time limit; only probe-truncation ever reaches it."""

    max_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Probe(Environment):
    """A probe defines `first` and `advance`, written over the observation alone, its two spaces and `solution`."""

    max_steps = 1000

    @property
    def default_params(self) -> ProbeParams:
        """The time limit."""
        return ProbeParams(max_steps=jnp.asarray(self.max_steps, jnp.int32))

    @abstractmethod
    def first(self, key: Key) -> jax.Array:
        """The first observation, float32 [D]. The key is consumed."""

    @abstractmethod
    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        """(next obs [D], reward [], terminated [])."""

    @abstractmethod
    def solution(self, gamma: float) -> Solution:
        """The optimal value and action of each observation, for the discount `gamma`."""

    def reset_env(self, key: Key, params: ProbeParams) -> tuple[jax.Array, ProbeState]:
        """See `Environment.reset_env`."""
        obs = self.first(key)
        return obs, ProbeState(obs=obs, t=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: ProbeState, action: Action, params: ProbeParams
    ) -> tuple[jax.Array, ProbeState, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`. The key is not needed."""
        obs, reward, terminated = self.advance(state.obs, action)
        return obs, ProbeState(obs=obs, t=state.t + 1), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), {}

    def is_truncated(self, state: ProbeState, params: ProbeParams) -> jax.Array:
        """See `Environment.is_truncated`."""
        return state.t >= params.max_steps

    def action_space(self, params: ProbeParams) -> Space:
        """One action, unless a probe says otherwise."""
        return Discrete(1)

    def observation_space(self, params: ProbeParams) -> Box:
        """A short vector in [-1, 1]."""
        return Box(-1.0, 1.0, jax.eval_shape(self.first, jax.random.key(0)).shape)


def _coin(key: Key) -> jax.Array:
    """-1 or 1, float32 []. The key is consumed."""
    return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)


class ProbeValue(Probe):
    """obs [1] = 1; one step, reward 1. V(1) = 1."""

    def first(self, key: Key) -> jax.Array:
        return jnp.ones((1,))

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        return obs, 1.0, True

    def solution(self, gamma: float) -> Solution:
        return [((1.0,), 1.0, None)]


class ProbeCredit(Probe):
    """Two steps, two actions. obs [3] = (target, outcome, step): (+-1, 0, 0), then (0, +-1, 1) where the outcome is 1 if the first

    action fitted the target (1 for +1, 0 for -1). The second action does nothing; its reward is 1 for the outcome 1, else 0.
    V* = gamma at the start; V(0, 1, 1) = 1; V(0, -1, 1) = 0.
    """

    def first(self, key: Key) -> jax.Array:
        return jnp.zeros((3,)).at[0].set(_coin(key))

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        outcome = jnp.where((action == 1) == (obs[0] > 0), 1.0, -1.0)
        last = obs[2] > 0
        next_obs = jnp.where(last, obs, jnp.stack([jnp.zeros(()), outcome, jnp.ones(())]))
        return next_obs, jnp.where(last & (obs[1] > 0), 1.0, 0.0), last

    def action_space(self, params: ProbeParams) -> Space:
        return Discrete(2)

    def solution(self, gamma: float) -> Solution:
        return [((1.0, 0.0, 0.0), gamma, 1), ((-1.0, 0.0, 0.0), gamma, 0), ((0.0, 1.0, 1.0), 1.0, None), ((0.0, -1.0, 1.0), 0.0, None)]


class ProbePolicy(Probe):
    """One step, two actions, obs [1] = +-1: reward 1 for action 1 at +1 and action 0 at -1, else 0. V* = 1; random: 0.5."""

    def first(self, key: Key) -> jax.Array:
        return _coin(key)[None]

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        return obs, (action == 1) == (obs[0] > 0), True

    def action_space(self, params: ProbeParams) -> Space:
        return Discrete(2)

    def solution(self, gamma: float) -> Solution:
        return [((1.0,), 1.0, 1), ((-1.0,), 1.0, 0)]


class ProbeDiscount(Probe):
    """Two steps, obs [1] = 0 then 1, reward 0 then 1. V(0) = gamma, V(1) = 1."""

    def first(self, key: Key) -> jax.Array:
        return jnp.zeros((1,))

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        return jnp.ones((1,)), obs[0], obs[0] > 0

    def solution(self, gamma: float) -> Solution:
        return [((0.0,), gamma, None), ((1.0,), 1.0, None)]


@dataclasses.dataclass(frozen=True)
class ProbeTruncation(Probe):
    """obs [1] = 0 at the start, 1 ever after; the reward is the observation left. Never terminates; truncated after `max_steps`.

    V(1) = 1 / (1 - gamma), V(0) = gamma / (1 - gamma): at gamma 0.9, 10 and 9. With p = 1 / (max_steps - 1), an algorithm that takes
    the limit for a terminal finds V(1) = 1 / (1 - gamma (1 - p)) (2.5 at gamma 0.9 and 4 steps), and one that bootstraps from the
    observation AFTER the reset finds V(1) = 1 / (1 - gamma (1 - p) - gamma^2 p) (7.69).
    """

    max_steps: int = option(4, low=2)
    """Time limit in steps."""

    def first(self, key: Key) -> jax.Array:
        return jnp.zeros((1,))

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        return jnp.ones((1,)), obs[0], False

    def solution(self, gamma: float) -> Solution:
        return [((0.0,), gamma / (1 - gamma), None), ((1.0,), 1 / (1 - gamma), None)]


class ProbeMasked(Probe):
    """One step, eight actions: 0..3 each leave a mark of their own, 4..7 leave none. Reward 1 if the mark is the target.

    obs [8] = (one-hot target [4], mark [4]). V* = 1; uniformly random: 1/8 over all actions, 1/4 over the marking ones. Under a
    uniform policy the causal effect is log 8 for 0..3 and log 2 for 4..7: `kept_cee` and `kept_npm` are the actions each rule keeps.
    """

    kept_cee = (0, 1, 2, 3)
    kept_npm = (0, 1, 2, 3, 7)
    effects = (math.log(8),) * 4 + (math.log(2),) * 4

    def first(self, key: Key) -> jax.Array:
        return jax.nn.one_hot(jax.random.randint(key, (), 0, 4), 8)

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        mark = jax.nn.one_hot(action, 4)  # zeros from 4 on
        return obs.at[4:].set(mark), jnp.sum(obs[:4] * mark), True

    def action_space(self, params: ProbeParams) -> Space:
        return Discrete(8)

    def successors(self, obs: jax.Array, params: ProbeParams) -> tuple[jax.Array, jax.Array]:
        """What every action does at `obs` [8]: next observations [8, 8] and terminated bool [8]."""
        next_obs, _, _ = jax.vmap(self.advance, (None, 0))(obs, jnp.arange(8))
        return next_obs, jnp.ones((8,), bool)

    def solution(self, gamma: float) -> Solution:
        return [(tuple(float(i == k) for i in range(8)), 1.0, k) for k in range(4)]


class ProbeFactored(Probe):
    """One step, a choice among (2, 3, 4). obs [9] = the three one-hot targets; each right factor pays 1/3. V* = 1; random: 13/36."""

    sizes = (2, 3, 4)

    def first(self, key: Key) -> jax.Array:
        target = jax.random.randint(key, (3,), 0, jnp.asarray(self.sizes))
        return jnp.concatenate([jax.nn.one_hot(target[f], size) for f, size in enumerate(self.sizes)])

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        chosen = jnp.concatenate([jax.nn.one_hot(action[f], size) for f, size in enumerate(self.sizes)])
        return obs, jnp.sum(obs * chosen) / 3, True

    def action_space(self, params: ProbeParams) -> Space:
        return Factored(self.sizes)

    def solution(self, gamma: float) -> Solution:
        targets = [(i, j, k) for i in range(2) for j in range(3) for k in range(4)]
        return [(tuple(float(t[f] == i) for f, size in enumerate(self.sizes) for i in range(size)), 1.0, t) for t in targets]


class ProbeHybrid(Probe):
    """One step, three choices with 1, 1 and 2 parameters in [-1, 1]. obs [3] = the one-hot right choice k.

    Reward 1 - mean (z_k - z*_k)^2 / 4 for the right choice, else 0, with z* = (0.5 | -0.5 | 0.25, -0.75). V* = 1.
    """

    target = (0.5, -0.5, 0.25, -0.75)

    def first(self, key: Key) -> jax.Array:
        return jax.nn.one_hot(jax.random.randint(key, (), 0, 3), 3)

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        k, z = action
        miss = jnp.mean((z - self._space.take(k, self.target)) ** 2, where=self._space.slots(k)[1]) / 4
        return obs, obs[k] * (1 - miss), True

    @property
    def _space(self) -> Hybrid:
        return Hybrid((1, 1, 2))

    def action_space(self, params: ProbeParams) -> Space:
        return self._space

    def solution(self, gamma: float) -> Solution:
        best = ((0.5, 0.0), (-0.5, 0.0), (0.25, -0.75))
        return [(tuple(float(i == k) for i in range(3)), 1.0, (k, z)) for k, z in enumerate(best)]


class ProbeBox(Probe):
    """One step, one real action in [-1, 1]; obs [1] uniform in [-1, 1]. Reward 1 - (a + obs / 2)^2: a* = -obs / 2, V* = 1."""

    def first(self, key: Key) -> jax.Array:
        return jax.random.uniform(key, (1,), minval=-1.0)

    def advance(self, obs: jax.Array, action: Action) -> tuple[jax.Array, Any, Any]:
        return obs, 1 - (action[0] + obs[0] / 2) ** 2, True

    def action_space(self, params: ProbeParams) -> Space:
        return Box(-1.0, 1.0, (1,))

    def solution(self, gamma: float) -> Solution:
        return [((x,), 1.0, (-x / 2,)) for x in (-1.0, 0.0, 0.5)]
