"""kill -9 at random moments of real command line runs, continued with --resume: see kill_storm.py. 100 kills: its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import kill_storm


@pytest.mark.parametrize(("name", "kills"), [("ppo", 2), ("template", 1)])
def test_three_kills(name: str, kills: int, tmp_path: Path) -> None:
    told = kill_storm.storm(tmp_path, name, kills)
    assert told["kills"] == kills
    assert told["runs"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", kill_storm.CASES)
def test_twenty_kills(name: str, tmp_path: Path) -> None:
    told = kill_storm.storm(tmp_path, name, 10, seed=1)
    assert told["kills"] == 10
    assert told["writing"] >= 4
