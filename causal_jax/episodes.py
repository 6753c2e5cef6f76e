"""A ring of episodes of at most T steps each, written step by step, read as windows of consecutive steps of one episode.

An episode can be read from only once it is over. Every step is written into the slot of the running episode, so nothing is written
under a condition (see replay.py); beginning a new episode moves the head on and empties the slot it finds there, the oldest one.
Window starts are uniform over all valid starts of all episodes, with replacement. One member; the caller vmaps. Actions are hybrid, k is
kept as an integer. Source: DLPA's replay buffer (its authors' utils.py), whose priorities are always 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.types import Key, UserError


class Episodes(NamedTuple):
    """obs [E, T + 1, S], k int32 [E, T], z [E, T, Z], reward [E, T]; length int32 [E] steps written; terminated bool [E]; starts int32 [E],

    valid window starts (0 while an episode runs); head int32 [], the slot of the running episode.
    """

    obs: jax.Array
    k: jax.Array
    z: jax.Array
    reward: jax.Array
    length: jax.Array
    terminated: jax.Array
    starts: jax.Array
    head: jax.Array


class Window(NamedTuple):
    """H steps of one episode, leaves [..., H, ...]: obs [S] (the first one only), actions (k, z), reward, next_obs [H, S]; going bool: the

    step did not terminate; inside bool: there is such a step. Steps that are not there have zeros, and going False.
    """

    obs: jax.Array
    k: jax.Array
    z: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    going: jax.Array
    inside: jax.Array


def init(num: int, steps: int, obs_size: int, num_parameters: int) -> Episodes:
    """Room for `num` episodes, the running one included, of `steps` steps. Raises: UserError for num below 2."""
    if num < 2:
        raise UserError(f"capacity = {num}: must be 2 <= x, a finished episode beside the running one")
    count = jnp.zeros(num, jnp.int32)
    return Episodes(
        jnp.zeros((num, steps + 1, obs_size)), jnp.zeros((num, steps), jnp.int32), jnp.zeros((num, steps, num_parameters)),
        jnp.zeros((num, steps)), count, jnp.zeros(num, bool), count, jnp.zeros((), jnp.int32),
    )  # fmt: skip


def num_starts(length: Any, terminated: Any, steps: int, horizon: int, one_more: bool = False) -> jax.Array:
    """Valid starts of windows of `horizon` < `steps` in a finished episode: all its steps, none after steps - horizon.

    one_more: one index behind an episode that was cut, as in the authors' code: the row there is an end with reward 0 that never was.
    """
    more = jnp.where(terminated, 0, 1) if one_more else 0
    return jnp.minimum(jnp.asarray(length, jnp.int32) + more, steps - horizon)


def record(
    episodes: Episodes, obs: jax.Array, action: tuple[jax.Array, jax.Array], reward: jax.Array, next_obs: jax.Array,
    terminated: jax.Array, over: jax.Array, starts: jax.Array,
) -> Episodes:  # fmt: skip
    """Add a step to the running episode; `over` [] bool ends it, with `starts` [] valid starts, and begins the next in an empty slot."""
    at, t = episodes.head, episodes.length[episodes.head]
    head = (at + over) % episodes.k.shape[0]
    return Episodes(
        episodes.obs.at[at, t].set(obs).at[at, t + 1].set(next_obs),
        episodes.k.at[at, t].set(action[0]),
        episodes.z.at[at, t].set(action[1]),
        episodes.reward.at[at, t].set(reward),
        episodes.length.at[at].set(t + 1).at[head].multiply(1 - over.astype(jnp.int32)),
        episodes.terminated.at[at].set(terminated),
        episodes.starts.at[at].set(jnp.where(over, starts, 0)).at[head].multiply(1 - over.astype(jnp.int32)),
        head,
    )


def windows(episodes: Episodes, key: Key, num: int, horizon: int) -> Window:
    """`num` windows of `horizon` steps, leaves [num, ...]. The key is consumed. With no finished episode the windows are empty."""
    ends = jnp.cumsum(episodes.starts)
    u = jax.random.randint(key, (num,), 0, jnp.maximum(ends[-1], 1))
    slot = jnp.minimum(jnp.searchsorted(ends, u, side="right"), ends.shape[0] - 1)
    first = u - (ends - episodes.starts)[slot]
    t = jnp.minimum(first[:, None] + jnp.arange(horizon), episodes.k.shape[1] - 1)
    slot, length = slot[:, None], episodes.length[slot][:, None]
    inside = (first[:, None] + jnp.arange(horizon) < length) & (ends[-1] > 0)
    return Window(
        episodes.obs[slot[:, 0], first],
        jnp.where(inside, episodes.k[slot, t], 0),
        jnp.where(inside[..., None], episodes.z[slot, t], 0.0),
        jnp.where(inside, episodes.reward[slot, t], 0.0),
        jnp.where(inside[..., None], episodes.obs[slot, t + 1], 0.0),
        inside & ~(episodes.terminated[slot] & (t == length - 1)),
        inside,
    )
