"""One update of the inverse model and of the N-network (CEE arXiv 2501.14543, NPM arXiv 2312.06258), from a ring of transitions.

Used by phase 1 (algorithms/effect_model.py), whose policy is uniform, and inside PPO's own loop (algorithms/ppo.py, n_values="online"),
whose policy is not. There the behaviour makes the posterior p(b | s, s') ~ pi(b | s) P(s' | s, b): `log pi(b | s)` of the acting policy
is added to the logits in the cross-entropy, so that the logits themselves stay the posterior under the uniform policy, whoever acted. N
is conditional on the executed action and needs no correction. Both hold where pi > 0 only: who feeds this must keep every action possible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from causal_jax import optim, replay, spaces
from causal_jax.causal import effects, inverse
from causal_jax.types import Action, Env, Key, Metrics, Obs, Params, UserError


class Row(NamedTuple):
    """One transition of the ring; usable: bool, False where a time limit cut the step; log_policy [A] or None where actions are uniform."""

    obs: Obs
    action: Action
    next_obs: Obs
    usable: jax.Array
    log_policy: jax.Array | None = None


class Nets(NamedTuple):
    """What an update changes: params of the inverse model and of the N-network, and their optimisers' states."""

    inverse: Params
    inverse_opt: Any
    network: Params
    n_opt: Any


class Learner(NamedTuple):
    """init(key_inverse, key_n) -> Nets; update(key, nets, effect, buffer, inverse_lr, n_lr, num_n) -> (Nets, metrics).

    effect: an EffectModel, for its scaler, floor and policy; num_n int []: updates of the N-network after that of the inverse model.
    """

    init: Callable[[Key, Key], Nets]
    update: Callable[..., tuple[Nets, Metrics]]


def sizes(env: Env, env_params: Any) -> tuple[int, int]:
    """(length of an observation, number of actions). Raises: UserError where actions are not Discrete or observations no vector."""
    space = spaces.from_gymnax(env.action_space(env_params))
    if not isinstance(space, spaces.Discrete):
        raise UserError(f"env = {type(env).__name__}: effects need a Discrete action space, this one is {type(space).__name__}")
    shape = tuple(env.observation_space(env_params).shape)
    if len(shape) != 1:
        raise UserError(f"env = {type(env).__name__}: effects need vector observations, these have shape {shape}")
    return shape[0], space.n


def learner(
    obs_size: int,
    num_actions: int,
    *,
    inverse_hidden: Sequence[int],
    n_hidden: Sequence[int],
    batch_size: int,
    mode: str = "definition",
    num_frequencies: int = 0,
    head: str = "softmax",
    fresh: bool = False,
) -> Learner:
    """The networks of causal/inverse.py and their updates, for one member. fresh: each update of the N-network draws a batch of its own,

    else it reuses the inverse model's batch and logits.
    """
    inverse_net = inverse.inverse_model(obs_size, num_actions, inverse_hidden, mode, num_frequencies)
    n_net = inverse.n_network(obs_size, num_actions, n_hidden, mode, num_frequencies, head)

    def infer(params: Params, effect: inverse.EffectModel, rows: Row) -> jax.Array:
        logits: jax.Array = jax.vmap(inverse_net.apply, (None, None, 0, 0, None))(
            params, effect.scaler, rows.obs, rows.next_obs, effect.policy
        )
        return logits

    def inverse_loss(params: Params, effect: inverse.EffectModel, rows: Row) -> tuple[jax.Array, jax.Array]:
        logits = infer(params, effect, rows)
        acted = logits if rows.log_policy is None else logits + rows.log_policy
        return jnp.mean(jax.vmap(effects.idm_loss)(acted, rows.action) * rows.usable), logits

    def n_loss(params: Params, effect: inverse.EffectModel, logits: jax.Array, rows: Row) -> tuple[jax.Array, jax.Array]:
        target = jax.vmap(effects.n_target, (0, None, None))(logits, effect.policy, effect.floor)
        row = jax.vmap(n_net.apply, (None, 0, 0))(effect._replace(network=params), rows.obs, rows.action)
        diagonal = jnp.take_along_axis(row, rows.action[:, None], axis=1)
        return jnp.mean(jax.vmap(effects.n_loss)(row, target) * rows.usable), jnp.mean(diagonal)

    def descend(loss: Any, params: Params, opt_state: Any, lr: jax.Array, *args: Any) -> tuple[Params, Any, jax.Array, jax.Array]:
        (value, extra), grads = jax.value_and_grad(loss, has_aux=True)(params, *args)
        updates, opt_state = optim.adam(lr).update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value, extra

    def init(key_inverse: Key, key_n: Key) -> Nets:
        inverse_params, n_params = inverse_net.init(key_inverse), n_net.init(key_n)
        return Nets(inverse_params, optim.adam(0.0).init(inverse_params), n_params, optim.adam(0.0).init(n_params))

    def update(
        key: Key, nets: Nets, effect: inverse.EffectModel, buffer: replay.Buffer, inverse_lr: jax.Array, n_lr: jax.Array, num_n: Any
    ) -> tuple[Nets, Metrics]:
        key_inverse, key_n = jax.random.split(key)
        batch = replay.sample(buffer, key_inverse, batch_size)
        inverse_params, inverse_opt, loss, logits = descend(inverse_loss, nets.inverse, nets.inverse_opt, inverse_lr, effect, batch)
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch.action)

        def regress(i: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            key, n_params, n_opt, _, _ = carry
            pair = (logits, batch)
            if fresh:
                key, key_rows = jax.random.split(key)
                rows = replay.sample(buffer, key_rows, batch_size)
                pair = (infer(inverse_params, effect, rows), rows)
            return (key, *descend(n_loss, n_params, n_opt, n_lr, effect, *pair))

        # the trip count, not a select, so that a warm-up costs nothing
        carry = (key_n, nets.network, nets.n_opt, jnp.zeros(()), jnp.zeros(()))
        _, n_params, n_opt, error, diagonal = jax.lax.fori_loop(0, num_n, regress, carry)
        metrics = {"inverse_loss": loss, "inverse_accuracy": accuracy, "n_loss": error, "causal_effect": diagonal}
        return Nets(inverse_params, inverse_opt, n_params, n_opt), metrics

    return Learner(init, update)
