"""Mixers F of AD-RL (arXiv 2504.21326, section 5.1): Q(s, a) = F(Q_1(s, a_1), ..., Q_K(s, a_K)), and the joint greedy action under them.

average (no parameters; DecQN's), linear (w . q + b), linear2 (two linear layers, the same class of functions), relu (one hidden layer),
monotone (ours: the same with signs that make F nondecreasing in every Q_k; QMIX's condition, Rashid et al. 2018). The paper names them and
gives no formulas. All start as the mean of q: relu and monotone by pairs of units, x = relu(x) - relu(-x).
The greedy joint action is exact for every mixer: the linear ones and the monotone one are maximised block by block, relu by enumerating
the joint space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.types import Key, Params, UserError

MIXERS = ("average", "linear", "linear2", "relu", "monotone")
MAX_JOINT = 2**16  # joint actions that are enumerated
HIDDEN = 32


class Mixer(NamedTuple):
    """init(key) -> params; apply(params, q [..., K]) -> [...]; weights(params) -> [K], signs tell what to maximise per block.

    weights is None where only enumeration finds the joint maximum.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    weights: Callable[[Params], jax.Array] | None


def build(name: str, num_blocks: int, hidden: int = HIDDEN) -> Mixer:
    """A mixer of K = num_blocks values by its name; hidden: units of the two-layer ones. Raises: UserError for an unknown name."""
    num = num_blocks

    def nothing(key: Key) -> Params:
        return {}

    def start(key: Key) -> Params:
        return {"w": jnp.full((num,), 1.0 / num), "b": jnp.zeros(())}

    if name == "average":
        return Mixer(nothing, lambda params, q: jnp.mean(q, axis=-1), lambda params: jnp.full((num,), 1.0 / num))
    if name == "linear":
        return Mixer(start, lambda params, q: jnp.sum(params["w"] * q, axis=-1) + params["b"], lambda params: params["w"])
    if name not in MIXERS:
        raise UserError(f"mixer = {name!r}: must be one of {', '.join(MIXERS)}")
    sign = jnp.asarray(np.where(np.arange(hidden) % 2 == 0, 1.0, -1.0), jnp.float32)

    def start2(key: Key) -> Params:
        """First layer 1 / K up to 10%, so that units differ; second layer so that the sum is the mean of q."""
        w1 = (1.0 + 0.1 * jax.random.normal(key, (hidden, num))) / num
        w2 = jnp.full((hidden,), (1.0 if name == "linear2" else 2.0) / hidden)
        if name == "monotone":
            w1, w2 = _inverse_softplus(jnp.maximum(w1, 1e-3)), _inverse_softplus(w2)
        else:
            w1, w2 = w1 * sign[:, None], w2 * sign
        return {"w1": w1, "b1": jnp.zeros((hidden,)), "w2": w2, "b2": jnp.zeros(())}

    def signed(params: Params) -> tuple[jax.Array, jax.Array]:
        if name != "monotone":
            return params["w1"], params["w2"]
        return sign[:, None] * jax.nn.softplus(params["w1"]), sign * jax.nn.softplus(params["w2"])

    def apply(params: Params, q: jax.Array) -> jax.Array:
        w1, w2 = signed(params)
        hidden_layer = q @ w1.T + params["b1"]
        hidden_layer = hidden_layer if name == "linear2" else jax.nn.relu(hidden_layer)
        return hidden_layer @ w2 + params["b2"]

    def weights(params: Params) -> jax.Array:
        w1, w2 = signed(params)
        return w2 @ w1  # linear2: the weights; monotone: all positive

    return Mixer(start2, apply, None if name == "relu" else weights)


def _inverse_softplus(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.expm1(x))


def check(name: str, sizes: tuple[int, ...]) -> None:
    """Raises: UserError where a mixer would have to enumerate more than MAX_JOINT joint actions."""
    if name == "relu" and math.prod(sizes) > MAX_JOINT:
        raise UserError(f"mixer = relu: enumerates {math.prod(sizes):,} joint actions, must be at most {MAX_JOINT:,}; use another mixer")


def greedy(mixer: Mixer, params: Params, sizes: tuple[int, ...], q: jax.Array, allowed: jax.Array) -> jax.Array:
    """The joint action of the largest F among those whose blocks are all allowed: int32 [K]. Ties: the first.

    Args: q: [K, A] values of padded blocks. allowed: bool [K, A], False on padding; each block has at least one. sizes: |A_k|, static.
    """
    if mixer.weights is None:
        return enumerated(mixer, params, sizes, q, allowed)
    score = jnp.sign(mixer.weights(params))[:, None] * q
    return jnp.argmax(jnp.where(allowed, score, jnp.finfo(q.dtype).min), axis=-1).astype(jnp.int32)


def enumerated(mixer: Mixer, params: Params, sizes: tuple[int, ...], q: jax.Array, allowed: jax.Array) -> jax.Array:
    """`greedy` by trying every joint action, whatever the mixer: [|A_1|, ..., |A_K|] values by broadcasting, one argmax."""
    grids = jnp.meshgrid(*(q[k, :size] for k, size in enumerate(sizes)), indexing="ij")
    masks = jnp.meshgrid(*(allowed[k, :size] for k, size in enumerate(sizes)), indexing="ij")
    value = mixer.apply(params, jnp.stack(grids, axis=-1))
    value = jnp.where(jnp.all(jnp.stack(masks), axis=0), value, jnp.finfo(q.dtype).min)
    return jnp.stack(jnp.unravel_index(jnp.argmax(value), sizes)).astype(jnp.int32)


def describe(mixer: Mixer, params: Params) -> dict[str, Any]:
    """Metrics of a mixer: the smallest weight of a block (negative: that block is minimised); nothing for relu."""
    return {} if mixer.weights is None else {"min_weight": jnp.min(mixer.weights(params))}
