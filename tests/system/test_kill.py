"""kill -9 at random moments of command line runs, continued with --resume: see kill_storm.py, whose command makes 100 of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def storm(kills: int, seed: int) -> list[str]:
    """The lines that the harness prints at the end of each case; it stops at the first difference."""
    command = [sys.executable, "-m", "tests.system.kill_storm", "--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [line for line in done.stdout.splitlines() if "equal bit for bit" in line]


def test_three_kills() -> None:
    ppo, template = storm(3, 0)
    assert ppo.startswith("ppo: {'kills': 1, ")
    assert template.startswith("template: {'kills': 2, ")


@pytest.mark.slow
def test_twenty_kills() -> None:
    lines = storm(int(os.environ.get("KILLS", "20")), 1)
    assert len(lines) == 2
