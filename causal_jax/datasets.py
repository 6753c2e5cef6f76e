"""Offline data sets: whole episodes of a known behaviour policy, rows drawn from them, and a stand-in for the environment of recorded data.

An `Episodes` is padded to its longest episode and holds each observation once; a row is (obs_t, action_t, reward_t, obs_{t+1}), drawn with
replacement among the steps that were taken. `generate` plays a behaviour policy in an environment and notes the probability of every
action it took, so that importance sampling needs no estimate. Data that were recorded elsewhere (mimic.py) come as the same
`Episodes`; `Recorded` says what their spaces are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax import spaces
from causal_jax.types import Action, Env, Key, Obs, UserError

Behaviour = Callable[[Key, Obs], tuple[Action, jax.Array]]  # (key, obs) -> (action, its probability [])


class Episodes(NamedTuple):
    """N episodes of at most T steps, padded at the end.

    obs: [N, T + 1, ...]; action: int32 [N, T] or [N, T, F]; reward: float32 [N, T], 0 where padded; terminated: bool [N, T]; taken: bool
    [N, T], False where padded; prob: float32 [N, T], the behaviour policy's probability of the action, 1 where padded.
    """

    obs: Any
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    taken: jax.Array
    prob: jax.Array


class Rows(NamedTuple):
    """Episodes ready to be drawn from: `index` int32 [N * T] lists the steps that were taken, of which there are `num` [], first."""

    episodes: Episodes
    index: jax.Array  # type: ignore[assignment]  # tuples have a method of that name
    num: jax.Array


def generate(key: Key, env: Env, env_params: Any, behaviour: Behaviour, num_episodes: int, max_steps: int) -> Episodes:
    """Play a behaviour policy: N = num_episodes whole episodes, or their first T = max_steps steps. The key is consumed.

    Raises: UserError for less than one episode or step.
    """
    for name, value in (("num_episodes", num_episodes), ("max_steps", max_steps)):
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")

    def play(key: Key) -> Episodes:
        key_reset, key_steps = jax.random.split(key)
        obs, state = env.reset_env(key_reset, env_params)

        def body(carry: Any, keys: Key) -> tuple[Any, Any]:
            obs, state, alive = carry
            action, prob = behaviour(keys[0], obs)
            next_obs, state, reward, terminated, _ = env.step_env(keys[1], state, action, env_params)
            done = jnp.asarray(terminated, bool) | jnp.asarray(env.is_truncated(state, env_params), bool)
            reward, prob = jnp.where(alive, reward, 0.0).astype(jnp.float32), jnp.where(alive, prob, 1.0).astype(jnp.float32)
            return (next_obs, state, alive & ~done), (next_obs, action, reward, alive & terminated, alive, prob)

        start = (obs, state, jnp.ones((), bool))
        _, (later, action, reward, terminated, alive, prob) = jax.lax.scan(body, start, jax.random.split(key_steps, (max_steps, 2)))
        every = jax.tree.map(lambda first, x: jnp.concatenate([first[None], x]), obs, later)
        return Episodes(every, action, reward, terminated, alive, prob)

    return jax.vmap(play)(jax.random.split(key, num_episodes))


def uniform(space: Any) -> Behaviour:
    """All actions of a Discrete or Factored space alike. Raises: UserError for another kind of space."""
    space = spaces.from_gymnax(space)
    if not isinstance(space, spaces.Discrete | spaces.Factored):
        raise UserError(f"action space = {type(space).__name__}: must be Discrete or Factored")
    num = space.n if isinstance(space, spaces.Discrete) else jnp.prod(jnp.asarray(space.sizes))

    def behaviour(key: Key, obs: Obs) -> tuple[Action, jax.Array]:
        return space.sample(key), 1.0 / jnp.asarray(num, jnp.float32)

    return behaviour


def rows(episodes: Episodes) -> Rows:
    """Episodes with the list of their steps."""
    flat = episodes.taken.reshape(-1)
    return Rows(episodes, jnp.argsort(~flat, stable=True).astype(jnp.int32), jnp.sum(flat, dtype=jnp.int32))


def sample(data: Rows, key: Key, num: int) -> tuple[Any, jax.Array, jax.Array, Any, jax.Array]:
    """`num` steps drawn uniformly with replacement: (obs, action, reward, next obs, terminated), [num, ...] each. The key is consumed."""
    episodes = data.episodes
    step = data.index[jax.random.randint(key, (num,), 0, data.num)]
    i, t = step // episodes.reward.shape[1], step % episodes.reward.shape[1]
    obs, next_obs = (jax.tree.map(lambda x, t=t: x[i, t], episodes.obs) for t in (t, t + 1))
    return obs, episodes.action[i, t], episodes.reward[i, t], next_obs, episodes.terminated[i, t]


def returns(episodes: Episodes) -> jax.Array:
    """Undiscounted return of every episode, float32 [N]."""
    return jnp.sum(episodes.reward, axis=-1)


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The spaces of data that were recorded elsewhere, for algorithms to be built on: it cannot be played.

    num_features: D of the observations; sizes: choices of every action factor; noop: the choice of each that does nothing.
    """

    num_features: int
    sizes: tuple[int, ...]
    noop: tuple[int, ...] = ()

    default_params = None

    def action_space(self, params: Any = None) -> spaces.Factored:
        """One choice per factor."""
        return spaces.Factored(self.sizes)

    def observation_space(self, params: Any = None) -> spaces.Box:
        """A vector of any size."""
        return spaces.Box(-jnp.inf, jnp.inf, (self.num_features,))

    def reset_env(self, *args: Any) -> Any:
        """Raises: UserError, recorded data have no next episode."""
        raise UserError("env = recorded data: cannot be played, only learned from")

    reset = step = step_env = is_truncated = reset_env
