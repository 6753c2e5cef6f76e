"""Returns and advantages of ONE trajectory: gae, lambda_return, discounted_return. The caller vmaps over environments.

Truncation is not termination: after a terminated step nothing is bootstrapped, after a truncated one the value of the observation
before the reset is. Times run forward, t = 0 .. T-1; done = terminated | truncated cuts the trajectory into episodes.
Sources: Schulman et al. 2016 (GAE, eq. 16); Sutton & Barto 2018, eqs. 3.9 and 12.18.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Trajectory = Float[Array, "T"]
Flags = Bool[Array, "T"]
Scalar = float | Float[Array, ""]


def gae(
    reward: Trajectory,
    value: Trajectory,
    next_value: Trajectory,
    terminated: Flags,
    done: Flags,
    gamma: Scalar,
    lam: Scalar,
) -> Trajectory:
    """Generalised advantage estimation for one trajectory (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t);  A_t = delta_t + gamma lam (1 - done_t) A_{t+1}
    Args: reward, value, next_value: [T] float, reward in task units per step; next_value is V of the observation BEFORE the
      reset. terminated, done: [T] bool, done = terminated | truncated. gamma, lam: scalars in [0, 1].
    Returns: advantages [T]. Not batched: vmap over environments. The value target is `gae(...) + value`.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    decay = gamma * lam * (1.0 - done)

    def backward(advantage: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = x[0] + x[1] * advantage
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros((), delta.dtype), (delta, decay.astype(delta.dtype)), reverse=True)[1]


def lambda_return(
    reward: Trajectory,
    next_value: Trajectory,
    terminated: Flags,
    done: Flags,
    gamma: Scalar,
    lam: Scalar,
) -> Trajectory:
    """The lambda return of every step of one trajectory (Sutton & Barto 2018, eq. 12.18).

    G_t = r_t + gamma (1 - terminated_t) ((1 - lam) V(s'_t) + lam G_{t+1}), where G_{t+1} is V(s'_t) after a done or the last step.
    lam = 0: one-step targets; lam = 1: Monte-Carlo returns that bootstrap only at truncation and at the end. Equal to
    gae(...) + value where next_value_t = value_{t+1} inside an episode.
    Args: as `gae`. Returns: [T].
    """
    keep = gamma * (1.0 - terminated)

    def backward(following: jax.Array, x: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        r, v, k, d = x
        target = r + k * ((1.0 - lam) * v + lam * jnp.where(d, v, following))
        return target, target

    return jax.lax.scan(backward, next_value[-1], (reward, next_value, keep, done), reverse=True)[1]


def discounted_return(reward: Trajectory, done: Flags, gamma: Scalar) -> Trajectory:
    """Discounted sum of the rewards to the end of the episode, without bootstrap: R_t = r_t + gamma (1 - done_t) R_{t+1}, R_T = 0.

    Args: reward: [T] float. done: [T] bool. gamma: scalar in [0, 1]. Returns: [T]. Source: Sutton & Barto 2018, eq. 3.9.
    """

    def backward(following: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total = x[0] + gamma * jnp.where(x[1], 0.0, following)
        return total, total

    return jax.lax.scan(backward, jnp.zeros((), reward.dtype), (reward, done), reverse=True)[1]
