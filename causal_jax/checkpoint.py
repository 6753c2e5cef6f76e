"""Checkpoints of a run, by orbax (the one file that imports it): `last` (the two newest) and `best`, atomic, no pickle.

The whole pytree {root keys, state, hyper, t} is written, so a resumed run continues bit for bit. Beside it stands a description of its
leaves: a checkpoint of another program is recognised before anything of it is read. The files' checksums are written last, beside the
checkpoint; one whose files have changed since is passed over for the one before.

Training does not wait for the disk: `save` copies the run to the host and a thread writes it, one checkpoint at a time. A kill while it
writes loses that checkpoint only: orbax writes into a folder with another name and renames it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from causal_jax import hosts
from causal_jax.types import UserError

Say = Callable[[str], None]
UNVERIFIED = "it has no checksums"


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def _to_data(tree: Any) -> Any:
    """Typed keys as their uint32 data."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def describe(tree: Any) -> dict[str, str]:
    """{path of a leaf: its dtype and shape}, what must agree between a checkpoint and the program that reads it."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _checksums(folder: Path) -> dict[str, str]:
    """{relative path: sha256} of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Checkpoints:
    """The checkpoints under one folder. What `save` was given is on the disk after `wait` or `close`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._damaged: set[tuple[str, int]] = set()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: list[Future[None]] = []
        self._snapshot: tuple[int, Any] = (-1, None)  # of the step that is being written
        self._managers = {"last": self._manager("last", 2), "best": self._manager("best", 1)}

    def _manager(self, kind: str, keep: int) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False, create=True)
        return ocp.CheckpointManager((self.folder / kind).absolute(), options=options)

    def save(self, run: Any, kind: str = "last", score: float | None = None) -> None:
        """Write `run` as checkpoint number run.t of `kind` ("last" or "best"), with the score that made it best.

        Returns when `run` may be given away: once it is copied, and what was saved of other steps is on the disk.
        Raises: OSError, here or in `wait`, naming the checkpoint that could not be written.
        """
        step, about = int(run.t), {"leaves": describe(run), "score": score}
        if jax.process_count() > 1:  # every process writes its part and waits for the others
            return self._write(_to_data(run), about, step, kind)
        if self._snapshot[0] != step:
            self.wait()
            self._snapshot = step, jax.tree.map(lambda x: np.array(x), jax.device_get(_to_data(run)))
        self._writing.append(self._writer.submit(self._write, self._snapshot[1], about, step, kind))

    def wait(self) -> None:
        """Return when all that was saved is on the disk. Raises: OSError when it could not be written."""
        writing, self._writing, self._snapshot = self._writing, [], (-1, None)
        for error in [future.exception() for future in writing]:
            if error is not None:
                raise error

    def _write(self, data: Any, about: dict[str, Any], step: int, kind: str) -> None:
        try:
            self._write_files(data, about, step, kind)
        except OSError:
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds for a disk that does not take what they write
            raise OSError(errno.EIO, f"cannot be written ({_reason(error)})", str(self.folder / kind / str(step))) from error

    def _write_files(self, data: Any, about: dict[str, Any], step: int, kind: str) -> None:
        manager = self._managers[kind]
        if (kind, step) in self._damaged:
            manager.delete(step)
            self._damaged.remove((kind, step))
        if step in manager.all_steps():
            return
        manager.save(step, args=ocp.args.Composite(run=ocp.args.StandardSave(data), about=ocp.args.JsonSave(about)))
        if not hosts.first():
            return
        self._sums(kind, step).write_text(json.dumps(_checksums(self.folder / kind / str(step))))
        for stale in set(self.folder.glob(f"{kind}-*.json")) - {self._sums(kind, kept) for kept in manager.all_steps()}:
            stale.unlink()

    def _sums(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step}.json"

    def _fault(self, kind: str, step: int) -> str:
        """What is wrong with the files of a checkpoint, before anything of it is read; empty where they are those that were written."""
        return str(hosts.once(lambda: self._check(kind, step)))

    def _check(self, kind: str, step: int) -> str:
        try:
            sums = json.loads(self._sums(kind, step).read_text())
        except (OSError, ValueError):
            return UNVERIFIED
        return "" if sums == _checksums(self.folder / kind / str(step)) else "its files have changed"

    def clean(self) -> None:
        """Delete what killed processes left half-written. For the process that holds the run's lock."""
        for path in self.folder.glob("*/*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def best_score(self) -> float:
        """The score of the best checkpoint, -inf when there is none."""
        manager = self._managers["best"]
        step = manager.latest_step()
        if step is None:
            return float("-inf")
        about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        return float(about["score"])

    def restore(self, example: Any, kind: str = "last", say: Say = print) -> Any:
        """The newest readable checkpoint of `kind`, shaped and placed like `example` (arrays); None when there is no checkpoint.

        One that is damaged or of another program is told with `say` and the one before is tried. One without checksums (the writer was
        killed before them, or somebody copied only half) is tried only where none has any.
        Raises: UserError when none can be read.
        """
        manager = self._managers[kind]
        steps = sorted(manager.all_steps(), reverse=True)
        faults = {step: self._fault(kind, step) for step in steps}
        trusting = all(faults.values())
        reasons = []
        for step in steps:
            try:
                if faults[step] and not (trusting and faults[step] == UNVERIFIED):
                    raise OSError(faults[step])
                about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
                foreign = set(about["leaves"].items()) ^ set(describe(example).items())
                if foreign:
                    path, leaf = sorted(foreign)[0]
                    raise OSError(f"it belongs to another program: {len(foreign)} leaves differ, first {path}: {leaf}")
                return self._read(manager, step, example)
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                self._damaged.add((kind, step))  # stays until a good one takes its place
                reasons.append(_reason(error))
                if step != steps[-1]:
                    say(f"checkpoint {self.folder / kind / str(step)}: cannot be read ({reasons[-1]}), trying the one before")
        if steps:
            where = self.folder / kind
            raise UserError(f"checkpoint {where}: none of {steps} can be read ({reasons[0]}); delete the folder to start again")
        return None

    def _read(self, manager: ocp.CheckpointManager, step: int, example: Any) -> Any:
        data = _to_data(example)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), data)
        restored = manager.restore(step, args=ocp.args.Composite(run=ocp.args.StandardRestore(abstract))).run
        return jax.tree.map(
            lambda x, like: jax.random.wrap_key_data(x, impl=jax.random.key_impl(like)) if _is_key(like) else x, restored, example
        )

    def close(self) -> None:
        """Wait for what is being written, then release the managers. Raises: as `wait`."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            for manager in self._managers.values():
                manager.close()


def _reason(error: Exception) -> str:
    """The first line of an error, 200 characters at most."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
