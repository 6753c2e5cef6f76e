"""What makes worlds differ, as one vector per agent: ANM-MM (CCRL, arXiv 2401.18012) and its rivals, functions of one signature.

`extract(name, key, x [L, S, D], y [L, S, E], spec, lam) -> Extracted`: S samples (cause x, effect y) of each of L agents.
anm-mm: noise_models.fit. regression: each agent's linear model of what a pooled regression leaves over. lingam: slopes, and the likelihood
ratio of the two directions under non-Gaussian noise (Hyvarinen & Smith 2013, the tanh form) of every pair. igci: the slope estimator of
information-geometric causal inference (Janzing et al. 2012) of every pair. context: a permutation-invariant encoder whose product of
Gaussians a decoder needs to predict y, trained here and now (as in PEARL, Rakelly et al. 2019, without its policy). The summaries of
regression, lingam and igci are brought to `spec.dim` numbers by principal components. CCRL prefers ANM-MM without a comparison.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from causal_jax import networks, optim
from causal_jax.causal import hsic, noise_models
from causal_jax.types import Key, Params, UserError

EXTRACTORS = ("anm-mm", "regression", "lingam", "igci", "context")
HIDDEN, CONTEXT_STEPS, CONTEXT_LR, KL = (32,), 600, 3e-3, 0.02


class Extracted(NamedTuple):
    """theta [L, Q], standard deviation about 1 or less; differ bool []: whether the worlds differ at all."""

    theta: jax.Array
    differ: jax.Array


def linear_differ(x: jax.Array, y: jax.Array) -> jax.Array:
    """bool []: do linear models of their own describe the agents better than a pooled quadratic one, by BIC? Standardised x, y."""
    agents, samples, dim = x.shape
    flat_x, flat_y = x.reshape(-1, dim), y.reshape(agents * samples, -1)
    row, column = jnp.triu_indices(dim)
    pooled = jnp.concatenate([jnp.ones((len(flat_x), 1)), flat_x, flat_x[:, row] * flat_x[:, column]], axis=1)
    own = jnp.concatenate([jnp.ones((agents, samples, 1)), x], axis=2)
    residual = (flat_y - pooled @ noise_models.ridge(pooled, flat_y, 1e-3)).reshape(y.shape)
    left = residual - own @ jax.vmap(noise_models.ridge, (0, 0, None))(own, residual, 1e-3)
    ratio = jnp.sum(jnp.square(residual)) / jnp.maximum(jnp.sum(jnp.square(left)), 1e-9)
    num, outputs = len(flat_y), flat_y.shape[1]
    return 0.5 * num * outputs * jnp.log(ratio) > 0.5 * (agents - 1) * (dim + 1) * outputs * math.log(num)


def _pairs(x: jax.Array, y: jax.Array, function: Any) -> jax.Array:
    """function(x [S], y [S]) -> [P] of every pair of columns of every agent: [L, D E P], centred over the agents."""
    one = jax.vmap(jax.vmap(function, (1, None)), (None, 1))
    table = jax.vmap(one)(x, y).reshape(len(x), -1)
    return table - jnp.mean(table, axis=0)


def lingam_pair(x: jax.Array, y: jax.Array) -> jax.Array:
    """[2]: the slope of y on x, and the likelihood ratio of x -> y against y -> x under non-Gaussian noise. x, y: [S]."""
    slope = jnp.mean((x - jnp.mean(x)) * (y - jnp.mean(y))) / jnp.maximum(jnp.var(x), 1e-6)
    u, v = (hsic.standardise(c[:, None])[:, 0] for c in (x, y))
    return jnp.stack([slope, jnp.mean(u * v) * jnp.mean(u * jnp.tanh(v) - jnp.tanh(u) * v)])


def igci_pair(x: jax.Array, y: jax.Array) -> jax.Array:
    """[1]: mean log |slope| between neighbours in x, less that between neighbours in y, both scaled to [0, 1]. x, y: [S]."""

    def slope(a: jax.Array, b: jax.Array) -> jax.Array:
        order = jnp.argsort(a)
        da, db = (jnp.abs(jnp.diff(c[order])) for c in (a, b))
        counted = (da > 1e-6) & (db > 1e-6)
        logs = jnp.log(jnp.where(counted, db, 1.0)) - jnp.log(jnp.where(counted, da, 1.0))
        return jnp.sum(logs) / jnp.maximum(jnp.sum(counted), 1)

    u, v = ((c - jnp.min(c)) / jnp.maximum(jnp.ptp(c), 1e-6) for c in (x, y))
    return (slope(u, v) - slope(v, u))[None]


def context(key: Key, x: jax.Array, y: jax.Array, dim: int) -> jax.Array:
    """theta [L, dim], the posterior means of the trained encoder. Standardised x, y. key: consumed."""
    features = x.shape[2] + y.shape[2]
    encoder = networks.mlp(features, HIDDEN, 2 * dim, "relu", "torch")
    decoder = networks.mlp(x.shape[2] + dim, HIDDEN, y.shape[2], "relu", "torch")
    inputs = jnp.concatenate([x, y], axis=2)
    key_encoder, key_decoder, key_noise = jax.random.split(key, 3)

    def posterior(params: Params) -> tuple[jax.Array, jax.Array]:
        """Mean and variance [L, dim] of the product of the samples' Gaussians and the standard normal prior."""
        mean, raw = jnp.split(encoder.apply(params["encoder"], inputs), 2, axis=2)
        precision = jax.nn.softplus(raw) + 1e-3
        total = 1.0 + jnp.sum(precision, axis=1)
        return jnp.sum(mean * precision, axis=1) / total, 1.0 / total

    def loss(params: Params, key: Key) -> jax.Array:
        mean, variance = posterior(params)
        z = mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape)
        everywhere = jnp.broadcast_to(z[:, None], (*x.shape[:2], dim))
        error = jnp.mean(jnp.square(decoder.apply(params["decoder"], jnp.concatenate([x, everywhere], axis=2)) - y))
        return error + KL * 0.5 * jnp.mean(jnp.square(mean) + variance - 1.0 - jnp.log(variance))

    def body(carry: Any, key: Key) -> tuple[Any, None]:
        params, state = carry
        updates, state = optim.adam(CONTEXT_LR).update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    params = {"encoder": encoder.init(key_encoder), "decoder": decoder.init(key_decoder)}
    start = (params, optim.adam(CONTEXT_LR).init(params))
    (params, _), _ = jax.lax.scan(body, start, jax.random.split(key_noise, CONTEXT_STEPS))
    return posterior(params)[0]


def extract(name: str, key: Key, x: jax.Array, y: jax.Array, spec: noise_models.Spec, lam: Any = 1.0) -> Extracted:
    """theta of every agent by one of EXTRACTORS. key: consumed. Raises: UserError for another name.

    Args: x [L, S, D], y [L, S, E], float; spec, lam: of anm-mm, of which spec.dim counts for all. With a theta per sample
      (spec.latent) an agent's is the mean over its samples.
    """
    agents, samples, dim = x.shape
    if name == "anm-mm":
        found = noise_models.fit(key, x, y, lam, spec)
        theta = found.theta.reshape(agents, -1, spec.dim).mean(axis=1)
        return Extracted(theta, noise_models.differ(found, agents, agents * samples))
    x = hsic.standardise(x.reshape(-1, dim)).reshape(x.shape)
    y = hsic.standardise(y.reshape(agents * samples, -1)).reshape(y.shape)
    if name == "context":
        theta = context(key, x, y, spec.dim)
    elif name == "regression":
        theta = noise_models.principal(noise_models.residual_coefficients(x, y), spec.dim)
    elif name in ("lingam", "igci"):
        theta = noise_models.principal(_pairs(x, y, lingam_pair if name == "lingam" else igci_pair), spec.dim)
    else:
        raise UserError(f"extractor = {name!r}: must be one of {', '.join(EXTRACTORS)}")
    return Extracted(theta, linear_differ(x, y))
