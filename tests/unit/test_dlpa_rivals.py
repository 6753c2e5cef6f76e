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
    assert dlpa_rivals.dlpa_score("platform") == 0.9
    with pytest.raises(UserError, match="DLPA's score is not known"):
        dlpa_rivals.dlpa_score("hard-move-4")
    row = {
        "final": {"mean": 0.5, "std": 0.1},
        "steps_to_level": [1500, None],
        "level": 0.72,
        "steps": [500, 2500],
        "seconds": {"train": 61.7},
    }
    (tmp_path / "dlpa_rivals_platform.json").write_text(json.dumps({"pdqn": row}))
    (tmp_path / "dlpa_platform.json").write_text(json.dumps({"final": {"mean": 0.95}}))
    assert dlpa_rivals.dlpa_score("platform") == 0.95
    assert dlpa_rivals.table("platform").splitlines()[2] == "| pdqn | 2,500 | 0.50 ± 0.10 | 0.93 | 0.72: 1,500, - | 62 |"
