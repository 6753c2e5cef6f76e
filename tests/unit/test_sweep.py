"""Sweep files: what is read, drawn, grouped and refused; the search, the ranking and the pictures. Nothing is trained here."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

from causal_jax import cli, runs, sweep, sweep_file, sweep_plots, training
from causal_jax.algorithms import ppo
from causal_jax.settings import Settings, check_resumable, describe, load_settings, resolve
from causal_jax.types import UserError

FILES = sorted((Path(__file__).parents[2] / "experiments" / "sweeps").glob("*.yaml"))
GRID = {
    "method": "grid",
    "metric": {"name": "eval/sampled/return", "goal": "maximize"},
    "parameters": {"hyper.lr": {"values": [0.001, 0.003]}, "num_envs": {"values": [2, 4]}, "seed": {"values": [0, 7]}},
    "command": ["causal-jax", "train", "ppo", "--env", "maze-n2", "--members", "2", "--num-steps", "32", "${args}"],
}


def parse(words):
    """What the command line makes of the words after `train`."""
    parsed = cli.parse_train(words)
    return parsed.settings, parsed.config, parsed.hyper


def changed(path, value):
    """GRID with one value replaced (None: removed); path is dotted by "/"."""
    content = copy.deepcopy(GRID)
    *parents, last = path.split("/")
    place = content
    for name in parents:
        place = place.setdefault(name, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


def programs(content, batch=0, shared=None):
    """(sweep, [(trials, resolved)]) of a sweep's content."""
    found = sweep_file.check(content)
    base = parse(list(found.command))
    base = dataclasses.replace(base[0], folder="place"), *base[1:]
    sweep._check(found, base)
    points = sweep_file.points(found)
    return found, sweep.programs(found, base, points, Path("place"), batch, 0, {} if shared is None else shared)


def test_grid_is_the_product_and_is_cut_by_run_cap():
    points = sweep_file.points(sweep_file.check(GRID))
    assert len(points) == 8
    assert points[:2] == [{"hyper.lr": 0.001, "num_envs": 2, "seed": 0}, {"hyper.lr": 0.001, "num_envs": 2, "seed": 7}]
    assert sweep_file.points(sweep_file.check({**GRID, "run_cap": 3})) == points[:3]
    stepped = changed(
        "parameters", {"num_envs": {"min": 2, "max": 4}, "hyper.gamma": {"distribution": "q_uniform", "min": 0.8, "max": 1, "q": 0.1}}
    )
    assert [tuple(point.values()) for point in sweep_file.points(sweep_file.check(stepped))] == [
        (n, gamma) for n in (2, 3, 4) for gamma in (0.8, 0.9, 1.0)
    ]  # fmt: skip


def test_random_draws_from_each_distribution():
    parameters = {
        "a": {"distribution": "log_uniform_values", "min": 0.001, "max": 0.1},
        "b": {"min": 0.0, "max": 2.0},
        "c": {"min": 1, "max": 3},
        "d": {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1},
        "e": {"values": ["x", "y"], "probabilities": [0.9, 0.1]},
        "f": {"value": 5},
        "g": {"distribution": "q_log_uniform_values", "min": 8, "max": 64, "q": 8},
    }
    found = sweep_file.check({**GRID, "method": "random", "run_cap": 2000, "parameters": parameters})
    points = sweep_file.points(found, seed=1)
    assert points == sweep_file.points(found, seed=1)
    assert points != sweep_file.points(found, seed=2)
    column = {name: [point[name] for point in points] for name in parameters}
    assert min(column["a"]) >= 0.001
    assert max(column["a"]) <= 0.1
    assert np.mean(np.asarray(column["a"]) < 0.01) == pytest.approx(0.5, abs=0.05)  # half in each decade
    assert np.mean(np.asarray(column["b"]) < 1.0) == pytest.approx(0.5, abs=0.05)
    assert set(column["c"]) == {1, 2, 3}
    assert set(column["d"]) == {0.0, 0.1, 0.2, 0.3}
    assert column["e"].count("x") / 2000 == pytest.approx(0.9, abs=0.03)
    assert set(column["f"]) == {5}
    assert set(column["g"]) == set(range(8, 65, 8))
    assert all(isinstance(x, int) for x in column["c"] + column["g"])


BAD = [
    ("method", "gird", r"method = 'gird': unknown, did you mean grid"),
    ("metod", "grid", r"key = 'metod': unknown, did you mean method"),
    ("metric", None, r"metric: missing in sweep"),
    ("metric/goal", "max", r"metric.goal = 'max': unknown, did you mean maximize"),
    ("metric/name", "eval/sampled/retrun", r"metric.name = 'eval/sampled/retrun': unknown, did you mean eval/sampled/return"),
    ("parameters/hyper.lrr", {"value": 1.0}, r"parameters.hyper.lrr: unknown, did you mean hyper.lr"),
    ("parameters/name", {"value": "x"}, r"parameters.name: unknown"),
    ("parameters/hyper.lr", {"values": []}, r"parameters.hyper.lr.values = \[\]: must be a list of at least one value"),
    ("parameters/hyper.lr", {"values": ["1e-4"]}, r"parameters.hyper.lr = '1e-4': must be a finite number \(YAML reads 1e-4 as text"),
    ("parameters/hyper.lr", {"values": [-1.0]}, r"hyper.lr = -1.0: must be 0.0 <= x"),
    ("parameters/hyper.tau", {"distribution": "q_uniform", "min": 0.5, "max": 1.5, "q": 0.5}, r"hyper.tau = 1.5: must be 0.0 <= x <= 1.0"),
    ("parameters/hyper.lr", {"min": 0.1, "max": 1.0}, r"parameters.hyper.lr = uniform: must have values"),
    ("parameters/hyper.lr", {"min": 0.1}, r"parameters.hyper.lr: must have value, values, or min and max"),
    ("parameters/hyper.lr", {"min": 1, "max": 1}, r"parameters.hyper.lr.min = 1: must be less than max = 1"),
    ("parameters/hyper.lr", {"min": 0, "max": 1.0, "distribution": "log_uniform_values"}, r"min = 0: must be 0 < x for log_uniform_values"),
    ("parameters/hyper.lr", {"min": 0.5, "max": 2, "distribution": "int_uniform"}, r"min = 0.5: must be an integer"),
    ("parameters/hyper.lr", {"min": 0.11, "max": 0.12, "q": 0.05, "distribution": "q_uniform"}, r"q = 0.05: has no multiple between"),
    ("parameters/hyper.lr", {"min": 0.1, "max": 1, "distribution": "normal"}, r"hyper.lr.distribution = 'normal': unknown, .*uniform"),
    ("parameters/hyper.lr", {"values": [0.1], "distribution": "uniform"}, r"distribution = uniform: does not go with values"),
    ("parameters/hyper", {"parameters": {"lr": {"value": 1}}}, r"parameters.hyper: is nested; write each name with its dot, e.g. hyper.lr"),
    ("parameters/num_envs", {"values": [0]}, r"num_envs = 0: must be 1 <= x"),
    ("parameters/num_envs", {"values": ["two"]}, r"num_envs = 'two': must be of type int"),
    ("parameters/num_minibatches", {"values": [5]}, r"num_minibatches = 5: must divide num_envs"),
    ("parameters/env", {"values": ["maze-n2", "maze-n99"]}, r"env = 'maze-n99': must be maze-n1 .. maze-n10"),
    ("run_cap", 0, r"run_cap = 0: must be an integer 1 <= x"),
    ("method", "bayes", r"run_cap: missing in sweep, method bayes needs"),
    ("command", ["python", "x.py"], r"command = .*: must be a list such as"),
    ("command", ["causal-jax", "train", "ppo"], r"command: must hold \$\{args\} once after train"),
    ("command", ["causal-jax", "train", "poo", "${args}"], r"algorithm = 'poo': unknown, did you mean ppo"),
    ("command", ["causal-jax", "train", "ppo", "--hyper.lr", "0.1", "0.2", "${args}"], r"command: --hyper.lr has 2 values"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), BAD)
def test_bad_files_are_one_line_and_leave_nothing(tmp_path, path, value, words):
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)).replace(str(tmp_path), ""))
    with pytest.raises(UserError, match=words.replace("in sweep", "in .*sweep.yaml")) as error:
        sweep.run_sweep(file, parse, folder=str(tmp_path / "runs"))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        sweep_file.read(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not YAML") as error:
        sweep_file.read(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


def test_trials_are_grouped_by_what_is_no_hyper_and_no_seed():
    _, found = programs(GRID)
    assert [trials for trials, _ in found] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert [run.config.num_envs for _, run in found] == [2, 4]
    run = found[0][1]
    assert run.seeds == [0, 1, 7, 8] * 2  # two members a trial
    np.testing.assert_allclose(run.hyper.lr, [0.001] * 4 + [0.003] * 4)
    np.testing.assert_allclose(run.hyper.gamma, [0.99] * 8)
    assert [run.folder.name for _, run in programs(GRID, batch=3)[1]] == [f"program-00{k}" for k in range(4)]
    alone = programs(changed("parameters", {"seed": {"values": [3, 5]}}))[1]
    assert alone[0][1].seeds == [3, 4, 5, 6]  # one program, though no Hyper differs


def test_run_json_of_a_program_says_all():
    run = programs(GRID)[1][0][1]
    about = json.loads(json.dumps(describe(run)))
    again = resolve(*load_settings(about))
    assert again.seeds == run.seeds
    np.testing.assert_array_equal(again.hyper.lr, run.hyper.lr)
    check_resumable(again, about)
    old = json.loads(json.dumps(describe(resolve(Settings(env="maze-n2")))))
    for name in ("seeds", "combine"):
        del old["settings"][name]
    del old["config"]["normalize_obs"]
    check_resumable(resolve(Settings(env="maze-n2")), old)  # a run from before these settings and this field were
    config = ppo.Config(normalize_obs=True)
    with pytest.raises(UserError, match="normalize_obs = True: the run in .* has False"):
        check_resumable(resolve(Settings(env="maze-n2"), config), old)


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    file, folder = tmp_path / "grid.yaml", tmp_path / "runs"
    file.write_text(yaml.safe_dump(GRID))
    place = folder / "grid"
    place.mkdir(parents=True)
    (place / "sweep.json").write_text(json.dumps({**GRID, "seed": 0, "batch": 0, "run_cap": 3}))
    before = list(place.iterdir())
    with pytest.raises(UserError, match=r"^name = 'grid': .*grid exists; continue it with --resume, or choose another --name$"):
        sweep.run_sweep(file, parse, folder=str(folder))
    with pytest.raises(UserError, match=r"^run_cap = None: the sweep in .* has 3; resume with the same, or choose another --name$"):
        sweep.run_sweep(file, parse, folder=str(folder), resume=True)
    file.write_text(yaml.safe_dump({**GRID, "run_cap": 3}))
    with pytest.raises(UserError, match=r"^seed = 1: the sweep in .* has 0"):
        sweep.run_sweep(file, parse, folder=str(folder), resume=True, seed=1)
    with pytest.raises(UserError, match=r"^batch = -1: must be 0 <= x$"):
        sweep.run_sweep(file, parse, batch=-1)
    (place / "sweep.json").rename(place / "something.txt")
    with pytest.raises(UserError, match=r"exists and holds no sweep"):
        sweep.run_sweep(file, parse, folder=str(folder))
    assert len(before) == len(list(place.iterdir())) == 1


def test_zip_takes_the_ith_values_together():
    hyper, seeds, points = training.grid(ppo.Hyper(lr=(0.1, 0.2), clip=(0.3, 0.4), gamma=0.5), (7, 8), "zip")
    assert points == [{"lr": 0.1, "clip": 0.3}] * 2 + [{"lr": 0.2, "clip": 0.4}] * 2
    assert seeds == [7, 8, 7, 8]
    np.testing.assert_allclose(hyper.gamma, [0.5] * 4)
    with pytest.raises(UserError, match=r"hyper.clip = 2 values: must be 1 or 3 values"):
        training.grid(ppo.Hyper(lr=(0.1, 0.2, 0.3), clip=(0.3, 0.4)), (0,), "zip")
    with pytest.raises(UserError, match=r"seeds = 3 seeds: must be 4"):
        resolve(Settings(env="maze-n2", seeds=(1, 2, 3)))


def test_phase_one_is_fitted_once_and_follows_the_seed():
    command = ["causal-jax", "train", "cee", "--env", "maze-n2", "--members", "2", "${args}"]
    content = {**changed("parameters", {"num_epochs": {"values": [2, 4]}, "seed": {"values": [0, 9]}}), "command": command}
    shared = {}
    _, found = programs(content, shared=shared)
    assert [(run.settings.effects, run.settings.seed) for _, run in found] == [
        ("", 0), ("", 9), ("place/program-000/effects", 0), ("place/program-001/effects", 9),
    ]  # fmt: skip
    assert len(shared) == 2


def test_bayes_asks_in_rounds_and_the_same_scores_lead_to_the_same_points():
    parameters = {
        "hyper.lr": {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.1},
        "hyper.tau": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "hidden": {"values": [[8], [8, 8]]},
        "num_epochs": {"min": 1, "max": 4},
    }
    found = sweep_file.check({**GRID, "method": "bayes", "run_cap": 21, "parameters": parameters})

    def walk(stop=99):
        rows = []
        for points in sweep._bayes(found, 4, 3, rows):
            for point in points:
                good = -abs(math.log10(point["hyper.lr"]) + 2) - abs(point["num_epochs"] - 3) - point["hyper.tau"]
                rows.append({"point": point, "score": None if len(rows) == 5 else good})  # one trial diverges
            if len(rows) >= stop:
                break
        return rows

    rows = walk()
    assert len(rows) == 21
    assert walk(8) == rows[:8]
    assert {row["point"]["hidden"] for row in rows} == {(8,), (8, 8)}
    assert {row["point"]["hyper.tau"] for row in rows} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert all(0.0001 <= row["point"]["hyper.lr"] <= 0.1 and row["point"]["num_epochs"] in (1, 2, 3, 4) for row in rows)
    assert max(row["score"] for row in rows[12:]) > max(row["score"] for row in rows[:8] if row["score"] is not None)


def test_ranking_puts_trials_without_a_score_last():
    rows = [{"trial": k, "score": score} for k, score in enumerate([1.0, None, 3.0, 3.0])]
    assert [row["trial"] for row in sweep.ranked(rows, "maximize")] == [2, 3, 0, 1]
    assert [row["trial"] for row in sweep.ranked(rows, "minimize")] == [0, 2, 3, 1]


def test_importance_is_the_share_of_variance_alone():
    columns = {"a": [1, 1, 1, 1, 2, 2, 2, 2], "b": [1, 2, 1, 2, 1, 2, 1, 2], "kind": list("xxyyxxyy")}
    found = sweep_plots.importance(columns, [0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0])
    assert next(iter(found)) == "a"
    assert found["a"].share == pytest.approx(1.0)
    assert found["a"].correlation == pytest.approx(1.0)
    assert (found["b"].share, found["b"].correlation, found["kind"].share) == (0.0, 0.0, 0.0)
    assert math.isnan(found["kind"].correlation)
    # By hand, scores 1 3 2 4 by a: ranks 1 3 | 2 4, between 1, within (4 - 1) / 1... epsilon^2 = (1 - 2) / 5 < 0: clipped.
    assert sweep_plots.importance({"a": [1, 1, 2, 2]}, [1.0, 3.0, 2.0, 4.0])["a"].share == 0.0
    # Ranks 1 2 | 3 4: total 5, between 4, within (5 - 4) / 2: (4 - 0.5) / 5.
    assert sweep_plots.importance({"a": [1, 1, 2, 2]}, [1.0, 2.0, 3.0, 4.0])["a"].share == pytest.approx(0.7)
    draw = np.random.default_rng(0)
    many = {"lr": draw.uniform(size=40).tolist(), "noise": draw.uniform(size=40).tolist()}
    found = sweep_plots.importance(many, [x**3 for x in many["lr"]])
    assert found["lr"].share > 0.85 > 0.4 > found["lr"].chance
    assert found["noise"].share <= 2 * found["noise"].chance


def test_pictures_are_drawn(tmp_path):
    columns = {"hyper.lr": [1e-4, 1e-3, 1e-2, 1e-1, 0.05, 0.3, 0.2], "hidden": [(8,), (8, 8)] * 3 + [(8,)], "n": [1, 2, 2, 1, 3, 3, 1]}
    scores = [1.0, 2.0, 3.0, 2.5, 1.5, 0.5, 0.0]
    sweep_plots.parallel(columns, scores, tmp_path / "parallel.png", "return", {"hyper.lr"})
    sweep_plots.importance_bars(sweep_plots.importance(columns, scores), tmp_path / "importance.png")
    for name in ("parallel.png", "importance.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert 0.005 < np.mean(np.any(pixels != 255, axis=-1)) < 0.9


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_our_files_run_here_and_under_the_agent_of_wandb(file):
    """W&B's own code builds the agent's command line of a point; the command line makes of it what the local sweep does."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    content = yaml.safe_load(file.read_text())
    found = sweep_file.check(content)
    assert found.command[-2:] == ("--log", "wandb-grouped")
    base = parse(list(found.command))
    sweep._check(found, base)
    points = next(sweep._bayes(found, 8, 0, [])) if found.method == "bayes" else sweep_file.points(found)
    groups = sweep.programs(found, base, points, Path("place"), 0, 0, {})
    for point in points[:3]:
        args = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})["args"]
        words = [word for chunk in create_sweep_command(list(content["command"])) for word in (args if chunk == "${args}" else [chunk])]
        assert words[:2] == ["causal-jax", "train"]
        settings, config, hyper = sweep_file.apply(point, *base)
        found_settings, found_config, found_hyper = parse(words[2:])
        assert (found_settings, found_config) == (settings, config)
        assert {k: float(np.ravel(v)[0]) for k, v in vars(found_hyper).items()} == {
            k: float(np.ravel(v)[0]) for k, v in vars(hyper).items()
        }
    assert len(groups) == (1 if found.method != "bayes" else len({point["num_epochs"] for point in points}))


def test_the_grid_of_acceptance_is_24_trials_in_one_program():
    file = next(file for file in FILES if file.stem == "maze_ppo_grid")
    assert len(sweep_file.points(sweep_file.read(file))) == 24


def test_the_command_line_takes_lists_and_switches_as_the_agent_writes_them():
    parsed = cli.parse_train(["ppo", "--hidden=[8, 16]", "--normalize_obs=True", "--normalize_advantage=False", "--hyper.lr=0.5"])
    assert (parsed.config.hidden, parsed.config.normalize_obs, parsed.config.normalize_advantage) == ((8, 16), True, False)
    assert parsed.hyper.lr == (0.5,)


def test_runs_of_the_agent_get_a_folder_each(monkeypatch):
    found = []
    monkeypatch.setattr("causal_jax.runs.train_run", lambda run, resume: found.append(run.folder))
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    cli._train(["ppo", "--env", "maze-n2", "--no-report"])
    cli._train(["ppo", "--env", "maze-n2", "--no-report", "--name", "mine"])
    assert found == [Path("runs/ppo-maze-n2-abc123"), Path("runs/mine")]


def test_every_point_has_the_effect_models_of_its_lone_run(learned_run):
    """Two points of one member each, a folder with two models: both points use the first, as each would alone."""
    settings = Settings(algorithm="npm", env="maze-n3", members=1, effects=str(learned_run.parent / "effects"))
    task, _ = runs.make_task(resolve(settings, ppo.Config(selection="npm", num_minibatches=1), ppo.Hyper(lr=(0.1, 0.2))))
    both = runs.make_task(resolve(dataclasses.replace(settings, members=2), ppo.Config(selection="npm", num_minibatches=1)))[0]
    for leaf, models in zip(jax.tree.leaves(task.effects), jax.tree.leaves(both.effects), strict=True):
        np.testing.assert_array_equal(leaf, models[np.asarray([0, 0])])
