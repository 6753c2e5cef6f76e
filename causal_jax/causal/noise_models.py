"""Mixtures of additive noise models (ANM-MM): what differs between the worlds that samples (x, y) come from, as a latent theta.

Hu, Chen, Partovi Nia, Chan & Geng 2018 (their public GPPOM code), the extraction step of CCRL (arXiv 2401.18012). y = f(x; theta) + noise
is a Gaussian process over (x, theta) with a product kernel, theta is found with the hyperparameters by descending

    J = NLL + |h|^2 / 2 + |theta|^2 / 2 (+ |w|^2) + lam * log(dependence of x and theta)

h = (log alpha_z, log gamma_z [Q], log alpha_x, log gamma_x [D], log beta). Samples are [A, S, ...]: A agents of S samples with one theta
each. One sample per agent is the literal per-sample model ("sample_free"), theta as a network of (x, y) the back-constrained one
("sample_mlp"); CCRL does not say which it uses, theta per agent is ours. penalty "raw" is the authors' log tr(Kx H Kz H) with the learned
kernels. It has no lower bound (a constant theta ends there); the default "cka" is bounded (hsic.py).
Departures: exact gradients in O(N^3) (theirs leaves out the hyperparameters and half of theta's, in O(N^4)), Adam instead of conjugate
gradients, restarts in one program, a start from residuals.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from causal_jax.causal import hsic
from causal_jax.causal.likelihood import factor, gaussian_nll, inverse_lower
from causal_jax.fields import option
from causal_jax.networks import uniform
from causal_jax.optim import adam
from causal_jax.types import Key, Params, UserError

JITTER = 1e-2  # the authors': added to every kernel matrix, so the noise variance of standardised y never falls below it
LATENTS, PENALTIES = ("agent", "sample_free", "sample_mlp"), ("cka", "raw")
WIDTH, WEIGHT_PRIOR = 20, 2.0  # of the back-constraint


@dataclasses.dataclass(frozen=True)
class Spec:
    """What decides shapes and control flow of a fit."""

    latent: str = option("agent", choices=LATENTS)
    """One theta per agent, one per sample, or theta a network of the sample."""
    dim: int = option(1, low=1)
    """Q, length of a theta."""
    penalty: str = option("cka", choices=PENALTIES)
    """How dependence of x and theta is measured."""
    restarts: int = option(8, low=1)
    """Random starts beside the one from residuals."""
    steps: int = option(300, low=1)
    """Adam steps of every start."""
    lr: float = option(0.05, above=0.0)
    """Adam's step size, decayed to 0 along a cosine."""
    beta: float = option(10.0, above=0.0)
    """Inverse noise variance at the start; authors: 0.1."""
    inducing: int = option(0, low=0)
    """Inducing points of the likelihood, and random features for the dependence: for thousands of samples. 0: exact, in O(N^3)."""


class Fit(NamedTuple):
    """The best of R starts: theta [A, Q] (per sample: [A S, Q]), h [3 + Q + D], J [], NLL [] with it.

    objectives, null: [R] J of every start, NLL [] of the best model without theta (theta = 0, h its own).
    """

    theta: jax.Array
    h: jax.Array
    objective: jax.Array
    nll: jax.Array
    objectives: jax.Array
    null: jax.Array


def kernels(h: jax.Array, square_x: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(Kx [N, N], Kz [A, A]): alpha exp(-sum_j gamma_j d_j^2), of squared differences square_x [D, N, N] and theta [A, Q]."""
    q = theta.shape[1]
    kz = jnp.exp(h[0] - jnp.tensordot(jnp.exp(h[1 : 1 + q]), hsic.squares(theta), 1))
    return jnp.exp(h[1 + q] - jnp.tensordot(jnp.exp(h[2 + q : -1]), square_x, 1)), kz


def tie(kz: jax.Array, num: int) -> jax.Array:
    """The kernel of agents [A, A] at their samples, [N, N]; an agent's N / A samples stand in a row."""
    agents = kz.shape[0]
    samples = num // agents
    return jnp.broadcast_to(kz[:, None, :, None], (agents, samples, agents, samples)).reshape(num, num)


def nll(h: jax.Array, square_x: jax.Array, theta: jax.Array, y: jax.Array) -> jax.Array:
    """Negative log-likelihood [] of y [N, D] under the product kernel Kx o Kz + (1 / beta + 0.01) I."""
    kx, kz = kernels(h, square_x, theta)
    num = y.shape[0]
    return gaussian_nll(kx * tie(kz, num) + (jnp.exp(-h[-1]) + JITTER) * jnp.eye(num, dtype=y.dtype), y)


def sparse_nll(h: jax.Array, x: jax.Array, theta: jax.Array, y: jax.Array, index: jax.Array) -> jax.Array:
    """An upper bound of `nll` in O(N M^2) from M inducing points, the rows `index` int32 [M] of the data (Titsias 2009, eq. 9).

    Equal to it where every row is one, but for 1e-4 of the prior variance that keeps float32 from losing the inducing points' kernel.
    Args: x [N, D]; theta [A, Q], an agent's N / A rows stand in a row.
    """
    num, dim = y.shape
    q, rows = theta.shape[1], jnp.repeat(theta, len(x) // len(theta), axis=0)
    variance, noise = jnp.exp(h[0] + h[1 + q]), jnp.exp(-h[-1]) + JITTER
    scale = jnp.concatenate([jnp.exp(h[2 + q : -1]), jnp.exp(h[1 : 1 + q])])
    points = jnp.concatenate([x, rows], axis=1)
    exponent = sum(scale[j] * jnp.square(points[:, j, None] - points[index, j]) for j in range(points.shape[1]))
    k_nm = variance * jnp.exp(-exponent)
    eye = jnp.eye(len(index), dtype=y.dtype)
    a = inverse_lower(factor(k_nm[index] + 1e-4 * variance * eye)) @ k_nm.T  # [M, N]: Q = a' a
    b = factor(eye + a @ a.T / noise)
    c = inverse_lower(b) @ (a @ y) / noise
    fit = 0.5 * (jnp.sum(jnp.square(y)) / noise - jnp.sum(jnp.square(c)))
    log_det = dim * (jnp.sum(jnp.log(jnp.diagonal(b))) + 0.5 * num * jnp.log(noise))
    lost = num * variance - jnp.sum(jnp.square(a))
    return fit + log_det + 0.5 * num * dim * math.log(2 * math.pi) + 0.5 * dim * lost / noise


def cause_gram(x: jax.Array, agents: int) -> jax.Array:
    """[A, A]: the centred kernel of x [N, D], of norm 1, summed over the samples of each pair of agents; all that "cka" needs of x."""
    centred = hsic.centre(hsic.gaussian(x))
    scaled = centred * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(centred)), 1e-12))
    return jnp.sum(scaled.reshape(agents, len(x) // agents, agents, -1), axis=(1, 3))


def cause_gram_by_features(key: Key, x: jax.Array, agents: int, num: int = 1024) -> jax.Array:
    """`cause_gram` from `num` random features, without any N x N matrix. key: consumed."""
    phi = hsic.random_features(key, x, num)
    phi = phi - jnp.mean(phi, axis=0)
    sums = jnp.sum(phi.reshape(agents, -1, num), axis=1)
    return sums @ sums.T * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(phi.T @ phi)), 1e-12))


def dependence(gram_x: jax.Array, theta: jax.Array, samples: int) -> jax.Array:
    """log(hsic.alignment + 1e-6) [] of x, known by its `cause_gram`, and theta [A, Q] repeated for `samples` samples of each agent."""
    kz = hsic.centre(hsic.gaussian(theta))
    return jnp.log(jnp.sum(gram_x * kz) * jax.lax.rsqrt(jnp.maximum(jnp.square(samples) * jnp.sum(kz * kz), 1e-12)) + 1e-6)


def raw_dependence(h: jax.Array, square_x: jax.Array, theta: jax.Array) -> jax.Array:
    """The authors' log tr(Kx H Kz H) [] with the kernels of the likelihood."""
    kx, kz = kernels(h, square_x, theta)
    return jnp.log(jnp.maximum(hsic.trace(kx, tie(kz, len(kx))), jnp.finfo(kx.dtype).tiny))


def residual_coefficients(x: jax.Array, y: jax.Array) -> jax.Array:
    """What a linear model of each agent's residuals says of it: [A, (1 + D) E], centred over the agents.

    y is regressed on 1, x and all products x_i x_j over all samples, then for each agent the residuals on (1, x), with a ridge of 1.
    Args: x [A, S, D], y [A, S, E], standardised.
    """
    agents, samples, dim = x.shape
    row, column = jnp.triu_indices(dim)
    flat, target = x.reshape(-1, dim), y.reshape(agents * samples, -1)
    design = jnp.concatenate([jnp.ones((len(flat), 1), x.dtype), flat, flat[:, row] * flat[:, column]], axis=1)
    residual = (target - design @ ridge(design, target, 1e-3)).reshape(y.shape)
    own = jnp.concatenate([jnp.ones((agents, samples, 1), x.dtype), x], axis=2)
    coefficients = jax.vmap(ridge, (0, 0, None))(own, residual, 1.0).reshape(agents, -1)
    return coefficients - jnp.mean(coefficients, axis=0)


def ridge(design: jax.Array, target: jax.Array, penalty: float) -> jax.Array:
    """Coefficients [P, E] of ridge regression of target [N, E] on design [N, P]."""
    gram = design.T @ design + penalty * jnp.eye(design.shape[1], dtype=design.dtype)
    return jnp.linalg.solve(gram, design.T @ target)


def principal(rows: jax.Array, dim: int) -> jax.Array:
    """The first `dim` principal components [A, dim] of centred rows [A, P], scaled to standard deviation 1 together."""
    values, vectors = jnp.linalg.eigh(rows @ rows.T)
    keep = vectors[:, ::-1][:, :dim] * jnp.sqrt(jnp.maximum(values[::-1][:dim], 0.0))
    return keep * jax.lax.rsqrt(jnp.maximum(jnp.mean(jnp.square(keep)), 1e-12))


def _network(weights: Params, inputs: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(inputs @ weights["w"] + weights["b"]) @ weights["v"] + weights["c"]


def fit(key: Key, x: jax.Array, y: jax.Array, lam: Any = 1.0, spec: Spec = Spec(), starts: jax.Array | None = None) -> Fit:
    """Find theta by the best of several starts, one from residuals and `spec.restarts` random ones, in one program.

    Args: x [A, S, D], y [A, S, E]: samples of A agents, float; standardised here over all of them. lam: [], weight of the log
      dependence; the advice is 1 with a theta per agent, 10 with one per sample. starts: theta [R, A, Q] to use instead. key: consumed.
    """
    agents, samples, dim = x.shape
    flat_x, flat_y = hsic.standardise(x.reshape(-1, dim)), hsic.standardise(y.reshape(agents * samples, -1))
    q, dtype, many = spec.dim, flat_x.dtype, spec.inducing > 0
    if many and (spec.inducing > len(flat_x) or spec.penalty == "raw"):
        raise UserError(f"inducing = {spec.inducing}: must be at most the number of samples, {len(flat_x)}, with the penalty cka")
    key_theta, key_weights, key_index, key_features = jax.random.split(key, 4)
    if starts is None:
        first = 0.5 * principal(residual_coefficients(flat_x.reshape(x.shape), flat_y.reshape(y.shape)), q)
        starts = jnp.concatenate([first[None], 0.5 * jax.random.normal(key_theta, (spec.restarts, agents, q), dtype)])
    free = jnp.ones(len(starts) + 1, dtype).at[-1].set(0.0)  # the last one is the model without theta
    starts = jnp.concatenate([starts.astype(dtype), jnp.zeros((1, agents, q), dtype)])
    if spec.latent != "agent":
        starts = jnp.repeat(starts, samples, axis=1)
    mlp, units = spec.latent == "sample_mlp", starts.shape[1]
    square_x = None if many else hsic.squares(flat_x)
    gram_x = cause_gram_by_features(key_features, flat_x, units) if many else cause_gram(flat_x, units)
    index = jax.random.permutation(key_index, len(flat_x))[: spec.inducing]
    inputs = jnp.concatenate([flat_x, flat_y], axis=1)

    def latent(params: Params) -> jax.Array:
        return params["free"] * (_network(params["net"], inputs) if mlp else params["theta"])

    def likelihood(h: jax.Array, theta: jax.Array) -> jax.Array:
        return nll(h, square_x, theta, flat_y) if square_x is not None else sparse_nll(h, flat_x, theta, flat_y, index)

    def loss(params: Params, free: jax.Array) -> jax.Array:
        theta = latent({**params, "free": free})
        weights = 0.5 * WEIGHT_PRIOR * sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(params["net"])) if mlp else 0.0
        prior = 0.5 * (jnp.sum(jnp.square(params["h"])) + jnp.sum(jnp.square(theta)))
        if spec.penalty == "raw" and square_x is not None:
            penalty = raw_dependence(params["h"], square_x, theta)
        else:
            penalty = dependence(gram_x, theta, len(flat_x) // units)
        return likelihood(params["h"], theta) + prior + lam * free * penalty + weights

    def descend(function: Any, params: Params, steps: int, lr: float) -> Params:
        def body(carry: Any, fraction: jax.Array) -> tuple[Any, None]:
            params, state = carry
            grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), jax.grad(function)(params))
            updates, state = adam(lr * 0.5 * (1.0 + jnp.cos(math.pi * fraction)), 1e3).update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, adam(lr, 1e3).init(params))
        return jax.lax.scan(body, carry, jnp.arange(steps, dtype=dtype) / steps)[0][0]

    def one(key: Key, start: jax.Array, free: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        h = jnp.full((3 + q + dim,), -1.0, dtype).at[-1].set(math.log(spec.beta))
        params: Params = {"h": h, "theta": start}
        if mlp:
            keys, bound = jax.random.split(key, 3), math.sqrt(3.0 / inputs.shape[1])
            net = {
                "w": uniform(keys[0], (inputs.shape[1], WIDTH), bound).astype(dtype), "b": uniform(keys[1], (WIDTH,), 1.0).astype(dtype),
                "v": uniform(keys[2], (WIDTH, q), 0.3).astype(dtype), "c": jnp.zeros(q, dtype),
            }  # fmt: skip
            net = descend(lambda net: jnp.sum(jnp.square(_network(net, inputs) - start)), net, 300, 0.03)
            params = {"h": h, "net": net}
        params = descend(lambda params: loss(params, free), params, spec.steps, spec.lr)
        theta = latent({**params, "free": free})
        return theta, params["h"], loss(params, free), likelihood(params["h"], theta)

    theta, h, value, fitted = jax.vmap(one)(jax.random.split(key_weights, len(starts)), starts, free)
    ranked = jnp.where(jnp.isfinite(value), value, jnp.inf)[:-1]
    best = jnp.argmin(ranked)
    return Fit(theta[best], h[best], value[best], fitted[best], value[:-1], fitted[-1])


def differ(found: Fit, agents: int, num: int) -> jax.Array:
    """bool []: do the worlds differ at all? The likelihood's gain over no theta must exceed half a parameter's BIC per agent.

    num: samples in all. Standardising theta would hide that it is noise, so this must be asked before any clustering.
    """
    return found.null - found.nll > 0.5 * agents * math.log(num)


def direction(key: Key, x: jax.Array, y: jax.Array, lam: Any = 1.0, spec: Spec = Spec(latent="sample_free")) -> tuple[jax.Array, jax.Array]:
    """How far theta depends on the supposed cause, as HSIC statistic / 5% threshold, for (x -> y, y -> x); the smaller one is believed.

    x, y: [N, 1]. key: consumed. Source: Hu et al. 2018, section 4.
    """

    def dependent(key: Key, cause: jax.Array, effect: jax.Array) -> jax.Array:
        theta = fit(key, cause[:, None], effect[:, None], lam, spec).theta
        result = hsic.test(cause, theta)
        return result.statistic / result.threshold

    key_xy, key_yx = jax.random.split(key)
    return dependent(key_xy, x, y), dependent(key_yx, y, x)
