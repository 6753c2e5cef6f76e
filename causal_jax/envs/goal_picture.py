"""The picture of Goal and Hard Goal: the half field from above with the goal on the right. Numpy only.

The blue disc is the player, the red one the goalie, their short line where they face; the white disc is the ball.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_jax.envs.goal_physics import GOAL_HALF_WIDTH, HALF_WIDTH, LENGTH

_OUT, _FIELD, _LINE, _NET, _BALL, _BLUE, _RED, _INK = (
    (58, 110, 62), (78, 140, 82), (235, 240, 235), (190, 200, 190), (255, 255, 255), (38, 110, 196), (214, 69, 65), (30, 40, 50),
)  # fmt: skip
_MARGIN = 2.0  # field units around the field


def draw(state: Any, size: int) -> np.ndarray:
    """The scene as uint8 [size, about 0.7 size, 3]. state: a GoalState of numbers."""
    height, width = 2 * (HALF_WIDTH + _MARGIN), LENGTH + 2 * _MARGIN
    columns = round(size * width / height)
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns * width - _MARGIN, height / 2 - (np.arange(size) + 0.5) / size * height)
    image = np.full((size, columns, 3), _OUT, np.uint8)
    image[(x >= 0) & (x <= LENGTH) & (np.abs(y) <= HALF_WIDTH)] = _FIELD
    image[(np.abs(x - LENGTH) <= 0.12) & (np.abs(y) <= HALF_WIDTH)] = _LINE
    image[(x > LENGTH + 0.12) & (x < LENGTH + 1.4) & (np.abs(y) <= GOAL_HALF_WIDTH)] = _NET

    def disc(at: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
        image[np.hypot(x - at[0], y - at[1]) <= radius] = colour

    for who, colour in (("player", _BLUE), ("goalie", _RED)):
        at = (getattr(state, f"{who}_x"), getattr(state, f"{who}_y"))
        facing = getattr(state, f"{who}_o")
        disc(at, 0.9, colour)
        for step in np.linspace(0.2, 1.2, 12):
            disc((at[0] + step * np.cos(facing), at[1] + step * np.sin(facing)), 0.16, _INK)
    disc((state.ball_x, state.ball_y), 0.5, _INK)
    disc((state.ball_x, state.ball_y), 0.4, _BALL)
    return image
