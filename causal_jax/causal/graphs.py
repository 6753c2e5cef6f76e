"""Local causal graphs: which edges may exist, sampling them with a gradient, sparsity, and distances between graphs.

A graph is an [N, S] matrix, S = N variables then M action variables; the row is the target (the next value), the column the source.
FCDL (arXiv 2406.03234), authors' gumbel.py. In Chemical the authors GIVE the topological order: only edges from lower to higher variables
are learned, the upper triangle is off, the diagonal and the action are on. `learn_upper` and `learn_action` free them.
The sparsity term "mean" is the authors' (mean edge probability over all N S entries, the fixed ones too); "sum" is the paper's |A|_1 of the
sampled graph, per variable because the prediction loss is a mean over variables: 11 times stronger at N = 10, M = 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from causal_jax.types import Key, UserError

Logits = Float[Array, "*b N S"]
Graph = Bool[Array, "*b N S"]
Counted = Bool[Array, "N S"] | Bool[np.ndarray, "N S"]
Scalar = float | Float[Array, ""]

FIXED = 100.0  # the logit of an edge that is always there, its negative of one that never is
CLIP = 1e-6  # uniform numbers behind the noise stay this far from 0 and 1, so noise (at most 13.8) cannot move a fixed edge
SPARSITIES = ("mean", "sum")


def free_edges(num_variables: int, num_actions: int = 1, learn_upper: bool = False, learn_action: bool = False) -> Bool[np.ndarray, "N S"]:
    """Which entries are learned, bool [N, N + M] (static): the strict lower triangle, with `learn_upper` everything off the diagonal."""
    states = np.tril(np.ones((num_variables, num_variables), bool), -1)
    if learn_upper:
        states = states | states.T
    return np.concatenate([states, np.full((num_variables, num_actions), learn_action)], axis=1)


def place(free_logits: Float[Array, "*b E"], free: Bool[np.ndarray, "N S"]) -> Logits:
    """Logits of the E free edges in row-major order -> [..., N, S]; the others are 100 (diagonal, action) or -100. free: `free_edges`."""
    num_variables, num_sources = free.shape
    always = np.eye(num_variables, num_sources, dtype=bool)
    always[:, num_variables:] = True
    fixed = np.where(free, 0.0, np.where(always, FIXED, -FIXED)).astype(np.float32)
    return spread(free_logits, free) + fixed


def spread(values: Float[Array, "*b E"], free: Bool[np.ndarray, "N S"]) -> Logits:
    """Numbers of the E free edges in row-major order -> [..., N, S], 0 for the others. free: `free_edges`."""
    # A product with a permutation is exact and has a cheap gradient; a scatter has neither on every device.
    position = np.eye(free.size, dtype=np.float32)[np.flatnonzero(free)]
    flat = jnp.matmul(values, position, precision=jax.lax.Precision.HIGHEST)
    return flat.reshape(*values.shape[:-1], *free.shape)


def logistic_noise(key: Key, shape: tuple[int, ...]) -> Float[Array, "*n"]:
    """log U - log(1 - U) of uniform numbers clipped to [1e-6, 1 - 1e-6]. key: consumed."""
    u = jnp.clip(jax.random.uniform(key, shape), CLIP, 1.0 - CLIP)
    return jnp.log(u) - jnp.log1p(-u)


def sample_edges(logits: Float[Array, "*n"], noise: Float[Array, "*n"], temperature: Scalar = 1.0) -> Float[Array, "*n"]:
    """Gumbel-sigmoid edges, exactly 0 or 1 forward, the gradient of sigmoid((logits + noise) / temperature) backward (gumbel.py:36-60).

    Args: logits, noise: [...] alike, noise from `logistic_noise`. temperature: > 0. P(edge) = sigmoid(logits) at any temperature.
    """
    soft = jax.nn.sigmoid((logits + noise) / temperature)
    return jax.lax.stop_gradient((soft > 0.5).astype(soft.dtype)) + (soft - jax.lax.stop_gradient(soft))


def likely_edges(logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Edges with probability above one half, as 0.0 or 1.0: the graph used outside training."""
    return (logits > 0).astype(logits.dtype)


def choose(scores: Float[Array, "*b K"], noise: Float[Array, "*b K"] | None) -> Float[Array, "*b K"]:
    """One of K, one-hot on the last axis: Gumbel-softmax at temperature 1, hard forward, soft gradient backward (Jang et al. 2017).

    Args: scores: [..., K] log-probabilities up to a constant. noise: [..., K] Gumbel, or None for the largest score, without gradient.
    """
    if noise is None:
        return jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1])
    soft = jax.nn.softmax(scores + noise)
    hard = jax.nn.one_hot(jnp.argmax(scores + noise, axis=-1), scores.shape[-1])
    return hard + (soft - jax.lax.stop_gradient(soft))


def sparsity(logits: Logits, edges: Logits, how: str = "mean") -> Float[Array, ""]:
    """The term that the sparsity weight multiplies, [].

    Args: logits, edges: [..., N, S], edges from `sample_edges`. how: "mean" (of the probabilities, authors) or "sum" (edges per variable,
    the paper's formula). Raises: UserError for another word.
    """
    if how not in SPARSITIES:
        raise UserError(f"sparsity = {how!r}: must be one of {', '.join(SPARSITIES)}")
    return jnp.mean(jax.nn.sigmoid(logits)) if how == "mean" else jnp.mean(jnp.sum(edges, axis=-1))


def with_self(parents: Bool[Array, "*b N N"], num_actions: int = 1) -> Bool[Array, "*b N S"]:
    """What a model needs to see where `parents` [..., N, N] are in force: them, the variable itself (it may persist) and the action."""
    num_variables = parents.shape[-1]
    action = jnp.ones((*parents.shape[:-1], num_actions), bool)
    return jnp.concatenate([parents | jnp.eye(num_variables, dtype=bool), action], axis=-1)


def shd(graph: Graph, truth: Graph, counted: Counted | None = None) -> Float[Array, "*b"]:
    """Structural Hamming distance: number of entries that differ, [...]. counted: bool [N, S], entries that count (None: all)."""
    wrong = graph != truth
    return jnp.sum(wrong if counted is None else wrong & jnp.asarray(counted), axis=(-2, -1)).astype(jnp.float32)


def f1(graph: Graph, truth: Graph, counted: Counted | None = None) -> Float[Array, "*b"]:
    """2 TP / (2 TP + FP + FN) of the edges, [...] in [0, 1]; 1 where both graphs are empty. counted: as in `shd`."""
    where = jnp.ones(graph.shape[-2:], bool) if counted is None else jnp.asarray(counted)
    hits = jnp.sum(graph & truth & where, axis=(-2, -1)).astype(jnp.float32)
    total = 2.0 * hits + shd(graph, truth, where)
    return jnp.where(total > 0, 2.0 * hits / jnp.where(total > 0, total, 1.0), 1.0)
