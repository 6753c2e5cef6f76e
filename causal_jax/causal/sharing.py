"""Who learns from whom: from soft cluster memberships of agents to the probabilities with which each reads the others' data.

CCRL (arXiv 2401.18012): similar agents exchange more data. The paper gives neither the similarity nor the rule. Ours: the similarity of
two agents is the probability that their labels agree, S = V V', and W = S with rows that sum to 1 says from whose ring an element of
agent n's minibatch comes. All similarities stay the same when clusters change their names. Identity, uniform and block rows are the
baselines of one code path: individual learning, naive global sharing, oracle clustering.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causal_jax.types import UserError

SIMILARITIES = ("dot", "cosine", "bhattacharyya", "overlap")


def similarity(v: Float[Array, "L K"], kind: str = "dot") -> Float[Array, "L L"]:
    """How similar agents with memberships v (rows sum to 1) are: symmetric, in [0, 1].

    dot: sum_k v_nk v_mk; cosine: that of unit vectors; bhattacharyya: sum_k sqrt(v_nk v_mk); overlap: 1 - total variation.
    Raises: UserError for another kind.
    """
    if kind == "dot":
        return v @ v.T
    if kind == "cosine":
        unit = v * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(v), axis=1, keepdims=True), 1e-12))
        return unit @ unit.T
    if kind == "bhattacharyya":
        return jnp.sqrt(jnp.maximum(v, 0.0)) @ jnp.sqrt(jnp.maximum(v, 0.0)).T
    if kind == "overlap":
        return jnp.sum(jnp.minimum(v[:, None], v[None]), axis=2)
    raise UserError(f"similarity = {kind!r}: must be one of {', '.join(SIMILARITIES)}")


def weights(s: Float[Array, "L L"], own: float = 0.0) -> Float[Array, "L L"]:
    """Rows of a similarity that sum to 1, of which at least the share `own` is the agent's own data: own I + (1 - own) S / row sums."""
    rows = s / jnp.maximum(jnp.sum(s, axis=1, keepdims=True), 1e-12)
    return own * jnp.eye(s.shape[0], dtype=s.dtype) + (1.0 - own) * rows


def identity(num: int) -> Float[Array, "L L"]:
    """Everyone learns alone."""
    return jnp.eye(num)


def uniform(num: int) -> Float[Array, "L L"]:
    """Everyone learns from everyone."""
    return jnp.full((num, num), 1.0 / num)


def blocks(group: Int[Array, "L"]) -> Float[Array, "L L"]:
    """Everyone learns from those of the same group alike: what perfect clustering would give."""
    return weights((group[:, None] == group[None]).astype(jnp.float32))


def shuffled(s: Float[Array, "L L"], order: Int[Array, "L"]) -> Float[Array, "L L"]:
    """The same similarities between the wrong agents: agent n gets the row and column of order[n]. A control."""
    return s[order][:, order]


def winsorise(theta: Float[Array, "L Q"], bound: float = 2.5) -> Float[Array, "L Q"]:
    """theta with each column cut at its median +- `bound` robust standard deviations (1.4826 median absolute deviation).

    One outlier would take a component of a mixture for itself.
    """
    median = jnp.median(theta, axis=0)
    deviation = 1.4826 * jnp.median(jnp.abs(theta - median), axis=0)
    return jnp.clip(theta, median - bound * deviation, median + bound * deviation)
