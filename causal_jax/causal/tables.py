"""First layers over one-hot inputs as sums of table rows: an exact shortcut of FCDL's dynamics model (not in the paper or its code).

A source feature is u_i = relu(x_i W_i + b_i). With x_i one-hot it is one of C rows T_i[c], so what a linear layer V_ji adds for source i is
one of C rows T_i[c] V_ji, computed once per set of parameters and not per sample. The masked first layer of N predictors costs then
N * N * C * F multiply-adds per sample instead of N * S * F * F, about a thirtieth at N = 10, C = 5, F = 128; the action, of which there is
one for all targets, costs none: its row is looked up.
In training the inputs of later rollout steps are hard samples with soft gradients. The gradient for x_i is not T_i[c]: it is what the relu
lets through at the chosen c, relu'(.) W_i V_ji, a second table ("slope"). `masked_rows` has the value of the first and the gradient of
the second.
The layer is most of the model's parameters: it is read where it lies, by one product forward and two backward, and never copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Tables(NamedTuple):
    """Table rows of one linear layer for J targets.

    state: [J, N C, O] and action: [J, A, O], what each choice of each source adds. slope: [J, N C C, O], row (i, c, c') the derivative by
    x_i[c'] at x_i = one-hot(c); it has no gradient.
    """

    state: Float[Array, "J R O"]
    action: Float[Array, "J A O"]
    slope: Float[Array, "J Q O"]


def tabulate(
    state_w: Float[Array, "N C F"],
    state_b: Float[Array, "N F"],
    action_w: Float[Array, "1 A F"],
    action_b: Float[Array, "1 F"],
    layer: Float[Array, "J S F O"],
) -> Tables:
    """The rows of a layer (target, source, in, out) over the relu features of N state variables and one action, S = N + 1."""
    features = jax.nn.relu(state_w + state_b[:, None])
    passes = jax.lax.stop_gradient((state_w + state_b[:, None] > 0)[:, :, None] * state_w[:, None])
    return _through(features, passes.reshape(passes.shape[0], -1, passes.shape[-1]), jax.nn.relu(action_w + action_b[:, None]), layer)


@jax.custom_vjp
def _through(state: jax.Array, passes: jax.Array, action: jax.Array, layer: jax.Array) -> Tables:
    """Features state [N, C, F], passes [N, C C, F] (without gradient) and action [1, A, F] through their parts of the layer."""
    n, c, _ = state.shape
    product = _each(_with_action(jnp.concatenate([state, passes], axis=1)), layer)[:, :n]
    return Tables(_flat(product[:, :, :c]), _flat(_each(action, layer[:, n:])), _flat(product[:, :, c:]))


def _through_forward(state: jax.Array, passes: jax.Array, action: jax.Array, layer: jax.Array) -> tuple[Tables, Any]:
    return _through(state, passes, action, layer), (state, action, layer)


def _through_backward(saved: Any, d: Tables) -> tuple[jax.Array, None, jax.Array, jax.Array]:
    state, action, layer = saved
    (n, c, _), (j, _, _, o) = state.shape, layer.shape
    d_state = jnp.concatenate([d.state.reshape(j, n, c, o), jnp.zeros((j, 1, c, o))], axis=1)
    # products over all sources, of which the action's counts for nothing: a slice of the layer would be a copy
    d_layer = jnp.matmul(jnp.swapaxes(_for_each_target(_with_action(state), layer), 2, 3), d_state)
    d_layer = d_layer.at[:, n:].set(jnp.matmul(jnp.swapaxes(_for_each_target(action, layer), 2, 3), d.action[:, None]))
    d_features = jnp.sum(jnp.matmul(d_state, jnp.swapaxes(layer, 2, 3)), axis=0)[:n]
    return d_features, None, jnp.sum(jnp.matmul(d.action[:, None], jnp.swapaxes(layer[:, n:], 2, 3)), axis=0), d_layer


_through.defvjp(_through_forward, _through_backward)


def _with_action(rows: jax.Array) -> jax.Array:
    """Rows [N, R, F] of the state variables, and zeros in the place of the action's: -> [N + 1, R, F]."""
    return jnp.pad(rows, ((0, 1), (0, 0), (0, 0)))


def _for_each_target(rows: jax.Array, layer: jax.Array) -> jax.Array:
    return jnp.broadcast_to(rows, (layer.shape[0], *rows.shape))


def _each(rows: jax.Array, layer: jax.Array) -> jax.Array:
    """Rows [S, R, F] of every source through its part of the layer [J, S, F, O]: -> [J, S, R, O].

    A product for every (j, i): as one product for every i, forward and backward would transpose the layer, which costs more than they do.
    """
    return jnp.matmul(_for_each_target(rows, layer), layer)


def _flat(table: jax.Array) -> jax.Array:
    return table.reshape(table.shape[0], -1, table.shape[-1])


@jax.custom_vjp
def masked_rows(
    mask: Float[Array, "B J N"],
    action_mask: Float[Array, "B J"],
    x: Float[Array, "B N C"],
    action: Int[Array, "B"],
    tables: Tables,
) -> Float[Array, "J B O"]:
    """sum_i mask[b, j, i] relu(x[b, i] W_i + b_i) V_ji over state variables and action, with the gradients of exactly this expression.

    Args: masks in {0, 1}. x: exactly one-hot. action: in [0, A). tables: from `tabulate`.
    Returns: [J, B, O]; targets come first: each has its own layers and the next product is batched over them.
    """
    acted = jnp.take(tables.action, action, axis=1, mode="clip") * jnp.swapaxes(action_mask, 0, 1)[..., None]
    return jnp.einsum("bjk,jko->jbo", _choose(mask, x), tables.state) + acted


def _choose(mask: jax.Array, one_hot: jax.Array) -> jax.Array:
    return (mask[..., None] * one_hot[:, None]).reshape(*mask.shape[:2], -1)


def _masked_rows_forward(*saved: Any) -> tuple[jax.Array, Any]:
    return masked_rows(*saved), saved


def _masked_rows_backward(saved: Any, d: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None, Tables]:
    mask, action_mask, x, action, tables = saved
    by_source = (*mask.shape[1:], x.shape[-1], -1, x.shape[0])  # samples come last: what is summed below runs over whole rows of them
    chosen = _choose(mask, x)
    selected, one_hot = jnp.moveaxis(chosen, 0, -1).reshape(by_source), jnp.moveaxis(x, 0, -1)
    d_mask = jnp.einsum("jbo,jko->jkb", d, tables.state).reshape(by_source)[:, :, :, 0]
    d_x = jnp.einsum("jbo,jko->jkb", d, tables.slope).reshape(by_source)
    d_mask, d_x = jnp.sum(d_mask * one_hot, axis=2), jnp.sum(d_x * selected, axis=(0, 2))
    d_action_mask = jnp.sum(d * jnp.take(tables.action, action, axis=1, mode="clip"), axis=-1)
    acted = action_mask[..., None] * jax.nn.one_hot(action, tables.action.shape[1])[:, None]
    d_rows = jnp.einsum("bjk,jbo->jko", jnp.concatenate([chosen, acted], axis=2), d)
    d_tables = tables._replace(state=d_rows[:, : chosen.shape[2]], action=d_rows[:, chosen.shape[2] :], slope=None)
    return jnp.moveaxis(d_mask, -1, 0), jnp.swapaxes(d_action_mask, 0, 1), jnp.moveaxis(d_x, -1, 0), None, d_tables


masked_rows.defvjp(_masked_rows_forward, _masked_rows_backward)
