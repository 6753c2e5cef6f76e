"""DQN, DecQN and AD-DQN: value-based control with factored actions, one algorithm under three configurations (causal/factored.py).

`ad-dqn` (arXiv 2504.21326; no code was published and no pseudo-code at hand: see causal/factored.py for what is a switch), `decqn` (Seyde
et al. 2022: a block per factor, average mixer, no projected losses) and `dqn` (one block of all factors: double DQN, van Hasselt 2016).
One `step`: num_steps steps of num_envs environments, epsilon-greedy, then num_updates updates from the replay. A time limit bootstraps.
Departures from DecQN's code: one-step targets and a uniform replay instead of 3 steps and prioritised rows; epsilon is what it says (theirs
divides it by bins times dimensions); every factor has its own bins.
Reproduce: python -m experiments.adrl online; make train-adrl
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax import optim, replay, rollout
from causal_jax.causal import factored
from causal_jax.causal.factored import Batch, Learner
from causal_jax.fields import option, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, UserError

EVALUATION_MODES = ("greedy",)


@dataclasses.dataclass(frozen=True)
class Config(factored.Config):
    """What decides shapes and control flow; the defaults are DecQN's where the paper is silent."""

    num_envs: int = option(1, low=1)
    """Environments stepped in parallel by one member."""
    num_steps: int = option(8, low=1)
    """Steps of each environment between two rounds of updates."""
    num_updates: int = option(1, low=1)
    """Updates of a round."""
    capacity: int = option(200_000, low=1)
    """Transitions kept."""
    init_steps: int = option(1000, low=1)
    """Random transitions before the first update (rounded up to the same number in every environment)."""
    exploration: str = option("block", choices=("block", "joint"))
    """Epsilon is a coin for every block, or one for all."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    lr: float = option(1e-4, low=0.0)
    """Adam's step size."""
    gamma: float = option(0.99, low=0.0, high=1.0)
    """Discount per step."""
    epsilon: float = option(0.1, low=0.0, high=1.0)
    """Chance of a random choice."""
    lam: float = option(1.0, low=0.0)
    """Weight of the projected losses."""
    tau: float = option(1.0, above=0.0, high=1.0)
    """Share of the online networks in an update of the target; 1 copies."""
    max_grad_norm: float = option(40.0, above=0.0)
    """Largest global norm of the gradient."""
    model_lr: float = option(1e-3, low=0.0)
    """Adam's step size for the models."""
    model_error: float = option(0.05, low=0.0)
    """Synthetic batches are used while the dynamics' running squared error, in variances of a step's change, is below this."""


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


class State(NamedTuple):
    """What an update changes; cursor [N]; epsilon [] is what `act` explores by."""

    learner: Learner
    buffer: replay.Buffer
    cursor: rollout.Cursor
    epsilon: jax.Array


def steps_per_update(config: Config) -> int:
    """Environment steps that one step of the algorithm takes."""
    return config.num_envs * config.num_steps


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """One member. Raises: UserError for a field out of range, an action space that is not discrete, blocks that do not fit."""
    validate(config)
    core = factored.build(env, env_params, config)
    blocks = core.blocks
    warm_steps = -(-config.init_steps // config.num_envs)
    most = config.num_envs * max(warm_steps, config.num_steps)
    if config.capacity < most:
        raise UserError(f"capacity = {config.capacity}: must be at least {most}, the rows of one round and of init_steps")
    sizes = jnp.asarray(blocks.sizes, jnp.int32)

    def explore(key: Key, learner: Learner, obs: Obs, epsilon: Any) -> jax.Array:
        """Block values [K]: greedy, but at random by the coin of each block, or of all."""
        key_coin, key_action = jax.random.split(key)
        coin = jax.random.bernoulli(key_coin, epsilon, (blocks.num if config.exploration == "block" else 1,))
        uniform = jax.random.randint(key_action, (blocks.num,), 0, sizes, dtype=jnp.int32)
        return jnp.where(coin, uniform, core.greedy(learner, obs, 0.0))

    def collect(key: Key, task: Task, cursor: rollout.Cursor, choose: Any, num_steps: int) -> tuple[rollout.Cursor, Batch, Any]:
        """(cursor, rows [N * T], episodes [N, T]) of a policy (key, obs) -> block values."""

        def act(key: Key, obs: Obs) -> tuple[Action, dict[str, Any]]:
            values = choose(key, obs)
            return blocks.decode(values), {"values": values}

        def one(key: Key, cursor: rollout.Cursor) -> Any:
            return rollout.unroll(key, env, task.env_params, act, cursor, num_steps)

        cursor, rows, episodes = jax.vmap(one)(jax.random.split(key, config.num_envs), cursor)
        batch = Batch(rows.obs, rows.extra["values"], rows.reward, rows.next_obs, rows.terminated)
        in_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), batch)  # oldest first
        return cursor, in_time, episodes

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_reset, key_play, key_learner = jax.random.split(key, 3)
        cursor = jax.vmap(rollout.start, (0, None, None))(jax.random.split(key_reset, config.num_envs), env, task.env_params)

        def at_random(key: Key, obs: Obs) -> jax.Array:
            return jax.random.randint(key, (blocks.num,), 0, sizes, dtype=jnp.int32)

        cursor, rows, _ = collect(key_play, task, cursor, at_random, warm_steps)
        buffer = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), config.capacity), rows)
        learner = core.init(key_learner, factored.scale_of(rows.obs, rows.next_obs), optim.adam(hyper.lr, hyper.max_grad_norm))
        return State(learner, buffer, cursor, jnp.asarray(hyper.epsilon, jnp.float32))

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        key_play, key_update = jax.random.split(key)
        cursor, rows, episodes = collect(
            key_play, task, state.cursor, lambda key, obs: explore(key, state.learner, obs, hyper.epsilon), config.num_steps
        )  # fmt: skip
        buffer = replay.add(state.buffer, rows)
        optimiser = optim.adam(hyper.lr, hyper.max_grad_norm)

        def learn(learner: Learner, key: Key) -> tuple[Learner, Metrics]:
            return core.update(learner, replay.sample(buffer, key, config.batch_size), hyper, optimiser)

        learner, metrics = jax.lax.scan(learn, state.learner, jax.random.split(key_update, config.num_updates))
        means = {name: jnp.mean(x) for name, x in metrics.items()}
        return State(learner, buffer, cursor, state.epsilon), {**rollout.episode_metrics(episodes), **means}

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        values = core.greedy(state.learner, obs, 0.0) if greedy else explore(key, state.learner, obs, state.epsilon)
        return blocks.decode(values)

    return Algorithm(init, step, act)
