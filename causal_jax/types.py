"""The vocabulary every other module speaks: environments, transitions, algorithms, networks, errors.

Nothing here computes. An `Algorithm` is three pure functions, an `Env` is gymnax 1.0's contract, a `Transition` is one row of
experience. Static choices live in a frozen dataclass `Config`, searchable floats in a `flax.struct` dataclass `Hyper`, and the
environment's params or a data set in `task`; nothing else exists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Key = jax.Array  # a typed PRNG key (jax.random.key); who takes a key consumes it
Params = Any  # a pytree of network parameters
Obs = Any  # a pytree of arrays, usually one array
Action = Any  # int [] (Discrete), int [F] (Factored), float [D] (Box), (k [], z [Z]) (Hybrid)
Metrics = dict[str, jax.Array]  # scalars, means over what one update saw
Hyper = Any  # a flax.struct dataclass of float leaves
Task = Any  # a pytree: environment params, effect models, data sets
State = Any  # an algorithm's pytree


class UserError(ValueError):
    """Bad input, told in one line that names the field, the value and what is allowed. The CLI prints it and exits with 2."""


class Diverged(RuntimeError):
    """A run that must not go on: NaN or infinity in parameters, loss or environment. One line; the CLI exits with 3."""


class Terminated(RuntimeError):
    """A run that was asked to stop (SIGTERM) and did, at the end of a chunk. One line; the CLI exits with 143."""


class Env(Protocol):
    """gymnax 1.0's contract. `step` auto-resets and puts the observation before the reset in info["final_observation"]."""

    @property
    def default_params(self) -> Any: ...
    def reset(self, key: Key, params: Any) -> tuple[Obs, Any]: ...
    def step(
        self, key: Key, state: Any, action: Action, params: Any
    ) -> tuple[Obs, Any, jax.Array, jax.Array, jax.Array, dict[str, Any]]: ...
    def reset_env(self, key: Key, params: Any) -> tuple[Obs, Any]: ...
    def step_env(self, key: Key, state: Any, action: Action, params: Any) -> tuple[Obs, Any, jax.Array, jax.Array, dict[str, Any]]: ...
    def is_truncated(self, state: Any, params: Any) -> jax.Array: ...
    def action_space(self, params: Any) -> Any: ...
    def observation_space(self, params: Any) -> Any: ...


class Transition(NamedTuple):
    """One step of experience. `next_obs` is the observation before the reset; `extra` holds log_prob, value, allowed, ..."""

    obs: Obs
    action: Action
    reward: jax.Array
    next_obs: Obs
    terminated: jax.Array
    truncated: jax.Array
    extra: dict[str, Any]


class Recall(NamedTuple):
    """How an algorithm acts that remembers something of the episode: `start` is the memory at its beginning (cleared where it ends)."""

    start: Callable[[], Any]
    act: Callable[[Key, State, Obs, bool, Any], tuple[Action, Any]]  # the last argument and result: the memory


class Algorithm(NamedTuple):
    """Three pure functions; `step` is one update: collect (or sample data) and learn. Written for one member: the caller vmaps.

    An algorithm that plans or is recurrent has a `recall` too; its `act` is then what it does at the beginning of an episode.
    """

    init: Callable[[Key, Hyper, Task], State]
    step: Callable[[Key, State, Hyper, Task], tuple[State, Metrics]]
    act: Callable[[Key, State, Obs, bool], Action]  # the last argument: greedy
    recall: Recall | None = None


class Network(NamedTuple):
    """A pair of pure functions; no module object crosses an algorithm's signature."""

    init: Callable[[Key], Params]
    apply: Callable[..., Any]
