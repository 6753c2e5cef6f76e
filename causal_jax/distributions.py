"""Action distributions: masked categorical, factored, diagonal normal, tanh normal, hybrid; and `policy_head` for each space.

The one file that imports distrax. All have distrax's sample(seed=key), log_prob, entropy, mode, sample_and_log_prob; they are
pytrees, so they cross jit and vmap.
Masks: True = allowed. Forbidden logits become the least finite number (with -inf the gradient of the entropy is NaN) and leave the
entropy by a double `where`. A row that allows nothing falls back to no mask (count it in the metrics). Sources: Huang & Ontanon 2022
(masking); Haarnoja et al. 2018, appendix C (tanh); Li et al. 2022 (a discrete choice with its own parameters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.spaces import Box, Discrete, Factored, Hybrid, from_gymnax
from causal_jax.types import Key


class _Categorical(distrax.Categorical):  # type: ignore[misc]
    """distrax.Categorical over the allowed actions, sampled by inverting the cumulative distribution.

    One uniform number a draw instead of one a choice: with many actions drawing Gumbel noise costs more than the network. An action of
    probability 0 is never drawn: its step of the cumulative sum is empty.
    """

    def __init__(self, logits: jax.Array, allowed: jax.Array | None = None) -> None:
        if allowed is not None:
            least = jnp.finfo(logits.dtype).min
            logits = jnp.where(allowed, logits, least)
        super().__init__(logits=logits)
        self._allowed = allowed

    def _sample_n(self, key: Key, n: int) -> jax.Array:
        cumulative = jnp.cumsum(jnp.exp(self.logits), axis=-1)
        total = cumulative[..., -1:]
        u = jax.random.uniform(key, (n, *self.logits.shape[:-1], 1), total.dtype)
        below = jnp.nextafter(total, jnp.zeros_like(total))  # u * total may round up to total, which no action reaches
        return jnp.sum(cumulative <= jnp.minimum(u * total, below), axis=-1).astype(jnp.int32)

    def _sample_n_and_log_prob(self, key: Key, n: int) -> tuple[jax.Array, jax.Array]:
        samples = self._sample_n(key, n)
        return samples, self.log_prob(samples)

    def log_prob(self, value: jax.Array) -> jax.Array:
        chosen = jnp.arange(self.num_categories) == jnp.asarray(value)[..., None]
        return jnp.sum(jnp.where(chosen, self.logits, 0.0), axis=-1)

    def entropy(self) -> jax.Array:
        if self._allowed is None:
            return super().entropy()
        log_prob = jnp.where(self._allowed, self.logits, 0.0)
        return -jnp.sum(jnp.where(self._allowed, jnp.exp(log_prob) * log_prob, 0.0), axis=-1)


def categorical(logits: jax.Array, allowed: jax.Array | np.ndarray | None = None) -> Any:
    """A choice among A actions, int32 [...], over the allowed ones only.

    Args: logits: [..., A] float. allowed: bool [..., A] (broadcast), True = may be chosen, or None. A row of False means no mask.
    The log_prob of a forbidden action is about finfo.min: finite, and its probability is 0.
    """
    if allowed is None:
        return _Categorical(logits)
    allowed = jnp.broadcast_to(jnp.asarray(allowed), logits.shape)
    return _Categorical(logits, allowed | ~jnp.any(allowed, axis=-1, keepdims=True))


def _padded(flat: jax.Array, sizes: Sequence[int], fill: Any) -> jax.Array:
    """[..., sum(sizes)] -> [..., F, max(sizes)], short factors filled up."""
    parts = jnp.split(flat, np.cumsum(sizes)[:-1].tolist(), axis=-1)
    none = [(0, 0)] * (flat.ndim - 1)
    return jnp.stack([jnp.pad(p, [*none, (0, max(sizes) - n)], constant_values=fill) for p, n in zip(parts, sizes, strict=True)], -2)


def factored(logits: jax.Array, sizes: Sequence[int], allowed: jax.Array | None = None) -> Any:
    """F independent choices, int32 [..., F]; log_prob and entropy are sums over the factors.

    Args: logits: [..., sum(sizes)] float, the factors side by side. sizes: choices of each factor. allowed: bool [..., sum(sizes)]
      or None; a factor that allows nothing falls back to no mask.
    """
    exists = np.arange(max(sizes)) < np.asarray(sizes)[:, None]  # [F, max]
    wide = _padded(logits, sizes, 0.0)
    if allowed is None:
        return distrax.Independent(categorical(wide, None if exists.all() else exists), 1)
    mask = _padded(jnp.broadcast_to(allowed, logits.shape), sizes, False)
    mask = jnp.where(jnp.any(mask, axis=-1, keepdims=True), mask, exists)
    return distrax.Independent(categorical(wide, mask), 1)


def _normal(mean: jax.Array, log_std: jax.Array) -> Any:
    return distrax.Normal(mean, jnp.broadcast_to(jnp.exp(log_std), jnp.shape(mean)))


def diagonal_normal(mean: jax.Array, log_std: jax.Array, event_ndims: int = 1) -> Any:
    """Independent normals, float [..., D], unbounded. mean: [..., D]; log_std: [D] (broadcast), log of the standard deviation.

    event_ndims: how many trailing axes make up one action.
    """
    return distrax.Independent(_normal(mean, log_std), event_ndims)


# Gauss-Hermite rule for E[f(z)], z standard normal
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / math.sqrt(2.0 * math.pi)


def _log_slope(x: jax.Array) -> jax.Array:
    """log(d tanh(x) / dx) = log(1 - tanh(x)^2), stable for large |x|."""
    return 2.0 * (math.log(2.0) - x - jax.nn.softplus(-2.0 * x))


class _TanhNormal(distrax.Distribution):  # type: ignore[misc]
    """y = low + (high - low) (tanh(x) + 1) / 2 with x a diagonal normal."""

    def __init__(self, mean: jax.Array, log_std: jax.Array, low: Any, high: Any) -> None:
        super().__init__()
        self._base = _normal(mean, log_std)
        self._low = jnp.broadcast_to(jnp.asarray(low, mean.dtype), mean.shape)
        self._half = jnp.broadcast_to((jnp.asarray(high, mean.dtype) - self._low) / 2.0, mean.shape)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self._low.shape[-1:])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self._low.shape[:-1])

    def _squash(self, x: jax.Array) -> jax.Array:
        return self._low + self._half * (jnp.tanh(x) + 1.0)

    def _density(self, x: jax.Array) -> jax.Array:
        return jnp.sum(self._base.log_prob(x) - _log_slope(x) - jnp.log(self._half), axis=-1)

    def _sample_n(self, key: Key, n: int) -> jax.Array:
        return self._squash(self._base.sample(seed=key, sample_shape=n))

    def _sample_n_and_log_prob(self, key: Key, n: int) -> tuple[jax.Array, jax.Array]:
        x = self._base.sample(seed=key, sample_shape=n)
        return self._squash(x), self._density(x)

    def log_prob(self, value: jax.Array) -> jax.Array:
        unit = (value - self._low) / self._half - 1.0
        return self._density(jnp.arctanh(jnp.clip(unit, -1.0 + 1e-6, 1.0 - 1e-6)))

    def entropy(self) -> jax.Array:
        nodes = self._base.loc[..., None] + self._base.scale[..., None] * jnp.asarray(_NODES, self._low.dtype)
        slope = _log_slope(nodes) @ jnp.asarray(_WEIGHTS, self._low.dtype)
        return jnp.sum(self._base.entropy() + slope + jnp.log(self._half), axis=-1)

    def mode(self) -> jax.Array:
        return self._squash(self._base.loc)


def tanh_normal(mean: jax.Array, log_std: jax.Array, low: Any, high: Any) -> Any:
    """A diagonal normal squashed into (low, high) by tanh, float [..., D]. mean: [..., D]; log_std, low, high: [D] or scalars.

    sample_and_log_prob is exact; log_prob of a given action clips it 1e-6 (of half the range) inside the bounds. entropy is by
    32-point Gauss-Hermite quadrature (there is no closed form). mode is the squashed mean, which is the median.
    Source: Haarnoja et al. 2018, appendix C.
    """
    return _TanhNormal(mean, log_std, low, high)


class _Hybrid(distrax.Distribution):  # type: ignore[misc]
    """(k, z): a categorical k, and normals z for the parameters of k, cut out of the normals for all parameters."""

    def __init__(self, choice: Any, mean: jax.Array, log_std: jax.Array, space: Hybrid) -> None:
        super().__init__()
        self._choice, self._mean, self._space = choice, mean, space
        self._std = jnp.broadcast_to(jnp.exp(log_std), jnp.shape(mean))

    @property
    def event_shape(self) -> Any:
        return (), (self._space.num_parameters,)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self._choice.batch_shape)

    def _own(self, k: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean, standard deviation (1 where there is no parameter) and existence of the parameters of k, [..., Z] each."""
        exists = self._space.slots(k)[1]
        mean, std = (jnp.broadcast_to(x, (*jnp.shape(k), self._space.num_all)) for x in (self._mean, self._std))
        return self._space.take(k, mean), jnp.where(exists, self._space.take(k, std), 1.0), exists

    def _sample_n(self, key: Key, n: int) -> tuple[jax.Array, jax.Array]:
        key_k, key_z = jax.random.split(key)
        k = self._choice.sample(seed=key_k, sample_shape=n)
        mean, std, exists = self._own(k)
        return k, jnp.where(exists, mean + std * jax.random.normal(key_z, mean.shape), 0.0)

    def log_prob(self, value: tuple[jax.Array, jax.Array]) -> jax.Array:
        k, z = value
        mean, std, exists = self._own(k)
        density = distrax.Normal(mean, std).log_prob(z)
        return jnp.asarray(self._choice.log_prob(k) + jnp.sum(jnp.where(exists, density, 0.0), axis=-1))

    def entropy(self) -> jax.Array:
        weight = self._choice.probs[..., self._space.owner]
        return jnp.asarray(self._choice.entropy() + jnp.sum(weight * distrax.Normal(self._mean, self._std).entropy(), axis=-1))

    def mode(self) -> tuple[jax.Array, jax.Array]:
        k = self._choice.mode()
        return k, self._own(k)[0]


def hybrid(logits: jax.Array, mean: jax.Array, log_std: jax.Array, space: Hybrid, allowed: jax.Array | None = None) -> Any:
    """A choice k with its own parameters: the pair (k int32 [...], z float [..., Z]), z unbounded and zero behind the parameters of k.

    log_prob = log p(k) + sum of the normals of k's parameters; entropy = H(k) + sum_k p(k) H(parameters of k).
    Args: logits: [..., K]. mean: [..., num_all], of the parameters of every choice side by side. log_std: [num_all] (broadcast). space:
      whose K, sizes and order of parameters these are. allowed: bool [..., K] or None.
    """
    return _Hybrid(categorical(logits, allowed), mean, log_std, space)


class Head(NamedTuple):
    """How a network's outputs become a policy over one space. log_std [num_log_std] is a free parameter; start it at 0."""

    num_outputs: int
    num_log_std: int
    build: Callable[..., Any]  # (outputs [..., num_outputs], log_std [num_log_std], allowed | None) -> distribution


def policy_head(space: Any) -> Head:
    """The head of a policy over `space` (ours or gymnax's; UserError for another kind).

    allowed is bool [..., A] (Discrete), [..., sum(sizes)] (Factored), [..., K] (Hybrid); Box ignores it. Box and Hybrid parameters
    are unbounded normals, as in SB3: log_prob is of the raw action, and the caller steps the environment with `clip_action`.
    """
    space = from_gymnax(space)
    if isinstance(space, Discrete):
        return Head(space.n, 0, lambda outputs, log_std, allowed=None: categorical(outputs, allowed))
    if isinstance(space, Factored):
        return Head(sum(space.sizes), 0, lambda outputs, log_std, allowed=None: factored(outputs, space.sizes, allowed))
    if isinstance(space, Box):
        shape, size = tuple(space.shape), math.prod(space.shape)

        def build_box(outputs: jax.Array, log_std: jax.Array, allowed: jax.Array | None = None) -> Any:
            return diagonal_normal(outputs.reshape(*outputs.shape[:-1], *shape), log_std.reshape(shape), len(shape))

        return Head(size, size, build_box)
    k, num = space.n, space.num_all

    def build_hybrid(outputs: jax.Array, log_std: jax.Array, allowed: jax.Array | None = None) -> Any:
        return hybrid(outputs[..., :k], outputs[..., k:], log_std, space, allowed)

    return Head(k + num, num, build_hybrid)


def clip_action(space: Any, action: Any) -> Any:
    """The action with its real parts clipped to the bounds of `space` (task units); Discrete and Factored actions as they are."""
    space = from_gymnax(space)
    if isinstance(space, Box):
        return jnp.clip(action, jnp.asarray(space.low), jnp.asarray(space.high))
    if isinstance(space, Hybrid):
        k, z = action
        return k, jnp.clip(z, space.take(k, space.low), space.take(k, space.high))
    return action
