"""Losses of one sample: PPO's clipped surrogate, value errors, cross entropy, Huber. The caller vmaps and takes the mean.

All are to be minimised. A squared error is the plain square, with no 1/2, as in Stable-Baselines3 (F.mse_loss times vf_coef = 0.5);
Huber keeps its 1/2, as everywhere. The elementwise ones broadcast over arrays as well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Values = Float[Array, "*n"]
Scalar = float | Float[Array, ""]


def ppo_clip(log_prob: Values, old_log_prob: Values, advantage: Values, clip: Scalar) -> Values:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), ratio = exp(log_prob - old_log_prob). All [], clip in (0, 1).

    Source: Schulman et al. 2017 (PPO), eq. 7.
    """
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def value_loss(value: Values, target: Values) -> Values:
    """(value - target)^2, without 1/2. Both []. The gradient reaches the target too: stop it where that is not wanted."""
    return jnp.square(value - target)


def value_clipped(value: Values, old_value: Values, target: Values, clip: Scalar) -> Values:
    """max((value - target)^2, (old_value + clip(value - old_value, -clip, clip) - target)^2). All []; clip > 0 in units of return.

    Source: OpenAI Baselines, ppo2/model.py (without its 1/2). SB3 keeps the second term alone.
    """
    near = old_value + jnp.clip(value - old_value, -clip, clip)
    return jnp.maximum(jnp.square(value - target), jnp.square(near - target))


def cross_entropy(logits: Float[Array, "A"], label: Int[Array, ""]) -> Float[Array, ""]:
    """-log softmax(logits)[label], in nats. logits: [A] float, label: int []. Returns []."""
    return -jax.nn.log_softmax(logits)[label]


def huber(prediction: Values, target: Values, delta: Scalar = 1.0) -> Values:
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = prediction - target. Both []. Source: Huber 1964."""
    error = jnp.abs(prediction - target)
    inside = jnp.minimum(error, delta)
    return 0.5 * jnp.square(inside) + delta * (error - inside)
