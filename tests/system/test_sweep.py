"""A sweep as a real process: killed in its second program and continued, it is the sweep that was not; a lone run is its member."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from causal_jax import cli, sweep_file
from experiments.benchmarks import sweeps

CONTENT = {
    "method": "grid",
    "metric": {"name": "eval/sampled/return", "goal": "maximize"},
    "parameters": {"hidden": {"values": [[8], [4]]}, "hyper.lr": {"values": [0.001, 0.003, 0.01]}},
    "command": [
        "causal-jax", "train", "template", "--env", "maze-n3", "--members", "1", "--steps", "768", "--num-envs", "2", "--num-steps", "32",
        "--evaluations", "12", "--eval-episodes", "1", "--eval-steps", "10", "--log", "wandb-grouped", "${args}",
    ],
}  # fmt: skip


def command(file: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "causal_jax", "sweep", str(file), "--folder", str(folder), *more]


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(CONTENT))
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    subprocess.run(command(file, calm), check=True, capture_output=True)
    process = subprocess.Popen(command(file, stormy), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((stormy / "grid" / "program-001" / "ckpt").glob("last-*.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the sweep ended before it could be killed: make it longer"
    first = (stormy / "grid" / "program-000" / "run.json").stat().st_mtime_ns
    done = subprocess.run(command(file, stormy, "--resume"), check=True, capture_output=True, text=True)
    assert f"{stormy / 'grid' / 'program-000'}: complete" in done.stdout
    assert f"{stormy / 'grid' / 'program-001'}: resumed at " in done.stdout
    assert (stormy / "grid" / "program-000" / "run.json").stat().st_mtime_ns == first
    trials = [json.loads((folder / "grid" / "trials.json").read_text()) for folder in (calm, stormy)]
    assert trials[0] == trials[1]
    assert [(row["trial"], row["program"]) for row in trials[0]] == [(k, f"program-00{k // 3}") for k in range(6)]
    with (stormy / "grid" / "trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    scores = [float(row["eval/sampled/return"]) for row in rows]
    assert scores == sorted((row["score"] for row in trials[0]), reverse=True)
    assert {path.name for path in (stormy / "grid").iterdir()} >= {"report.html", "trials.json", "sweep.json", "parallel.png"}
    words = sweeps.lone_commands(sweep_file.check(CONTENT))[1]
    cli.main([*words, "--folder", str(tmp_path), "--name", "alone"])
    assert sweeps.differences(calm / "grid" / "program-000", [tmp_path / "alone"], [1])[0] <= 1e-5
