"""Every fault that a long run meets, with the exact line that the user sees. In process where the fault allows it, for speed."""

from __future__ import annotations

import ast
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import cli, logs, mesh
from causal_jax.checkpoint import _checksums
from causal_jax.logs import read_rows
from causal_jax.runs import load_run

ROOT = Path(__file__).parents[2]
STEPS = 16  # of an update
TINY = [
    "train", "template", "--env", "probe-policy", "--members", "2", "--num-envs", "2", "--num-steps", "8", "--hidden", "4",
    "--evaluations", "5", "--eval-episodes", "1", "--no-report", "--name", "run",
]  # fmt: skip
DIVERGING = ("--members", "1", "--hyper.lr", "1e-3", "1e38")  # member 1 takes steps of 1e38


class Said(tuple[int, list[str], list[str]]):
    """(exit code, lines on stdout, lines on stderr)."""

    code = property(lambda self: self[0])
    out = property(lambda self: self[1])
    err = property(lambda self: self[2])


class Program:
    """The command line in this process, in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.run = folder / "run"

    def __call__(self, *args: str, steps: int = 160) -> Said:
        code = 0
        self.capsys.readouterr()
        try:
            cli.main([*TINY, "--folder", str(self.folder), "--steps", str(steps), *args])
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = self.capsys.readouterr()
        assert "Traceback" not in told.err
        return Said((code, told.out.splitlines(), [line for line in told.err.splitlines() if not line.startswith(("E", "W"))]))

    def steps_of(self, kind: str = "last") -> list[int]:
        """The checkpoints there are."""
        return sorted(int(path.name) for path in (self.run / "ckpt" / kind).iterdir() if path.name.isdigit())


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 5 chunks of 2 updates, complete. To be copied."""
    folder = tmp_path_factory.mktemp("finished")
    cli.main([*TINY, "--folder", str(folder), "--steps", "160"])
    return folder / "run"


@pytest.fixture
def begun(program: Program, finished: Path) -> Program:
    """A copy of the finished run."""
    shutil.copytree(finished, program.run)
    assert program.steps_of() == [8, 10]
    return program


def leaves(folder: Path) -> list[np.ndarray]:
    """Every leaf of the last checkpoint."""
    run = load_run(folder).run
    return [np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in jax.tree.leaves(run)]


def child(folder: Path, *args: str, **environ: str) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "causal_jax", *TINY, "--folder", str(folder), *args]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environ}
    return subprocess.Popen(command, env=surroundings, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigterm_ends_at_the_chunk_with_a_checkpoint_and_143(program: Program) -> None:
    process = child(program.folder, "--steps", str(STEPS * 2_000_000), "--evaluations", "2000000", "--checkpoint-every", "1000000")
    while process.poll() is None and len(read_rows(program.run / "results.jsonl")) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    err = process.communicate()[1].splitlines()
    assert process.returncode == 143
    (t,) = program.steps_of()
    assert err[-1] == f"causal-jax: terminated, checkpoint at {t * STEPS:,} steps per member; continue with --resume"
    assert read_rows(program.run / "results.jsonl")[-1]["t"] == t
    resumed = program("--evaluations", "2000000", "--checkpoint-every", "1000000", "--resume", steps=STEPS * (t + 2))
    assert resumed.code == 0
    assert resumed.out[0] == f"{program.run}: resumed at {t * STEPS:,} steps per member"
    assert program.steps_of() == [t, t + 2]


def damage(step: Path) -> None:
    """Cut every data file of a checkpoint in half."""
    for file in step.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            os.truncate(file, file.stat().st_size // 2)


def half_copy(step: Path) -> None:
    """What a copy that was stopped leaves: some files are not there, and the checksums not either."""
    shutil.rmtree(step / "run" / "d")
    (step.parent.parent / f"last-{step.name}.json").unlink()


def empty(step: Path) -> None:
    """A folder with the right name and nothing in it."""
    shutil.rmtree(step)
    step.mkdir()


def flip(step: Path) -> None:
    """One bit of one data file."""
    file = max((file for file in step.rglob("*") if file.is_file() and file.parent.name == "d"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def foreign(step: Path) -> None:
    """A checkpoint of a program with another leaf."""
    about = step / "about" / "metadata"
    content = json.loads(about.read_text())
    content["leaves"]["stranger"] = "float32[7]"
    about.write_text(json.dumps(content))
    (step.parent.parent / f"last-{step.name}.json").write_text(json.dumps(_checksums(step)))  # it was written like this


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (damage, "its files have changed"),
        (flip, "its files have changed"),
        (half_copy, "it has no checksums"),
        (empty, "its files have changed"),
        (foreign, "it belongs to another program: 1 leaves differ, first stranger: float32[7]"),
    ],
)
def test_a_bad_checkpoint_is_passed_over_for_the_one_before(begun: Program, fault: Any, reason: str) -> None:
    expected = leaves(begun.run)
    newest = begun.run / "ckpt" / "last" / "10"
    fault(newest)
    said: Any
    if fault is damage:  # the whole way, as a user goes it; the others stop after reading
        said = begun("--resume")
        assert said.code == 0
        line = next(line for line in said.out if line.startswith("checkpoint"))
        assert f"{begun.run}: resumed at {8 * STEPS:,} steps per member" in said.out
        for a, b in zip(expected, leaves(begun.run), strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        told: list[str] = []
        assert int(load_run(begun.run, say=told.append).run.t) == 8
        (line,) = told
    assert line.startswith(f"checkpoint {newest}: cannot be read ({reason}")
    assert line.endswith("), trying the one before")
    if fault is damage:  # and when all of them are bad
        for step in (8, 10):
            damage(begun.run / "ckpt" / "last" / str(step))
        said = begun("--resume")
        where = begun.run / "ckpt" / "last"
        assert said.err == [
            f"causal-jax: checkpoint {where}: none of [10, 8] can be read (its files have changed); delete the folder to start again"
        ]
        assert said.code == 2


def test_a_full_disk_under_the_log(begun: Program) -> None:
    (begun.run / "results.tmp").symlink_to("/dev/full")  # what the log is rewritten through: every write fails with ENOSPC
    said = begun("--resume", steps=320)
    assert (said.code, said.err) == (2, ["causal-jax: output: No space left on device"])
    assert begun.steps_of() == [8, 10]


def test_a_disk_that_takes_no_checkpoint(begun: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread fails; the run ends with the line and the checkpoint before stays."""
    from causal_jax.checkpoint import ocp

    def save(self: Any, step: int, **options: Any) -> None:
        raise ValueError(f'RESOURCE_EXHAUSTED: Error writing "{step}": No space left on device [OS error 28: ENOSPC]\nmore')

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    said = begun("--resume", steps=320)
    where = begun.run / "ckpt" / "last" / "12"
    reason = 'RESOURCE_EXHAUSTED: Error writing "12": No space left on device [OS error 28: ENOSPC]'
    assert (said.code, said.err) == (2, [f"causal-jax: {where}: cannot be written ({reason})"])
    assert begun.steps_of() == [8, 10]


def test_a_folder_that_may_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    program = Program(tmp_path / "file", capsys)
    assert program().err == [f"causal-jax: {tmp_path / 'file' / 'run'}: Not a directory"]


def test_locks_of_the_living_and_of_the_dead(begun: Program) -> None:
    with (begun.run / "lock").open("a+") as lock:
        lock.truncate(0)
        lock.write("4242")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = begun("--resume")
    assert said.err == [f"causal-jax: run = '{begun.run}': in use by process 4242; wait for it or choose another --name"]
    assert said.code == 2
    assert begun("--resume").out == [f"{begun.run}: complete at 160 steps per member"]  # process 4242 is dead, its name stands there


def test_other_settings_and_existing_runs_are_refused(begun: Program) -> None:
    before = (begun.run / "results.jsonl").read_bytes()
    said = begun()
    assert said.err == [f"causal-jax: name = 'run': {begun.run} exists; continue it with --resume, or choose another --name"]
    assert begun("--resume", "--hidden", "9").err[0].startswith(f"causal-jax: hidden = [9]: the run in {begun.run} has [4]")
    assert begun("--resume", "--hyper.lr", "0.5").err[0].startswith(f"causal-jax: lr = [0.5]: the run in {begun.run} has [0.001]")
    assert (begun.run / "results.jsonl").read_bytes() == before


def test_divergence_stops_the_run_and_skipping_leaves_the_others_as_they_were(program: Program) -> None:
    assert program("--members", "1", "--hyper.lr", "1e-3", "2e-3", "--name", "calm").code == 0
    said = program(*DIVERGING)
    assert said.code == 3
    where = "member 1 (seed 0) diverged in update 2 (16 to 32 steps): loss = inf, state.network['critic']['layers_0']['bias'] is not finite"
    assert said.err == [f"causal-jax: {where}; there is no checkpoint yet; --resume --on-nan skip-member goes on without"]
    assert not (program.run / "ckpt" / "last").exists() or program.steps_of() == []
    said = program(*DIVERGING, "--resume", "--on-nan", "skip-member")
    assert said.code == 0
    assert f"run: {where}; going on without" in said.out
    calm, skipped = load_run(program.folder / "calm").run, load_run(program.run).run
    for a, b in zip(jax.tree.leaves(calm.state), jax.tree.leaves(skipped.state), strict=True):
        assert np.asarray(a[0]).tobytes() == np.asarray(b[0]).tobytes()  # member 0 never noticed
    rows, others = read_rows(program.run / "results.jsonl"), read_rows(program.folder / "calm" / "results.jsonl")
    assert [row["t"] for row in rows] == [0, 2, 4, 6, 8, 10]
    assert all(row["metrics"]["loss"][1] is None and row["eval"]["greedy"]["return"][1] is None for row in rows[1:])
    for row, other in zip(rows, others, strict=True):
        assert row["eval"]["sampled"]["return"][0] == other["eval"]["sampled"]["return"][0]
        assert [value[0] for value in row["metrics"].values()] == [value[0] for value in other["metrics"].values()]
    about = json.loads((program.run / "run.json").read_text())
    assert about["diverged"] == {"1": [2, "loss = inf, state.network['critic']['layers_0']['bias'] is not finite"]}
    best = program.run / "ckpt" / "best" / str(program.steps_of("best")[0]) / "about" / "metadata"
    assert math.isfinite(json.loads(best.read_text())["score"])  # of those that are left
    said = program(*DIVERGING, "--resume", steps=320)  # who is gone stays gone, whatever --on-nan says now
    assert said.code == 0
    assert read_rows(program.run / "results.jsonl")[-1]["metrics"]["loss"][1] is None


def test_divergence_keeps_the_last_good_checkpoint(begun: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose reward becomes NaN: every member is gone, so skip-member stops too."""
    from causal_jax.envs.probes import ProbePolicy

    good = leaves(begun.run)
    advance = ProbePolicy.advance
    monkeypatch.setattr(ProbePolicy, "advance", lambda self, obs, action: (obs, advance(self, obs, action)[1] * np.nan, True))
    for choice in ("stop", "skip-member"):
        said = begun("--resume", "--on-nan", choice, steps=320)
        assert said.code == 3
        (line,) = said.err
        assert line.startswith("causal-jax: member 0 (seed 0) diverged in update 11 (160 to 176 steps): loss = nan, state.")
        assert "; the last good checkpoint, at 160 steps, stays" in line
    assert begun.steps_of() == [8, 10]
    monkeypatch.undo()
    for a, b in zip(good, leaves(begun.run), strict=True):
        np.testing.assert_array_equal(a, b)


def test_memory_foreseen_is_refused_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = Program(tmp_path / "new", capsys)
    said = program("--num-steps", "100000", "--memory-limit", "0.01")
    assert said.code == 2
    assert said.out[0].startswith("run: will need about ")
    assert said.out[0].endswith(" of 10 MiB, compiling")
    (line,) = said.err
    assert line.startswith("causal-jax: memory = ")
    assert line.endswith(": more than the limit of 10 MiB; take fewer members or smaller sizes, or raise --memory-limit")
    assert not list(tmp_path.iterdir())
    line = program("--num-envs", "2000000000").err[0]  # seen before anything is allocated
    assert line.endswith("; take fewer members or smaller sizes, or raise --memory-limit")
    assert not list(tmp_path.iterdir())


def test_memory_that_runs_out_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A real allocation, of more than a process can address."""
    program = Program(tmp_path / "new", capsys)
    monkeypatch.setattr(mesh, "shard_task", lambda *args: jax.block_until_ready(jnp.zeros((2**23, 2**23))))
    said = program()
    assert said.code == 4
    (line,) = said.err
    assert line.startswith("causal-jax: out of memory: ")
    assert line.endswith("; take fewer members or smaller sizes")
    assert not list(tmp_path.iterdir())


def test_a_clock_that_goes_backwards(begun: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert begun("--resume", steps=320).code == 0
    seconds = [row["seconds"] for row in read_rows(begun.run / "results.jsonl")]
    assert seconds[0] == 0.0
    assert seconds == sorted(seconds)
    assert next(clock) < 10**9 - 1000, "nothing asked for the time"


@pytest.mark.parametrize("gone", ["key", "network"])
def test_wandb_gone_from_the_start(gone: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "CONNECT_SECONDS", 1)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(program.folder / "none"))
    monkeypatch.setenv("HOME", str(program.folder))
    if gone == "network":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    said = program("--log", "wandb-grouped")
    assert said.code == 0
    told = [line for line in said.out if line.startswith("wandb:")]
    offline = f"logging offline to {program.run / 'wandb'} (send it later with: wandb sync)"
    assert told == [f"wandb: {'no API key' if gone == 'key' else 'CommError'}, {offline}"]
    assert list((program.run / "wandb").glob("offline-run-*/*.wandb"))
    assert program.steps_of() == [8, 10]
    import wandb

    wandb.teardown()


def test_wandb_killed(program: Program) -> None:
    """Its process, that is; ours is told once, goes on, and ends without a word of wandb's own."""
    chunks = 3000
    options = ("--steps", str(STEPS * chunks), "--evaluations", str(chunks), "--checkpoint-every", "5000", "--evaluate-every", "5000")
    process = child(program.folder, *options, "--log", "wandb-grouped", WANDB_MODE="offline")
    while process.poll() is None and len(read_rows(program.run / "results.jsonl")) < 3:
        time.sleep(0.01)
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text().startswith("wandb"):
            os.kill(int(pid), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    (line,) = [line for line in out.splitlines() if line.startswith("wandb: ") and "going on" in line]
    assert line.endswith("Error, going on without it")
    assert program.steps_of() == [chunks]


def test_without_any_checksums_the_newest_is_taken_at_its_word(begun: Program) -> None:
    for sums in (begun.run / "ckpt").glob("last-*.json"):
        sums.unlink()
    told: list[str] = []
    assert int(load_run(begun.run, say=told.append).run.t) == 10
    assert told == []


UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "_pickle"}


def test_no_file_of_ours_can_execute_what_it_loads() -> None:
    """No pickle and nothing like it anywhere in the package: checkpoints are arrays and JSON, policies StableHLO and JSON."""
    for path in sorted((ROOT / "causal_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & UNSAFE, path
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                assert not (isinstance(node.func, ast.Name) and called in {"eval", "exec", "compile", "__import__"}), (path, called)
                pickles = [k for k in node.keywords if k.arg == "allow_pickle" and getattr(k.value, "value", True)]
                assert not pickles, path


def test_checkpoints_load_with_pickle_forbidden(begun: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert int(load_run(begun.run).run.t) == 10
