"""Optimisers whose learning rate may be a traced scalar, so that the members of a population sweep it under vmap.

Build the transformation inside the traced function, from the member's Hyper: `adam(hyper.lr, hyper.max_grad_norm).update(...)`.
Its state does not depend on the rate. A schedule is a number too: `adam(linear(hyper.lr, 0.0, t / num_steps))`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Scalar = float | jax.Array


def adam(lr: Scalar, max_grad_norm: Scalar | None = None, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam, after clipping the gradient by its GLOBAL norm (over the whole tree, not element by element) where a bound is given.

    Args: lr: [] float or traced scalar, per update. max_grad_norm: [] or None (no clipping). eps: 1e-8 is Adam's, 1e-5 PPO's.
    Source: Kingma & Ba 2015; Pascanu et al. 2013 (clipping).
    """
    # scale(-lr), not optax.adam(lr): the state is then the same for a float, a traced rate and a schedule
    steps = [optax.scale_by_adam(eps=eps), optax.scale(-lr)]
    if max_grad_norm is not None:
        steps.insert(0, optax.clip_by_global_norm(max_grad_norm))
    return optax.chain(*steps)


def linear(start: Scalar, end: Scalar, fraction: Scalar) -> jax.Array:
    """start + (end - start) * fraction, fraction (share of the training done) clipped to [0, 1]. All []."""
    return jnp.asarray(start + (end - start) * jnp.clip(fraction, 0.0, 1.0))


def polyak(target: Any, online: Any, rate: Scalar) -> Any:
    """(1 - rate) * target + rate * online, leaf by leaf. rate in [0, 1]; 1 copies. Source: Lillicrap et al. 2016 (tau)."""
    return jax.tree.map(lambda t, o: (1.0 - rate) * t + rate * o, target, online)
