"""stable-baselines3 in a virtual environment of its own, made on first use under the user's cache folder, driven line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from causal_jax.types import UserError

# torch first and alone, so that stable-baselines3 does not choose a build of its own
SB3 = (("torch==2.13.0",), ("stable-baselines3==2.9.2", "gymnasium==1.4.0"))
CHILD = Path(__file__).parent / "sb3_child.py"


def cache_folder() -> Path:
    """Where the peers' virtual environments live."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "causal_jax" / "peers"


def environment(name: str, requirements: tuple[tuple[str, ...], ...]) -> Path:
    """The python of the virtual environment `name`, made if it is not there with these requirements, installed group by group.

    Raises: UserError when it cannot be made.
    """
    folder = cache_folder() / name
    python, done = folder / "bin" / "python", folder / "requirements.json"
    wanted = json.dumps(requirements)
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"{name}: making its virtual environment in {folder}", flush=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], *([*pip, *group] for group in requirements)):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            error = (made.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"peer = {name!r}: {' '.join(command[1:4])} failed ({error})")
    done.write_text(wanted)
    return python


class Peer:
    """A running peer: `versions` and `threads` as it told, and a measurement per call."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        told = self._read()
        self.versions: dict[str, str] = told["versions"]
        self.threads: int = told["threads"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"peer: stopped with exit code {self._process.wait()}; run {CHILD.name} alone to see why")
        return dict(json.loads(line))

    def steps_per_second(self, threads: int = 0) -> float:
        """One measurement. threads: of torch; 0 is torch's own choice."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{threads}\n")
        self._process.stdin.flush()
        return float(self._read()["steps_per_second"])


@contextmanager
def sb3(size: dict[str, Any]) -> Iterator[Peer]:
    """stable-baselines3's PPO with these sizes (see sb3_child.py), ready to be measured; ended on leaving."""
    command = [str(environment("sb3", SB3)), str(CHILD), json.dumps(size)]
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "XLA_FLAGS")}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=surroundings
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
