"""The tabular study of AD-RL runs, and at its smallest already says what it says in full."""

import json

import pytest

from experiments.adrl_tabular import METHODS, Options, main, table


@pytest.mark.slow
def test_the_study_runs(tmp_path):
    main(Options(seeds=2, folder=tmp_path, small=True))
    results = json.loads((tmp_path / "adrl_tabular.json").read_text())
    needed = results["samples"]["5"]["samples per state to lose 10%"]
    assert needed[METHODS[2]] < needed[METHODS[0]]
    assert all(row["right"] == row["seeds"] for row in results["structure"]["rows"])
    estimates = results["confounding"]["estimates"]
    assert [row["confounding"] for row in estimates] == [0, 0, 0, 1, 1, 1]
    for none, full in zip(estimates[:3], estimates[3:], strict=True):
        assert full["truth"] < none["truth"]
        assert none["high, factor 1.5"][0] > none["WIS"][0] > none["low, factor 1.5"][0]
    assert "| treats less |" in table(results)
