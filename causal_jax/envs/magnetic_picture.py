"""The picture of Magnetic: the table from above, y to the right, x downwards, and beside it the end effector's height. Numpy only.

A disc is the ball, a square the box, red or black; dashes join them while the box attracts the ball. The end effector is a blue ring with
two fingers, the mark beside the table its height, the line below the mark the table's top; both turn green on success. A box off the
table is a wedge at the rim that points to it.
"""

from __future__ import annotations

import numpy as np

from causal_jax.envs.magnetic import NEAR, TABLE, TABLE_Z, TOP_Z

_RED, _BLACK, _WOOD, _RIM, _INK = (214, 69, 65), (35, 35, 40), (243, 230, 205), (176, 146, 98), (40, 40, 40)
_BLUE, _GREEN, _FIELD, _GROOVE, _SHINE = (38, 110, 196), (52, 152, 74), (235, 150, 145), (226, 229, 234), (255, 255, 255)
_LEFT, _WIDE = 0.05, 0.76  # of the table, where the picture is 1 wide
_SCALE = _WIDE / (2 * TABLE[1])  # picture widths per metre
_TOP = 0.5 - TABLE[0] * _SCALE
_RIGHT, _BOTTOM = _LEFT + _WIDE, 0.5 + TABLE[0] * _SCALE
_BAR = (0.92, 0.95)


def place(xy: np.ndarray) -> np.ndarray:
    """Where a point xy [2] in metres is in the picture: (right, down) [2], in picture widths."""
    return np.asarray([_LEFT + (xy[1] + TABLE[1]) * _SCALE, _TOP + (xy[0] + TABLE[0]) * _SCALE])


def draw(red: np.ndarray, ball: np.ndarray, box: np.ndarray, eef: np.ndarray, size: int) -> np.ndarray:
    """The scene as uint8 [size, size, 3]. Args: red: bool [2], ball and box; ball, box: xy [2], eef: xyz [3], in metres."""
    centre = (np.arange(size) + 0.5) / size
    right, down = np.meshgrid(centre, centre)
    image = np.full((size, size, 3), 255, np.uint8)

    def block(left: float, top: float, to_right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        image[(right >= left) & (right <= to_right) & (down >= top) & (down <= bottom)] = colour

    block(_LEFT - 0.035, _TOP - 0.035, _RIGHT + 0.035, _BOTTOM + 0.035, _RIM)
    block(_LEFT - 0.025, _TOP - 0.025, _RIGHT + 0.025, _BOTTOM + 0.025, _WOOD)
    (ball_right, ball_down), (box_right, box_down), (eef_right, eef_down) = place(ball), place(box), place(eef[:2])
    ball_colour, box_colour = (_RED if is_red else _BLACK for is_red in red)
    if red.all():
        along = np.asarray([box_right - ball_right, box_down - ball_down])
        share = ((right - ball_right) * along[0] + (down - ball_down) * along[1]) / max(along @ along, 1e-9)
        off = np.hypot(right - ball_right - share * along[0], down - ball_down - share * along[1])
        image[(off <= 0.005) & (share > 0) & (share < 1) & (share * np.linalg.norm(along) % 0.03 < 0.018)] = _FIELD
    if (np.abs(box) <= TABLE).all():
        block(box_right - 0.035, box_down - 0.035, box_right + 0.035, box_down + 0.035, box_colour)
    else:  # a wedge with its tip on the rim, in the box's direction from the middle of the table
        out = np.asarray([box_right, box_down]) - ((_LEFT + _RIGHT) / 2, 0.5)
        half = np.asarray([_RIGHT - _LEFT, _BOTTOM - _TOP]) / 2
        tip = np.asarray([(_LEFT + _RIGHT) / 2, 0.5]) + out * np.min(half / np.maximum(np.abs(out), 1e-9))
        out = out / np.linalg.norm(out)
        back = (tip[0] - right) * out[0] + (tip[1] - down) * out[1]
        side = np.abs((right - tip[0]) * out[1] - (down - tip[1]) * out[0])
        image[(back >= 0) & (back <= 0.09) & (side <= 0.3 * back)] = box_colour
    image[np.hypot(right - ball_right, down - ball_down) <= 0.032] = ball_colour
    image[np.hypot(right - ball_right + 0.01, down - ball_down + 0.01) <= 0.008] = _SHINE
    reached = np.abs(eef - [*ball, TABLE_Z]).sum() < NEAR
    colour = _GREEN if reached else _BLUE
    ring = np.hypot(right - eef_right, down - eef_down)
    image[(ring >= 0.042) & (ring <= 0.052)] = colour
    for side in (-1, 1):
        block(eef_right + side * 0.06 - 0.018, eef_down - 0.009, eef_right + side * 0.06 + 0.018, eef_down + 0.009, colour)

    high = (eef[2] - TABLE_Z) / (TOP_Z - TABLE_Z)
    block(_BAR[0], _TOP, _BAR[1], _BOTTOM, _GROOVE)
    block(_BAR[0] - 0.02, _BOTTOM, _BAR[1] + 0.02, _BOTTOM + 0.01, _RIM)
    mark = _BOTTOM - high * (_BOTTOM - _TOP)
    block(_BAR[0] - 0.01, mark - 0.012, _BAR[1] + 0.01, mark + 0.012, colour)
    return image
