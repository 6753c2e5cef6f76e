"""The study of DLPA's rivals: steps to a level, and the table."""

import json

import numpy as np
import pytest

from causal_jax.types import UserError
from experiments import dlpa_rivals


def test_the_first_evaluation_at_the_level() -> None:
    returns = np.asarray([[0.1, 0.8, 0.2], [0.1, 0.2, 0.3], [0.9, 0.1, 0.1]])
    assert dlpa_rivals.first_reached([100, 200, 300], returns, 0.8) == [200, None, 100]


def test_the_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dlpa_rivals, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="DLPA has no results"):
        dlpa_rivals.own("hard-move-4")
    dlpa = {
        "final": {"mean": -7.0, "std": 2.0}, "references": {"random": {"return": -30.0, "length": 24.0}},
        "steps": [0, 100], "curves": {"return": [[-30.0, -9.0], [-30.0, -11.0]]}, "seconds": {"train": 12.3},
    }  # fmt: skip
    (tmp_path / "dlpa_hard_move_4.json").write_text(json.dumps(dlpa | {"final": {"mean": -6.0, "std": 1.0}}))
    (tmp_path / "dlpa_hard_move_4_grounded.json").write_text(json.dumps(dlpa | {"test": {"mean": -5.0, "error": 0.5}}))  # fresh episodes
    row = {
        "final": {"mean": -9.0, "std": 0.1},
        "returns": [[-30.0, -9.9], [-20.0, -10.1]],
        "steps": [500, 2500],
        "seconds": {"train": 61.7},
    }
    (tmp_path / "dlpa_rivals_hard_move_4.json").write_text(json.dumps({"pdqn": row}))
    assert dlpa_rivals.level_of(dlpa_rivals.own("hard-move-4")) == pytest.approx(-10)  # 80% of the way from -30 to -5
    assert dlpa_rivals.table("hard-move-4").splitlines()[2:] == [
        "| dlpa | 1,300 | -7.00 ± 2.00 |  | 1,300, - | 12 |",  # 50 random episodes of 24 steps come first
        "| pdqn | 2,500 | -9.00 ± 0.10 |  | 2,500, - | 62 |",
    ]
    assert dlpa_rivals.overview().splitlines()[2:] == [
        "| hard-move-4 | -10.00 | > 1,300 (1 of 2) | > 2,500 (1 of 2) | not run | not run | not run | not run |"
    ]
