"""Action and observation spaces: Discrete, Factored (multi-discrete), Box and Hybrid.

Each is a frozen dataclass with `shape`, `dtype`, `sample(key)` and `contains(x)`, pure and jittable. `from_gymnax` translates
gymnax's spaces, so an algorithm asks `isinstance(space, Discrete)` only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.types import Key, UserError


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One choice among `n`: an int32 scalar in [0, n)."""

    n: int
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.int32

    def sample(self, key: Key) -> jax.Array:
        """A uniform action, int32 []. The key is consumed."""
        return jax.random.randint(key, (), 0, self.n, dtype=jnp.int32)

    def contains(self, x: Any) -> jax.Array:
        """bool []: 0 <= x < n."""
        return jnp.logical_and(jnp.asarray(x) >= 0, jnp.asarray(x) < self.n)


@dataclasses.dataclass(frozen=True)
class Factored:
    """F independent choices, factor f among `sizes[f]`: an int32 vector [F]."""

    sizes: tuple[int, ...]
    dtype: Any = jnp.int32

    @property
    def shape(self) -> tuple[int, ...]:
        """(F,)."""
        return (len(self.sizes),)

    def sample(self, key: Key) -> jax.Array:
        """Uniform factors, int32 [F]. The key is consumed."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.sizes, jnp.int32), dtype=jnp.int32)

    def contains(self, x: Any) -> jax.Array:
        """bool []: every factor in its range."""
        return jnp.all(jnp.logical_and(jnp.asarray(x) >= 0, jnp.asarray(x) < jnp.asarray(self.sizes)))


@dataclasses.dataclass(frozen=True)
class Box:
    """A real array of `shape`, each component in [low, high] (scalars or arrays, in task units; may be infinite)."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = jnp.float32

    def sample(self, key: Key) -> jax.Array:
        """Uniform where both bounds are finite, else standard normal clipped to the bounds. The key is consumed."""
        low = jnp.broadcast_to(jnp.asarray(self.low, jnp.float32), self.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high, jnp.float32), self.shape)
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        key_uniform, key_normal = jax.random.split(key)
        unit = jax.random.uniform(key_uniform, self.shape)
        uniform = jnp.where(bounded, low, 0.0) + unit * jnp.where(bounded, high - low, 1.0)
        normal = jnp.clip(jax.random.normal(key_normal, self.shape), low, high)
        return jnp.where(bounded, uniform, normal).astype(self.dtype)

    def contains(self, x: Any) -> jax.Array:
        """bool []: every component within its bounds."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return jnp.all(jnp.logical_and(jnp.asarray(x) >= low, jnp.asarray(x) <= high))


@dataclasses.dataclass(frozen=True)
class Hybrid:
    """A discrete choice k among K, each with its own `sizes[k]` parameters.

    An action is `(k int32 [], z float32 [Z])`, Z = max(sizes): z holds the parameters of the choice k, zeros behind them. A network that
    has parameters for every choice lists all sum(sizes) of them, those of choice 0 first: `take` cuts out those of k.
    low, high: scalars, or tuples over all sum(sizes) parameters, in task units.
    """

    sizes: tuple[int, ...]
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if isinstance(bound, tuple) and len(bound) != self.num_all:
                raise UserError(f"Hybrid.{name} = {len(bound)} bounds: must be a number, or sum(sizes) = {self.num_all} bounds")

    @property
    def n(self) -> int:
        """Number of discrete choices K."""
        return len(self.sizes)

    @property
    def num_parameters(self) -> int:
        """Z, the length of z."""
        return max(self.sizes)

    @property
    def num_all(self) -> int:
        """Number of parameters of all choices together."""
        return sum(self.sizes)

    @property
    def owner(self) -> np.ndarray:
        """int [num_all]: which choice reads each parameter."""
        return np.repeat(np.arange(self.n), self.sizes)

    def slots(self, k: Any) -> tuple[jax.Array, jax.Array]:
        """Where the parameters of choice k [...] are: (index int32 [..., Z] among all, exists bool [..., Z]); index is 0 where none is."""
        k, place = jnp.asarray(k)[..., None], jnp.arange(self.num_parameters)
        if self.num_all == self.n * self.num_parameters:  # all sizes equal: no table over K
            index = k * self.num_parameters + place
            return index, jnp.ones(index.shape, bool)
        sizes = np.asarray(self.sizes, np.int32)
        exists = place < jnp.asarray(sizes)[k]
        return jnp.where(exists, jnp.asarray(np.cumsum(sizes) - sizes)[k] + place, 0), exists

    def take(self, k: Any, values: Any) -> jax.Array:
        """The part of choice k [...] of values over all parameters (a scalar, [num_all] or [..., num_all]): [..., Z], zero padded."""
        index, exists = self.slots(k)
        values = jnp.asarray(values, jnp.float32)
        if values.ndim < 2:
            return jnp.where(exists, values[index] if values.ndim else values, 0.0)
        return jnp.where(exists, jnp.take_along_axis(values, index, axis=-1), 0.0)

    def sample(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """A uniform choice and uniform parameters of it (k int32 [], z float32 [Z]). The key is consumed."""
        key_k, key_z = jax.random.split(key)
        k = jax.random.randint(key_k, (), 0, self.n, dtype=jnp.int32)
        low, high = self.take(k, self.low), self.take(k, self.high)
        return k, low + (high - low) * jax.random.uniform(key_z, (self.num_parameters,))

    def contains(self, x: Any) -> jax.Array:
        """bool []: k in range, its parameters within their bounds, zeros behind them."""
        k, z = jnp.asarray(x[0]), jnp.asarray(x[1])
        return (k >= 0) & (k < self.n) & jnp.all((z >= self.take(k, self.low)) & (z <= self.take(k, self.high)))


Space = Discrete | Factored | Box | Hybrid


def from_gymnax(space: Any) -> Space:
    """Our space for a gymnax (or already ours) space. Raises UserError for a kind we have no counterpart of."""
    if isinstance(space, Discrete | Factored | Box | Hybrid):
        return space
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "Box":
        return Box(space.low, space.high, tuple(space.shape), space.dtype)
    if kind == "MultiDiscrete":
        return Factored(tuple(int(n) for n in space.nvec))
    raise UserError(f"space = {kind}: must be Discrete, Box or MultiDiscrete")


def flat_size(space: Any) -> int:
    """Number of components of an observation of a Box or Discrete space."""
    space = from_gymnax(space)
    return 1 + space.num_parameters if isinstance(space, Hybrid) else int(np.prod(space.shape, dtype=int))
