"""results.jsonl survives cuts and resumes; Weights & Biases never stops a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from causal_jax.logs import Jsonl, Progress, Wandb, plain, read_rows

ABOUT = {"name": "run", "seeds": [0, 1]}
ROW = {"t": 1, "steps": 10, "metrics": {"loss": np.asarray([1.0, 2.0])}, "eval": {"greedy": {"return": np.asarray([3.0, 4.0])}}}


def test_plain_writes_nan_as_null() -> None:
    assert plain({"a": np.asarray([1.0, math.nan]), "b": (math.inf, 2)}) == {"a": [1.0, None], "b": [None, 2]}


def test_jsonl_keeps_rows_up_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    log = Jsonl(path, 0)
    for t in (1, 2, 3):
        log.write({"t": t})
    log.close()
    with path.open("a") as file:
        file.write('{"t": 4, "cut')
    log = Jsonl(path, 2)
    log.write({"t": 3, "again": True})
    log.close()
    assert read_rows(path) == [{"t": 1}, {"t": 2}, {"t": 3, "again": True}]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"t": 9}\n')
    Jsonl(path, 0).close()
    assert path.read_text() == ""


def test_progress_prints_a_line_a_chunk(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("run", 1000, 4)
    progress.write(500, 2000.0, 1.5)
    progress.close()
    assert capsys.readouterr().out == "run: 500/1,000 steps, 2,000 steps/s, return 1.50, 1 s left\n"


def test_wandb_without_a_key_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    said: list[str] = []
    log = Wandb(ABOUT, tmp_path, grouped=True, say=said.append)
    log.write(ROW)
    log.close()
    assert said == [f"wandb: no API key, logging offline to {tmp_path / 'wandb'} (send it later with: wandb sync)"]
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


class Broken:
    def log(self, *args: object, **options: object) -> None:
        raise ConnectionError("gone")

    def finish(self) -> None:
        raise ConnectionError("gone")


def test_wandb_that_breaks_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "init", lambda **options: Broken())
    said: list[str] = []
    log = Wandb(ABOUT, tmp_path, grouped=False, say=said.append)
    log.write(ROW)
    log.write(ROW)
    log.close()
    assert said == ["wandb: ConnectionError, going on without it"]


def test_wandb_that_cannot_start_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def init(**options: object) -> None:
        raise OSError("no service")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    said: list[str] = []
    log = Wandb(ABOUT, tmp_path, grouped=False, say=said.append)
    log.write(ROW)
    log.close()
    assert said == ["wandb: OSError, going on without it"]
    json.dumps(plain(ROW))
