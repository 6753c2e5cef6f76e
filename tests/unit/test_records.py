"""Figures drawn from results files show every row; the command in a file does not name folders of a machine."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causal_jax import plots
from experiments import records


@pytest.mark.parametrize("typed", [["maze", "--folder", "somewhere", "--n", "8"], ["maze", "--folder=somewhere", "--n", "8"]])
def test_the_command_is_what_was_typed_but_for_the_folder(monkeypatch: pytest.MonkeyPatch, typed: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cee.py", *typed])
    assert records.command("cee") == "python -m experiments.cee maze --n 8"


def test_a_curve_has_the_interquartile_mean_and_its_interval_and_rounds() -> None:
    curve = records.curve(np.asarray([0, 10]), 2, success=np.asarray([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0 / 3]]))
    assert curve["steps"] == [0, 10]
    value, low, high = np.asarray(curve["success"])
    assert value.tolist() == [0.0, 1.0]
    assert high.tolist() == [0.0, 1.0]
    assert low[0] == 0.0
    assert low[1] == round(low[1], 2) < 1.0


def test_the_figure_has_a_line_for_every_row_and_a_band_where_the_interval_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(plots, "curves", lambda panels, path, percent: seen.update(panels=panels, percent=percent) or path)
    rows = {
        "old": {"curve": {"steps": [0, 1], "return": [[1.0, 2.0]]}},
        "new": {"curve": {"steps": [0, 1], "return": [[1.0, 3.0], [0.5, 2.5], [1.5, 3.5]], "success": [[0.0, 1.0]] * 3}},
        "budget": {"members": 8},
        "command": "python",
    }
    assert records.figure(rows, tmp_path / "x.png") == tmp_path / "x.png"
    (first, lines, _), (second, rates, _) = seen["panels"]
    assert (first, second, seen["percent"]) == ("return", "success", [False, True])
    assert {label: line["band"] for label, line in lines.items()} == {"old": False, "new": True}
    assert [np.asarray(x).tolist() for x in lines["new"]["estimate"]] == rows["new"]["curve"]["return"]
    assert list(rates) == ["new"]


@pytest.mark.parametrize(
    ("labels", "columns"), [(["PPO"], 1), (["PPO", "NPM", "CEE", "CEE-WOC", "oracle"], 4), (["minigrid-gotolocal, CEE, one phase"] * 3, 2)]
)
def test_a_legend_fits_its_figure(labels: list[str], columns: int) -> None:
    assert plots._columns(labels) == columns


def test_labels_look_different_beyond_the_palette_and_log_ticks_are_numbers(tmp_path: Path) -> None:
    assert len({str(plots.look(k)) for k in range(24)}) == 24
    with plots.figure_file(tmp_path / "x.png", 4, 3) as figure:
        axes = figure.subplots()
        axes.plot([1, 10, 1000], [0.1, 1, 10])
        axes.set(xscale="log", yscale="log")
        plots.log_axis(axes.xaxis)
        figure.canvas.draw()
        assert {"10", "1k"} <= {tick.get_text() for tick in axes.get_xticklabels()}
