"""The picture of Catch Point and Hard Move: the plane from above, north up, the square of the starts lighter. Numpy only.

The ring is the target with the range of success, the blue disc the particle, its tail its speed; inside the range the disc turns green. Who
leaves the window is shown at its rim. Hard Move: the spokes of the disc are the actuators. Catch Point: a red dot below for every miss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from causal_jax.envs.particle import NEAR

_FIELD, _START, _BLUE, _GREEN, _RED, _ORANGE, _TAIL = (
    (226, 229, 234), (250, 250, 252), (38, 110, 196), (52, 152, 74), (214, 69, 65), (240, 150, 60), (130, 170, 220),
)  # fmt: skip
_EDGE = 1.7  # the window is [-_EDGE, _EDGE]^2


def draw(state: Any, actuators: np.ndarray | None, size: int) -> np.ndarray:
    """The scene as uint8 [size, size, 3]. Args: state: a MoveState or CatchState of numpy scalars; actuators: [n, 2], their directions."""
    line = ((np.arange(size) + 0.5) / size * 2 - 1) * _EDGE
    x, y = np.meshgrid(line, -line)
    image = np.full((size, size, 3), _FIELD, np.uint8)
    image[(np.abs(x) <= 1) & (np.abs(y) <= 1)] = _START
    agent, target = np.asarray([state.agent_x, state.agent_y]), np.asarray([state.target_x, state.target_y])
    near = ((agent - target) ** 2).sum() <= NEAR

    def stroke(begin: np.ndarray, end: np.ndarray, width: float, colour: tuple[int, int, int]) -> None:
        along = end - begin
        share = np.clip(((x - begin[0]) * along[0] + (y - begin[1]) * along[1]) / max(along @ along, 1e-9), 0, 1)
        image[np.hypot(x - begin[0] - share * along[0], y - begin[1] - share * along[1]) <= width / 2] = colour

    off = np.hypot(x - target[0], y - target[1])
    image[np.abs(off - np.sqrt(NEAR)) <= 0.02] = _ORANGE
    image[off <= 0.05] = _ORANGE
    agent = np.clip(agent, 0.12 - _EDGE, _EDGE - 0.12)
    stroke(agent, agent - 0.4 * np.asarray([state.agent_vx, state.agent_vy]), 0.07, _TAIL)
    colour = _GREEN if near else _BLUE
    for direction in () if actuators is None else actuators:
        stroke(agent, agent + 0.16 * direction / np.linalg.norm(direction), 0.03, colour)
    image[np.hypot(x - agent[0], y - agent[1]) <= 0.09] = colour
    for i in range(int(getattr(state, "trials", 0))):
        image[np.hypot(x + 1.5 - 0.3 * i, y + 1.5) <= 0.07] = _RED
    return image
