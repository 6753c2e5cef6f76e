"""The picture of the sepsis simulator: four gauges with the normal band in green, and a lamp per treatment. Numpy only.

From left to right heart rate, blood pressure, oxygen, glucose; a gauge's mark is green while normal and red while not. The lamps below are
antibiotics, ventilation, vasopressors, blue while on. The frame is yellow for a diabetic, red at death, green at discharge.
"""

from __future__ import annotations

import numpy as np

from causal_jax.envs.sepsis import NORMAL, SIZES, _outcome

_PAPER, _GROOVE, _BAND, _OK, _BAD = (250, 250, 248), (224, 228, 233), (205, 232, 210), (52, 152, 74), (214, 69, 65)
_ON, _OFF, _FRAME, _DIABETIC = (38, 110, 196), (210, 214, 220), (150, 156, 165), (224, 180, 60)


def draw(values: np.ndarray, size: int) -> np.ndarray:
    """The patient as uint8 [size, size, 3]. values: int [8], the variables in the order of sepsis.NAMES."""
    centre = (np.arange(size) + 0.5) / size
    right, down = np.meshgrid(centre, centre)
    image = np.full((size, size, 3), _PAPER, np.uint8)

    def box(left: float, top: float, to_right: float, bottom: float, colour: tuple[int, int, int]) -> None:
        image[(right >= left) & (right <= to_right) & (down >= top) & (down <= bottom)] = colour

    died, discharged = _outcome(values)
    frame = _BAD if died else _OK if discharged else _DIABETIC if values[0] else _FRAME
    image[(np.minimum(right, down) <= 0.02) | (np.maximum(right, down) >= 0.98)] = frame
    for i, (value, normal, num) in enumerate(zip(values[1:5], NORMAL, SIZES[1:5], strict=True)):
        left, height = 0.1 + 0.21 * i, 0.6 / num
        box(left, 0.08, left + 0.17, 0.68, _GROOVE)
        box(left, 0.68 - (normal + 1) * height, left + 0.17, 0.68 - normal * height, _BAND)
        middle = 0.68 - (value + 0.5) * height
        box(left + 0.02, middle - 0.025, left + 0.15, middle + 0.025, _OK if value == normal else _BAD)
    for i, on in enumerate(values[[5, 7, 6]]):
        image[np.hypot(right - 0.25 - 0.25 * i, down - 0.83) <= 0.07] = _ON if on else _OFF
    return image
