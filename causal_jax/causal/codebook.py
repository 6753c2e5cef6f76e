"""A codebook: every embedding is replaced by its nearest code (VQ-VAE, arXiv 1711.00937), learned by moving averages or by gradients.

The moving average is FCDL's (arXiv 2406.03234; authors' nearest_embed.py), whose bookkeeping revives codes although nothing is ever reset:
an unused code counts as used once with a sum of zero, so its entry is e_k(0) 0.99^t / (1 - 0.99^t). It starts about 100 times too far away,
passes through the cloud of embeddings after some 70 to 120 updates and is captured. One code in use at the start is normal.
`kmeans_update` is the alternative (ours, `Spec.contexts="kmeans"`): mini-batch k-means, where unused codes are put on embeddings instead.
The gradient codebook is the paper's formula (`codebook_loss`, entries uniform in [0, 1)); the authors' released settings use the average.
Written for one embedding, except the update and the usage, which need the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causal_jax.types import Key

Codes = Float[Array, "K D"]
Embedding = Float[Array, "D"]
Scalar = float | Float[Array, ""]


class Codebook(NamedTuple):
    """codes [K, D]; counts [K] and total [K, D]: the running number and sum of the embeddings given to each code."""

    codes: Float[Array, "K D"]
    counts: Float[Array, "K"]
    total: Float[Array, "K D"]


def init(key: Key, num_codes: int, dim: int) -> Codebook:
    """Standard normal codes, no counts, sums equal to the codes (nearest_embed.py:100). key: consumed."""
    codes = jax.random.normal(key, (num_codes, dim))
    return Codebook(codes, jnp.zeros(num_codes), codes)


def nearest(codes: Codes, h: Embedding) -> Int[Array, ""]:
    """argmin_k |h - e_k|, int32 []. By differences: embeddings of noisy inputs exceed 100, |h|^2 - 2 h e + |e|^2 would lose the order."""
    distance = jnp.sum(jnp.square(h - codes), axis=-1)
    return jnp.argmin(distance).astype(jnp.int32)


def straight_through(h: Embedding, q: Embedding) -> Embedding:
    """The value of q with the gradient of h: h + stop_gradient(q - h), both [D]. Equal to q up to rounding of the size of h."""
    return h + jax.lax.stop_gradient(q - h)


def commitment_loss(h: Embedding, q: Embedding) -> Float[Array, ""]:
    """mean_d (h - q)^2, gradient to h only. Both [D]."""
    return jnp.mean(jnp.square(h - jax.lax.stop_gradient(q)))


def codebook_loss(h: Embedding, q: Embedding) -> Float[Array, ""]:
    """mean_d (q - h)^2, gradient to q (the codes) only: what replaces the moving average in the gradient codebook. Both [D]."""
    return jnp.mean(jnp.square(q - jax.lax.stop_gradient(h)))


def ema_update(book: Codebook, h: Float[Array, "B D"], code: Int[Array, "B"], decay: Scalar = 0.99, epsilon: Scalar = 1e-5) -> Codebook:
    """One moving-average step after the embeddings of a batch were assigned with the old codes (nearest_embed.py:117-147).

    n_k = number of embeddings given to k, 1 where it is 0; count = decay count + (1 - decay) n; total likewise with the sum of the
    embeddings; codes = total / smoothed, smoothed = (count + epsilon) / (sum count + K epsilon) * sum count.
    Args: h: [B, D] and code: int [B] from the same forward pass. Returns: the new codebook, no gradient passes.
    """
    num_codes = book.codes.shape[0]
    given = jax.nn.one_hot(code, num_codes, dtype=book.codes.dtype)
    n = jnp.sum(given, axis=0)
    embeddings = jnp.matmul(given.T, jax.lax.stop_gradient(h), precision=jax.lax.Precision.HIGHEST)
    count = decay * book.counts + (1.0 - decay) * jnp.where(n == 0, 1.0, n)
    total = decay * book.total + (1.0 - decay) * embeddings
    everything = jnp.sum(count)
    smoothed = (count + epsilon) / (everything + num_codes * epsilon) * everything
    return Codebook(total / smoothed[:, None], count, total)


def kmeans_update(book: Codebook, h: Float[Array, "B D"], code: Int[Array, "B"], decay: Scalar = 0.99) -> Codebook:
    """One step of mini-batch k-means (Sculley 2010) after the embeddings of a batch were assigned with the old codes.

    count = decay count + n, n_k the embeddings given to k; a code moves by n / count towards their mean. decay is ours: the embedding
    moves, so old counts must not weigh for ever. A code with a count below 1 is not in use and is put where the clustering is worst: on
    the embedding farthest from its code, the next such code on the second farthest; at the start that is all codes without embeddings.
    Args: h: [B, D] and code: int [B] from the same forward pass. Returns: the new codebook (total = count codes), no gradient passes.
    """
    h = jax.lax.stop_gradient(h)
    given = jax.nn.one_hot(code, book.codes.shape[0], dtype=book.codes.dtype)
    n = jnp.sum(given, axis=0)
    count = decay * book.counts + n
    mean = jnp.matmul(given.T, h, precision=jax.lax.Precision.HIGHEST) / jnp.maximum(n, 1.0)[:, None]
    codes = book.codes + (n / jnp.maximum(count, 1.0))[:, None] * (mean - book.codes)
    unused = count < 1.0
    worst = jnp.argsort(-jnp.sum(jnp.square(h - book.codes[code]), axis=-1))
    seeds = h[worst[jnp.clip(jnp.cumsum(unused) - 1, 0, h.shape[0] - 1)]]
    codes, count = jnp.where(unused[:, None], seeds, codes), jnp.maximum(count, 1.0)
    return Codebook(codes, count, count[:, None] * codes)


def usage(code: Int[Array, "*n"], num_codes: int) -> Float[Array, "K"]:
    """Share of the assignments that each code received: int [...] -> [num_codes], sums to 1."""
    return jnp.mean(jax.nn.one_hot(code.reshape(-1), num_codes), axis=0)
