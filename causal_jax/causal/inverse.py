"""The two networks of phase 1: the inverse model p(b | s, s', pi) and the N-network N(s, a)[b] ~ E_{s'|s,a}[log p(b|s,s',pi) - log pi(b)].

CEE (arXiv 2501.14543), NPM (arXiv 2312.06258). `mode="authors"` is the published code for vector observations: 64-64 ReLU networks on raw
concat(s, s', pi) and concat(s, onehot(a)). It needs about a million updates, because a move is small beside the position and a one-hot
that is only added to the position says little about where a move is blocked.
`mode="definition"` estimates the same quantities with inputs and a head that learn faster (departures from the published networks):
- observations are standardised and joined by sines and cosines of them, displacements s' - s are standardised and take the place of s';
- in the N-network the action scales and shifts the features of the state, `relu(gain[a] * h(s) + shift[a])`, and the output is
  log(softmax(.) + floor) - log(pi + floor): every row belongs to a distribution over b, as the regression target does.

- head="distance" replaces the last two layers by points in a space of effects (causal/effect_space.py): masks of a thousand actions.

All A rows of the N-matrix cost one forward of the state part. Written for one state; the caller vmaps. Vector observations only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax import networks
from causal_jax.causal import effect_space
from causal_jax.types import Key, Network, Params

HEADS = ("softmax", "distance")
DIMS, RANK = 8, 32  # of the space of effects, and of the actions' table


class Scaler(NamedTuple):
    """Units of the inputs: mean, scale [D] of observations, displacement [D] of s' - s (root mean square), frequencies [K] or None."""

    mean: jax.Array
    scale: jax.Array
    displacement: jax.Array
    frequencies: jax.Array | None  # None, and no array without elements, which a checkpoint cannot hold


class EffectModel(NamedTuple):
    """What phase 2 reads: the N-network's params, its scaler (None in mode "authors"), the floor [] and the behaviour policy [A]."""

    network: Params
    scaler: Scaler | None
    floor: jax.Array
    policy: jax.Array


def fit_scaler(obs: jax.Array, next_obs: jax.Array, num_frequencies: int) -> Scaler:
    """Units from transitions: obs, next_obs [B, D] -> Scaler.

    A coordinate that never changes gets unit 1, and no unit is less than a tenth of the largest deviation: a flag that is rarely set would
    be worth hundreds of units when it is.
    """

    def unit(spread: jax.Array, deviation: jax.Array) -> jax.Array:
        spread = jnp.maximum(spread, 0.1 * jnp.max(jnp.abs(deviation), axis=0))
        return jnp.where(spread > 1e-6, spread, 1.0)

    mean, moved = jnp.mean(obs, axis=0), next_obs - obs
    displacement = unit(jnp.sqrt(jnp.mean(jnp.square(moved), axis=0)), moved)
    return Scaler(
        mean, unit(jnp.std(obs, axis=0), obs - mean), displacement, 2.0 ** jnp.arange(num_frequencies) if num_frequencies else None
    )


def features(scaler: Scaler | None, obs: jax.Array) -> jax.Array:
    """obs [D] -> [D (1 + 2K)]: standardised, then its sines and cosines. Without a scaler obs as it is."""
    if scaler is None:
        return obs
    x = (obs - scaler.mean) / scaler.scale
    if scaler.frequencies is None:
        return x
    phase = (x[:, None] * scaler.frequencies).reshape(-1)
    return jnp.concatenate([x, jnp.sin(phase), jnp.cos(phase)])


def num_features(obs_size: int, mode: str, num_frequencies: int) -> int:
    """The length of `features`."""
    return obs_size if mode == "authors" else obs_size * (1 + 2 * num_frequencies)


def inverse_model(obs_size: int, num_actions: int, hidden: Sequence[int], mode: str, num_frequencies: int = 0) -> Network:
    """p(b | s, s', pi): init(key) -> params; apply(params, scaler, obs [D], next_obs [D], policy [A]) -> logits [A]."""
    net = networks.mlp(num_features(obs_size, mode, num_frequencies) + obs_size + num_actions, hidden, num_actions, "relu", "torch")

    def apply(params: Params, scaler: Scaler | None, obs: jax.Array, next_obs: jax.Array, policy: jax.Array) -> jax.Array:
        after = next_obs if scaler is None else (next_obs - obs) / scaler.displacement
        x, first = jnp.concatenate([features(scaler, obs), after]), params["layers_0"]
        # The policy's part apart: under vmap over states it is computed once.
        hidden = x @ first["kernel"][: x.shape[0]] + policy @ first["kernel"][x.shape[0] :] + first["bias"]
        logits: jax.Array = _dense(params, hidden, start=1)
        return logits

    return Network(net.init, apply)


def n_network(
    obs_size: int, num_actions: int, hidden: Sequence[int], mode: str, num_frequencies: int = 0, head: str = "softmax"
) -> Network:
    """N(s, a): init(key) -> params; apply(model: EffectModel, obs [D], action int []) -> [A] nats, the row of action a.

    mode "authors": an MLP on concat(s, onehot(a)). mode "definition": layer sizes (features, *hidden), then the action's gain and shift
    on the last of them, then A outputs; with head "distance" then a matrix [8, 32] that maps the actions' table [A, 32] to their effects.
    """
    size = num_features(obs_size, mode, num_frequencies)
    if mode == "authors":
        init = networks.mlp(size + num_actions, hidden, num_actions, "relu", "torch").init
    elif head == "distance":
        state_part = networks.mlp(size, hidden, DIMS * RANK, "relu", "torch")

        def init(key: Key) -> Params:
            key_state, key_actions = jax.random.split(key)
            return {"state": state_part.init(key_state), "actions": 0.1 * jax.random.normal(key_actions, (num_actions, RANK))}
    else:
        trunk = networks.mlp(size, hidden[:-1], hidden[-1], "relu", "torch")
        out = networks.mlp(hidden[-1], (), num_actions, "relu", "torch")

        def init(key: Key) -> Params:
            key_trunk, key_out, key_gain, key_shift = jax.random.split(key, 4)
            shape = (num_actions, hidden[-1])
            gain, shift = 1.0 + 0.5 * jax.random.normal(key_gain, shape), 0.5 * jax.random.normal(key_shift, shape)
            return {"trunk": trunk.init(key_trunk), "out": out.init(key_out), "gain": gain, "shift": shift}

    return Network(init, lambda model, obs, action: _rows(model, obs, lambda table: table[action]))


def n_matrix(model: EffectModel, obs: jax.Array) -> jax.Array:
    """The N-matrix of one state, [A, A] nats, row = executed action: obs [D]. No product with one-hots, the state part runs once."""
    return _rows(model, obs, lambda table: table)


def points(model: EffectModel, obs: jax.Array) -> jax.Array | None:
    """The effects of all actions at one state as points, [8, A] (causal/effect_space.py); None where the head has none: obs [D]."""
    params = model.network
    if "actions" not in params:
        return None
    basis = _dense(params["state"], features(model.scaler, obs)).reshape(DIMS, RANK)
    z: jax.Array = basis @ params["actions"].T
    return z


def _rows(model: EffectModel, obs: jax.Array, pick: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Rows of the N-matrix; `pick` takes what belongs to the wanted actions out of a table [A, H]."""
    z = points(model, obs)
    if z is not None:
        actions = pick(jnp.arange(z.shape[1]))
        one = lambda action: effect_space.row(z, action, model.policy, model.floor)  # noqa: E731
        return jax.vmap(one)(actions) if actions.ndim else one(actions)
    params, x = model.network, features(model.scaler, obs)
    if model.scaler is None:  # concat(s, onehot(a)) @ kernel = s @ (first rows) + row a of the others
        first = params["layers_0"]
        hidden = x @ first["kernel"][: x.shape[0]] + first["bias"] + pick(first["kernel"][x.shape[0] :])
        row: jax.Array = _dense(params, hidden, start=1)
        return row
    hidden = pick(params["gain"]) * _dense(params["trunk"], x) + pick(params["shift"])
    probability = jax.nn.softmax(_dense(params["out"], jax.nn.relu(hidden)))
    return jnp.log(probability + model.floor) - jnp.log(model.policy + model.floor)


def _dense(params: Params, x: jax.Array, start: int = 0) -> Any:
    """The layers of an mlp from number `start` on; with start > 0 x is the output of the layer before."""
    for i in range(start, len(params)):
        x = (jax.nn.relu(x) if i else x) @ params[f"layers_{i}"]["kernel"] + params[f"layers_{i}"]["bias"]
    return x
