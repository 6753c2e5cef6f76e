"""Ornstein-Uhlenbeck exploration, alone and coordinated: u += rate (mean - u) + std eps, with a mean of each learner's own.

Uhlenbeck & Ornstein 1930, as DDPG uses it (Lillicrap et al. 2016); the means, one per learner and episode, are CCRL's (arXiv 2401.18012):
learners of one kind of world go different ways. Our variants: commit (a learner's mean is drawn once, as seeds are in seed sampling) and
matched (as much variance as coordinated, without a mean: what the noise alone is worth).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.types import Key

RULES = ("ou", "coordinated", "commit", "matched", "none")


class Noise(NamedTuple):
    """Exploration of one learner: u [A], the process; z [A], its mean in units of the spread."""

    u: jax.Array
    z: jax.Array


def start(key: Key, rule: str, size: int, sigma: jax.Array | float) -> Noise:
    """The process of a fresh learner, at its mean sigma z (ou, none: at 0). sigma []: spread of the means. key: consumed."""
    z = jax.random.normal(key, (size,))
    return Noise(jnp.zeros_like(z) if rule in ("ou", "none") else sigma * z, z)


def begin(key: Key, rule: str, noise: Noise, sigma: jax.Array | float) -> Noise:
    """The process at the start of a new episode: another z, but for those who commit. key: consumed."""
    fresh = start(key, rule, noise.z.shape[0], sigma)
    return Noise(sigma * noise.z, noise.z) if rule == "commit" else fresh


def advance(key: Key, rule: str, noise: Noise, sigma: jax.Array | float, rate: jax.Array | float, std: jax.Array | float) -> Noise:
    """One step of the process. rate [] per step; std [] of its increments. key: consumed.

    matched adds the variance that a mean drawn from N(0, sigma^2) has: increments of sigma^2 rate (2 - rate) more.
    """
    if rule == "none":
        return noise
    mean = sigma * noise.z if rule in ("coordinated", "commit") else 0.0
    variance = jnp.square(std)
    if rule == "matched":
        variance += jnp.square(sigma) * rate * (2.0 - rate)
    return noise._replace(u=noise.u + rate * (mean - noise.u) + jnp.sqrt(variance) * jax.random.normal(key, noise.z.shape))
