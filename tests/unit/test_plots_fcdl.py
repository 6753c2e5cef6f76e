"""Pictures of FCDL: files are written whatever the sizes, and what they show follows the arrays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from causal_jax import plots_fcdl
from causal_jax.envs.chemical_picture import palette
from causal_jax.plots import INK, PALETTE
from causal_jax.types import UserError

N, K = 4, 5
LOW = np.tril(np.ones((N, N), bool), -1)
FORK = np.concatenate([(LOW & (np.arange(N) == 0)) | np.eye(N, dtype=bool), np.ones((N, 1), bool)], axis=1)
FULL = np.concatenate([LOW | np.eye(N, dtype=bool), np.ones((N, 1), bool)], axis=1)


def drawn(path):
    """The pixels of a picture of sensible size in which something is drawn."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    assert 0.005 < np.mean(np.any(pixels != 255, axis=-1)) < 0.999
    return pixels


def count(pixels, colour):
    """How many pixels have a colour, [3] or "#rrggbb", within what 256 colours leave of it."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)] if isinstance(colour, str) else colour
    return int(np.sum(np.abs(pixels.astype(int) - rgb).max(axis=-1) <= 4))


def test_code_graphs(tmp_path):
    probs = np.linspace(0, 1, K)[:, None, None] * FULL
    several = drawn(plots_fcdl.code_graphs(probs, tmp_path / "a.png", [0.5, 0.3, 0.2, 0, 0], {"fork": FORK, "full": FULL}))
    assert count(several, PALETTE[1]) > 50  # the titles of the true graphs
    one = drawn(plots_fcdl.code_graphs(FORK[None], tmp_path / "b.png"))
    more = drawn(plots_fcdl.code_graphs(FULL[None], tmp_path / "c.png"))
    assert count(more, "#00344F") > 1.2 * count(one, "#00344F") > 0
    faded = drawn(plots_fcdl.code_graphs(np.stack([FULL, FULL]), tmp_path / "d.png", [1.0, 0.0]))
    assert count(faded, "#00344F") < 0.8 * count(drawn(plots_fcdl.code_graphs([FULL] * 2, tmp_path / "e.png", [0.5, 0.5])), "#00344F")
    drawn(plots_fcdl.code_graphs(np.ones((1, 1, 2)), tmp_path / "f.png", [1.0], {"t": np.ones((1, 2))}))
    drawn(plots_fcdl.code_graphs(np.tile(probs[:, :2, :3], (5, 1, 1)), tmp_path / "g.png"))


def test_codes_are_ordered_by_use(tmp_path):
    """The second code of two is drawn first where it is used more: the left half of the picture is the darker one."""
    shares = [0.2, 0.8]
    pixels = drawn(plots_fcdl.code_graphs(np.stack([0 * FULL, FULL]), tmp_path / "a.png", shares))
    left, right = np.array_split(pixels[:, : int(0.8 * pixels.shape[1])], 2, axis=1)
    assert count(left, "#00344F") > 3 * count(right, "#00344F")


def test_drawn_graphs_without_the_diagonal_and_the_action(tmp_path):
    bare = np.concatenate([FORK[:, :N] & ~np.eye(N, dtype=bool), np.zeros((N, 1), bool)], axis=1)
    whole = drawn(plots_fcdl.drawn_graphs({"fork": FORK, "full": FULL}, tmp_path / "a.png"))
    np.testing.assert_array_equal(whole, drawn(plots_fcdl.drawn_graphs({"fork": bare, "full": FULL}, tmp_path / "b.png")))
    assert count(whole, PALETTE[1]) > 500  # edges from node 0
    assert count(drawn(plots_fcdl.drawn_graphs({"none": np.eye(N, N + 1)}, tmp_path / "c.png")), PALETTE[1]) == 0
    drawn(plots_fcdl.drawn_graphs({f"{i}": ~FULL for i in range(5)}, tmp_path / "d.png"))
    drawn(plots_fcdl.drawn_graphs({"one": np.ones((1, 2))}, tmp_path / "e.png"))


def test_code_histograms(tmp_path):
    usage = {"ID": [6, 3, 1, 0, 0], "n = 2": [0.1, 0.1, 0.8, 0.0, 0.0], "n = 4": np.ones(K), "n = 6": np.arange(K)}
    pixels = drawn(plots_fcdl.code_histograms(usage, tmp_path / "a.png"))
    assert all(count(pixels, PALETTE[i]) > 500 for i in range(4))
    counts = {label: 10 * np.asarray(values) for label, values in usage.items()}
    np.testing.assert_array_equal(pixels, drawn(plots_fcdl.code_histograms(counts, tmp_path / "b.png")))
    drawn(plots_fcdl.code_histograms({"ID": [3]}, tmp_path / "c.png"))
    drawn(plots_fcdl.code_histograms({"ID": np.ones(64), "OOD": np.ones(64)}, tmp_path / "d.png"))


def test_training_trace(tmp_path):
    steps = np.arange(1, 31)
    values = np.exp(-steps / 10) + 0.1 * np.arange(3)[:, None]
    trace = dict.fromkeys(("pred", "reg", "commit", "codes", "grad_norm"), (steps, values))
    reference = dict.fromkeys(("pred", "codes"), (steps[::10], values[0, ::10]))
    both = drawn(plots_fcdl.training_trace(trace, reference, tmp_path / "a.png"))
    assert count(both, PALETTE[0]) > 500
    assert count(both, PALETTE[1]) > 100
    alone = drawn(plots_fcdl.training_trace({"pred": (steps, values[:1])}, {}, tmp_path / "b.png"))
    assert count(alone, PALETTE[1]) == 0
    drawn(plots_fcdl.training_trace({"pred": ([1], [[1.6]])}, {"pred": ([1], [1.7])}, tmp_path / "c.png"))


def test_imagined_colours_mark_what_is_wrong(tmp_path):
    real = np.arange(12).reshape(4, 3) % 5
    wrong = real.copy()
    wrong[2:] = (wrong[2:] + 1) % 5
    right, marked = (drawn(plots_fcdl.imagined([(real, dream)] * 2, tmp_path / f"{i}.png")) for i, dream in enumerate((real, wrong)))
    assert count(marked, INK) > count(right, INK) + 500
    assert all(count(right, colour) > 100 for colour in palette(5))
    drawn(plots_fcdl.imagined([(real[:1], real[:1])], tmp_path / "start.png"))
    drawn(plots_fcdl.imagined([(real, wrong)] * 5, tmp_path / "rows.png"))


def test_imagined_numbers_are_lines(tmp_path):
    real = np.cumsum(np.ones((6, 5)), axis=0)
    pixels = drawn(plots_fcdl.imagined([(real, 1.1 * real), (-real, -real)], tmp_path / "a.png"))
    assert count(pixels, PALETTE[0]) > 100
    assert count(pixels, PALETTE[1]) > 100
    drawn(plots_fcdl.imagined([(real[:1, :1], real[:1, :1])], tmp_path / "b.png"))


def test_errors_say_which_shape(tmp_path):
    path = tmp_path / "x.png"
    for draw, words in (
        (lambda: plots_fcdl.code_graphs(np.ones((2, 3)), path), "probs: got shapes"),
        (lambda: plots_fcdl.code_graphs(FULL[None], path, [0.5, 0.5]), "shares: got shape"),
        (lambda: plots_fcdl.code_graphs(FULL[None], path, None, {"t": np.ones((2, 3))}), "truth: got shapes"),
        (lambda: plots_fcdl.drawn_graphs({}, path), "graphs: got shapes"),
        (lambda: plots_fcdl.code_histograms({"a": [1], "b": [1, 2]}, path), "usage: got shapes"),
        (lambda: plots_fcdl.code_histograms({"a": [0.0, 0.0]}, path), "usage: got shapes"),
        (lambda: plots_fcdl.training_trace({"pred": ([1, 2], [1.0, 2.0])}, {}, path), "trace"),
        (lambda: plots_fcdl.imagined([(np.ones((2, 3)), np.ones((3, 3)))], path), "frames: got shapes"),
        (lambda: plots_fcdl.imagined([], path), "frames: got shapes"),
    ):
        with pytest.raises(UserError, match=words):
            draw()
    assert not path.exists()
