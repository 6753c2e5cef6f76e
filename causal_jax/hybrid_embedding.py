"""A latent space of hybrid actions: a table of embeddings of k, and a conditional variational auto-encoder of z (HyAR, arXiv 2109.05490).

The encoder reads (s, e_k, z) and gives a normal of the latent; the decoder reads (s, e_k, latent) and gives z; behind it a head predicts
the change of the state, so that actions of like effect lie close. Conditions enter by an elementwise product, the head is cascaded. Loss
(eq. 2, 5 and 6): reconstruction + KL + beta * prediction, here means over components with the weights of the authors' code, 2, 0.5 and 1.
Decoding takes the nearest row of the table. Constraint: a policy's output in [-1, 1] is rescaled to the central c of what encoding gives.
Shift: the embeddings of a stored step count as long as they still mean it, else they are made anew (`relabel`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import networks, spaces
from causal_jax.types import Key, Params

WEIGHTS = {"reconstruction": 2.0, "kl": 0.5, "prediction": 1.0}  # authors' ActionRepresentation_vae.py


class Spec(NamedTuple):
    """Sizes: obs_size S, the action space, components of an embedding of k and of a latent of z, hidden width."""

    obs_size: int
    space: spaces.Hybrid
    k_size: int
    z_size: int
    width: int


class Bounds(NamedTuple):
    """lower, upper [k_size + z_size]: where the policy may go."""

    lower: jax.Array
    upper: jax.Array


def _nets(spec: Spec) -> dict[str, Any]:
    def net(inputs: int, hidden: tuple[int, ...], outputs: int) -> Any:
        return networks.mlp(inputs, hidden, outputs, activation="relu", init="torch")

    w, condition = spec.width, spec.obs_size + spec.k_size
    return {
        "encode_condition": net(condition, (), w), "encode_z": net(spec.space.num_parameters, (), w),
        "encode": net(w, (w, w), 2 * spec.z_size), "decode_condition": net(condition, (), w), "decode_latent": net(spec.z_size, (), w),
        "decode": net(w, (w,), w), "z": net(w, (), spec.space.num_parameters), "change": net(w, (w,), spec.obs_size),
    }  # fmt: skip


def init(key: Key, spec: Spec) -> dict[str, Params]:
    """Fresh networks by name, and "table", a kernel [K, k_size] ~ U(-1, 1) whose tanh are the embeddings. The key is consumed."""
    nets = _nets(spec)
    key_table, *keys = jax.random.split(key, len(nets) + 1)
    params = {name: net.init(k) for (name, net), k in zip(nets.items(), keys, strict=True)}
    return {**params, "table": {"kernel": networks.uniform(key_table, (spec.space.n, spec.k_size), 1.0)}}


def table(params: Any) -> jax.Array:
    """The embeddings of all choices [K, k_size], in (-1, 1)."""
    return jnp.tanh(params["table"]["kernel"])


def nearest(rows: jax.Array, e: jax.Array) -> jax.Array:
    """Which of rows [K, D] is the nearest to e [..., D], int32 [...]."""
    squares = jnp.sum(jnp.square(rows), axis=-1) - 2.0 * e @ rows.T  # |e|^2 is the same for all: [..., K] and no [..., K, D]
    return jnp.argmin(squares, axis=-1).astype(jnp.int32)


def encode(params: Any, spec: Spec, obs: jax.Array, k: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, log_std) [..., z_size] of the latent of z [..., Z] at obs [..., S] with choice k [...]; log_std in [-4, 15]."""
    nets, e = _nets(spec), table(params)[k]
    condition = nets["encode_condition"].apply(params["encode_condition"], jnp.concatenate([obs, e], -1))
    h = jax.nn.relu(condition) * jax.nn.relu(nets["encode_z"].apply(params["encode_z"], z))
    mean, log_std = jnp.split(nets["encode"].apply(params["encode"], h), 2, axis=-1)
    return mean, jnp.clip(log_std, -4.0, 15.0)


def decode(params: Any, spec: Spec, obs: jax.Array, k: jax.Array, latent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(z [..., Z] in [-1, 1], zero where k has no parameter; predicted change of the state [..., S])."""
    nets, e = _nets(spec), table(params)[k]
    condition = nets["decode_condition"].apply(params["decode_condition"], jnp.concatenate([obs, e], -1))
    h = jax.nn.relu(condition) * jax.nn.relu(nets["decode_latent"].apply(params["decode_latent"], latent))
    h = jax.nn.relu(nets["decode"].apply(params["decode"], h))
    z = jnp.where(spec.space.slots(k)[1], jnp.tanh(nets["z"].apply(params["z"], h)), 0.0)
    return z, nets["change"].apply(params["change"], h)


def kl(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """KL(N(mean, std^2) || N(0, 1)), elementwise, in nats."""
    return 0.5 * (jnp.square(mean) + jnp.exp(2.0 * log_std) - 1.0) - log_std


def losses(params: Any, spec: Spec, noise: jax.Array, obs: Any, k: Any, z: Any, next_obs: Any, beta: Any) -> tuple[jax.Array, Any]:
    """(total [], terms) of a batch [B, ...]; noise [B, z_size]: unit normals. Reconstruction counts only parameters that k has."""
    mean, log_std = encode(params, spec, obs, k, z)
    decoded, change = decode(params, spec, obs, k, mean + jnp.exp(log_std) * noise)
    exists = spec.space.slots(k)[1]
    terms = {
        "reconstruction": jnp.sum(jnp.where(exists, jnp.square(decoded - z), 0.0)) / jnp.maximum(jnp.sum(exists), 1),
        "kl": jnp.mean(kl(mean, log_std)),
        "prediction": jnp.mean(jnp.square(change - (next_obs - obs))),
    }
    scale = {**WEIGHTS, "prediction": WEIGHTS["prediction"] * beta}
    return jnp.sum(jnp.stack([scale[name] * x for name, x in terms.items()])), terms


def central(values: jax.Array, share: float) -> Bounds:
    """The central `share` in (0, 1] of values [N, D] in every dimension, between the quantiles (1 -+ share) / 2; at least 1e-3 wide."""
    lower, upper = jnp.quantile(values, np.asarray([(1 - share) / 2, (1 + share) / 2], np.float32), axis=0)
    short = jnp.maximum(1e-3 - (upper - lower), 0.0) / 2
    return Bounds(lower - short, upper + short)


def constraint(params: Any, spec: Spec, obs: Any, k: Any, z: Any, share: float) -> Bounds:
    """Bounds of the latent space from N steps: of the embeddings the range of the table, of the latents the central share of the means.

    (Of the table all, and not of the k that were played: else a choice no longer played could never be chosen again.)
    """
    rows = table(params)
    whole, latents = central(rows, 1.0), central(encode(params, spec, obs, k, z)[0], share)
    return Bounds(*(jnp.concatenate([a, b]) for a, b in zip(whole, latents, strict=True)))


def from_unit(bounds: Bounds, u: jax.Array) -> jax.Array:
    """[-1, 1] -> [lower, upper]."""
    return bounds.lower + (bounds.upper - bounds.lower) * (u + 1.0) / 2.0


def to_unit(bounds: Bounds, x: jax.Array) -> jax.Array:
    """[lower, upper] -> [-1, 1]; what is outside is clipped."""
    return jnp.clip(2.0 * (x - bounds.lower) / (bounds.upper - bounds.lower) - 1.0, -1.0, 1.0)


def relabel(params: Any, spec: Spec, noise: jax.Array, rows: Any, latent: Any, error: jax.Array) -> jax.Array:
    """The latent actions [B, k_size + z_size] of stored steps, as the model has them now.

    An embedding that is still nearest to its k stays, else it becomes that of k. A latent from which the change of the state is still
    predicted with a mean squared error of at most `error` [] stays, else it is drawn from the encoder.
    Args: rows: (obs [B, S], k [B], z [B, Z], next_obs [B, S]). latent: as stored. noise: [B, z_size] unit normals.
    Source: the paper's section 4 (representation shift correction); the criterion is that of the authors' P_TD3_relable.py.
    """
    obs, k, z, next_obs = rows
    e, part = jnp.split(latent, [spec.k_size], axis=-1)
    embeddings = table(params)
    e = jnp.where((nearest(embeddings, e) == k)[:, None], e, embeddings[k])
    mean, log_std = encode(params, spec, obs, k, z)
    _, change = decode(params, spec, obs, k, part)
    valid = jnp.mean(jnp.square(change - (next_obs - obs)), axis=-1) <= error
    return jnp.concatenate([e, jnp.where(valid[:, None], part, mean + jnp.exp(log_std) * noise)], axis=-1)
