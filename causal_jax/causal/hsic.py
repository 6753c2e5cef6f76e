"""The Hilbert-Schmidt independence criterion: kernels, the statistic, its test, its bounded form, and random features for many samples.

HSIC (Gretton et al. 2005) of two samples with kernel matrices K and L is tr(K H L H) / N^2, H = I - 11'/N; it is 0 in the limit if and
only if the variables are independent. `test` is Gretton et al. 2007: Gaussian kernels whose width is the median distance, and a gamma
distribution fitted to the statistic under independence. `alignment` is the normalised form (centred kernel alignment), in [0, 1] whatever
the scale of the variables: as a penalty it cannot be cheated by shrinking one of them. Samples come first: x [N, D].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causal_jax.types import Key

BISECTIONS = 60


class Independence(NamedTuple):
    """statistic: tr(K H L H) / N; threshold: what it exceeds with probability 5% under independence; p_value. All []."""

    statistic: Float[Array, ""]
    threshold: Float[Array, ""]
    p_value: Float[Array, ""]


def squares(x: Float[Array, "N D"]) -> Float[Array, "D N N"]:
    """Squared differences of every column between all pairs of rows."""
    return jnp.square(x.T[:, :, None] - x.T[:, None, :])


def standardise(x: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Columns of mean 0 and (population) standard deviation 1; a constant column becomes 0."""
    centred = x - jnp.mean(x, axis=0)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=0) + 1e-12)


def centre(gram: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """H K H: rows and columns of a symmetric matrix with their means taken off."""
    mean = jnp.mean(gram, axis=0)
    return gram - mean - mean[:, None] + jnp.mean(mean)


def trace(gram_x: Float[Array, "N N"], gram_z: Float[Array, "N N"]) -> Float[Array, ""]:
    """tr(K H L H), which is N^2 times the biased estimate of HSIC."""
    return jnp.sum(centre(gram_x) * gram_z)


def gaussian(x: Float[Array, "N D"]) -> Float[Array, "N N"]:
    """exp(-|a - b|^2 / (2 D)) of standardised columns."""
    return jnp.exp(-jnp.sum(squares(standardise(x)), axis=0) / (2 * x.shape[1]))


def alignment(x: Float[Array, "N D"], z: Float[Array, "N Q"]) -> Float[Array, ""]:
    """HSIC(x, z) / sqrt(HSIC(x, x) HSIC(z, z)) of `gaussian` kernels, in [0, 1]. 0 where one of the two is constant.

    Source: Cortes et al. 2012 (centred kernel alignment).
    """
    k, l = centre(gaussian(x)), centre(gaussian(z))
    norm = jnp.sum(k * k) * jnp.sum(l * l)
    return jnp.sum(k * l) * jax.lax.rsqrt(jnp.maximum(norm, 1e-12))


def median_kernel(x: Float[Array, "N D"]) -> Float[Array, "N N"]:
    """exp(-d^2 / (2 w^2)), w^2 half the median of the squared distances that are not 0. Source: Gretton et al. 2007."""
    distance = jnp.sum(squares(x), axis=0)
    return jnp.exp(-distance / jnp.nanmedian(jnp.where(distance > 0, distance, jnp.nan)))


def test(x: Float[Array, "N D"], y: Float[Array, "N E"]) -> Independence:
    """Are x and y independent? Gamma approximation of the statistic's law under independence; N >= 6 samples, paired by row.

    Widths differ between packages: compare p-values, not statistics. Source: Gretton et al. 2007, eq. 9 and section 3.
    """
    k, l = median_kernel(x), median_kernel(y)
    num = x.shape[0]
    kc, lc = centre(k), centre(l)
    statistic = jnp.sum(kc * lc) / num
    variance = jnp.square(kc * lc / 6)
    variance = (jnp.sum(variance) - jnp.trace(variance)) / num / (num - 1)
    variance = variance * 72 * (num - 4) * (num - 5) / num / (num - 1) / (num - 2) / (num - 3)
    mu_x, mu_y = ((jnp.sum(m) - jnp.trace(m)) / num / (num - 1) for m in (k, l))
    mean = (1 + mu_x * mu_y - mu_x - mu_y) / num
    shape, scale = jnp.square(mean) / variance, variance * num / mean

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        above = jax.scipy.special.gammaincc(shape, middle) > 0.05
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    far = shape + 20 * jnp.sqrt(shape) + 20
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(far), far))
    return Independence(statistic, scale * (low + high) / 2, jax.scipy.special.gammaincc(shape, statistic / scale))


def permutation_test(key: Key, x: Float[Array, "N D"], y: Float[Array, "N E"], num: int = 1000) -> Float[Array, ""]:
    """The p-value of `test` without its approximation: how often `num` random pairings of the rows depend as much. key: consumed."""
    k, l = centre(median_kernel(x)), median_kernel(y)

    def paired(key: Key) -> jax.Array:
        order = jax.random.permutation(key, x.shape[0])
        return jnp.sum(k * l[order][:, order])

    null = jax.lax.map(paired, jax.random.split(key, num))
    return (1 + jnp.sum(null >= jnp.sum(k * l))) / (1 + num)


def random_features(key: Key, x: Float[Array, "N D"], num: int) -> Float[Array, "N R"]:
    """`num` random Fourier features whose products approximate `gaussian` in O(N num). key: consumed. Source: Rahimi & Recht 2007."""
    key_w, key_b = jax.random.split(key)
    dim = x.shape[1]
    weights = jax.random.normal(key_w, (dim, num), x.dtype) / math.sqrt(dim)
    phase = jax.random.uniform(key_b, (num,), x.dtype, 0.0, 2 * math.pi)
    return math.sqrt(2 / num) * jnp.cos(standardise(x) @ weights + phase)


def trace_by_features(key: Key, x: Float[Array, "N D"], z: Float[Array, "N Q"], num: int = 256) -> Float[Array, ""]:
    """tr(K H L H) of `gaussian` kernels from random features, without any N x N matrix. key: consumed."""
    key_x, key_z = jax.random.split(key)
    phi, psi = random_features(key_x, x, num), random_features(key_z, z, num)
    return jnp.sum(jnp.square((phi - jnp.mean(phi, axis=0)).T @ psi))
