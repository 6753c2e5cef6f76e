"""Peers in virtual environments of their own, made on first use under the user's cache folder, driven line by line.

A child (`<name>_child.py`) runs inside the peer's environment. It prints one line of JSON when it is ready, {"versions": ...}; every
line of JSON it then gets asks for one measurement, whose environment steps per second go out as {"steps_per_second": ...}.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from causal_jax.types import UserError

# Installed group by group: torch first and alone, so that stable-baselines3 does not choose a build of its own
PEERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sb3": (("torch==2.13.0",), ("stable-baselines3==2.9.2", "gymnasium==1.4.0", "minatar==1.0.15")),
    "rejax": (("rejax==0.1.3", "gymnax==0.0.9", "jax==0.9.2", "jaxlib==0.9.2"),),
    "grids": (("navix==0.7.4", "xminigrid==0.9.3", "jax==0.9.2", "jaxlib==0.9.2"),),
    "dm-control": (("mujoco==3.2.7", "dm_control==1.0.27"),),  # newer pairs do not import
    "d3rlpy": (("torch==2.13.0",), ("d3rlpy==2.8.1",)),
    "icu-sepsis": (("icu-sepsis==2.0.1",),),
}
HERE = Path(__file__).parent


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
    """A running peer: what it `told` when it was ready, and a measurement per call."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name, self._process = name, process
        self.told = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"peer = {self._name!r}: stopped with exit code {self._process.wait()}; run {self._name}_child.py to see why")
        return dict(json.loads(line))

    def measure(self, **request: Any) -> float:
        """One measurement, in environment steps per second; what may be asked stands in the child."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return float(self._read()["steps_per_second"])

    def contestant(self, **request: Any) -> Callable[[], float]:
        """`measure` with this request, to be called once a round."""
        return functools.partial(self.measure, **request)


@contextmanager
def peer(name: str, size: dict[str, Any]) -> Iterator[Peer]:
    """The peer `name` with these sizes (see its child), ready to be measured; ended on leaving."""
    command = [str(environment(name, PEERS[name])), str(HERE / f"{name}_child.py"), json.dumps(size)]
    surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=surroundings
    )
    try:
        yield Peer(name, process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
