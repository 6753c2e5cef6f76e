"""Where a run's numbers go: the console, results.jsonl, Weights & Biases. Training never waits for any of them, nor fails by them.

A row of results.jsonl is {"t", "steps", "seconds", "metrics": {name: [M]}, "eval": {...: [M]}}; NaN is written as null. The file is
bounded: see `kept`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_ROWS = 2000
CONNECT_SECONDS = 20  # how long Weights & Biases may take to answer


def plain(tree: Any) -> Any:
    """Nested dicts of arrays as nested dicts of lists, ready for JSON: NaN and infinities become None."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, np.ndarray | np.generic):
        return plain(tree.tolist())
    if hasattr(tree, "__array__"):
        return plain(np.asarray(tree).tolist())
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results.jsonl; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def kept(chunk: int, newest: int, max_rows: int = MAX_ROWS) -> bool:
    """Whether the row of chunk number `chunk` (from 0) outlives the thinning after chunk `newest`.

    The rule: the last quarter of max_rows stay, and of what is older every 2^k-th chunk, with the smallest k that leaves a quarter of
    max_rows. It depends on nothing else, so a run that was killed and resumed ends with the log of one that was not.
    """
    quarter = max_rows // 4
    spacing = 1 << max(0, math.ceil(math.log2(max(newest, 1) / quarter)))
    return newest - chunk < quarter or chunk % spacing == 0


class Jsonl:
    """results.jsonl, one row a chunk, flushed to the disk before the chunk's checkpoint is written. It never has more than `max_rows`

    rows: after every max_rows / 2 chunks those that are not `kept` are dropped.
    """

    def __init__(self, path: Path, t: int, chunk_updates: int = 1, max_rows: int = MAX_ROWS):
        """Keep what was written up to update t (a resumed run writes the rest again), then append."""
        self._path, self._chunk_updates, self._max_rows = path, chunk_updates, max_rows
        rows = [row for row in read_rows(path) if row["t"] <= t] if t else []
        self.seconds: float = rows[-1].get("seconds", 0.0) if rows else 0.0
        """Training seconds told by the last row that was kept."""
        self._replace(rows)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        replacement = self._path.with_suffix(".tmp")
        with replacement.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(replacement, self._path)
        self._file = self._path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        self._file.write(json.dumps(plain(row)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        newest = -(-row["t"] // self._chunk_updates)
        if newest and newest % (self._max_rows // 2) == 0:
            self._file.close()
            rows = read_rows(self._path)
            self._replace([row for row in rows if kept(-(-row["t"] // self._chunk_updates), newest, self._max_rows)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Progress:
    """A progress bar with steps/s, return and time left on a terminal; a line a chunk elsewhere."""

    def __init__(self, label: str, total_steps: int, members: int, say: Callable[[str], None] = print):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.label, self.total, self.members, self.say = label, total_steps, members, say
        self._bar = None
        console = Console()
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}% {task.fields[text]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task(label, total=total_steps, text="compiling")
            self._bar.start()

    def write(self, steps: int, rate: float, value: float) -> None:
        """Show `steps` of each member done, environment steps per second of all members (0: unknown), and the mean return (if finite)."""
        known = ([f"{rate:,.0f} steps/s"] if rate else []) + ([f"return {value:.2f}"] if math.isfinite(value) else [])
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, text=", ".join(known))
        else:
            left = [f"{(self.total - steps) * self.members / rate:.0f} s left"] if rate else []
            self.say(", ".join([f"{self.label}: {steps:,}/{self.total:,} steps", *known, *left]))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class Wandb:
    """Weights & Biases: one run a member, grouped by the run's name, or one run of means (`grouped`). Offline without a key or network.

    wandb writes from a process of its own, so training does not wait. Where there is no network when the run begins it logs offline; where
    that process dies later, this is told once and training goes on without it.
    """

    def __init__(self, about: dict[str, Any], folder: Path, *, grouped: bool, say: Callable[[str], None] = print):
        self.say, self.grouped = say, grouped
        self._runs: list[Any] = []
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        offline = f"logging offline to {folder / 'wandb'} (send it later with: wandb sync)"
        if mode == "offline" and "WANDB_MODE" not in os.environ:
            self.say(f"wandb: no API key, {offline}")
        try:
            try:
                self._open(about, folder, mode)
            except Exception as error:  # wandb raises many kinds; none may stop a run
                if mode != "online":
                    raise
                self.say(f"wandb: {type(error).__name__}, {offline}")
                self._runs = []
                self._open(about, folder, "offline")
        except Exception as error:
            self._give_up(error)

    def _open(self, about: dict[str, Any], folder: Path, mode: str) -> None:
        import wandb

        names = ["mean"] if self.grouped else [f"seed{seed}-{m}" for m, seed in enumerate(about["seeds"])]
        settings = wandb.Settings(silent=True, init_timeout=CONNECT_SECONDS, console="off")
        for name in names:
            run = wandb.init(
                project="causal_jax",
                name=f"{about['name']}-{name}",
                group=about["name"],
                config=about,
                dir=str(folder),
                mode=mode,  # type: ignore[arg-type]
                settings=settings,
                reinit="create_new",
            )
            self._runs.append(run)

    def write(self, row: dict[str, Any]) -> None:
        """Log one row of results.jsonl."""
        try:
            flat = _flatten({"metrics": row["metrics"], "eval": row.get("eval") or {}})
            for m, run in enumerate(self._runs):
                values = {k: _mean(v) if self.grouped else float(v[m]) for k, v in flat.items()}
                run.log({**values, "steps": row["steps"]}, step=row["t"])
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.say(f"wandb: {type(error).__name__}, going on without it")
        if self._runs:
            import wandb

            with contextlib.suppress(Exception):  # its process is gone; without this wandb says so again, at length, when we end
                wandb.teardown()
        self._runs = []

    def close(self) -> None:
        """Finish the runs."""
        try:
            for run in self._runs:
                run.finish()
        except Exception as error:
            self._give_up(error)


def _has_key() -> bool:
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _mean(values: Any) -> float:
    """The mean of the members that have a value."""
    known = np.asarray(values, float)[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
