"""The fixed layouts of the authors' MiniGrid and BabyAI tasks, and random ones of the same kind.

A layout is a table of square rooms with shared walls, doors in those walls, objects, and the agent. A random layout keeps rooms,
colours and kinds: every object and the agent move to a random free cell of their room, every door to a random place of its wall. Nothing
is blocked for good, since every object can be carried away.
Source: the published tasks' own fixed seeds (CEE, arXiv 2501.14543); keycorridors3r3 is MiniGrid's KeyCorridorS3R3 in a layout of ours.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax.envs import minigrid_physics as physics
from causal_jax.types import Key

PICK_UP, GO_TO, PUT_NEXT = "pick up", "go to", "put next"

_UNLOCK = "5,1 locked blue door; 7,1 purple box; 1,2 blue key"
_GO_TO_LOCAL = "2,1 yellow box; 6,1 yellow key; 3,2 grey box; 3,3 purple ball; 4,3 yellow ball; 5,3 grey key; 3,4 yellow key; 4,5 green key"
_PUT_NEXT = "6,1 purple box; 5,2 yellow box; 1,3 purple key; 3,4 yellow key; 2,5 red key; 4,5 green key; 6,5 blue ball; 1,6 red ball"
_KEY_CORRIDOR = (
    "2,1 closed green door; 4,1 locked red door; 5,1 blue ball; 2,3 closed yellow door; 4,3 closed purple door; "
    "1,5 red key; 2,5 closed grey door; 4,5 closed blue door"
)
_R2 = (
    "13,1 green key; 10,2 blue box; 10,3 purple ball; 11,3 yellow ball; 8,4 green key; 6,5 grey box; 7,6 open red door; "
    "10,7 open yellow door; 3,8 blue ball; 13,8 green box; 1,10 purple ball; 4,10 purple key; 12,10 purple key; 4,11 green ball; "
    "7,11 open yellow door; 2,12 red box; 1,13 red ball; 2,13 grey ball; 6,13 grey key"
)
_R3 = (
    "14,4 closed blue door; 15,4 red box; 20,4 blue key; 12,5 red key; 15,5 grey key; 7,6 closed red door; 10,6 blue ball; "
    "17,6 yellow ball; 4,7 closed grey door; 9,7 closed red door; 16,7 closed yellow door; 7,8 closed yellow door; 11,8 red ball; "
    "14,8 closed yellow door; 20,8 yellow ball; 11,9 yellow ball; 6,10 purple key; 4,12 yellow box; 1,13 green box; 12,13 yellow key; "
    "9,14 closed red door; 19,14 closed green door; 6,15 grey key; 19,15 grey key; 5,16 purple ball; 2,18 red key; "
    "7,18 closed purple door; 13,19 blue box"
)
_R2_TARGETS = {"redball": 26, "greenball": 19, "blueball": 25, "greykey": 20, "greenbox": 13}  # target -> steps of a shortest solution
_R3_TARGETS = {"greykey": 16, "greenbox": 22, "bluekey": 20, "blueball": 11, "purpleball": 20, "redbox": 17}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One task. Coordinates are (x, y) with y downwards, `side` is a room's width with its walls, `rooms` the table (across, down).

    shortest: steps of a shortest solution of the fixed layout. goal: what ends the episode: "pick up", "go to" (face it), "put next"
    (drop it beside fixed). target, fixed: (type, colour) codes. objects: ((x, y, type, colour, state), ...).
    bonus: size of the authors' position bonus. gaps: places ((x, y), ...) where a wall between rooms is missing.
    """

    side: int
    rooms: tuple[int, int]
    agent: tuple[int, int, int]
    max_steps: int
    shortest: int
    goal: str
    target: tuple[int, int]
    objects: tuple[tuple[int, int, int, int, int], ...]
    fixed: tuple[int, int] = (0, 0)
    bonus: float = 0.002
    gaps: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(W, H): cells across and down."""
        return self.rooms[0] * (self.side - 1) + 1, self.rooms[1] * (self.side - 1) + 1

    def walls(self) -> np.ndarray:
        """The grid without objects, uint8 [W, H, 3]."""
        x, y = np.indices(self.size)
        wall = (x % (self.side - 1) == 0) | (y % (self.side - 1) == 0)
        for place in self.gaps:
            wall[place] = False
        return np.where(wall[..., None], (physics.WALL, 5, 0), (physics.EMPTY, 0, 0)).astype(np.uint8)

    def grid(self) -> np.ndarray:
        """The grid at the start of an episode, uint8 [W, H, 3]."""
        grid = self.walls()
        for x, y, *cell in self.objects:
            grid[x, y] = cell
        return grid


def _code(words: list[str]) -> tuple[int, int]:
    colour, kind = words
    return physics.TYPES[kind], physics.COLOURS.index(colour)


def _objects(text: str) -> tuple[tuple[int, int, int, int, int], ...]:
    """ "5,1 locked blue door; ..." -> ((5, 1, DOOR, 2, LOCKED), ...)."""
    found = []
    for item in text.split("; "):
        place, *state, colour, kind = item.split()
        x, y = map(int, place.split(","))
        found.append((x, y, *_code([colour, kind]), physics.STATES.index(state[0]) if state else 0))
    return tuple(found)


@functools.cache
def layouts() -> dict[str, Layout]:
    """Every task by its name."""

    def target(name: str) -> tuple[int, int]:
        colour = next(c for c in physics.COLOURS if name.startswith(c))
        return _code([colour, name.removeprefix(colour)])

    def two(name: str, shortest: int) -> Layout:
        return Layout(8, (2, 2), (12, 2, 1), 256, shortest, GO_TO, target(name), _objects(_R2))

    def three(name: str, shortest: int) -> Layout:
        return Layout(8, (3, 3), (12, 11, 2), 576, shortest, GO_TO, target(name), _objects(_R3))

    return {
        "unlockpickup": Layout(6, (2, 1), (4, 3, 2), 288, 18, PICK_UP, target("purplebox"), _objects(_UNLOCK)),
        "gotolocal": Layout(8, (1, 1), (5, 6, 0), 64, 8, GO_TO, target("greybox"), _objects(_GO_TO_LOCAL)),
        "putnextlocal": Layout(
            8, (1, 1), (2, 1, 3), 128, 12, PUT_NEXT, target("yellowkey"), _objects(_PUT_NEXT), fixed=target("purplebox")
        ),
        **{f"gotodooropenr2-{name}": two(name, steps) for name, steps in _R2_TARGETS.items()},
        **{f"gotor3-{name}": three(name, steps) for name, steps in _R3_TARGETS.items()},
        "keycorridors3r3": Layout(
            3, (3, 3), (3, 3, 3), 270, 23, PICK_UP, target("blueball"), _objects(_KEY_CORRIDOR), gaps=((3, 2), (3, 4))
        ),
    }  # fmt: skip


class _Slots(NamedTuple):
    """Where things may go: `cells` [R, C, 2] of every room; of things in rooms (the agent last) room and rank; doors' places [D, P, 2]."""

    cells: np.ndarray
    room: np.ndarray
    rank: np.ndarray
    things: np.ndarray
    places: np.ndarray
    doors: np.ndarray


@functools.cache
def _slots(layout: Layout) -> _Slots:
    pitch = layout.side - 1
    inside = np.stack(np.meshgrid(np.arange(1, pitch), np.arange(1, pitch), indexing="ij"), -1).reshape(-1, 2)
    corner = np.stack(np.meshgrid(np.arange(layout.rooms[0]), np.arange(layout.rooms[1]), indexing="ij"), -1).reshape(-1, 2) * pitch
    objects = np.asarray(layout.objects)
    is_door = objects[:, 2] == physics.DOOR
    things, doors = objects[~is_door], objects[is_door]
    where = np.concatenate([things[:, :2], [layout.agent[:2]]]) // pitch
    room = where[:, 0] * layout.rooms[1] + where[:, 1]
    rank = np.asarray([np.sum(room[:i] == room[i]) for i in range(len(room))])
    along = np.arange(1, pitch)[None, :, None]
    upright = (doors[:, 0] % pitch == 0)[:, None]  # in a wall that runs north and south
    base = doors[:, :2] // pitch * pitch
    free = np.where(upright, (0, 1), (1, 0))  # the axis along which a door may move
    places = np.where(upright, [[1, 0]], [[0, 1]]) * doors[:, :2] + free * base
    return _Slots(corner[:, None] + inside, room, rank, things, places[:, None] + free[:, None] * along, doors)


def random_start(key: Key, layout: Layout, anywhere: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A random layout of the same kind: (grid uint8 [W, H, 3], agent uint8 [3], carry uint8 [2]). The key is consumed.

    anywhere: everything may lie in any room, doors have any state, and half of the time one of the objects is in the agent's hand: starts
    for a model that is to know what actions do in states that random actions seldom reach.
    """
    slots = _slots(layout)
    keys = jax.random.split(key, 5)
    num, cells = len(slots.things), jnp.asarray(slots.cells)
    if anywhere:
        places = jax.random.permutation(keys[0], cells.reshape(-1, 2))[: num + 1]
    else:
        order = jnp.argsort(jax.random.uniform(keys[0], cells.shape[:2]), axis=1)
        places = cells[slots.room, order[slots.room, slots.rank]]
    codes = jnp.asarray(slots.things[:, 2:], jnp.uint8)
    carry = jnp.zeros(2, jnp.uint8)
    if anywhere:
        held = jax.random.randint(keys[1], (), 0, 2 * num)  # num and more: nothing
        carry = jnp.where(held < num, codes[jnp.minimum(held, num - 1), :2], 0)
        codes = jnp.where((jnp.arange(num) == held)[:, None], jnp.asarray((physics.EMPTY, 0, 0), jnp.uint8), codes)
    grid = jnp.asarray(layout.walls()).at[places[:num, 0], places[:num, 1]].set(codes)
    if len(slots.doors):
        chosen = jax.random.randint(keys[2], (len(slots.doors),), 0, slots.places.shape[1])
        door = jnp.asarray(slots.places)[np.arange(len(slots.doors)), chosen]
        state = jax.random.randint(keys[3], (len(slots.doors),), 0, len(physics.STATES)) if anywhere else slots.doors[:, 4]
        grid = grid.at[door[:, 0], door[:, 1]].set(jnp.column_stack([slots.doors[:, 2:4], state]).astype(jnp.uint8))
    direction = jax.random.randint(keys[4], (), 0, 4)
    return grid, jnp.append(places[num], direction).astype(jnp.uint8), carry
