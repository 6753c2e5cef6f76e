"""The shortest complete algorithm, to copy: REINFORCE with a learned baseline (Williams 1992), one update per rollout.

An algorithm file has a frozen `Config` (what decides shapes), a `flax.struct` `Hyper` (floats that may be searched), a `Task` whose first
field is `env_params`, and `build(env, env_params, config) -> Algorithm(init, step, act)`, three pure functions for ONE member: `fit` and
`train` vmap them. Randomness comes only from the key that is handed in. Metrics are returned, never printed.
Reproduce: causal-jax train template --env probe-policy
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from causal_jax import distributions, networks, optim, rollout, spaces
from causal_jax.fields import option, validate
from causal_jax.returns import gae
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, Params


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow."""

    num_envs: int = option(16, low=1)
    """Environments stepped in parallel by one member."""
    num_steps: int = option(32, low=1)
    """Steps of each environment between two updates."""
    hidden: tuple[int, ...] = option((64, 64), low=1)
    """Widths of the hidden layers of actor and critic."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    lr: float = option(1e-3, low=0.0)
    """Adam's step size."""
    gamma: float = option(0.99, low=0.0, high=1.0)
    """Discount per step."""


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


class State(NamedTuple):
    """What an update changes; `cursor` has a leading axis of environments [N]."""

    network: Params
    opt_state: Any
    cursor: rollout.Cursor


def steps_per_update(config: Config) -> int:
    """Environment steps that one update takes."""
    return config.num_envs * config.num_steps


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """REINFORCE with baseline for one member, on any action space. Raises: UserError for a field out of range."""
    validate(config)
    space = spaces.from_gymnax(env.action_space(env_params))
    head = distributions.policy_head(space)
    shape = env.observation_space(env_params).shape
    actor_critic = networks.actor_critic(shape, config.hidden, head.num_outputs, head.num_log_std)

    def sample(key: Key, network: Params, obs: Obs) -> tuple[Action, dict[str, Any]]:
        outputs, log_std, _ = actor_critic.apply(network, obs)
        raw = head.build(outputs, log_std).sample(seed=key)
        return distributions.clip_action(space, raw), {"raw": raw}

    def loss(network: Params, rows: Any, hyper: Hyper) -> jax.Array:
        outputs, log_std, value = jax.vmap(actor_critic.apply, (None, 0))(network, rows.obs)
        next_value = jax.vmap(actor_critic.apply, (None, 0))(network, rows.next_obs)[2]
        done = rows.terminated | rows.truncated
        advantage = jax.lax.stop_gradient(gae(rows.reward, value, next_value, rows.terminated, done, hyper.gamma, 1.0))
        target = advantage + jax.lax.stop_gradient(value)
        log_prob = jax.vmap(lambda o, a: head.build(o, log_std[0]).log_prob(a))(outputs, rows.extra["raw"])
        return jnp.mean(0.5 * jnp.square(value - target) - log_prob * advantage)

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_network, key_env = jax.random.split(key)
        network = actor_critic.init(key_network)
        cursor = jax.vmap(rollout.start, (0, None, None))(jax.random.split(key_env, config.num_envs), env, task.env_params)
        return State(network, optim.adam(hyper.lr).init(network), cursor)

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        def collect(key: Key, cursor: rollout.Cursor) -> tuple[Any, ...]:
            return rollout.unroll(key, env, task.env_params, lambda k, obs: sample(k, state.network, obs), cursor, config.num_steps)

        cursor, rows, episodes = jax.vmap(collect)(jax.random.split(key, config.num_envs), state.cursor)  # leaves [N, T, ...]

        def total(network: Params) -> jax.Array:
            return jnp.mean(jax.vmap(loss, (None, 0, None))(network, rows, hyper))

        value, grads = jax.value_and_grad(total)(state.network)
        updates, opt_state = optim.adam(hyper.lr).update(grads, state.opt_state)
        network = optax.apply_updates(state.network, updates)
        return State(network, opt_state, cursor), {**rollout.episode_metrics(episodes), "loss": value}

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        if not greedy:
            return sample(key, state.network, obs)[0]
        outputs, log_std, _ = actor_critic.apply(state.network, obs)
        return distributions.clip_action(space, head.build(outputs, log_std).mode())

    return Algorithm(init, step, act)
