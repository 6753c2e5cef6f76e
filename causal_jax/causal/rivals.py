"""Dense dynamics models, rivals of FCDL that see every variable: one network for all (MLP), and message passing (GNN).

FCDL (arXiv 2406.03234; authors' inference_mlp.py, inference_gnn.py). Both are a `dynamics.Model`, so rollouts, losses and the planner are
the same. Outputs have no graph. All layers are drawn as PyTorch's default, U(+-1 / sqrt(fan_in)). Modular, a dense model of separate
networks, is `Spec(adjacency="full")`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from causal_jax.causal import predictors
from causal_jax.causal.dynamics import Model, Noise, State, Step
from causal_jax.causal.predictors import Spec
from causal_jax.networks import mlp, uniform
from causal_jax.types import Key, Network, Params


def _torch_mlp(num_in: int, hidden: Sequence[int], num_out: int) -> Network:
    return mlp(num_in, hidden, num_out, "relu", "torch")


def per_variable(key: Key, num: int, num_in: int, num_out: int) -> Params:
    """A linear layer of its own for each of `num` variables, U(+-1 / sqrt(in)): {"w": [num, in, out], "b": [num, out]}. key: consumed."""
    key_w, key_b = jax.random.split(key)
    bound = 1.0 / math.sqrt(num_in)
    return {"w": uniform(key_w, (num, num_in, num_out), bound), "b": uniform(key_b, (num, num_out), bound)}


def _real_action(spec: Spec, action: jax.Array) -> jax.Array:
    """[B, M a]: the action as the networks read it, from int [B] or float [B, M, a]."""
    return jax.nn.one_hot(action, spec.action_size) if spec.discrete else action.reshape(action.shape[0], -1)


def dense(spec: Spec, hidden: Sequence[int] = (1024, 1024, 1024)) -> Model:
    """The authors' MLP: concat(all variables, action) -> hidden (relu) -> outputs of all variables. (512,) * 4 for Magnetic.

    Of the spec only the variables, the action and the head count. Raises: UserError for a spec out of range.
    """
    predictors.check(spec)
    num_in = spec.num_variables * spec.variable_size + spec.num_actions * spec.action_size
    network = _torch_mlp(num_in, hidden, spec.num_variables * spec.output_size)

    def init(key: Key) -> tuple[Params, State]:
        return network.init(key), State({}, None)

    def step(params: Params, rows: None, state: State, obs: jax.Array, action: jax.Array, noise: Noise | None) -> tuple[Step, State]:
        x = jnp.concatenate([obs.reshape(obs.shape[0], -1), _real_action(spec, action)], axis=-1)
        return Step(network.apply(params, x).reshape(-1, spec.num_variables, spec.output_size)), state

    return Model(dense_spec(spec), init, lambda params, obs=None: None, step)


def gnn(spec: Spec, width: int = 256, hidden: int = 512) -> Model:
    """The authors' graph network: messages between all ordered pairs of variables, summed at the receiver.

    embed: C -> width, a layer per variable; message(i <- j) = MLP([e_i, e_j]), three hidden layers; node i = MLP([e_i, action, sum of its
    messages]), three hidden layers; out: width -> O, a layer per variable. The first message layer is linear in e_i and e_j apart, so it is
    computed once per variable and not once per pair. Raises: UserError for a spec out of range.
    """
    predictors.check(spec)
    n, num_action = spec.num_variables, spec.num_actions * spec.action_size
    message, node = _torch_mlp(2 * width, (hidden,) * 3, width), _torch_mlp(2 * width + num_action, (hidden,) * 3, width)
    other = 1.0 - jnp.eye(n)

    def init(key: Key) -> tuple[Params, State]:
        keys = jax.random.split(key, 4)
        embed, out = per_variable(keys[0], n, spec.variable_size, width), per_variable(keys[3], n, width, spec.output_size)
        return {"embed": embed, "message": message.init(keys[1]), "node": node.init(keys[2]), "out": out}, State({}, None)

    def step(params: Params, rows: None, state: State, obs: jax.Array, action: jax.Array, noise: Noise | None) -> tuple[Step, State]:
        e = jnp.einsum("bic,icf->bif", obs, params["embed"]["w"]) + params["embed"]["b"]
        first = params["message"]["layers_0"]
        to, by = e @ first["kernel"][:width], e @ first["kernel"][width:]
        x = jax.nn.relu(to[:, :, None] + by[:, None] + first["bias"])
        for i in (1, 2):
            layer = params["message"][f"layers_{i}"]
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        last = params["message"]["layers_3"]  # linear: the sum over senders comes before it
        received = jnp.einsum("bijf,ij->bif", x, other) @ last["kernel"] + (n - 1) * last["bias"]
        acted = jnp.broadcast_to(_real_action(spec, action)[:, None], (obs.shape[0], n, num_action))
        x = node.apply(params["node"], jnp.concatenate([e, acted, received], axis=-1))
        return Step(jnp.einsum("bif,ifo->bio", x, params["out"]["w"]) + params["out"]["b"]), state

    return Model(dense_spec(spec), init, lambda params, obs=None: None, step)


def dense_spec(spec: Spec) -> Spec:
    """The spec with no graph to learn, so that no edge noise is drawn and no graph terms enter the loss."""
    return dataclasses.replace(spec, adjacency="full")
