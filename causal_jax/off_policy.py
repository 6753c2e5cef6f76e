"""What the model-free methods for hybrid actions share: collect a step, store it in a ring, learn from batches of the ring.

A `Method` says how a learner begins, acts, explores and learns from a batch; `build` makes it an Algorithm. `init` fills the ring with
random steps. One `step` of the algorithm is `num_steps` steps in one auto-resetting environment, in rounds of `delay`: a round steps the
environment `delay` times, then `num_updates` times updates the critics on `delay` batches and the actor on the last of them (TD3's delay;
1 elsewhere).
Networks live in the box [-1, 1]; `play` scales what the environment gets. A limit of time is bootstrapped from the observation before the
reset. Memory is capacity * (2 S + stored) floats, where `stored` is what a method keeps of an action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from causal_jax import optim, replay, rollout, spaces
from causal_jax.fields import option, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, Params, UserError


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow."""

    hidden: tuple[int, ...] = option((128,), low=1)
    """Widths of the hidden layers of actors and critics."""
    capacity: int = option(10_000, low=1)
    """Steps kept."""
    batch_size: int = option(128, low=1)
    """Steps per update."""
    random_steps: int = option(500, low=1)
    """Steps of random play before the first step; they are not counted as steps of the run."""
    num_steps: int = option(1, low=1)
    """Steps in the environment of one step of the algorithm."""
    num_updates: int = option(1, low=1)
    """Updates of the critics per step in the environment."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    lr: float = option(1e-3, low=0.0)
    """Adam's step size of the critics."""
    actor_lr: float = option(1e-4, low=0.0)
    """Adam's step size of the actor."""
    gamma: float = option(0.99, low=0.0, high=1.0)
    """Discount per step."""
    tau: float = option(0.1, above=0.0, high=1.0)
    """Share of the critics that moves into their targets in an update."""
    actor_tau: float = option(1e-3, above=0.0, high=1.0)
    """The same of the actor."""
    max_grad_norm: float = option(10.0, above=0.0)
    """Bound of the gradient's norm, per network."""
    explore_steps: float = option(5000.0, above=0.0)
    """Steps over which exploration falls linearly from 1 to explore_end: the chance of a random action, HyAR's deviation of the noise."""
    explore_end: float = option(0.01, low=0.0, high=1.0)
    """Exploration afterwards."""


class Choice(NamedTuple):
    """An action in the unit box, k int32 [] and z [Z], and what is stored of it (any pytree)."""

    k: jax.Array
    z: jax.Array
    stored: Any


class Row(NamedTuple):
    """One step of the ring: obs, next_obs [S], stored, reward [], terminated []."""

    obs: jax.Array
    stored: Any
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array


class Learner(NamedTuple):
    """Parameters, targets and Adam's states of the networks, by name; `model`: whatever else a method learns."""

    online: dict[str, Params]
    target: dict[str, Params]
    opt: dict[str, Any]
    model: Any


Update = Callable[[Key, Learner, Row, Any], tuple[Learner, Metrics]]


class Method(NamedTuple):
    """A method, for one member. Batches are Rows with leaves [B, ...]; keys are consumed. The last two learn from the whole ring."""

    init: Callable[[Key, Any], Learner]
    random: Callable[[Key, Learner, jax.Array], Choice]  # (key, learner, obs)
    explore: Callable[[Key, Learner, jax.Array, jax.Array], Choice]  # (key, learner, obs, exploration in [0, 1])
    act: Callable[[Learner, jax.Array], Choice]
    critic: Update
    actor: Update  # and the targets
    begin: Callable[[Key, Learner, replay.Buffer, Any], Learner] | None = None  # after the random steps
    refresh: Callable[[Key, Learner, replay.Buffer, Any], tuple[Learner, Metrics]] | None = None  # at the end of every `step`


class State(NamedTuple):
    """What a step changes; exploration [] as of now, for `act`; t: environment steps since `init`."""

    learner: Learner
    buffer: replay.Buffer
    cursor: rollout.Cursor
    exploration: jax.Array
    t: jax.Array


def hybrid_space(env: Env, env_params: Any, name: str) -> spaces.Hybrid:
    """The environment's action space. Raises: UserError where actions are not hybrid."""
    space = spaces.from_gymnax(env.action_space(env_params))
    if not isinstance(space, spaces.Hybrid):
        raise UserError(f"env = {type(env).__name__}: {name} needs hybrid actions (a choice with parameters), such as platform's")
    return space


def learner(key: Key, networks: dict[str, Any], model: Any = None) -> Learner:
    """Fresh networks by name, their targets equal to them. The key is consumed."""
    keys = jax.random.split(key, len(networks))
    online = {name: network.init(k) for (name, network), k in zip(networks.items(), keys, strict=True)}
    return Learner(online, online, {name: optim.adam(1.0, 1.0).init(params) for name, params in online.items()}, model)


def descend(learner: Learner, name: str, loss: Callable[[Params], jax.Array], lr: Any, hyper: Any) -> tuple[Learner, jax.Array]:
    """One Adam step of one network on loss(params): (learner, loss [])."""
    value, grads = jax.value_and_grad(loss)(learner.online[name])
    updates, state = optim.adam(lr, hyper.max_grad_norm).update(grads, learner.opt[name])
    params = optax.apply_updates(learner.online[name], updates)
    return learner._replace(online={**learner.online, name: params}, opt={**learner.opt, name: state}), value


def follow(learner: Learner, hyper: Any) -> Learner:
    """The targets moved towards the networks: `actor` by actor_tau, the others by tau."""
    rate = {name: hyper.actor_tau if name == "actor" else hyper.tau for name in learner.online}
    return learner._replace(target={name: optim.polyak(x, learner.online[name], rate[name]) for name, x in learner.target.items()})


def inverted(gradient: jax.Array, x: jax.Array, low: float = -1.0, high: float = 1.0) -> jax.Array:
    """Inverting gradients: g (high - x) / (high - low) where g > 0 (x is to grow), else g (x - low) / (high - low). Elementwise.

    The gradient fades as x nears the bound it points to, and turns round beyond it. Source: Hausknecht & Stone 2016, eq. 11.
    """
    return gradient * jnp.where(gradient > 0, high - x, x - low) / (high - low)


def ascend_inverted(value: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """A loss whose gradient with respect to x [...] is minus the inverted gradient of value(x) -> []."""
    gradient = jax.grad(value)(jax.lax.stop_gradient(x))
    return -jnp.sum(jax.lax.stop_gradient(inverted(gradient, x)) * x)


def td_target(reward: Any, terminated: Any, next_value: Any, gamma: Any) -> jax.Array:
    """r + gamma (1 - terminated) V(s'), elementwise, without gradient."""
    return jax.lax.stop_gradient(reward + gamma * jnp.where(terminated, 0.0, next_value))


def pick(chosen: jax.Array, one: Choice, other: Choice) -> Choice:
    """`one` where chosen [] bool, else `other`."""
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), one, other)


def play(space: spaces.Hybrid, choice: Choice) -> Action:
    """The action in task units, its parameters clipped to the bounds and zero where there are none."""
    low, high = space.take(choice.k, space.low), space.take(choice.k, space.high)
    return choice.k, low + (high - low) * (jnp.clip(choice.z, -1.0, 1.0) + 1.0) / 2.0


def flat(obs: Obs) -> jax.Array:
    """An observation as a float32 vector."""
    return jnp.ravel(obs).astype(jnp.float32)


def check(config: Config, delay: int) -> None:
    """Raises: UserError for a field out of range or at odds with another."""
    validate(config)
    if config.random_steps > config.capacity:
        raise UserError(f"random_steps = {config.random_steps}: must be at most capacity = {config.capacity}")
    if config.num_steps % delay:
        raise UserError(f"num_steps = {config.num_steps}: must be a multiple of {delay}, the critics' updates per update of the actor")


def build(env: Env, space: spaces.Hybrid, config: Config, method: Method, delay: int = 1) -> Algorithm:
    """The algorithm of a method, for one member. Raises: UserError for a field out of range."""
    check(config, delay)

    def collect(key: Key, cursor: rollout.Cursor, task: Any, choose: Callable[..., Choice], num: int) -> Any:
        """(cursor, rows [num], episode sums [num]) of `num` steps by choose(key, obs)."""

        def act(key: Key, obs: Obs) -> tuple[Action, Any]:
            choice = choose(key, flat(obs))
            return play(space, choice), {"stored": choice.stored}

        cursor, steps, episodes = rollout.unroll(key, env, task.env_params, act, cursor, num)
        obs, next_obs = (jax.vmap(flat)(x) for x in (steps.obs, steps.next_obs))
        return cursor, Row(obs, steps.extra["stored"], steps.reward, next_obs, steps.terminated), episodes

    def init(key: Key, hyper: Any, task: Any) -> State:
        key_learner, key_env, key_random, key_begin = jax.random.split(key, 4)
        learner = method.init(key_learner, hyper)
        cursor = rollout.start(key_env, env, task.env_params)
        random = lambda key, obs: method.random(key, learner, obs)  # noqa: E731
        cursor, rows, _ = collect(key_random, cursor, task, random, config.random_steps)
        buffer = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), config.capacity), rows)
        learner = learner if method.begin is None else method.begin(key_begin, learner, buffer, hyper)
        return State(learner, buffer, cursor, jnp.ones(()), jnp.zeros((), jnp.int32))

    def step(key: Key, state: State, hyper: Any, task: Any) -> tuple[State, Metrics]:
        key_rounds, key_refresh = jax.random.split(key)

        def learn(learner: Learner, key: Key, buffer: replay.Buffer) -> tuple[Learner, Metrics]:
            key_batch, key_critic, key_actor = jax.random.split(key, 3)
            batches = replay.sample(buffer, key_batch, delay * config.batch_size)
            batches = jax.tree.map(lambda x: x.reshape(delay, config.batch_size, *x.shape[1:]), batches)
            learner, metrics = jax.lax.scan(
                lambda learner, x: method.critic(x[0], learner, x[1], hyper), learner, (jax.random.split(key_critic, delay), batches)
            )
            learner, more = method.actor(key_actor, learner, jax.tree.map(lambda x: x[-1], batches), hyper)
            return learner, {**jax.tree.map(jnp.mean, metrics), **more}

        def one_round(carry: Any, key: Key) -> tuple[Any, Any]:
            key_collect, key_learn = jax.random.split(key)
            learner, buffer, cursor, t = carry
            exploration = optim.linear(1.0, hyper.explore_end, t / hyper.explore_steps)
            explore = lambda key, obs: method.explore(key, learner, obs, exploration)  # noqa: E731
            cursor, rows, episodes = collect(key_collect, cursor, task, explore, delay)
            buffer = replay.add(buffer, rows)
            keys = jax.random.split(key_learn, config.num_updates)
            new, metrics = jax.lax.scan(lambda learner, key: learn(learner, key, buffer), learner, keys)
            return (new, buffer, cursor, t + delay), (metrics, episodes)

        start = (state.learner, state.buffer, state.cursor, state.t)
        rounds = jax.random.split(key_rounds, config.num_steps // delay)
        (learner, buffer, cursor, t), (metrics, episodes) = jax.lax.scan(one_round, start, rounds)
        metrics = {**jax.tree.map(jnp.mean, metrics), **rollout.episode_metrics(episodes)}
        if method.refresh is not None:
            learner, more = method.refresh(key_refresh, learner, buffer, hyper)
            metrics |= more
        exploration = optim.linear(1.0, hyper.explore_end, t / hyper.explore_steps)
        return State(learner, buffer, cursor, exploration, t), metrics

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        if greedy:
            return play(space, method.act(state.learner, flat(obs)))
        return play(space, method.explore(key, state.learner, flat(obs), state.exploration))

    return Algorithm(init, step, act)
