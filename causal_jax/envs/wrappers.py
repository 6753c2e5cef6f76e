"""Wrappers that keep the contract: `alias`, more actions than there are effects; `bank` and levels, real-valued actions made discrete.

`alias:<id>` is any environment with a Discrete action space, `alias:gymnax:Breakout-MinAtar` too. Its A = m n + noops actions are m
copies of each of the n actions, and no-ops, which leave the world and its clock as they are and pay nothing, in an order that `permute`
draws. This is the controlled redundancy that the CEE paper (arXiv 2501.14543) lacks: `classes` says which actions are one and the same.
`max_idle` no-ops in an episode truncate it, so that every episode ends.
`bank:<id>` is any environment with a bounded Box of actions, `bank:brax:reacher` too. Its A = k actions are a fixed bank of points of the
box, evenly spread, so that what masks discrete actions by their effect masks those of continuous tasks too, which CEE leaves open.
The option `levels` of any environment with a bounded vector of actions makes every component a choice of its own (factored actions).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.causal.intervention import Blocks
from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.spaces import Box, Discrete, Factored, Space, from_gymnax
from causal_jax.types import Action, Key, Obs, UserError


@struct.dataclass
class AliasState:
    """`inner`: the environment's own state; `obs`: what it last showed; `idle` int32 []: no-ops taken in this episode."""

    inner: Any
    obs: Any
    idle: jax.Array


@dataclasses.dataclass(frozen=True)
class Alias(Environment):
    """`inner` with m copies of each of its actions and `noops` actions that do nothing. Params are the inner environment's."""

    inner: Any
    m: int = option(1, low=1, high=65_536)
    """Copies of each action."""
    noops: int = option(0, low=0, high=65_536)
    """Actions that do nothing."""
    permute: int = option(0, low=0)
    """Seed of the order of the actions; 0: copies in the order of the actions, copy by copy, then the no-ops."""
    max_idle: int = option(1000, low=1)
    """No-ops in an episode after which it is truncated."""

    def __post_init__(self) -> None:
        _ = self.num_inner

    @property
    def costly_reset(self) -> bool:  # type: ignore[override]
        """As inside."""
        return getattr(self.inner, "costly_reset", False)

    @functools.cached_property
    def num_inner(self) -> int:
        """Actions of the inner environment. Raises: UserError where they are not Discrete."""
        space = from_gymnax(self.inner.action_space(self.inner.default_params))
        if not isinstance(space, Discrete):
            raise UserError(f"alias: env = {type(self.inner).__name__}: needs a Discrete action space, this one is {type(space).__name__}")
        return space.n

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """int32 [A]: the inner action that each action is, num_inner for a no-op; inner actions may act alike too, state by state."""
        listed = np.append(np.tile(np.arange(self.num_inner), self.m), np.full(self.noops, self.num_inner)).astype(np.int32)
        return np.random.default_rng(self.permute).permutation(listed) if self.permute else listed

    @property
    def default_params(self) -> Any:
        """The inner environment's."""
        return self.inner.default_params

    def reset_env(self, key: Key, params: Any) -> tuple[Obs, AliasState]:
        """See `Environment.reset_env`."""
        obs, inner = self.inner.reset_env(key, params)
        return obs, AliasState(inner, obs, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: AliasState, action: Action, params: Any
    ) -> tuple[Obs, AliasState, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`: the inner step, or nothing."""
        chosen = jnp.asarray(self.classes)[action]
        idle = chosen == self.num_inner
        obs, inner, reward, terminated, info = self.inner.step_env(key, state.inner, jnp.where(idle, 0, chosen), params)
        if not self.noops:
            return obs, AliasState(inner, obs, state.idle), reward, terminated, info
        obs, inner = jax.tree.map(lambda old, new: jnp.where(idle, old, new), (state.obs, state.inner), (obs, inner))
        reward, terminated, info = jax.tree.map(lambda x: jnp.where(idle, jnp.zeros_like(x), x), (reward, terminated, info))
        return obs, AliasState(inner, obs, state.idle + idle), reward, terminated, info

    def is_truncated(self, state: AliasState, params: Any) -> jax.Array:
        """bool []: the inner environment's rule, or max_idle no-ops."""
        return jnp.asarray(self.inner.is_truncated(state.inner, params)) | (state.idle >= self.max_idle)

    def action_space(self, params: Any) -> Discrete:
        """A = m n + noops actions."""
        return Discrete(self.m * self.num_inner + self.noops)

    def observation_space(self, params: Any) -> Space:
        """The inner environment's."""
        return from_gymnax(self.inner.observation_space(params))

    def __getattr__(self, name: str) -> Any:
        """`successors` and `render` where the inner environment has them."""
        if name in ("successors", "render") and hasattr(self.inner, name):
            return getattr(self, f"_{name}")
        raise AttributeError(name)

    def _successors(self, obs: Obs, params: Any) -> tuple[jax.Array, jax.Array]:
        """The inner environment's rows, one per action; a no-op leads to where the observation is (`standing` where it has that)."""
        after, terminated = self.inner.successors(obs, params)
        stay = self.inner.standing(obs, params) if hasattr(self.inner, "standing") else jnp.asarray(obs, after.dtype)
        rows, ends = jnp.concatenate([after, stay[None]]), jnp.append(terminated, False)
        return rows[self.classes], ends[self.classes]

    def _render(self, state: AliasState, params: Any) -> np.ndarray:
        return np.asarray(self.inner.render(state.inner, params))


@dataclasses.dataclass(frozen=True)
class Bank(Environment):
    """`inner` with k candidates in the place of its real-valued actions. Params are the inner environment's."""

    inner: Any
    k: int = option(16, low=2, high=65_536)
    """Candidate actions."""

    def __post_init__(self) -> None:
        _ = self._box

    @property
    def costly_reset(self) -> bool:  # type: ignore[override]
        """As inside."""
        return getattr(self.inner, "costly_reset", False)

    @property
    def _box(self) -> Box:
        space = from_gymnax(self.inner.action_space(self.inner.default_params))
        if not isinstance(space, Box) or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(f"bank: env = {type(self.inner).__name__}: needs a bounded Box of actions, this one is {type(space).__name__}")
        return space

    @functools.cached_property
    def candidates(self) -> np.ndarray:
        """float32 [k, *shape]: a grid with both ends for one number, else the Halton sequence (Halton 1960), whose beginnings are even."""
        from scipy.stats import qmc  # half a second, which `alias` need not pay

        space = self._box
        size = math.prod(space.shape)
        many = qmc.Halton(size, scramble=False).random(self.k + 1)[1:]  # without the corner where it begins
        unit = np.linspace(0.0, 1.0, self.k) if size == 1 else many
        low, high = (np.broadcast_to(np.asarray(x, np.float32), space.shape) for x in (space.low, space.high))
        return (low + (high - low) * unit.reshape(self.k, *space.shape)).astype(np.float32)

    @property
    def default_params(self) -> Any:
        """The inner environment's."""
        return self.inner.default_params

    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]:
        """See `Environment.reset_env`."""
        obs, state = self.inner.reset_env(key, params)
        return obs, state

    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`: the inner step with the candidate of number `action`."""
        obs, state, reward, terminated, info = self.inner.step_env(key, state, jnp.asarray(self.candidates)[action], params)
        return obs, state, reward, terminated, info

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """bool []: the inner environment's rule."""
        return jnp.asarray(self.inner.is_truncated(state, params))

    def action_space(self, params: Any) -> Discrete:
        """A = k actions."""
        return Discrete(self.k)

    def observation_space(self, params: Any) -> Space:
        """The inner environment's."""
        return from_gymnax(self.inner.observation_space(params))

    def __getattr__(self, name: str) -> Any:
        """`render` where the inner environment has it: the states are the same."""
        if name == "render":
            return self.inner.render
        raise AttributeError(name)


@dataclasses.dataclass(frozen=True)
class Discretized(Environment):
    """An environment of real-valued actions, each component one of `levels` values, evenly from its low to its high: a factored action.

    Seyde et al. 2022 (DecQN) look a level up in the first component's range; here every component has its own.
    """

    inner: Any
    levels: int = option(3, low=2, high=1001)
    """Values per component of the action; an odd number has the middle of the range among them."""

    def __getattr__(self, name: str) -> Any:
        if name == "render":  # there is a picture where the inner environment has one
            return self.inner.render
        raise AttributeError(name)

    @property
    def costly_reset(self) -> bool:  # type: ignore[override]
        """As the inner environment's."""
        return bool(getattr(self.inner, "costly_reset", False))

    @property
    def default_params(self) -> Any:
        """The inner environment's."""
        return self.inner.default_params

    def _box(self, params: Any) -> Box:
        space = from_gymnax(self.inner.action_space(params))
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise UserError(f"levels = {self.levels}: actions are {space}, must be a vector of real numbers to be put in levels")
        return space

    def check(self, params: Any) -> None:
        """Raises: UserError where the inner actions are no bounded vector of real numbers. Params must not be traced."""
        space = self._box(params)
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(f"levels = {self.levels}: actions must be bounded to be put in levels")

    @property
    def noop(self) -> tuple[int, ...]:
        """The level of each component that is 0. Raises: UserError where none is."""
        box = self._box(self.default_params)
        values = np.linspace(np.broadcast_to(box.low, box.shape), np.broadcast_to(box.high, box.shape), self.levels)
        if not (np.abs(values).min(0) < 1e-6).all():
            raise UserError(f"levels = {self.levels}: none of them is 0, must be odd where ranges are symmetric")
        return tuple(int(i) for i in np.abs(values).argmin(0))

    @property
    def blocks(self) -> Blocks:
        """Every component a block. The joint table has levels^D rows: ask for it where that is small."""
        return Blocks.of((self.levels,) * len(self.noop), self.noop)

    def action_space(self, params: Any) -> Factored:
        """A level per component. Raises: UserError where the inner actions are no vector of real numbers."""
        return Factored((self.levels,) * self._box(params).shape[0])

    def observation_space(self, params: Any) -> Space:
        """The inner environment's."""
        return from_gymnax(self.inner.observation_space(params))

    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]:
        """See `Environment.reset_env`."""
        obs, state = self.inner.reset_env(key, params)
        return obs, state

    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`. Action int [D]."""
        box = self._box(params)
        low, high = jnp.asarray(box.low, jnp.float32), jnp.asarray(box.high, jnp.float32)
        value = low + (high - low) * jnp.asarray(action, jnp.float32) / (self.levels - 1)
        obs, state, reward, terminated, info = self.inner.step_env(key, state, value, params)
        return obs, state, reward, terminated, info

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """The inner environment's."""
        return jnp.asarray(self.inner.is_truncated(state, params))
