"""The effect model learned beside a policy, in one phase: what PPO's loop (algorithms/ppo.py, n_values="online") calls.

The papers (CEE arXiv 2501.14543, NPM arXiv 2312.06258) fit the model in a phase of its own and leave one phase open. Here every
transition that the policy collects goes into a ring, with the probabilities that it was drawn by, and the updates of
causal/effect_learning.py follow each rollout. The ring starts
with a few random steps, which also set the units of the inputs. Measured: python -m experiments.cee_questions online
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax import replay, rollout
from causal_jax.causal import effect_learning, inverse
from causal_jax.types import Action, Env, Key, Metrics, Obs, Transition, UserError


class State(NamedTuple):
    """What learning needs beside the model: the networks and their optimisers, the ring of transitions."""

    nets: effect_learning.Nets
    buffer: replay.Buffer


class Online(NamedTuple):
    """start(key, cursor, env_params, floor) -> (cursor, EffectModel, State), the cursor with a leading axis of environments [N];

    fit(key, state, model, transition, lr, floor) -> (state, model, metrics), transitions [B, ...] with extra["action"] and
    extra["log_policy"] [B, A], the log-probabilities of all actions that the policy gave where it acted.
    """

    start: Callable[..., tuple[rollout.Cursor, inverse.EffectModel, State]]
    fit: Callable[..., tuple[State, inverse.EffectModel, Metrics]]


def build(
    env: Env,
    env_params: Any,
    *,
    num_envs: int,
    num_rows: int,
    warmup_steps: int,
    capacity: int,
    num_updates: int,
    batch_size: int,
    hidden: Sequence[int],
    num_frequencies: int,
) -> Online:
    """For one member. num_rows: transitions that `fit` is given at once; the others as in `effect_model.Config`.

    Raises: UserError where actions are not Discrete, observations no vector, or the capacity less than what is added at once.
    """
    obs_size, num_actions = effect_learning.sizes(env, env_params)
    most = max(num_rows, num_envs * warmup_steps)
    if capacity < most:
        raise UserError(f"effect_capacity = {capacity}: must be at least {most}, the transitions collected at once")
    learner = effect_learning.learner(
        obs_size, num_actions, inverse_hidden=hidden, n_hidden=hidden, batch_size=batch_size, num_frequencies=num_frequencies
    )

    def rows_of(transition: Transition) -> effect_learning.Row:
        obs, next_obs = jnp.asarray(transition.obs, jnp.float32), jnp.asarray(transition.next_obs, jnp.float32)
        return effect_learning.Row(obs, transition.extra["action"], next_obs, ~transition.truncated, transition.extra["log_policy"])

    def start(key: Key, cursor: rollout.Cursor, env_params: Any, floor: Any) -> tuple[rollout.Cursor, inverse.EffectModel, State]:
        key_inverse, key_n, key_steps = jax.random.split(key, 3)
        uniform = jnp.full(num_actions, 1.0 / num_actions)

        def random(key: Key, obs: Obs) -> tuple[Action, dict[str, Any]]:
            action = jax.random.randint(key, (), 0, num_actions)
            return action, {"action": action, "log_policy": jnp.log(uniform)}

        def one(key: Key, cursor: rollout.Cursor) -> tuple[rollout.Cursor, Transition]:
            return rollout.unroll(key, env, env_params, random, cursor, warmup_steps)[:2]

        cursor, transition = jax.vmap(one)(jax.random.split(key_steps, num_envs), cursor)
        rows = rows_of(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transition))
        buffer = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), capacity), rows)
        nets = learner.init(key_inverse, key_n)
        scaler = inverse.fit_scaler(rows.obs, rows.next_obs, num_frequencies)
        return cursor, inverse.EffectModel(nets.network, scaler, jnp.asarray(floor, jnp.float32), uniform), State(nets, buffer)

    def fit(
        key: Key, state: State, model: inverse.EffectModel, transition: Transition, lr: Any, floor: Any
    ) -> tuple[State, inverse.EffectModel, Metrics]:
        buffer = replay.add(state.buffer, rows_of(transition))
        model = model._replace(floor=jnp.asarray(floor, jnp.float32))

        def update(nets: effect_learning.Nets, key: Key) -> tuple[effect_learning.Nets, Metrics]:
            return learner.update(key, nets, model, buffer, lr, lr, 1)

        nets, metrics = jax.lax.scan(update, state.nets, jax.random.split(key, num_updates))
        return State(nets, buffer), model._replace(network=nets.network), jax.tree.map(jnp.mean, metrics)

    return Online(start, fit)
