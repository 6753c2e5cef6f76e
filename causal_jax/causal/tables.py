"""First layers over one-hot inputs as sums of table rows: an exact shortcut of FCDL's dynamics model (not in the paper or its code).

A source feature is u_i = relu(x_i W_i + b_i). With x_i one-hot it is one of C rows T_i[c], so what a linear layer V_ji adds for source i is
one of C rows T_i[c] V_ji, computed once per set of parameters and not per sample. The masked first layer of N predictors costs then
N * N * C * F multiply-adds per sample instead of N * S * F * F: about a thirteenth at N = 10, C = 5, F = 128.
In training the inputs of later rollout steps are hard samples with soft gradients. The gradient for x_i is not T_i[c]: it is what the relu
lets through at the chosen c, relu'(.) W_i V_ji, a second table ("slope"). `masked_rows` has the value of the first and the gradient of
the second.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Mask = Float[Array, "B J I"]
OneHot = Float[Array, "B I C"]
Table = Float[Array, "J I C O"]
Slope = Float[Array, "J I C C O"]


def table(weight: Float[Array, "I C F"], bias: Float[Array, "I F"], layer: Float[Array, "J I F O"]) -> Table:
    """Row [j, i, c]: relu(W_i[c] + b_i) V_ji, what source i in state c adds to the layer of target j."""
    return _through(jax.nn.relu(weight + bias[:, None]), layer)


def slope(weight: Float[Array, "I C F"], bias: Float[Array, "I F"], layer: Float[Array, "J I F O"]) -> Slope:
    """Row [j, i, c, c']: the derivative by x_i[c'] of what source i adds to the layer of target j, at x_i = one-hot(c). No gradient."""
    weight, bias, layer = jax.lax.stop_gradient((weight, bias, layer))
    passes = (weight + bias[:, None] > 0).astype(weight.dtype)
    rows = passes[:, :, None] * weight[:, None]
    return _through(rows.reshape(rows.shape[0], -1, rows.shape[-1]), layer).reshape(*layer.shape[:2], *rows.shape[1:3], -1)


def _through(rows: jax.Array, layer: jax.Array) -> jax.Array:
    """Rows [I, R, F] of every source through its part of the layer [J, I, F, O]: -> [J, I, R, O].

    A product for every (j, i): as one product for every i, forward and backward would transpose the layer, which costs more than they do.
    """
    return jnp.matmul(jnp.broadcast_to(rows, (layer.shape[0], *rows.shape)), layer)


@jax.custom_vjp
def masked_rows(mask: Mask, x: OneHot, table: Table, slope: Slope) -> Float[Array, "J B O"]:
    """sum_i mask[b, j, i] relu(x[b, i] W_i + b_i) V_ji for one-hot x, with the gradients of exactly this expression: -> [J, B, O].

    Args: mask: [B, J, I] in {0, 1}. x: [B, I, C], exactly one-hot. table, slope: of the same layer, from the functions of that name.
    Targets come first: each has its own layers and the next product is batched over them.
    """
    return _rows(mask, x, table)[0]


def _flat(table: jax.Array) -> jax.Array:
    return table.reshape(table.shape[0], -1, table.shape[-1])


def _rows(mask: jax.Array, x: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    chosen = (mask[..., None] * x[:, None]).reshape(*mask.shape[:2], -1)
    return jnp.einsum("bjk,jko->jbo", chosen, _flat(table)), chosen


def _forward(mask: jax.Array, x: jax.Array, table: jax.Array, slope: jax.Array) -> tuple[jax.Array, Any]:
    out, chosen = _rows(mask, x, table)
    return out, (mask, x, chosen, table, slope)


def _backward(saved: Any, d: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    mask, x, chosen, table, slope = saved
    num_choices = x.shape[-1]
    by_source = (*mask.shape[1:], num_choices, -1, mask.shape[0])  # samples come last: what is summed below runs over whole rows of them
    selected, one_hot = jnp.moveaxis(chosen, 0, -1).reshape(by_source), jnp.moveaxis(x, 0, -1)
    d_table = jnp.einsum("bjk,jbo->jko", chosen, d).reshape(table.shape)
    d_mask = jnp.einsum("jbo,jko->jkb", d, _flat(table)).reshape(by_source)[:, :, :, 0]
    d_x = jnp.einsum("jbo,jko->jkb", d, _flat(slope)).reshape(by_source)
    d_mask, d_x = jnp.sum(d_mask * one_hot, axis=2), jnp.sum(d_x * selected, axis=(0, 2))
    return jnp.moveaxis(d_mask, -1, 0), jnp.moveaxis(d_x, -1, 0), d_table, None


masked_rows.defvjp(_forward, _backward)
