"""Blocks of action variables, and the ways between an environment's action, its blocks and the joint index.

An action is F discrete factors (or one discrete choice, F = 1). A block owns some of the factors; its value is their mixed radix number,
the first factor major: for sepsis with factors (iv, vaso) the joint index is 5 iv + vaso. One block of all factors is the joint action
space, one block per factor is DecQN's; AD-RL (arXiv 2504.21326) asks for blocks whose effects do not interact.
Everything here is static (tuples of ints) or a constant table, so it costs nothing in a compiled program.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import spaces
from causal_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Codec:
    """factors: choices of every factor (F). groups: the factors of every block (K); noop: the factor values that do nothing (F).

    scalar: the environment's action is one number, not a vector [F].
    """

    factors: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    noop_factors: tuple[int, ...]
    scalar: bool = False

    @property
    def num(self) -> int:
        """K."""
        return len(self.groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        """|A_k| of every block (K)."""
        return tuple(math.prod(self.factors[f] for f in group) for group in self.groups)

    @property
    def width(self) -> int:
        """max |A_k|, to which blocks are padded."""
        return max(self.sizes)

    @property
    def num_joint(self) -> int:
        """Number of joint actions."""
        return math.prod(self.factors)

    @property
    def valid(self) -> np.ndarray:
        """bool [K, width]: which entries of a padded block exist."""
        return np.arange(self.width) < np.asarray(self.sizes)[:, None]

    @property
    def noop(self) -> tuple[int, ...]:
        """The value of every block that does nothing (K)."""
        return tuple(int(x) for x in np.asarray(self.noop_factors) @ self._radix())

    def _radix(self) -> np.ndarray:
        """int [F, K]: the weight of every factor in every block."""
        radix = np.zeros((len(self.factors), self.num), int)
        for k, group in enumerate(self.groups):
            for i, f in enumerate(group):
                radix[f, k] = math.prod(self.factors[g] for g in group[i + 1 :])
        return radix

    def encode(self, action: jax.Array) -> jax.Array:
        """The block values int32 [..., K] of an environment's action, int [..., F] ([...] where it is a scalar)."""
        factors = jnp.asarray(action)[..., None] if self.scalar else jnp.asarray(action)
        return (factors.astype(jnp.int32)[..., None] * jnp.asarray(self._radix(), jnp.int32)).sum(-2)

    def decode(self, values: jax.Array) -> jax.Array:
        """The environment's action, int32 [..., F] ([...] where it is a scalar), of block values int [..., K]."""
        radix = self._radix()
        owner, weight = radix.argmax(1), radix.max(1)
        factors = jnp.asarray(values, jnp.int32)[..., owner] // weight.astype(np.int32) % np.asarray(self.factors, np.int32)
        return factors[..., 0] if self.scalar else factors

    def joint(self, action: jax.Array) -> jax.Array:
        """The joint index int32 [...] of an environment's action: mixed radix over all factors, the first major."""
        factors = jnp.asarray(action)[..., None] if self.scalar else jnp.asarray(action)
        weight = np.cumprod((1, *self.factors[:0:-1]))[::-1].astype(np.int32)
        return jnp.sum(factors.astype(jnp.int32) * weight, -1)

    def one_hot(self, values: jax.Array) -> jax.Array:
        """float32 [..., K, width] of block values int [..., K]."""
        return jax.nn.one_hot(values, self.width)

    def completions(self, values: jax.Array) -> jax.Array:
        """int32 [K, K] of block values [K]: in row k block k acts and every other does nothing (the projected action do(a_k))."""
        return jnp.where(np.eye(self.num, dtype=bool), values, np.asarray(self.noop, np.int32)).astype(jnp.int32)


def parse(text: str, space: Any, noop: tuple[int, ...] = ()) -> Codec:
    """The codec of a Discrete or Factored space by text: "each" (a block per factor), "joint" (one block), or "0+2,1" (factors of each).

    noop: the value of each factor that does nothing; empty: 0 of each.
    Raises: UserError for another kind of space, factors left out or named twice, a noop of wrong length or out of range.
    """
    space = spaces.from_gymnax(space)
    if not isinstance(space, spaces.Discrete | spaces.Factored):
        raise UserError(f"action space = {type(space).__name__}: must be Discrete or Factored")
    scalar = isinstance(space, spaces.Discrete)
    factors = (space.n,) if isinstance(space, spaces.Discrete) else tuple(space.sizes)
    everything = tuple(range(len(factors)))
    if text in ("each", "joint"):
        groups: tuple[tuple[int, ...], ...] = tuple((f,) for f in everything) if text == "each" else (everything,)
    else:
        parts = [part.split("+") for part in text.split(",")]
        if not all(f.strip().isdecimal() for part in parts for f in part):
            raise UserError(f"blocks = {text!r}: must be each, joint, or factors such as 0+2,1")
        groups = tuple(tuple(int(f) for f in part) for part in parts)
        if sorted(f for group in groups for f in group) != list(everything):
            raise UserError(f"blocks = {text!r}: must name every factor 0 .. {len(factors) - 1} once")
    noop = noop or (0,) * len(factors)
    if len(noop) != len(factors) or not all(0 <= n < size for n, size in zip(noop, factors, strict=True)):
        raise UserError(f"noop = {noop}: must be {len(factors)} values, each below its factor's {factors}")
    return Codec(factors, groups, tuple(noop), scalar)
