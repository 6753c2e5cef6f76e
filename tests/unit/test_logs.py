"""results.jsonl survives cuts and resumes; Weights & Biases never stops a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from causal_jax.logs import Jsonl, Progress, Wandb, kept, plain, read_rows

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


def written(path: Path, chunks: range, stop: int = 0) -> None:
    """A log of chunks of 5 updates, at most 16 rows, resumed at chunk `stop`."""
    log = Jsonl(path, 5 * stop, chunk_updates=5, max_rows=16)
    for chunk in chunks:
        log.write({"t": 5 * chunk})
        assert len(read_rows(path)) <= 16
    log.close()


def test_a_long_log_is_thinned_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    written(path, range(0, 1001))
    chunks = [row["t"] // 5 for row in read_rows(path)]
    assert chunks == [0, 256, 512, 768, 997, 998, 999, 1000]
    assert chunks == [chunk for chunk in range(1001) if kept(chunk, 1000, 16)]


@pytest.mark.parametrize(("killed", "resumed"), [(31, 30), (32, 31), (33, 29), (200, 190)])
def test_a_resumed_log_ends_as_one_that_was_not_killed(killed: int, resumed: int, tmp_path: Path) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    written(calm, range(0, 241))
    written(stormy, range(0, killed + 1))
    written(stormy, range(resumed + 1, 241), stop=resumed)
    assert read_rows(calm) == read_rows(stormy)


def test_a_row_that_is_dropped_once_never_comes_back() -> None:
    for newest in range(1, 300):
        now = {chunk for chunk in range(newest + 1) if kept(chunk, newest, 16)}
        later = {chunk for chunk in range(newest + 2) if kept(chunk, newest + 1, 16)}
        assert later <= now | {newest + 1}
        assert len(now) <= 16 // 2 + 1


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
