"""Other people's environments under our contract: gymnax 1.0, five-tuple environments (before 1.0), brax and navix.

Their packages are imported inside the functions, so this module costs nothing until one is asked for (gymnax takes 5 s to import).
Brax: its own auto-reset reuses the first start state and hides the terminal observation, so the raw environment is taken and gets
our time limit and a fresh start for every episode. Navix, which is no dependency of this package: its auto-reset takes a step of its
own, so its raw step is taken too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax.envs.base import Environment
from causal_jax.fields import option, suggest
from causal_jax.spaces import Box, Discrete, Space, from_gymnax
from causal_jax.types import Action, Key, Obs, UserError


@dataclasses.dataclass(frozen=True)
class Gymnax(Environment):
    """A gymnax 1.0 environment: only its spaces are translated. `env` is the environment itself."""

    env: Any

    @property
    def default_params(self) -> Any:
        """gymnax's params with arrays for leaves, so that a population's worlds may differ."""
        return jax.tree.map(jnp.asarray, self.env.default_params)

    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]:
        """See `Environment.reset_env`."""
        obs, state = self.env.reset_env(key, params)
        return obs, state

    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`."""
        obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        return obs, state, reward, terminated, info

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """gymnax's own rule."""
        return jnp.asarray(self.env.is_truncated(state, params))

    def action_space(self, params: Any) -> Space:
        """Translated into one of our spaces."""
        return from_gymnax(self.env.action_space(params))

    def observation_space(self, params: Any) -> Space:
        """Translated into one of our spaces."""
        return from_gymnax(self.env.observation_space(params))


@dataclasses.dataclass(frozen=True)
class FiveTuple(Gymnax):
    """An environment of gymnax before 1.0, whose `done` mixes the end and the time limit. Made by `five_tuple`."""

    truncation: Callable[[Any, Any], Any]

    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """terminated = done without truncation: an end that falls on the very last step is read as the time limit."""
        obs, state, reward, done, info = self.env.step_env(key, state, action, params)
        return obs, state, reward, jnp.asarray(done, bool) & ~self.is_truncated(state, params), info

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """The rule that was given to `five_tuple`."""
        return jnp.asarray(self.truncation(state, params), bool)


def _time_limit(state: Any, params: Any) -> Any:
    """gymnax's convention; an environment without these fields has no time limit."""
    if hasattr(state, "time") and hasattr(params, "max_steps_in_episode"):
        return state.time >= params.max_steps_in_episode
    return False


def five_tuple(env: Any, is_truncated: Callable[[Any, Any], Any] = _time_limit) -> FiveTuple:
    """Adapt an environment whose raw step returns (obs, state, reward, done, info).

    Args: env: has `reset_env(key, params)`, `step_env(key, state, action, params)`, `action_space(params)`,
      `observation_space(params)`, `default_params`. is_truncated: `(state after the step, params) -> bool []`, how the time limit is read
      out of `done`; by default `state.time >= params.max_steps_in_episode` where both exist, else never.
    Raises: UserError if a method is missing.
    """
    for name in ("reset_env", "step_env", "action_space", "observation_space", "default_params"):
        if not hasattr(env, name):
            raise UserError(f"env = {type(env).__name__}: must have {name} to be used as a five-tuple environment")
    return FiveTuple(env, is_truncated)


@functools.cache
def _gymnax(name: str) -> Any:
    import gymnax

    if name not in gymnax.registered_envs:
        raise UserError(f"env = 'gymnax:{name}': {suggest(name, gymnax.registered_envs)}")
    return gymnax.make(name)[0]


def make_gymnax(name: str, **options: float) -> tuple[Gymnax, Any]:
    """`gymnax:<Id>`; options are fields of its params, e.g. gravity, and `max_steps` for max_steps_in_episode.

    Raises: UserError for an unknown name or option, a value that is no finite number, max_steps < 1.
    """
    env = Gymnax(_gymnax(name))
    params = env.default_params
    leaves = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    known = {"max_steps" if k == "max_steps_in_episode" else k: (k, v.dtype) for k, v in leaves.items() if jnp.ndim(v) == 0}
    for key, value in options.items():
        told = f"gymnax:{name}: {key} = {value!r}"
        if key not in known:
            raise UserError(f"{told}: unknown option, must be one of {', '.join(sorted(known))}")
        field, dtype = known[key]
        kinds = int if jnp.issubdtype(dtype, jnp.integer) else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            raise UserError(f"{told}: must be {'an integer' if kinds is int else 'a finite number'}")
        if key == "max_steps" and value < 1:
            raise UserError(f"{told}: must be 1 <= x")
        params = params.replace(**{field: jnp.asarray(value, dtype)})
    return env, params


@dataclasses.dataclass(frozen=True)
class Minatar(Gymnax):
    """gymnax's MinAtar with its [10, 10, channels] of flags as one vector, which is what the networks here read."""

    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]:
        """See `Environment.reset_env`."""
        obs, state = super().reset_env(key, params)
        return jnp.asarray(obs, jnp.float32).reshape(-1), state

    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`."""
        obs, *rest = super().step_env(key, state, action, params)
        return jnp.asarray(obs, jnp.float32).reshape(-1), *rest

    def observation_space(self, params: Any) -> Box:
        """float [100 channels], 0 or 1."""
        return Box(0.0, 1.0, (math.prod(self.env.observation_space(params).shape),))


def make_minatar(name: str, **options: float) -> tuple[Minatar, Any]:
    """`minatar:<game>` (`alias:minatar:<game>` with aliased actions); options of `make_gymnax`.

    Raises: UserError for an unknown game.
    """
    import gymnax

    games = {full.removesuffix("-MinAtar").lower(): full for full in gymnax.registered_envs if full.endswith("-MinAtar")}
    if name not in games:
        raise UserError(f"env = 'minatar:{name}': {suggest(name, sorted(games))}")
    env, params = make_gymnax(games[name], **options)
    return Minatar(env.env), params


@struct.dataclass
class BraxState:
    """`brax`: brax's own state; `t` int32 []: steps taken."""

    brax: Any
    t: jax.Array


@struct.dataclass
class LimitParams:
    """`max_steps` int32 []: the time limit (brax, navix)."""

    max_steps: jax.Array


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """brax warns that it is old, its dependencies warn of each other and print; none of it is news to the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@functools.cache
def _brax(name: str, backend: str) -> Any:
    with _quiet(), jax.ensure_compile_time_eval():  # the first call may come from inside a trace, and the result is cached
        from brax import envs

        if name not in envs._envs:
            raise UserError(f"env = 'brax:{name}': {suggest(name, sorted(envs._envs))}")
        try:
            return envs.get_environment(name, backend=backend)
        except ValueError as error:
            raise UserError(f"brax:{name}: backend = {backend!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Brax(Environment):
    """A raw brax environment under our own time limit; every episode starts from a fresh start state."""

    name: str
    backend: str = option("generalized", choices=("generalized", "spring", "positional", "mjx"))
    """brax's physics; spring and positional are faster and less exact."""
    max_steps: int = option(1000, low=1)
    """Time limit in steps (brax's episode_length)."""

    @property
    def env(self) -> Any:
        """The brax environment itself."""
        return _brax(self.name, self.backend)

    def world(self, params: Any) -> Any:
        """The brax environment under these params."""
        return self.env

    @property
    def default_params(self) -> LimitParams:
        """The time limit."""
        return LimitParams(max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def reset_env(self, key: Key, params: LimitParams) -> tuple[Obs, BraxState]:
        """See `Environment.reset_env`."""
        with _quiet():
            state = jax.tree.map(jnp.asarray, self.world(params).reset(key))
        return state.obs, BraxState(brax=state, t=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: BraxState, action: Action, params: LimitParams
    ) -> tuple[Obs, BraxState, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`. The action float [D] is clipped to [-1, 1]; info holds brax's metrics. The key is not needed."""
        old = state.brax.replace(metrics=dict(state.brax.metrics), info=dict(state.brax.info))  # ant writes into the old state's
        with _quiet():
            new = self.world(params).step(old, jnp.clip(action, -1.0, 1.0))
        new = jax.tree.map(lambda x, old: jnp.asarray(x, old.dtype), new, state.brax)  # brax returns some Python floats
        return new.obs, BraxState(brax=new, t=state.t + 1), new.reward, new.done > 0.5, dict(new.metrics)

    def is_truncated(self, state: BraxState, params: LimitParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def action_space(self, params: LimitParams) -> Box:
        """float [D] in [-1, 1]."""
        return Box(-1.0, 1.0, (self.env.action_size,))

    def observation_space(self, params: LimitParams) -> Box:
        """Unbounded float [D]."""
        return Box(-math.inf, math.inf, jax.eval_shape(self.reset, jax.random.key(0))[0].shape)


@struct.dataclass
class NavixState:
    """`navix`: navix's own timestep; `t` int32 []: steps taken."""

    navix: Any
    t: jax.Array


@functools.cache
def _navix(name: str, observation: str) -> Any:
    with _quiet(), jax.ensure_compile_time_eval():
        try:
            import navix
        except ImportError as error:
            raise UserError(f"env = 'navix:{name}': needs the package navix, which cannot be imported here ({error})") from None
        if name not in navix.registry():
            raise UserError(f"env = 'navix:{name}': {suggest(name, sorted(navix.registry()))}")
        return navix.make(name, observation_fn=getattr(navix.observations, observation))


@dataclasses.dataclass(frozen=True)
class Navix(Environment):
    """A navix task under our own time limit; info["success"]: it ended with a positive reward."""

    name: str
    observation: str = option("symbolic", choices=("symbolic", "symbolic_first_person", "categorical", "categorical_first_person", "rgb"))
    """navix's observation function."""
    max_steps: int = option(0, low=0)
    """Time limit in steps; 0: navix's own."""

    @property
    def env(self) -> Any:
        """The navix environment itself."""
        return _navix(self.name, self.observation)

    @property
    def default_params(self) -> LimitParams:
        """The time limit."""
        return LimitParams(max_steps=jnp.asarray(self.max_steps or self.env.max_steps, jnp.int32))

    def reset_env(self, key: Key, params: LimitParams) -> tuple[Obs, NavixState]:
        """See `Environment.reset_env`."""
        step = self.env.reset(key)
        return step.observation, NavixState(navix=step, t=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: NavixState, action: Action, params: LimitParams
    ) -> tuple[Obs, NavixState, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`. The key takes the place of the one in navix's state."""
        before = state.navix.replace(state=state.navix.state.replace(key=key), step_type=jnp.zeros_like(state.navix.step_type))
        after = jax.tree.map(lambda x, old: jnp.asarray(x, old.dtype), self.env._step(before, jnp.asarray(action)), before)
        terminated = after.step_type == 2
        return after.observation, NavixState(after, state.t + 1), after.reward, terminated, {"success": terminated & (after.reward > 0)}

    def is_truncated(self, state: NavixState, params: LimitParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def action_space(self, params: LimitParams) -> Space:
        """navix's actions."""
        return Discrete(len(self.env.action_set))

    def observation_space(self, params: LimitParams) -> Box:
        """What the observation function shows, as codes or pixels."""
        obs = jax.eval_shape(self.reset, jax.random.key(0))[0]
        return Box(0, 255, obs.shape, obs.dtype)
