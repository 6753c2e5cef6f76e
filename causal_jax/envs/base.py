"""What our environments share: gymnax 1.0's `reset` and `step`, written over an environment's own functions.

A subclass is a frozen dataclass of static options that defines `default_params, reset_env, step_env, is_truncated, action_space,
observation_space`; floats that may vary between the worlds of a population live in its params. No gymnax import is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from causal_jax.spaces import Space
from causal_jax.types import Action, Key, Obs


def _where(make: Callable[[Key, Any], Any]) -> Callable[..., Any]:
    """(done [], key, params, old) -> make(key, params) where done, else old."""

    def renew(done: jax.Array, key: Key, params: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(done, a, b), make(key, params), old)

    return renew


def _where_any(make: Callable[[Key, Any], Any]) -> Callable[..., Any]:
    """`_where`, computed only if one of the batch is done; vmap would turn a plain `cond` into computing both sides always.

    That holds for the innermost vmap. Members of a population (an outer vmap) compute it always: to ask whether one of them is done
    would make their devices talk in every step.
    """

    @custom_vmap
    def renew(done: jax.Array, key: Key, params: Any, old: Any) -> Any:
        return jax.lax.cond(done, lambda: make(key, params), lambda: old)

    @renew.def_vmap
    def batch(size: int, batched: Any, done: jax.Array, key: Key, params: Any, old: Any) -> Any:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(batched))
        old = jax.tree.map(lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (size, *x.shape)), old, batched[3])
        every = jax.vmap(_where(make), (*axes[:3], 0), axis_size=size)
        new = jax.lax.cond(jnp.any(done), every, lambda done, key, params, old: old, done, key, params, old)
        return new, jax.tree.map(lambda _: True, new)

    return renew


class Factors(NamedTuple):
    """What a factored environment's state and action are made of, for models that predict every variable from its parents.

    num_variables: N. variable_size: C, choices of a discrete variable (seen one-hot), 1 for continuous ones. num_actions: M, action
    variables. action_size: choices of the one discrete action, or components of each continuous action variable. discrete: which of both.
    ordered: whether causes always come before their effects, so that models may be given the order of the variables.

    Such an environment also has
      features(obs) -> [N, C]: the variables as an agent sees them; local_graph(features, action) -> bool [N, N + M], row = target: the
      true graph in force, self edges and action included; global_graph, bool [N, N + M]: the true edges of all contexts together, those
      two included; imagined_reward(obs, values [N, C]) -> []: the known reward of the state
      `values`, for the task that obs tells; disturb(key, values [N, C], params) -> [N, C]: how the world `params` shows a true state;
      in_tests(values [N, C]) -> bool []: whether the tests visit such states; counted(params) -> bool [N]: variables that the task
      needs; tests(params) -> {name: params}: its test worlds. All episodes have params.max_steps steps.
    """

    num_variables: int
    variable_size: int
    num_actions: int
    action_size: int
    discrete: bool
    ordered: bool = True


class Worlds(NamedTuple):
    """The worlds of L learners that live in environments of one kind: one program, params that differ.

    params: every leaf with a leading axis [L]. group: int32 [L], from which group each world was drawn; value: [L], the parameter that
    varies, in its own unit. Both are for oracles and for measuring; no learner reads them.
    """

    params: Any
    group: jax.Array
    value: jax.Array


def draw_worlds(key: Key, params: Any, field: str, centres: Sequence[float], jitter: float, num: int) -> Worlds:
    """`num` worlds like `params` but in `field`: centres[group] + U(-jitter, jitter), the groups in a row, of almost equal sizes.

    20 worlds of three groups are 7, 7 and 6. The key is consumed; leaves keep their dtype.
    """
    group = jnp.arange(num) * len(centres) // num
    base = getattr(params, field)
    value = jnp.asarray(centres, base.dtype)[group] + jitter * jax.random.uniform(key, (num,), base.dtype, -1.0)
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), params)
    return Worlds(many.replace(**{field: value}), group.astype(jnp.int32), value)


class Environment(ABC):
    """gymnax 1.0's contract; see `types.Env`. Subclasses are hashable and hold no arrays."""

    costly_reset = False  # True: `step` computes a start only when an episode of the batch has ended, and not in every step

    @property
    @abstractmethod
    def default_params(self) -> Any:
        """The params pytree of the environment as published."""

    @abstractmethod
    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]:
        """A start state: (obs, state). The key is consumed."""

    @abstractmethod
    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step without auto-reset: (obs, state, reward [], terminated [] bool, info). The key is consumed."""

    @abstractmethod
    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """bool []: the time limit is reached in this state (after the step)."""

    @abstractmethod
    def action_space(self, params: Any) -> Space:
        """What an action is."""

    @abstractmethod
    def observation_space(self, params: Any) -> Space:
        """What an observation is."""

    def reset(self, key: Key, params: Any = None) -> tuple[Obs, Any]:
        """A start state: (obs, state). The key is consumed."""
        return self.reset_env(key, self.default_params if params is None else params)

    def step(
        self, key: Key, state: Any, action: Action, params: Any = None
    ) -> tuple[Obs, Any, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """One step with auto-reset: (obs, state, reward, terminated, truncated, info).

        info["final_observation"] is the observation before the reset (== obs while the episode goes on). The key is consumed.
        """
        params = self.default_params if params is None else params
        again = jax.random.clone(key)  # split once more where a start is drawn, and not in every step
        final_obs, state, reward, terminated, info = self.step_env(jax.random.split(key)[0], state, action, params)
        truncated = self.is_truncated(state, params)
        done = jnp.logical_or(terminated, truncated)
        renew = (_where_any if self.costly_reset else _where)(lambda key, params: self.reset_env(jax.random.split(key)[1], params))
        obs, state = renew(done, again, params, (final_obs, state))
        info = {**info, "terminated": terminated, "truncated": truncated, "final_observation": final_obs}
        return obs, state, reward, terminated, truncated, info
