"""What an agent sees of MiniGrid: a symbolic vector of everything, all cells as codes, or the 7 x 7 cells before it.

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
VIEW, AGENT = 7, 10


def symbolic_size(size: tuple[int, int]) -> int:
    """Length of the symbolic vector of a W x H grid."""
    return NUM_PLANES * size[0] * size[1] + NUM_CLOSE


def _paint(colour: jax.Array) -> jax.Array:
    return (colour.astype(jnp.float32) + 1) * (1 / 6)


def symbolic(grid: jax.Array, agent: jax.Array, carry: jax.Array) -> jax.Array:
    """The symbolic vector of a state: grid uint8 [W, H, 3], agent uint8 [3], carry uint8 [2] -> float32 [D]."""
    kind, paint, state = (x.reshape(-1) for x in (grid[..., 0].astype(jnp.float32), _paint(grid[..., 1]), grid[..., 2] * 0.5))
    x, y, direction = jnp.asarray(agent, jnp.int32)
    pose = (direction * grid.shape[0] + x) * grid.shape[1] + y
    standing = (jnp.arange(4 * kind.size) == pose).astype(jnp.float32)
    ahead, ahead_colour, ahead_state = physics.read(grid, *physics.in_front(x, y, direction))
    close = [jnp.where(ahead == physics.WALL, 1.0, 0.0)]
    close += [jnp.where(ahead == wanted, _paint(ahead_colour), 0.0) for wanted in PLANES]
    close.append(ahead_state.astype(jnp.float32) / 2)
    close += [jnp.where(carry[0] == wanted, _paint(carry[1]), 0.0) for wanted in CARRIED]
    return jnp.concatenate([*(jnp.where(kind == wanted, paint, 0.0) for wanted in PLANES), state, standing, jnp.stack(close)])


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


def cells(grid: jax.Array, agent: jax.Array, carry: jax.Array) -> jax.Array:
    """MiniGrid's full view of a state: uint8 [W, H, 3], with (10, 0, direction) where the agent stands; what it carries is not there."""
    here = jnp.stack([jnp.uint8(AGENT), jnp.uint8(0), agent[2]])
    return jax.lax.dynamic_update_slice(grid, here[None, None], (agent[0].astype(jnp.int32), agent[1].astype(jnp.int32), jnp.int32(0)))


def egocentric(grid: jax.Array, agent: jax.Array, carry: jax.Array) -> jax.Array:
    """MiniGrid's partial view of a state: uint8 [7, 7, 3], see the module."""
    x, y, direction = jnp.asarray(agent, jnp.int32)
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
    """bool [7, 7]: which cells are seen, given which let light through. A row is an int, bit i its cell i."""
    bits = 2 ** jnp.arange(VIEW)
    lets = jnp.sum(jnp.where(clear, bits[:, None], 0), axis=0)

    def row(lit: jax.Array, lets: jax.Array) -> tuple[jax.Array, jax.Array]:
        for _ in range(VIEW - 1):  # to the right
            lit |= (lit & lets) << 1
        lit &= 2**VIEW - 1
        shines = lit & lets & (2 ** (VIEW - 1) - 1)
        ahead = shines | shines << 1
        for _ in range(VIEW - 1):  # and back
            lit |= (lit & lets) >> 1
        shines = lit & lets & ~1
        return ahead | shines | shines >> 1, lit

    lit = jax.lax.scan(row, jnp.asarray(2 ** (VIEW // 2)), lets, reverse=True)[1]
    return (lit[None, :] & bits[:, None]) > 0
