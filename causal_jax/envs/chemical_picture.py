"""The picture of Chemical: objects on a ring, object 0 on top; the edges in force lit, the rest of the graph faint. Numpy only."""

from __future__ import annotations

import colorsys

import numpy as np

_LIT, _FAINT, _INK = (70, 74, 82), (232, 234, 238), (40, 40, 40)
_PALETTE = ((214, 69, 65), (38, 110, 196), (63, 160, 83), (238, 180, 34), (142, 84, 178))  # colour 0 is red, as in the paper


def palette(num_colours: int) -> np.ndarray:
    """uint8 [C, 3]: the colours, red first; more than five are spread over the hues."""
    spread = [tuple(int(255 * x) for x in colorsys.hsv_to_rgb(i / num_colours, 0.75, 0.85)) for i in range(num_colours)]
    return np.asarray(_PALETTE[:num_colours] if num_colours <= len(_PALETTE) else spread, np.uint8)


def draw(
    colours: np.ndarray, target: np.ndarray, match: np.ndarray, edges: np.ndarray, lit: np.ndarray, size: int, num_colours: int = 5
) -> np.ndarray:
    """The graph as uint8 [size, size, 3].

    Args: colours, target: int [N]; match: bool [N]: an object that counts has a ring in its target colour, dark-rimmed once it matches.
      edges, lit: bool [N, N], row = child: the whole graph, and the edges in force.
    """
    num_objects = len(colours)
    table = palette(max(num_colours, int(max(colours.max(), target.max())) + 1))
    angle = 2 * np.pi * np.arange(num_objects) / num_objects
    place = np.stack([0.5 + 0.38 * np.sin(angle), 0.5 - 0.38 * np.cos(angle)], 1)
    centre = (np.arange(size) + 0.5) / size
    pixel = np.stack(np.broadcast_arrays(centre[None, :], centre[:, None]), -1)
    image = np.full((size, size, 3), 255, np.uint8)

    for shown, colour, width in ((edges & ~lit, _FAINT, 0.003), (lit, _LIT, 0.005)):
        for child, parent in np.argwhere(shown):
            start, along = place[parent], place[child] - place[parent]
            share = np.clip((pixel - start) @ along / (along @ along), 0, 1)
            image[np.linalg.norm(pixel - start - share[..., None] * along, axis=-1) <= width] = colour
    radius = min(0.06, 0.9 / num_objects)
    for v in range(num_objects):
        distance = np.linalg.norm(pixel - place[v], axis=-1)
        image[distance <= 1.55 * radius] = _INK if match[v] and colours[v] == target[v] else 255
        image[distance <= 1.4 * radius] = table[target[v]] if match[v] else _FAINT
        image[distance <= 1.05 * radius] = 255
        image[distance <= 0.95 * radius] = table[colours[v]]
    return image
