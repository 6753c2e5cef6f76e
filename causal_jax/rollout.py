"""Collecting experience and measuring policies: `unroll` and `evaluate`, both written for one environment.

`unroll` steps an auto-resetting environment and records `Transition`s whose `next_obs` is the observation before the reset.
`evaluate` plays one episode with an `alive` mask and never resets. The caller vmaps both over environments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, State, Transition


class Cursor(NamedTuple):
    """Where an environment stands between two unrolls: its state and observation, and the running episode's sums."""

    env_state: Any
    obs: Obs
    episode_return: jax.Array
    episode_length: jax.Array


class Episode(NamedTuple):
    """The sums of one episode: `total` reward in task units, `length` in steps, `success` bool (False where an env reports none)."""

    total: jax.Array
    length: jax.Array
    success: jax.Array


class Actor(NamedTuple):
    """Who plays an episode: `memory` at its beginning, act(key, obs, memory) -> (action, memory)."""

    memory: Any
    act: Callable[[Key, Obs, Any], tuple[Action, Any]]


def actor(algorithm: Algorithm, state: State, greedy: bool) -> Actor:
    """An algorithm that plays, with what it remembers of the episode."""
    if algorithm.recall is None:
        return Actor((), lambda key, obs, memory: (algorithm.act(key, state, obs, greedy), memory))
    remember = algorithm.recall.act
    return Actor(algorithm.recall.start(), lambda key, obs, memory: remember(key, state, obs, greedy, memory))


def start(key: Key, env: Env, params: Any) -> Cursor:
    """A freshly reset environment. The key is consumed."""
    obs, env_state = env.reset(key, params)
    return Cursor(env_state, obs, jnp.zeros(()), jnp.zeros((), jnp.int32))


def unroll(
    key: Key,
    env: Env,
    params: Any,
    act: Callable[[Key, Obs], tuple[Action, dict[str, Any]]],
    cursor: Cursor,
    num_steps: int,
) -> tuple[Cursor, Transition, dict[str, jax.Array]]:
    """Step one auto-resetting environment `num_steps` times.

    Args: act: (key, obs) -> (action, extra), extra is stored in the transition. The key is consumed.
    Returns: the cursor to go on from; transitions with leaves [T, ...]; episode sums [T]: `done` bool, and at done steps the
      finished episode's `return`, `length`, `success` (where the environment's info has it).
    """

    def body(cursor: Cursor, keys: Key) -> tuple[Cursor, tuple[Transition, dict[str, jax.Array]]]:
        key_act, key_step = keys
        action, extra = act(key_act, cursor.obs)
        obs, env_state, reward, terminated, truncated, info = env.step(key_step, cursor.env_state, action, params)
        reward = jnp.asarray(reward, jnp.float32)
        terminated, truncated = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        done = terminated | truncated
        total, length = cursor.episode_return + reward, cursor.episode_length + 1
        transition = Transition(cursor.obs, action, reward, info["final_observation"], terminated, truncated, extra)
        episode = {"done": done, "return": total, "length": length, "success": _success(info)}
        return Cursor(env_state, obs, jnp.where(done, 0.0, total), jnp.where(done, 0, length)), (transition, episode)

    # all keys at once: a split inside the scan costs as much as a small network
    cursor, (transitions, episodes) = jax.lax.scan(body, cursor, jax.random.split(key, (num_steps, 2)))
    return cursor, transitions, episodes


def episode_metrics(episodes: dict[str, jax.Array]) -> Metrics:
    """Means over the episodes that finished in an unroll (leaves of any equal shape): NaN where none did, and their number."""
    done = episodes["done"]
    count = jnp.sum(done)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(done, x, 0).astype(jnp.float32)) / jnp.where(count > 0, count, jnp.nan)

    metrics = {f"episode_{name}": mean(episodes[name]) for name in ("return", "length", "success")}
    return {**metrics, "num_episodes": count.astype(jnp.float32)}


def evaluate(key: Key, env: Env, params: Any, act: Callable[[Key, Obs], Action] | Actor, max_steps: int) -> Episode:
    """Play one episode to its end or for `max_steps`, whichever comes first.

    Under vmap all episodes run until the last one is over, and the steps of those that are count for nothing; a scan of `max_steps` would
    give the same numbers, but once a policy is good most of its steps would be dead (measured on the maze: 500 against about 20).
    Args: act: (key, obs) -> action, or an Actor with a memory. The key is consumed. Returns: the sums of the episode (scalars).
    """
    player = act if isinstance(act, Actor) else Actor((), lambda key, obs, memory: (act(key, obs), memory))

    class Carry(NamedTuple):
        t: jax.Array
        obs: Obs
        env_state: Any
        alive: jax.Array
        episode: Episode
        memory: Any

    def body(carry: Carry) -> Carry:
        key_act, key_step = keys[carry.t]
        action, memory = player.act(key_act, carry.obs, carry.memory)
        obs, env_state, reward, terminated, info = env.step_env(key_step, carry.env_state, action, params)
        done = jnp.asarray(terminated, bool) | jnp.asarray(env.is_truncated(env_state, params), bool)
        episode = Episode(
            carry.episode.total + jnp.asarray(reward, jnp.float32), carry.episode.length + 1, carry.episode.success | _success(info)
        )
        return Carry(carry.t + 1, obs, env_state, carry.alive & ~done, episode, memory)

    key_reset, key_steps = jax.random.split(key)
    keys = jax.random.split(key_steps, (max_steps, 2))
    obs, env_state = env.reset_env(key_reset, params)
    episode = Episode(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    start = Carry(jnp.zeros((), jnp.int32), obs, env_state, jnp.ones((), bool), episode, player.memory)
    return jax.lax.while_loop(lambda carry: carry.alive & (carry.t < max_steps), body, start).episode


def _success(info: dict[str, Any]) -> jax.Array:
    return jnp.asarray(info.get("success", False), bool)
