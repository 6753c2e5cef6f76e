"""An approximate information state: a recurrent code of a patient's history from which the next observation can be told.

Encoder: two relu layers and an LSTM, whose output is the code z_t; decoder: (z_t, next action) -> next observation, two relu layers. Loss:
the negative log-likelihood under a Gaussian of variance 1, summed over time, averaged over patients (Subramanian et al. 2022; Killian et
al. 2020; the sizes of Tang et al. 2022: 64 codes, layers of 128, Adam 5e-4, batches of 128, patience of 50 epochs).
Departure: the weights of the best validation epoch are kept, not an average of weights.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from causal_jax import networks, optim
from causal_jax.types import Key, Network, Params, UserError


class Sequences(NamedTuple):
    """N histories of L rows: inputs [N, L, I]; action int [N, L], joint, of the row's own hours; obs [N, L, O]; exists bool [N, L]."""

    inputs: jax.Array
    action: jax.Array
    obs: jax.Array
    exists: jax.Array


class Encoder(NamedTuple):
    """init(key) -> params; codes(params, inputs [L, I]) -> [L, D]; loss(params, one history) -> []."""

    init: Any
    codes: Any
    loss: Any


class Fitted(NamedTuple):
    """params of the best epoch, and losses per epoch [E] on the training and validation histories."""

    params: Params
    train: np.ndarray
    validation: np.ndarray


def build(num_inputs: int, num_actions: int, num_obs: int, size: int = 64, width: int = 128) -> Encoder:
    """The networks for inputs [I], joint actions and observations [O]; size: D of the code; width: of the layers."""
    options: dict[str, Any] = {"activation": "relu", "init": "torch"}
    first: Network = networks.mlp(num_inputs, (width,), width, **options)
    gates = networks.mlp(width + size, (), 4 * size, **options)
    decoder = networks.mlp(size + num_actions, (width, width), num_obs, **options)

    def init(key: Key) -> Params:
        key_first, key_gates, key_decoder = jax.random.split(key, 3)
        return {"first": first.init(key_first), "lstm": gates.init(key_gates), "decoder": decoder.init(key_decoder)}

    def codes(params: Params, inputs: jax.Array) -> jax.Array:
        features = jax.nn.relu(first.apply(params["first"], inputs))

        def body(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            h, c = carry
            i, f, g, o = jnp.split(gates.apply(params["lstm"], jnp.concatenate([x, h])), 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jax.lax.scan(body, (jnp.zeros(size), jnp.zeros(size)), features)[1]

    def loss(params: Params, history: Sequences) -> jax.Array:
        z = codes(params, history.inputs)[:-1]
        inputs = jnp.concatenate([z, jax.nn.one_hot(history.action[1:], num_actions)], axis=-1)
        error = jnp.square(decoder.apply(params["decoder"], inputs) - history.obs[1:])
        nll = 0.5 * jnp.sum(error + math.log(2 * math.pi), axis=-1)
        return jnp.sum(jnp.where(history.exists[1:], nll, 0.0))

    return Encoder(init, codes, loss)


def fit(
    key: Key, encoder: Encoder, train: Sequences, validation: Sequences,
    *, lr: float = 5e-4, batch_size: int = 128, epochs: int = 1000, patience: int = 50,
) -> Fitted:  # fmt: skip
    """Train until the validation loss has not fallen for `patience` epochs. The key is consumed; the host drives the epochs.

    Raises: UserError for a batch larger than the training set.
    """
    num = train.inputs.shape[0]
    if not 1 <= batch_size <= num:
        raise UserError(f"batch_size = {batch_size}: must be 1 <= x <= {num}, the histories there are")
    adam, mean_loss = optim.adam(lr), lambda params, rows: jnp.mean(jax.vmap(encoder.loss, (None, 0))(params, rows))

    @jax.jit
    def epoch(key: Key, params: Params, opt_state: Any) -> tuple[Params, Any, jax.Array, jax.Array]:
        order = jax.random.permutation(key, num)[: num // batch_size * batch_size].reshape(-1, batch_size)

        def body(carry: tuple[Params, Any], index: jax.Array) -> tuple[tuple[Params, Any], jax.Array]:
            params, opt_state = carry
            value, grads = jax.value_and_grad(mean_loss)(params, jax.tree.map(lambda x: x[index], train))
            updates, opt_state = adam.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), value

        (params, opt_state), values = jax.lax.scan(body, (params, opt_state), order)
        return params, opt_state, jnp.mean(values), mean_loss(params, validation)

    key_init, key = jax.random.split(key)
    params = encoder.init(key_init)
    best, best_at, opt_state = params, -1, adam.init(params)
    history: list[tuple[float, float]] = []
    for e, key_epoch in enumerate(jax.random.split(key, epochs)):
        params, opt_state, on_train, on_validation = epoch(key_epoch, params, opt_state)
        history.append((float(on_train), float(on_validation)))
        if best_at < 0 or history[e][1] < history[best_at][1]:
            best, best_at = params, e
        if e - best_at >= patience:
            break
    losses = np.asarray(history)
    return Fitted(best, losses[:, 0], losses[:, 1])
