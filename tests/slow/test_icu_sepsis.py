"""The environment that the package icu-sepsis ships, played with uniform actions, moves and pays as our tables say."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.crosschecks.__main__ import compare_icu

CHILD = Path(__file__).parents[2] / "experiments" / "crosschecks" / "icu_sepsis_child.py"


@pytest.mark.slow
def test_the_packages_environment(tmp_path):
    size = json.dumps({"steps": 300_000, "seed": 3})
    subprocess.run([sys.executable, "-W", "ignore", str(CHILD), size, str(tmp_path / "out.npz")], check=True, capture_output=True)
    with np.load(tmp_path / "out.npz") as file:
        found = compare_icu({name: file[name] for name in file.files})
    assert found["steps"] == 300_000
    assert found["cells compared"] > 5000
    for name in ("transitions that the tables exclude", "rewards that differ", "ends that differ"):
        assert found[name] == 0
    assert abs(found["chi-squared, standard deviations from its mean"]) < 4
    assert abs(found["mean return, standard errors from the exact value"]) < 4
    assert abs(found["mean length, standard errors from the exact value"]) < 4
