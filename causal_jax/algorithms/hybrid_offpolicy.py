"""Q-learning with actors for hybrid actions: P-DQN, PADDPG and HHQN, on the loop of off_policy.py.

pdqn (Xiong et al. 2018, arXiv 1810.06394): an actor proposes the parameters x of ALL actions, Q(s, x) [K] values every action; k is the
best.
paddpg (Hausknecht & Stone 2016, arXiv 1511.04143): one actor gives K activations and all parameters, DDPG treats them as one real action;
k is the largest activation.
hhqn (Fu et al. 2019, arXiv 1903.04959, for one agent): a Q-network picks k; an actor, told k, gives its parameters, by a critic Q(s, k,
z).
All three bound parameters by inverting gradients (Hausknecht & Stone), act at random with a chance that falls from 1, and regress on one-
step targets. Defaults: those of Bester et al. (arXiv 1905.04388) for P-DQN on Platform, but for gamma 0.99 (theirs 0.9).
Departures: no imitation of the environment's start parameters (Bester et al.'s pass-through layer), which are knowledge of the task; one-
step targets, where PADDPG's authors later mix in returns; not the multi-pass network of Bester et al., which is another method.
Many actions: with K = 1024 of one parameter P-DQN and PADDPG store 1,024 and 2,048 numbers a step (10,000 steps: 41 and 82 MB a member),
HHQN stores k and z; work per update is a few layers of K inputs and outputs, linear in K.
Reproduce: python -m experiments.dlpa_rivals
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax import networks, off_policy, spaces
from causal_jax.fields import option
from causal_jax.off_policy import Choice, Hyper, Learner, Method, Row, ascend_inverted, descend, follow, td_target
from causal_jax.types import Algorithm, Env, Key, Metrics

__all__ = ["Config", "Hyper", "Task", "build", "steps_per_update"]
METHODS = ("pdqn", "paddpg", "hhqn")


@dataclasses.dataclass(frozen=True)
class Config(off_policy.Config):
    """What decides shapes and control flow."""

    method: str = option("pdqn", choices=METHODS)
    """Which of the three."""


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


def steps_per_update(config: Config) -> int:
    """Environment steps of one step of the algorithm."""
    return config.num_steps


def _net(config: Config, inputs: int, outputs: int, final_scale: float = 1.0) -> Any:
    return networks.mlp(inputs, config.hidden, outputs, activation="relu", final_scale=final_scale)


def _join(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts, axis=-1)


def _epsilon_greedy(random: Any, act: Any) -> Any:
    def explore(key: Key, learner: Learner, obs: jax.Array, exploration: jax.Array) -> Choice:
        key_coin, key_random = jax.random.split(key)
        return off_policy.pick(jax.random.uniform(key_coin) < exploration, random(key_random, learner, obs), act(learner, obs))

    return explore


def pdqn(space: spaces.Hybrid, num_obs: int, config: Config) -> Method:
    """P-DQN; stored: {"k" int32 [], "x" [num_all]}."""
    q, mu = _net(config, num_obs + space.num_all, space.n), _net(config, num_obs, space.num_all, 0.01)

    def choice(k: jax.Array, x: jax.Array) -> Choice:
        x = jnp.clip(x, -1.0, 1.0)
        return Choice(k, space.take(k, x), {"k": k, "x": x})

    def random(key: Key, learner: Learner, obs: jax.Array) -> Choice:
        key_k, key_x = jax.random.split(key)
        return choice(jax.random.randint(key_k, (), 0, space.n), jax.random.uniform(key_x, (space.num_all,), minval=-1.0))

    def act(learner: Learner, obs: jax.Array) -> Choice:
        x = mu.apply(learner.online["actor"], obs)
        return choice(jnp.argmax(q.apply(learner.online["critic"], _join(obs, x))).astype(jnp.int32), x)

    def critic(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        next_x = mu.apply(learner.target["actor"], rows.next_obs)
        best = jnp.max(q.apply(learner.target["critic"], _join(rows.next_obs, next_x)), axis=-1)
        target = td_target(rows.reward, rows.terminated, best, hyper.gamma)

        def loss(params: Any) -> jax.Array:
            values = q.apply(params, _join(rows.obs, rows.stored["x"]))
            return jnp.mean(jnp.square(jnp.take_along_axis(values, rows.stored["k"][:, None], -1)[:, 0] - target))

        learner, value = descend(learner, "critic", loss, hyper.lr, hyper)
        return learner, {"critic_loss": value, "target": jnp.mean(target)}

    def actor(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        def loss(params: Any) -> jax.Array:  # the sum over all k: every parameter is improved, as in the paper
            value = lambda x: jnp.sum(q.apply(learner.online["critic"], _join(rows.obs, x))) / len(rows.obs)  # noqa: E731
            return ascend_inverted(value, mu.apply(params, rows.obs))

        learner, value = descend(learner, "actor", loss, hyper.actor_lr, hyper)
        return follow(learner, hyper), {"actor_loss": value}

    init = lambda key, hyper: off_policy.learner(key, {"critic": q, "actor": mu})  # noqa: E731
    return Method(init, random, _epsilon_greedy(random, act), act, critic, actor)


def paddpg(space: spaces.Hybrid, num_obs: int, config: Config) -> Method:
    """PADDPG; stored: {"x" [K + num_all]}, activations of the choices first."""
    size = space.n + space.num_all
    q, mu = _net(config, num_obs + size, 1), _net(config, num_obs, size, 0.01)

    def choice(x: jax.Array) -> Choice:
        x = jnp.clip(x, -1.0, 1.0)
        k = jnp.argmax(x[: space.n]).astype(jnp.int32)
        return Choice(k, space.take(k, x[space.n :]), {"x": x})

    def random(key: Key, learner: Learner, obs: jax.Array) -> Choice:
        return choice(jax.random.uniform(key, (size,), minval=-1.0))

    def act(learner: Learner, obs: jax.Array) -> Choice:
        return choice(mu.apply(learner.online["actor"], obs))

    def critic(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        next_x = mu.apply(learner.target["actor"], rows.next_obs)
        next_value = q.apply(learner.target["critic"], _join(rows.next_obs, next_x))[:, 0]
        target = td_target(rows.reward, rows.terminated, next_value, hyper.gamma)
        loss = lambda p: jnp.mean(jnp.square(q.apply(p, _join(rows.obs, rows.stored["x"]))[:, 0] - target))  # noqa: E731
        learner, value = descend(learner, "critic", loss, hyper.lr, hyper)
        return learner, {"critic_loss": value, "target": jnp.mean(target)}

    def actor(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        value = lambda x: jnp.mean(q.apply(learner.online["critic"], _join(rows.obs, x)))  # noqa: E731
        loss = lambda params: ascend_inverted(value, mu.apply(params, rows.obs))  # noqa: E731
        learner, value_of = descend(learner, "actor", loss, hyper.actor_lr, hyper)
        return follow(learner, hyper), {"actor_loss": value_of}

    init = lambda key, hyper: off_policy.learner(key, {"critic": q, "actor": mu})  # noqa: E731
    return Method(init, random, _epsilon_greedy(random, act), act, critic, actor)


def hhqn(space: spaces.Hybrid, num_obs: int, config: Config) -> Method:
    """HHQN; stored: {"k" int32 [], "z" [Z]}. Networks: high [K], critic of (s, k, z), actor of (s, k)."""
    unit, num_k, num_z = spaces.Hybrid(space.sizes), space.n, space.num_parameters
    nets = {
        "high": _net(config, num_obs, num_k),
        "critic": _net(config, num_obs + num_k + num_z, 1),
        "actor": _net(config, num_obs + num_k, num_z, 0.01),
    }

    def told(obs: jax.Array, k: jax.Array) -> jax.Array:
        return _join(obs, jax.nn.one_hot(k, num_k))

    def own(k: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.where(unit.slots(k)[1], z, 0.0)

    def best(params: Any, obs: jax.Array) -> jax.Array:
        return jnp.argmax(nets["high"].apply(params["high"], obs), axis=-1).astype(jnp.int32)

    def low(params: Any, obs: jax.Array, k: jax.Array) -> jax.Array:
        return own(k, nets["actor"].apply(params["actor"], told(obs, k)))

    def random(key: Key, learner: Learner, obs: jax.Array) -> Choice:
        k, z = unit.sample(key)
        return Choice(k, z, {"k": k, "z": z})

    def act(learner: Learner, obs: jax.Array) -> Choice:
        k = best(learner.online, obs)
        z = jnp.clip(low(learner.online, obs, k), -1.0, 1.0)
        return Choice(k, z, {"k": k, "z": z})

    def critic(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        k, z = rows.stored["k"], rows.stored["z"]
        highest = jnp.max(nets["high"].apply(learner.target["high"], rows.next_obs), axis=-1)
        next_k = best(learner.target, rows.next_obs)
        next_input = _join(told(rows.next_obs, next_k), low(learner.target, rows.next_obs, next_k))
        lowest = nets["critic"].apply(learner.target["critic"], next_input)[:, 0]
        high_target = td_target(rows.reward, rows.terminated, highest, hyper.gamma)
        low_target = td_target(rows.reward, rows.terminated, lowest, hyper.gamma)

        def high_loss(params: Any) -> jax.Array:
            values = nets["high"].apply(params, rows.obs)
            return jnp.mean(jnp.square(jnp.take_along_axis(values, k[:, None], -1)[:, 0] - high_target))

        def low_loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(nets["critic"].apply(params, _join(told(rows.obs, k), z))[:, 0] - low_target))

        learner, high_value = descend(learner, "high", high_loss, hyper.lr, hyper)
        learner, low_value = descend(learner, "critic", low_loss, hyper.lr, hyper)
        return learner, {"high_loss": high_value, "critic_loss": low_value, "target": jnp.mean(low_target)}

    def actor(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        k = rows.stored["k"]
        value = lambda z: jnp.mean(nets["critic"].apply(learner.online["critic"], _join(told(rows.obs, k), z)))  # noqa: E731
        loss = lambda params: ascend_inverted(value, low({"actor": params}, rows.obs, k))  # noqa: E731
        learner, value_of = descend(learner, "actor", loss, hyper.actor_lr, hyper)
        return follow(learner, hyper), {"actor_loss": value_of}

    init = lambda key, hyper: off_policy.learner(key, nets)  # noqa: E731
    return Method(init, random, _epsilon_greedy(random, act), act, critic, actor)


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """One member. Raises: UserError for a field out of range, or an environment without hybrid actions."""
    space = off_policy.hybrid_space(env, env_params, config.method)
    method = {"pdqn": pdqn, "paddpg": paddpg, "hhqn": hhqn}[config.method if config.method in METHODS else "pdqn"]
    return off_policy.build(env, space, config, method(space, spaces.flat_size(env.observation_space(env_params)), config))
