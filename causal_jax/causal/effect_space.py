"""N-values as distances: every action is a point z(s, a) in a small space of effects, so that a mask never needs the A x A matrix.

An option for the N-network of CEE and NPM (arXiv 2501.14543, 2312.06258; the papers' network gives the matrix). The posterior over which
action was taken has the form p(j | s, i) = softmax_j(log pi(j) - |z_i - z_j|^2 / 2), the exact one where effects are Gaussians of one
width and one where they are discrete and the points of different effects lie far apart. Then, with rows as in `causal.effects`,
    N[i,i] - N[i,j] = |z_i - z_j|^2 / 2                      (symmetric: both modes' closeness, without a normaliser)
    N[i,i] = -log sum_k pi(k) exp(-|z_i - z_k|^2 / 2)         (here the members of a group stand at their first leader: O(A G))
and z = M(s) psi(a) has rank K: one forward of the state part and a [D, K] [K, A] product for all actions of a state. Leaders are found one
by one, each compared with all actions: O(A G D) for G groups, where the matrix costs O(A^2 H).
Speed: python -m experiments.benchmarks mask-scale. Accuracy: python -m experiments.cee_scale masks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causal_jax.causal import effects
from causal_jax.causal.effects import Kept, Labels, Matrix, PerAction, Scalar
from causal_jax.types import Key

Points = Float[Array, "D A"]


def distances(z: Points) -> Matrix:
    """Half the squared distance between the effects of all pairs, [A, A] nats (NPM's similarity factor): z [D, A]."""
    return jax.vmap(lambda point: _to(z, point), in_axes=1)(z)


def _to(z: Points, point: Float[Array, "D"]) -> PerAction:
    return 0.5 * jnp.sum(jnp.square(z - point[:, None]), axis=0)


def row(z: Points, action: jax.Array, policy: PerAction, floor: Scalar) -> PerAction:
    """Row `action` of the N-matrix, [A] nats, with the floor that the regression target has: z [D, A], policy [A]."""
    probability = jax.nn.softmax(jnp.log(policy) - _to(z, z[:, action]))
    return jnp.log(probability + floor) - jnp.log(policy + floor)


def group(z: Points, policy: PerAction, epsilon: Scalar) -> tuple[Labels, PerAction]:
    """Groups of interchangeable actions, and the causal effect of each.

    Args: z [D, A], policy [A] sums to 1, epsilon nats. Returns: int32 [A], equal to `effects.group(distances(z), epsilon)`; the diagonal of
      N [A] nats, with every action at the place of the first leader that it joined, so it is exact where groups are points.
    """
    num_actions = z.shape[1]
    index = jnp.arange(num_actions)
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def lead(carry: Carry) -> Carry:
        labels, density, count = carry
        leader = jnp.argmax(labels < 0)
        distance = _to(z, jax.lax.dynamic_index_in_dim(z, leader, axis=1, keepdims=False))
        joins = ((distance < epsilon) & (index > leader)) | (index == leader)
        mass = jnp.sum(jnp.where(joins & (labels < 0), policy, 0.0))
        return jnp.where(joins, count, labels), density + mass * jnp.exp(-distance), count + 1

    start = (jnp.full(num_actions, -1, jnp.int32), jnp.zeros(num_actions), jnp.int32(0))
    labels, density, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[0] < 0), lead, start)
    return labels, -jnp.log(density)


def select(
    selection: str, key: Key, z: Points, policy: PerAction, *, epsilon: Scalar, tau: Scalar, temperature: Scalar, woc_threshold: Scalar
) -> Kept:
    """The actions that a method keeps at a state, bool [A]; arguments as `effects.select` (mode "definition"), z [D, A] for the matrix."""
    labels, effect = group(z, policy, epsilon)
    if selection == "cee-woc":
        return jax.nn.softmax(effect / temperature) > woc_threshold
    return effects.of_groups(selection, key, effect, labels, tau=tau, temperature=temperature)
