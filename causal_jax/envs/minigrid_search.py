"""Every state that MiniGrid's actions can reach from the start, and shortest solutions: exact answers to compare learned ones with.

On the host, for tasks of up to some hundred thousand states (unlockpickup has 17,164; where many objects can be carried about there
are too many). Episodes end with success; the time limit is left out.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.envs.minigrid import Minigrid, MinigridParams, MinigridState
from causal_jax.types import UserError

ROWS = 4096  # states expanded by one call


class Graph(NamedTuple):
    """S states that do not end the episode, the start first: leaves [S, ...]; after int [S, 7], the state that an action leads to; ends."""

    states: MinigridState
    after: np.ndarray
    ends: np.ndarray


def reachable(env: Minigrid, params: MinigridParams, limit: int = 500_000) -> Graph:
    """All states reachable from the fixed start, the counter at 0. after is -1 where ends [S, 7] (bool) is True: success.

    Raises: UserError when there are more than `limit`.
    """

    def expand(state: MinigridState, action: jax.Array) -> tuple[MinigridState, jax.Array]:
        _, new, _, terminated, _ = env.step_env(jax.random.key(0), state, action, params)
        return dataclasses.replace(new, t=jnp.zeros((), jnp.int32)), terminated

    program = jax.jit(jax.vmap(jax.vmap(expand, (None, 0)), (0, None)))
    start = dataclasses.replace(env.reset_env(jax.random.key(0), params)[1], visits=None)
    frontier = jax.tree.map(lambda x: np.asarray(x)[None], start)
    known = {_name(frontier, 0): 0}
    layers, after, ends = [frontier], [], []
    while len(frontier.t):
        new = []
        for begin in range(0, len(frontier.t), ROWS):
            part = jax.tree.map(lambda x, b=begin: x[b : b + ROWS], frontier)
            num = len(part.t)
            padded = jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[:1], ROWS - len(x), 0)]), part)
            found, ended = jax.device_get(program(padded, np.arange(7)))
            found, ended = jax.tree.map(lambda x, n=num: x[:n].reshape(-1, *x.shape[2:]), found), ended[:num]
            ends.append(ended)
            row = np.full(num * 7, -1)
            fresh = []
            for i in np.flatnonzero(~ended.reshape(-1)).tolist():
                name = _name(found, i)
                if name not in known:
                    known[name] = len(known)
                    fresh.append(i)
                row[i] = known[name]
            after.append(row.reshape(num, 7))
            new.append(jax.tree.map(lambda x, rows=fresh: x[np.asarray(rows, int)], found))
            if len(known) > limit:
                raise UserError(f"{env.task}: has more than {limit} reachable states")
        frontier = jax.tree.map(lambda *x: np.concatenate(x), *new)
        layers.append(frontier)
    return Graph(jax.tree.map(lambda *x: np.concatenate(x), *layers), np.concatenate(after), np.concatenate(ends))


def _name(states: MinigridState, i: int) -> bytes:
    return states.grid[i].tobytes() + states.agent[i].tobytes() + states.carry[i].tobytes()


def shortest(graph: Graph, allowed: np.ndarray | None = None) -> int | None:
    """Steps of a shortest solution that takes allowed actions (bool [S, 7], None: all) only; None where there is none."""
    everything = np.ones(graph.ends.shape, bool) if allowed is None else np.asarray(allowed, bool)
    seen = np.zeros(len(graph.ends), bool)
    frontier, steps = np.asarray([0]), 0
    while len(frontier):
        seen[frontier] = True
        steps += 1
        if (graph.ends & everything)[frontier].any():
            return steps
        reached = np.unique(graph.after[frontier][everything[frontier]])
        frontier = reached[~seen[reached]]
    return None
