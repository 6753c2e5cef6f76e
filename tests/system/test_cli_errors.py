"""Bad input: one clear line on stderr, exit code 2, and nothing written. In process for speed; test_cli.py starts real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from causal_jax import cli


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a bad command line prints."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err.strip()


CASES = [
    (["tarin"], "causal-jax: command = 'tarin': unknown, did you mean train?"),
    (["train", "poo"], "causal-jax: algorithm = 'poo': unknown, did you mean ppo?"),
    (["train", "ppo", "--env", "maze-n11"], "causal-jax: env = 'maze-n11': must be maze-n1 .. maze-n10"),
    (["train", "ppo", "--env", "probe-valeu"], "did you mean probe-value"),
    (["train", "ppo", "--members", "0"], "causal-jax: members = 0: must be 1 <= x"),
    (["train", "ppo", "--members", "two"], "causal-jax: train ppo: Error parsing --members: invalid literal"),
    (["train", "ppo", "--steps", "-5"], "causal-jax: steps = -5: must be 1 <= x"),
    (["train", "ppo", "--hyper.lr", "-1"], "causal-jax: hyper.lr = -1.0: must be 0.0 <= x"),
    (["train", "ppo", "--hyper.lr", "1e-3", "nan"], "causal-jax: hyper.lr = nan: must be 0.0 <= x"),
    (["train", "ppo", "--hyper.gamma", "1.5"], "causal-jax: hyper.gamma = 1.5: must be 0.0 <= x <= 1.0"),
    (["train", "ppo", "--num-minibatches", "3"], "causal-jax: num_minibatches = 3: must divide num_envs * num_steps = 2048"),
    (["train", "ppo", "--activation", "sine"], "causal-jax: activation = 'sine': must be one of tanh, relu, gelu, silu"),
    (["train", "ppo", "--selection", "ce"], "causal-jax: selection = 'ce': must be one of cee, npm"),
    (["train", "cee", "--env", "probe-box"], "causal-jax: selection = 'cee': needs a Discrete action space, this one is Box"),
    (["train", "cee", "--env", "probe-policy", "--n-values", "oracle"], "needs an environment with `successors`"),
    (["train", "cee", "--effects", "nowhere"], "causal-jax: effects = 'nowhere': no such run"),
    (["train", "ppo", "--env-options", "max_steps"], "causal-jax: env_options = 'max_steps': must be name=value"),
    (["train", "ppo", "--env-options", "speed=3"], "maze-n6: speed = 3: unknown option"),
    (["train", "ppo", "--env-options", "max_steps=0"], "maze-n6: max_steps = 0: must be 1 <= x"),
    (["train", "ppo", "--log", "tensorboard"], "causal-jax: log = ('tensorboard',): must be one of wandb, wandb-grouped"),
    (["train", "ppo", "--mesh", "pop=4,data=999"], "causal-jax: mesh = 'pop=4,data=999': must be at most"),
    (["train", "ppo", "--mesh", "4"], "causal-jax: mesh = '4': must be pop=P,data=D"),
    (["train", "ppo", "--coordinator", "localhost:1"], "causal-jax: coordinator = localhost:1: needs --distributed"),
    (["train", "ppo", "--distributed", "--coordinator", "here"], "causal-jax: coordinator = 'here': must be HOST:PORT"),
    (
        ["train", "ppo", "--distributed", "--num-processes", "2", "--process-id", "2"],
        "causal-jax: process_id = 2: must be less than num_processes = 2",
    ),
    (["train", "ppo", "--preset", "maze-ce"], "preset = 'maze-ce'"),
    (["train", "ppo", "--config", "missing.json"], "has no readable missing.json"),
    (["train", "ppo", "--nonsense", "1"], "causal-jax: train ppo: Unrecognized options: --nonsense, 1"),
    (["evaluate", "nowhere"], "causal-jax: run = 'nowhere': has no readable run.json"),
    (["report"], "runs: missing"),
    (["play", "nowhere"], "run = 'nowhere'"),
    (["sweep", "nowhere.yaml"], "causal-jax: file = 'nowhere.yaml': cannot be read (No such file or directory)"),
    (["sweep"], "causal-jax: sweep: "),
    (["train", "ppo", "--seeds", "1", "2"], "causal-jax: seeds = 2 seeds: must be 4, one for each member of every point"),
    (["train", "ppo", "--combine", "zip", "--hyper.lr", "1", "2", "--hyper.clip", "1", "2", "3"], "hyper.lr = 2 values: must be 1 or 3"),
    (["list", "things"], "causal-jax: what = 'things': must be one of algorithms, envs, presets"),
]


@pytest.mark.parametrize(("args", "line"), CASES, ids=[" ".join(args) for args, _ in CASES])
def test_bad_input_is_one_line(
    args: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in run(capsys, *args)
    assert not list(tmp_path.rglob("*")), "bad input must leave nothing behind"


def test_config_of_another_program(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"algorithm": "ppo", "colour": 3}, "config": {}, "hyper": {}}))
    assert "run.json: is not one of this program" in run(capsys, "train", "--config", ".")
    (tmp_path / "run.json").write_text("{")
    assert "has no readable run.json" in run(capsys, "train", "--config", ".")


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", "algorithms"])
    assert "cee-woc" in capsys.readouterr().out
    cli.main(["list", "envs"])
    out = capsys.readouterr().out.split()
    assert "maze-n6" in out
    assert "probe-truncation" in out
