"""MiniGrid's picture, identical to the published renderer's at 8 pixels a cell, from the geometry of its shapes.

A tile is painted on 3 x 3 sub-pixels a pixel, averaged and truncated to uint8. All tiles that can occur are painted once, on the host, and
a picture is a gather from them. What is carried is not shown: picking a box up and destroying it look the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.envs import minigrid_physics as physics

TILE = 8  # pixels of a cell in observations
RGB = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "purple": (112, 39, 195), "yellow": (255, 255, 0), "grey": (100,) * 3}
_KINDS, _STATES, _AGENTS = 8, 3, 5  # type codes, states, no agent or its four directions

Shape = Callable[[Any, Any], Any]


def _box(x0: float, x1: float, y0: float, y1: float) -> Shape:
    return lambda x, y: (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)


def _disc(x0: float, y0: float, r: float) -> Shape:
    return lambda x, y: (x - x0) ** 2 + (y - y0) ** 2 <= r * r


def _triangle(x: Any, y: Any) -> Any:
    """The agent looking east: inside (0.12, 0.19), (0.87, 0.50), (0.12, 0.81), by barycentric coordinates."""
    a, b, c = np.array((0.12, 0.19)), np.array((0.87, 0.50)), np.array((0.12, 0.81))
    v0, v1 = c - a, b - a
    v2 = np.stack([x - a[0], y - a[1]], -1)
    d00, d01, d11, d02, d12 = v0 @ v0, v0 @ v1, v1 @ v1, v2 @ v0, v2 @ v1
    scale = 1 / (d00 * d11 - d01 * d01)
    u, v = (d11 * d02 - d01 * d12) * scale, (d00 * d12 - d01 * d02) * scale
    return (u >= 0) & (v >= 0) & (u + v < 1)


def _door(colour: np.ndarray, state: int) -> list[tuple[Shape, Any]]:
    whole = _box(0, 1, 0, 1)
    if state == physics.OPEN:
        return [(_box(0.88, 1.0, 0, 1), colour), (_box(0.92, 0.96, 0.04, 0.96), 0)]
    if state == physics.LOCKED:
        dark = (0.45 * colour).astype(np.uint8)
        return [(whole, colour), (_box(0.06, 0.94, 0.06, 0.94), dark), (_box(0.52, 0.75, 0.50, 0.56), colour)]
    rings = [(_box(a, 1 - a, a, 1 - a), c) for a, c in ((0.04, 0), (0.08, colour), (0.12, 0))]
    return [(whole, colour), *rings, (_disc(0.75, 0.5, 0.08), colour)]


def _layers(kind: int, colour: np.ndarray, state: int) -> list[tuple[Shape, Any]]:
    """What an object is painted of, in order."""
    if kind == physics.WALL:
        return [(_box(0, 1, 0, 1), colour)]
    if kind == physics.DOOR:
        return _door(colour, state)
    if kind == physics.BALL:
        return [(_disc(0.5, 0.5, 0.31), colour)]
    if kind == physics.BOX:
        return [(_box(0.12, 0.88, 0.12, 0.88), colour), (_box(0.18, 0.82, 0.18, 0.82), 0), (_box(0.16, 0.84, 0.47, 0.53), colour)]
    if kind == physics.KEY:
        shaft, ring, hole = _box(0.50, 0.63, 0.31, 0.88), _disc(0.56, 0.28, 0.190), _disc(0.56, 0.28, 0.064)
        teeth = [(_box(0.38, 0.50, y0, y1), colour) for y0, y1 in ((0.59, 0.66), (0.81, 0.88))]
        return [(shaft, colour), *teeth, (ring, colour), (hole, 0)]
    return []


def tile(kind: int, colour: int, state: int, agent: int | None = None, size: int = TILE) -> np.ndarray:
    """One cell, uint8 [size, size, 3]: type, colour and state codes; agent: its direction if it stands here. On the host."""
    fine = np.zeros((3 * size, 3 * size, 3), np.uint8)
    centre = (np.arange(3 * size) + 0.5) / (3 * size)
    x, y = np.meshgrid(centre, centre)
    layers: list[tuple[Shape, Any]] = [(_box(0, 0.031, 0, 1), 100), (_box(0, 1, 0, 0.031), 100)]
    layers += _layers(kind, np.asarray(RGB[physics.COLOURS[colour]], np.uint8), state)
    for shape, paint in layers:
        fine[shape(x, y)] = paint
    if agent is not None:
        turn = -0.5 * np.pi * agent
        dx, dy = x - 0.5, y - 0.5
        turned = 0.5 + dx * np.cos(turn) - dy * np.sin(turn), 0.5 + dy * np.cos(turn) + dx * np.sin(turn)
        fine[_triangle(*turned)] = RGB["red"]
    return fine.reshape(size, 3, size, 3, 3).mean(axis=(1, 3)).astype(np.uint8)


@functools.cache
def atlas(size: int = TILE) -> np.ndarray:
    """Every tile, uint8 [8 * 6 * 3 * 5, size, size, 3]; `_index` says which is which."""
    codes = np.ndindex(_KINDS, len(physics.COLOURS), _STATES, _AGENTS)
    return np.stack([tile(kind, colour, state, agent - 1 if agent else None, size) for kind, colour, state, agent in codes])


def _index(xp: Any, grid: Any, agent: Any) -> Any:
    """Number of the tile of every cell, int32 [W, H]."""
    codes = grid.astype(xp.int32)
    here = (xp.arange(grid.shape[0])[:, None] == agent[0]) & (xp.arange(grid.shape[1])[None, :] == agent[1])
    standing = xp.where(here, agent[2].astype(xp.int32) + 1, 0)
    return ((codes[..., 0] * len(physics.COLOURS) + codes[..., 1]) * _STATES + codes[..., 2]) * _AGENTS + standing


def image(grid: jax.Array, agent: jax.Array) -> jax.Array:
    """The whole map as the published program shows it: uint8 [8 H, 8 W, 3] of grid uint8 [W, H, 3] and agent uint8 [3]. Jittable."""
    width, height = grid.shape[:2]
    words = atlas().reshape(-1, TILE, TILE * 3).view(np.uint32)  # four bytes at a time: a gather's cost is its number of elements
    tiles = jnp.asarray(words)[_index(jnp, grid, agent)].transpose(1, 2, 0, 3)
    return jax.lax.bitcast_convert_type(tiles, jnp.uint8).reshape(height * TILE, width * TILE, 3)


def render(grid: np.ndarray, agent: np.ndarray, carry: np.ndarray, size: int = 24) -> np.ndarray:
    """A picture for the eye, on the host: the map, and below it what is carried; uint8 [(H + 1) * size, W * size, 3]."""
    width, height = grid.shape[:2]
    painted = atlas(size)[_index(np, grid, agent)].transpose(1, 2, 0, 3, 4).reshape(height * size, width * size, 3)
    strip = np.full((size, width * size, 3), 40, np.uint8)
    if carry[0]:
        strip[:, :size] = tile(int(carry[0]), int(carry[1]), 0, size=size)
    return np.concatenate([painted, strip])
