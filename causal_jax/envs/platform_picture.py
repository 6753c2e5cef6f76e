"""The picture of Platform: the world from the side, the start on the left, a flag at the right end. Numpy only.

The player is the blue figure, the enemies are red; the eyes look where they go. Player and enemy turn grey where the player has met one,
the flag green where it has been reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_jax.envs.platform import END, HEIGHT, PLATFORMS, TALL, WIDTH

_SKY, _EARTH, _GRASS, _POLE = (222, 238, 250), (134, 96, 67), (86, 158, 74), (90, 90, 95)
_BLUE, _RED, _GREY, _GREEN, _WHITE, _INK = (38, 110, 196), (214, 69, 65), (120, 120, 125), (52, 152, 74), (255, 255, 255), (30, 30, 35)
_LEFT, _WIDE, _LOW = -15.0, 1110.0, -35.0  # of the window, in pixels of the world; a quarter as high as wide


def draw(state: Any, size: int) -> np.ndarray:
    """The scene as uint8 [size // 4, size, 3]. Args: state: a PlatformState of numpy scalars."""
    height = size // 4
    right = (np.arange(size) + 0.5) / size * _WIDE + _LEFT
    up = (height - np.arange(height) - 0.5) / size * _WIDE + _LOW
    image = np.full((height, size, 3), _SKY, np.uint8)

    def block(x: float, y: float, width: float, tall: float, colour: tuple[int, int, int]) -> None:
        """The box with lower left corner (x, y)."""
        columns, rows = (right >= x) & (right < x + width), (up >= y) & (up < y + tall)
        image[np.ix_(rows, columns)] = colour

    for left, width in PLATFORMS:
        block(left, _LOW, width, HEIGHT - _LOW, _EARTH)
        block(left, HEIGHT - 9, width, 9, _GRASS)
    reached = state.player_x >= END
    block(END + 12, HEIGHT, 4, 80, _POLE)
    block(END + 16, HEIGHT + 50, 34, 30, _GREEN if reached else _WHITE)

    def figure(x: float, y: float, to_right: bool, colour: tuple[int, int, int]) -> None:
        block(x, y, WIDTH, TALL, colour)
        for eye in (2, 11):
            block(x + eye, y + 15, 7, 9, _WHITE)
            block(x + eye + (3.5 if to_right else 0), y + 16, 3.5, 6, _INK)

    met = False
    for x, dx in ((state.enemy1_x, state.enemy1_dx), (state.enemy2_x, state.enemy2_dx)):
        hit = abs(state.player_x - x) < WIDTH and abs(state.player_y - HEIGHT) < TALL
        met |= hit
        figure(x, HEIGHT, dx > 0, _GREY if hit else _RED)
    figure(state.player_x, max(state.player_y, _LOW), True, _GREY if met else _BLUE)
    return image
