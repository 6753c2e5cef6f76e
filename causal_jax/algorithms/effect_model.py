"""Phase 1 of CEE and NPM: from the transitions of a random policy, an inverse model and the N-network that regresses on its log ratios.

CEE (arXiv 2501.14543), NPM (arXiv 2312.06258). One `step` collects num_envs x num_steps transitions with the uniform policy
into a replay ring, then makes `num_updates` updates of the inverse model, each followed by `n_per_inverse` of the N-network.
`model(state)` is what phase 2 reads (`causal.inverse.n_matrix`).
mode="definition": the inputs and the head of causal/inverse.py, transitions cut by a time limit are not used, learning rates decay, and
the floor inside the logarithms is 0.01 instead of 1e-8: the paper's floor puts impossible actions 18 nats below, the squared error is then
spent there, while groups are decided within 0.5 nats. It moves the diagonal by at most log(1 + floor / p) and no threshold.
mode="authors" with `authors()`: the published sizes, learning rate, schedule and floor; s' of a last step is the reset observation there.
Groups equal to the oracle's, share of (state, action) over states that the random policy visits: maze-n4 1.00, maze-n6 0.95 with the
defaults, 0.99 with `thorough()`; off the visited states (uniform positions) 0.95, 0.88 and 0.91.
Departure: the authors' 'random' policy is a freshly initialised network (close to uniform), here it is exactly uniform.
Reproduce: causal-jax train effects --env maze-n6
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax import replay, rollout
from causal_jax.causal import effect_learning, effects, inverse
from causal_jax.causal.effect_learning import Row
from causal_jax.fields import option, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, Params, UserError


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow."""

    mode: str = option("definition", choices=effects.MODES)
    """Inputs and head that learn fast, or the authors' networks."""
    num_envs: int = option(64, low=1)
    """Environments stepped in parallel by one member."""
    num_steps: int = option(64, low=1)
    """Steps of each environment between two rounds of updates."""
    warmup_steps: int = option(512, low=1)
    """Steps of each environment before the first update; they set the units of the inputs (mode definition)."""
    capacity: int = option(400_000, low=1)
    """Transitions kept for replay."""
    batch_size: int = option(128, low=1)
    """Transitions per update."""
    num_updates: int = option(48, low=1)
    """Updates of the inverse model in one step."""
    n_per_inverse: int = option(1, low=1)
    """Updates of the N-network after each of the inverse model; 1 reuses its batch and logits, more draw fresh batches."""
    n_warmup: int = option(0, low=0)
    """Steps in which only the inverse model learns."""
    decay_steps: int = option(200, low=0)
    """Steps over which the learning rates fall to a fiftieth along a cosine; 0: constant."""
    inverse_hidden: tuple[int, ...] = option((128, 128), low=1)
    """Widths of the hidden layers of the inverse model."""
    n_hidden: tuple[int, ...] = option((128, 128), low=1)
    """Widths of the hidden layers of the N-network."""
    num_frequencies: int = option(6, low=0)
    """Sines and cosines per coordinate, each of twice the frequency of the one before (mode definition)."""
    head: str = option("softmax", choices=inverse.HEADS)
    """Output of the N-network: the papers' row of A values, or points whose distances they are (definition): for many actions."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    inverse_lr: float = option(1e-2, low=0.0)
    """Adam's step size for the inverse model."""
    n_lr: float = option(1e-2, low=0.0)
    """Adam's step size for the N-network."""
    floor: float = option(1e-2, above=0.0)
    """Added to probabilities inside logarithms; with hundreds of actions less than the probability 1 / A of one."""


def authors() -> tuple[Config, Hyper]:
    """The published program on the maze (PPO.yaml, min_red_ppo.py): 977 steps are its 2 million environment steps."""
    config = Config(
        mode="authors", num_envs=1, num_steps=2048, warmup_steps=1, capacity=50_000, batch_size=64, num_updates=320, n_per_inverse=5,
        n_warmup=501, decay_steps=0, inverse_hidden=(64, 64), n_hidden=(64, 64), num_frequencies=0,
    )  # fmt: skip
    return config, Hyper(inverse_lr=3e-4, n_lr=3e-4, floor=1e-8)


def thorough() -> Config:
    """Twice the environment steps and five times the samples of the default, where a few minutes do not matter."""
    return Config(decay_steps=400, num_updates=64, batch_size=256, capacity=1_000_000)


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


class State(NamedTuple):
    """What an update changes; `cursor` has a leading axis of environments [N], t counts steps."""

    inverse: Params
    inverse_opt: Any
    effect: inverse.EffectModel
    n_opt: Any
    buffer: replay.Buffer
    cursor: rollout.Cursor
    t: jax.Array


def steps_per_update(config: Config) -> int:
    """Environment steps that one update takes (those of the warm-up, once, are not counted)."""
    return config.num_envs * config.num_steps


def default_steps(config: Config) -> int:
    """Environment steps of a whole phase 1: until the learning rates have decayed, or the authors' 2 million."""
    return (config.decay_steps or 977) * steps_per_update(config)


def evaluations(config: Config) -> dict[str, Config]:
    """No policy to evaluate: phase 1 acts at random."""
    return {}


def model(state: State) -> inverse.EffectModel:
    """The fitted effect model that phase 2 reads."""
    return state.effect


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """Phase 1 for one member. Raises: UserError for a field out of range, actions not Discrete, observations that are no vector."""
    validate(config)
    sizes = effect_learning.sizes(env, env_params)
    if config.mode == "authors" and config.head != "softmax":
        raise UserError(f"head = {config.head!r}: must be 'softmax' in mode 'authors'")
    num_warmup, num_rows = config.num_envs * config.warmup_steps, steps_per_update(config)
    if config.capacity < max(num_warmup, num_rows):
        raise UserError(f"capacity = {config.capacity}: must be at least {max(num_warmup, num_rows)}, the transitions collected at once")
    authors_mode, num_actions = config.mode == "authors", sizes[1]
    learner = effect_learning.learner(
        *sizes, inverse_hidden=config.inverse_hidden, n_hidden=config.n_hidden, batch_size=config.batch_size, mode=config.mode,
        num_frequencies=config.num_frequencies, head=config.head, fresh=config.n_per_inverse > 1,
    )  # fmt: skip
    policy = jnp.full(num_actions, 1.0 / num_actions)

    def collect(key: Key, cursor: rollout.Cursor, task: Task, num_steps: int) -> tuple[rollout.Cursor, Row]:
        def random(key: Key, obs: Obs) -> tuple[Action, dict[str, Any]]:
            return jax.random.randint(key, (), 0, num_actions), {}

        def one(key: Key, cursor: rollout.Cursor) -> tuple[rollout.Cursor, Row]:
            cursor, rows, _ = rollout.unroll(key, env, task.env_params, random, cursor, num_steps)
            obs, next_obs, usable = jnp.asarray(rows.obs, jnp.float32), jnp.asarray(rows.next_obs, jnp.float32), ~rows.truncated
            if authors_mode:  # the observation that the auto-resetting environment returned
                next_obs = jnp.concatenate([obs[1:], jnp.asarray(cursor.obs, jnp.float32)[None]])
                usable = jnp.ones_like(usable)
            return cursor, Row(obs, rows.action, next_obs, usable)

        cursor, rows = jax.vmap(one)(jax.random.split(key, config.num_envs), cursor)
        return cursor, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), rows)

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_inverse, key_n, key_env, key_warmup = jax.random.split(key, 4)
        cursor = jax.vmap(rollout.start, (0, None, None))(jax.random.split(key_env, config.num_envs), env, task.env_params)
        cursor, rows = collect(key_warmup, cursor, task, config.warmup_steps)
        buffer = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), config.capacity), rows)
        scaler = None if authors_mode else inverse.fit_scaler(rows.obs, rows.next_obs, config.num_frequencies)
        nets = learner.init(key_inverse, key_n)
        effect = inverse.EffectModel(nets.network, scaler, jnp.asarray(hyper.floor, jnp.float32), policy)
        return State(nets.inverse, nets.inverse_opt, effect, nets.n_opt, buffer, cursor, jnp.zeros((), jnp.int32))

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        key_collect, key_update = jax.random.split(key)
        cursor, rows = collect(key_collect, state.cursor, task, config.num_steps)
        buffer = replay.add(state.buffer, rows)
        rate = jnp.ones(())
        if config.decay_steps:
            rate = 0.02 + 0.98 * 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(state.t / config.decay_steps, 0.0, 1.0)))
        num_n = jnp.where(state.t < config.n_warmup, 0, config.n_per_inverse) if config.n_warmup else config.n_per_inverse

        def update(nets: effect_learning.Nets, key: Key) -> tuple[effect_learning.Nets, Metrics]:
            return learner.update(key, nets, state.effect, buffer, hyper.inverse_lr * rate, hyper.n_lr * rate, num_n)

        nets = effect_learning.Nets(state.inverse, state.inverse_opt, state.effect.network, state.n_opt)
        nets, metrics = jax.lax.scan(update, nets, jax.random.split(key_update, config.num_updates))
        effect = state.effect._replace(network=nets.network, floor=jnp.asarray(hyper.floor, jnp.float32))
        state = State(nets.inverse, nets.inverse_opt, effect, nets.n_opt, buffer, cursor, state.t + 1)
        return state, {**jax.tree.map(jnp.mean, metrics), "lr_fraction": rate}

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        """A uniformly random action: phase 1 has no policy of its own."""
        return jax.random.randint(key, (), 0, num_actions)

    return Algorithm(init, step, act)
