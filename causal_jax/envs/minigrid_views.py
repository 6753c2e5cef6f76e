"""What an agent sees of MiniGrid: a symbolic vector of everything, or the 7 x 7 cells before it.

The symbolic vector is float32 in [0, 1], planes of the grid first (all places x, y of one plane follow each other), then what is close:
  door, key, ball, box   [W, H] each: (colour + 1) / 6 where there is one
  door state             [W, H]: 0.5 closed, 1 locked
  agent facing e, s, w, n [W, H] each: 1 where the agent stands
  in front               wall, door, key, ball, box, as in the planes (a wall is 1), and the door's state
  carried                key, ball, box
Walls never change and are not shown. Actions act on the cell in front and on what is carried, so a model need not learn where that is.
The 7 x 7 view is MiniGrid's own: uint8 [7, 7, 3] of cell codes, the agent at (3, 6) looking to y = 0, 0 where it cannot see; its own cell
shows what it carries. The rule of sight is the published one: row by row away from the agent, light spreads through cells that are not
walls or shut doors to both sides and one cell ahead.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from causal_jax.envs import minigrid_physics as physics

PLANES = (physics.DOOR, physics.KEY, physics.BALL, physics.BOX)
CARRIED = (physics.KEY, physics.BALL, physics.BOX)
NUM_PLANES, NUM_CLOSE = len(PLANES) + 1 + 4, 1 + len(PLANES) + 1 + len(CARRIED)
VIEW = 7


def symbolic_size(size: tuple[int, int]) -> int:
    """Length of the symbolic vector of a W x H grid."""
    return NUM_PLANES * size[0] * size[1] + NUM_CLOSE


def _colour(kind: jax.Array, colour: jax.Array, wanted: int) -> jax.Array:
    return jnp.where(kind == wanted, (colour + 1).astype(jnp.float32) / 6, 0.0)


def symbolic(grid: jax.Array, agent: jax.Array, carry: jax.Array) -> jax.Array:
    """The symbolic vector of a state: grid uint8 [W, H, 3], agent uint8 [3], carry uint8 [2] -> float32 [D]."""
    kind, colour, state = grid[..., 0], grid[..., 1], grid[..., 2]
    x, y, direction = agent[0].astype(jnp.int32), agent[1].astype(jnp.int32), agent[2].astype(jnp.int32)
    here = physics.cell_mask(grid, x, y)
    planes = [_colour(kind, colour, wanted) for wanted in PLANES]
    planes.append(state.astype(jnp.float32) / 2)
    planes += [jnp.where(here & (direction == d), 1.0, 0.0) for d in range(4)]
    ahead, ahead_colour, ahead_state = physics.read(grid, *physics.in_front(x, y, direction))
    close = [jnp.where(ahead == physics.WALL, 1.0, 0.0)]
    close += [_colour(ahead, ahead_colour, wanted) for wanted in PLANES]
    close.append(ahead_state.astype(jnp.float32) / 2)
    close += [_colour(carry[0], carry[1], wanted) for wanted in CARRIED]
    return jnp.concatenate([*(plane.reshape(-1) for plane in planes), jnp.stack(close)])


def from_symbolic(obs: jax.Array, walls: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(grid, agent, carry) of a symbolic vector; walls: a grid uint8 [W, H, 3] that has the same walls."""
    width, height = walls.shape[:2]
    planes = obs[: NUM_PLANES * width * height].reshape(NUM_PLANES, width, height)
    code = jnp.round(planes * 6).astype(jnp.int32)
    wall = walls[..., 0] == physics.WALL
    kind, colour = jnp.where(wall, physics.WALL, physics.EMPTY), jnp.where(wall, walls[..., 1], 0).astype(jnp.int32)
    for plane, wanted in zip(code, PLANES, strict=False):
        kind, colour = jnp.where(plane > 0, wanted, kind), jnp.where(plane > 0, plane - 1, colour)
    state = jnp.round(planes[len(PLANES)] * 2).astype(jnp.int32)
    pose = jnp.argmax(planes[len(PLANES) + 1 :].reshape(-1))
    direction, place = pose // (width * height), pose % (width * height)
    held = jnp.round(obs[-len(CARRIED) :] * 6).astype(jnp.int32)
    carried = jnp.argmax(held)
    has = held[carried] > 0
    carry = jnp.where(has, jnp.stack([jnp.asarray(CARRIED)[carried], held[carried] - 1]), 0)
    agent = jnp.stack([place // height, place % height, direction])
    return jnp.stack([kind, colour, state], -1).astype(jnp.uint8), agent.astype(jnp.uint8), carry.astype(jnp.uint8)


def egocentric(grid: jax.Array, agent: jax.Array, carry: jax.Array) -> jax.Array:
    """MiniGrid's partial view of a state: uint8 [7, 7, 3], see the module."""
    x, y, direction = agent[0].astype(jnp.int32), agent[1].astype(jnp.int32), agent[2].astype(jnp.int32)
    ahead_x, ahead_y = physics.in_front(jnp.int32(0), jnp.int32(0), direction)
    side, depth = jnp.arange(VIEW)[:, None] - VIEW // 2, VIEW - 1 - jnp.arange(VIEW)[None, :]  # to the right of the agent, ahead of it
    wx, wy = x + depth * ahead_x - side * ahead_y, y + depth * ahead_y + side * ahead_x
    inside = (wx >= 0) & (wx < grid.shape[0]) & (wy >= 0) & (wy < grid.shape[1])
    wall = jnp.asarray((physics.WALL, 5, 0), jnp.uint8)
    cells = jnp.where(inside[..., None], grid[jnp.where(inside, wx, 0), jnp.where(inside, wy, 0)], wall)
    seen = _sight((cells[..., 0] != physics.WALL) & ((cells[..., 0] != physics.DOOR) | (cells[..., 2] == physics.OPEN)))
    held = jnp.where(carry[0] > 0, jnp.append(carry, 0), jnp.asarray((physics.EMPTY, 0, 0))).astype(jnp.uint8)
    cells = cells.at[VIEW // 2, VIEW - 1].set(held)
    return jnp.where(seen[..., None], cells, jnp.zeros_like(cells))


def _sight(clear: jax.Array) -> jax.Array:
    """bool [7, 7]: which cells are seen, given which let light through."""
    none = jnp.zeros((), bool)
    row = [jnp.asarray(i == VIEW // 2) for i in range(VIEW)]
    rows = []
    for j in reversed(range(VIEW)):
        lets = [clear[i, j] for i in range(VIEW)]
        lit, ahead = row, [none] * VIEW
        for order, side in ((range(VIEW - 1), 1), (reversed(range(1, VIEW)), -1)):  # to the right, then to the left
            for i in order:
                shines = lit[i] & lets[i]
                lit[i + side] |= shines
                ahead[i], ahead[i + side] = ahead[i] | shines, ahead[i + side] | shines
        rows.append(jnp.stack(lit))
        row = ahead
    return jnp.stack(rows[::-1], axis=1)
