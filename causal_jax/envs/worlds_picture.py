"""Pictures of the worlds that learners share: a point on a line, a pendulum in the wind, a pole on a cart. Numpy only.

Each returns uint8 [size, size, 3], the place of a thing in picture widths, y upwards.
"""

from __future__ import annotations

import math

import numpy as np

_INK, _GREY, _RED, _BLUE, _GREEN = (40, 40, 40), (190, 195, 203), (214, 69, 65), (38, 110, 196), (52, 152, 74)
Colour = tuple[int, int, int]


class _Canvas:
    def __init__(self, size: int) -> None:
        centre = (np.arange(size) + 0.5) / size
        self.x, self.y = np.meshgrid(centre, 1.0 - centre)
        self.image = np.full((size, size, 3), 255, np.uint8)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.image[np.hypot(self.x - x, self.y - y) <= radius] = colour

    def stick(self, x: float, y: float, to_x: float, to_y: float, width: float, colour: Colour) -> None:
        dx, dy = to_x - x, to_y - y
        share = np.clip(((self.x - x) * dx + (self.y - y) * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)
        self.image[np.hypot(self.x - x - share * dx, self.y - y - share * dy) <= width / 2] = colour

    def arrow(self, x: float, y: float, length: float, colour: Colour) -> None:
        """A horizontal arrow; nothing where it would be shorter than a pixel."""
        if abs(length) < 0.01:
            return
        tip, back = x + length, math.copysign(0.03, length)
        self.stick(x, y, tip, y, 0.012, colour)
        for side in (-0.02, 0.02):
            self.stick(tip, y, tip - back, y + side, 0.012, colour)


def line(place: float, target: float, drift: float, size: int) -> np.ndarray:
    """A point on a line; place, target and where it drifts without an action in [-1, 1] of the line (the drift is drawn clipped)."""
    canvas = _Canvas(size)
    canvas.stick(0.05, 0.5, 0.95, 0.5, 0.01, _GREY)
    canvas.stick(0.5 + 0.45 * target, 0.44, 0.5 + 0.45 * target, 0.56, 0.015, _GREEN)
    canvas.arrow(0.5 + 0.45 * place, 0.6, 0.45 * (float(np.clip(drift, -1, 1)) - place), _RED)
    canvas.disc(0.5 + 0.45 * place, 0.5, 0.035, _BLUE)
    return canvas.image


def pendulum(theta: float, wind: float, size: int) -> np.ndarray:
    """The rod, theta from upright, counter-clockwise; the wind as an arrow above, to the left where it is positive."""
    canvas = _Canvas(size)
    canvas.arrow(0.5, 0.95, -0.09 * wind, _BLUE)
    canvas.stick(0.5, 0.5, 0.5 - 0.36 * math.sin(theta), 0.5 + 0.36 * math.cos(theta), 0.06, _RED)
    canvas.disc(0.5, 0.5, 0.02, _INK)
    return canvas.image


def cartpole(place: float, theta: float, half_length: float, size: int) -> np.ndarray:
    """The cart at place in [-1, 1] of its rail and its pole; half_length in units of half the rail."""
    canvas = _Canvas(size)
    x = 0.5 + 0.45 * float(np.clip(place, -1, 1))
    canvas.stick(0.05, 0.5, 0.95, 0.5, 0.01, _GREY)
    canvas.stick(x - 0.05, 0.5, x + 0.05, 0.5, 0.06, _INK)
    reach = 0.9 * half_length
    canvas.stick(x, 0.5, x - reach * math.sin(theta), 0.5 + reach * math.cos(theta), 0.03, _RED)
    return canvas.image
