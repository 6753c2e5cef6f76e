"""DLPA's study: presets that agree with it, commands that repeat it, names of folders, what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from causal_jax.algorithms import dlpa
from causal_jax.settings import load_settings, resolve
from causal_jax.types import UserError
from experiments import dlpa as study
from experiments import dlpa_planner, dlpa_rivals


@pytest.mark.parametrize("env", study.BENCHMARKS)
def test_a_preset_is_the_study_in_its_best_settings(env: str) -> None:
    content = json.loads((study.PRESETS / f"{env}-dlpa.json").read_text())
    assert content == study.preset(env)  # else: python -m experiments.dlpa presets
    settings, config, hyper = load_settings(content)
    options = study.Options("study")
    assert (config, dlpa.Hyper(**{name: value[0] if isinstance(value, tuple) else value for name, value in vars(hyper).items()})) == (
        study.algorithm_of(env, study.rates_of(options), options.mode)
    )
    assert dataclasses.replace(study.settings_of(options, env), name=settings.name) == settings
    assert resolve(settings, config, hyper).num_members == 5


def test_the_command_repeats_a_study_whatever_the_defaults_become() -> None:
    assert study.command(study.Options("study", preset="gpu", steps=7000), "goal") == (
        "python -m experiments.dlpa study --envs goal --preset gpu --mode definition --rates explored --members 5 --steps 7000"
        " --evaluations 4 --episodes 50"
    )
    assert study.command(study.Options("study", test_episodes=400), "goal").endswith("--episodes 50 --test-episodes 400")
    assert "--mode authors --rates authors" in study.command(study.Options("study", mode="authors"), "goal")


def test_the_test_of_the_last_policies_tells_its_standard_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played = {"greedy": {"return": (5.58, 0.9), "length": (16.0, 1.0), "success": (0.841, 0.03)}}
    monkeypatch.setattr(study, "evaluate_run", lambda folder, episodes: played if (folder, episodes) == (tmp_path, 400) else None)
    assert study.test(tmp_path, 5, 400) == {"episodes": 400, "mean": 5.58, "error": 0.45, "success": 0.841}  # 0.9 / sqrt(5 - 1)


def test_a_demo_has_a_folder_of_its_own() -> None:
    names = [study.settings_of(study.Options(what), "platform").name for what in ("study", "demo")]
    assert names == ["platform-dlpa-explored-cpu", "platform-dlpa-explored-cpu-demo"]


ENVS = "must be among platform, goal, hard-goal, catch-point, hard-move-4, hard-move-6, hard-move-8, hard-move-10"


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (study, {"what": "study", "envs": ("goal", "hard-move-12")}, f"envs = 'hard-move-12': {ENVS}"),
        (study, {"what": "demo", "envs": ("nosuch",)}, f"envs = 'nosuch': {ENVS}"),
        (dlpa_rivals, {"env": "hard-move-12", "table": True}, f"env = 'hard-move-12': {ENVS}"),
        (dlpa_rivals, {"methods": ("pdqn", "dqn")}, "methods = 'dqn': must be among pdqn, paddpg, hhqn, hyar-td3, hyar-ddpg"),
        (dlpa_planner, {"what": "horizon", "run": "nosuch"}, "run = 'nosuch': has no readable run.json (FileNotFoundError)"),
    ],
)
def test_what_is_refused_before_anything_is_done(module: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        module.main(module.Options(**options))
    assert str(error.value) == message


def test_the_table_shows_fresh_episodes_where_there_are_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {
        "final": {"mean": 31.0, "std": 6.3}, "published": [28.75, 6.91], "steps": [0, 6000], "seconds": {"train": 1706.0},
        "references": {"random": {"return": -8.0}, "scripted": {"return": 13.0}},
    }  # fmt: skip
    (tmp_path / "dlpa_goal.json").write_text(json.dumps(row))
    (tmp_path / "dlpa_goal_explored.json").write_text(json.dumps(row | {"test": {"mean": 26.56, "error": 1.31}}))
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    assert study.table().splitlines()[2:] == [
        "| goal | 6,000 | 31.00 ± 6.30 |  | 28.75 ± 6.91 | -8.00 | 13.00 | 1,706 |",
        "| goal, explored | 6,000 | 31.00 ± 6.30 | 26.56 ± 1.31 | 28.75 ± 6.91 | -8.00 | 13.00 | 1,706 |",
    ]
