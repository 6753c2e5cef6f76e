"""Running mean and variance of a pytree, as pure functions: init, update, apply.

Batches are merged by the parallel rule of Chan, Golub & LeVeque (1983) on the mean and the variance themselves (not on sums, which
lose float32 precision), so any split of the data gives numpy's mean and var of all of it. The count is an int32 that stops at its
largest value instead of wrapping round. As in Stable-Baselines3's RunningMeanStd, without its pseudo-count of 1e-4.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MAX_COUNT = int(np.iinfo(np.int32).max)


class Stats(NamedTuple):
    """num_samples: int32 [], samples seen. mean, var: pytrees of float32, each leaf of the example's shape; var divides by num_samples."""

    num_samples: jax.Array
    mean: Any
    var: Any


def init(example: Any) -> Stats:
    """No samples yet: mean 0 and variance 1, so that `apply` only clips. example: one sample, a pytree of arrays of any dtype."""
    mean = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), example)
    return Stats(jnp.zeros((), jnp.int32), mean, jax.tree.map(jnp.ones_like, mean))


def update(stats: Stats, batch: Any) -> Stats:
    """Merge a batch: leaves [..., *shape of the example], the same leading axes in all; all their samples count alike."""
    first, mean = jax.tree.leaves(batch)[0], jax.tree.leaves(stats.mean)[0]
    num = math.prod(jnp.shape(first)[: jnp.ndim(first) - jnp.ndim(mean)])
    if num == 0:
        return stats
    count = jnp.minimum(stats.num_samples, MAX_COUNT - num) + num
    weight = num / count.astype(jnp.float32)  # the batch's share of all samples

    def merge(mean: jax.Array, var: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jnp.asarray(x, jnp.float32).reshape(-1, *mean.shape)
        batch_mean, batch_var = jnp.mean(x, axis=0), jnp.var(x, axis=0)
        delta = batch_mean - mean
        return mean + weight * delta, (1.0 - weight) * var + weight * batch_var + weight * (1.0 - weight) * jnp.square(delta)

    pairs = jax.tree.map(merge, stats.mean, stats.var, batch)
    means, variances = jax.tree.transpose(jax.tree.structure(stats.mean), jax.tree.structure((0, 0)), pairs)
    return Stats(count, means, variances)


def apply(stats: Stats, x: Any, clip: float = 10.0) -> Any:
    """(x - mean) / sqrt(var + 1e-8), clipped to [-clip, clip] standard deviations; float32, leaves [..., *shape of the example]."""

    def one(leaf: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
        return jnp.clip((jnp.asarray(leaf, jnp.float32) - mean) * jax.lax.rsqrt(var + 1e-8), -clip, clip)

    return jax.tree.map(one, x, stats.mean, stats.var)
