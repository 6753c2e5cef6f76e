"""Reports with pictures, GIFs and the evaluation of real (tiny) runs; the maze's reference rows against known numbers."""

from __future__ import annotations

import base64
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from causal_jax import evaluation, gallery, gallery_maze, history, runs
from causal_jax import report as reports
from causal_jax.envs import make
from causal_jax.types import UserError


@pytest.fixture(scope="module")
def cee_loaded(cee_run):
    return runs.load_run(cee_run)


def embedded(page, folder):
    """Names of the pictures in `folder` that the page holds, byte for byte."""
    pictures = [path for path in folder.iterdir() if path.suffix in (".png", ".gif")]
    assert page.count("<img ") == len(pictures)
    return {path.name for path in pictures if base64.b64encode(path.read_bytes()).decode() in page}


def test_report_of_one_masked_run_has_every_picture(cee_run, tmp_path):
    path = gallery.report([cee_run], tmp_path)
    assert path == tmp_path / "report.html"
    page = path.read_text()
    maze = {"mask.png", "groups-start.png", "groups-corner.png", "groups-goal.png", "n-matrix.png", "policy.gif"}
    assert embedded(page, tmp_path) == {"curves.png", "metrics.png", *maze}
    for text in ("<td>random</td>", "<td>random + CEE mask</td>", "<td>shortest path</td>", "not available", "return "):
        assert text in page


def test_report_of_several_runs_shows_learned_beside_exact_and_splits_the_sweep(learned_run, swept_run, hybrid_run, tmp_path):
    page = gallery.report([learned_run, swept_run, learned_run], tmp_path).read_text()
    names = embedded(page, tmp_path)
    assert {"npm-mask.png", "npm-n-matrix.png", "npm-policy.gif", "template-policy.gif", "comparison.png"} <= names
    assert "template-mask.png" not in names  # nothing is masked there
    assert "<td>template (lr 0.001)</td>" in page
    assert "<td>template (lr 0.01)</td>" in page
    assert "learned, and exact from the enumerated successors" in page
    with Image.open(tmp_path / "npm-n-matrix.png") as picture:
        width, height = picture.size
    assert height > 0.55 * width  # two rows: learned and exact
    assert gallery.references([runs.load_run(swept_run), runs.load_run(hybrid_run)]) == {}  # two environments: no common reference


def test_report_without_a_checkpoint_says_so(cee_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cee_run, copy, ignore=shutil.ignore_patterns("ckpt"))
    page = gallery.report([copy]).read_text()
    assert "has no checkpoint yet" in page
    assert "curves.png" in page
    assert "mask.png" not in page


def test_report_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"run\.json"):
        gallery.report([tmp_path / "nothing"])
    with pytest.raises(UserError, match="missing"):
        gallery.report([])
    assert list(tmp_path.iterdir()) == []


def test_pictures_show_the_mask_that_the_policy_acts_by(cee_loaded):
    at = jax.jit(jax.vmap(gallery_maze.masks(cee_loaded, 0)["exact"], (None, 0)))
    grid = gallery_maze.places(cee_loaded.resolved.env_params)
    key = jax.random.key(0)
    mask = at(key, grid)
    state, _ = evaluation.member_of(cee_loaded, 0)
    act = jax.jit(jax.vmap(jax.vmap(lambda key, obs: cee_loaded.resolved.algorithm.act(key, state, obs, False), (0, None)), (None, 0)))
    taken = np.asarray(act(jax.random.split(key, 200), grid))
    drawn = np.stack([np.any(taken == a, axis=1) for a in range(8)], axis=1)
    np.testing.assert_array_equal(drawn, np.asarray(mask.allowed))  # 200 draws of a near-uniform policy reach every allowed action
    # in free space n = 3 moves in 6 directions; all 3 actuators together, or none, stand still: those two are one group, and dropped
    middle = np.argmin(np.linalg.norm(grid - np.array([0.75, 0.5]), axis=1))
    np.testing.assert_array_equal(mask.allowed[middle], [False, True, True, True, True, True, True, False])


@pytest.mark.parametrize(("n", "length"), [(4, 11), (6, 9), (8, 9)])
def test_shortest_path_of_the_published_maze(n, length):
    env, params = make(f"maze-n{n}")
    assert gallery_maze.shortest_path(env, params) == length


def test_shortest_path_that_does_not_exist():
    env, params = make("maze-n2", max_steps=5)
    assert gallery_maze.shortest_path(env, params) is None


def test_references_are_measured_and_known(cee_loaded):
    rows = gallery.references([cee_loaded])
    assert list(rows)[:2] == ["random", "random + CEE mask"]
    assert rows["random"]["success"] <= rows["random + CEE mask"]["success"] <= 1.0
    assert -0.05 * 29 - 1e-4 <= rows["random"]["return"] < 100.0  # 30 steps, of which the last pays nothing


def loaded(settings, env, params):
    """What `references` reads of a loaded run whose members share a world."""
    resolved = SimpleNamespace(settings=settings, env=env, env_params=params, own_worlds=False)
    return SimpleNamespace(resolved=resolved, task=SimpleNamespace(env_params=params))


def test_references_of_chemical_are_its_scripted_policies():
    env, params = make("chemical-full-fork", num_objects=4, level=1)
    settings = SimpleNamespace(env="chemical-full-fork", env_options=(), eval_steps=0)
    rows = gallery.references([loaded(settings, env, params)])
    assert set(rows) == {"random", "idle", "goal9", "persistence_lowest", "persistence_random"}
    assert rows["idle"]["return"] == pytest.approx(25 / 3)
    assert rows["persistence_lowest"] == {"return": pytest.approx(24 + 2 / 3), "success": 1.0}


def test_references_of_magnetic_are_its_scripted_policies():
    env, params = make("magnetic", level=1, physics="closed")
    settings = SimpleNamespace(env="magnetic", env_options=(), eval_steps=0)
    rows = gallery.references([loaded(settings, env, params)])
    assert list(rows) == ["random", "idle", "chase", "lookahead"]
    assert rows["idle"]["success"] < 0.1 < rows["chase"]["success"]


def test_references_of_hybrid_environments_are_their_scripted_policies():
    env, params = make("hard-move-4")
    rows = gallery.references([loaded(SimpleNamespace(env="hard-move-4", env_options=(), eval_steps=0), env, params)])
    assert list(rows) == ["random", "straight"]
    assert rows["random"]["success"] < 0.2 < 0.7 < rows["straight"]["success"]
    assert {type(make(name)[0]) for name in ("magnetic", "platform", "catch-point", "hard-move-16")} <= set(gallery.POLICIES)


def test_play_writes_the_whole_episode(cee_run, cee_loaded):
    images, total = gallery.episode(cee_loaded, member=1, seed=3, greedy=False)
    assert images[0].shape == (200, 200, 3)
    assert images[0].dtype == np.uint8
    if total < 0:  # a timeout: the start and 30 steps, the last of which pays 0
        assert len(images) == 31
        assert total == pytest.approx(-0.05 * 29, abs=1e-4)
    else:
        assert total == pytest.approx(100 - 0.05 * (len(images) - 1), abs=1e-3)
    path = gallery.play(cee_run, member=1, seed=3, greedy=False)
    assert path == cee_run / "play.gif"
    with Image.open(path) as gif:
        assert gif.size == (200, 200)
        assert 1 < gif.n_frames <= len(images)  # frames that change nothing may be merged


def test_play_refuses_what_it_cannot(cee_run, hybrid_run):
    with pytest.raises(UserError, match=r"member = 2: must be 0 <= member < 2"):
        gallery.play(cee_run, member=2)
    with pytest.raises(UserError, match=r"seed = -1"):
        gallery.play(cee_run, seed=-1)
    with pytest.raises(UserError, match=r"probe-hybrid.*no render"):
        gallery.play(hybrid_run)


def test_evaluate_run_gives_means_over_members(hybrid_run):
    results = evaluation.evaluate_run(hybrid_run, episodes=3, seed=1)
    assert set(results) == {"greedy", "sampled"}
    assert all(set(values) == {"return", "length", "success"} for values in results.values())
    assert all(spread == 0.0 for values in results.values() for _, spread in values.values())  # one member
    assert evaluation.evaluate_run(hybrid_run, episodes=3, seed=1) == results
    assert evaluation.evaluate_run(hybrid_run, episodes=3, seed=2)["sampled"] != results["sampled"]


@pytest.mark.parametrize(("field", "options"), [("episodes", {"episodes": 0}), ("seed", {"seed": -1}), ("checkpoint", {"checkpoint": "x"})])
def test_evaluate_run_refuses(cee_run, field, options):
    with pytest.raises(UserError, match=f"{field} = "):
        evaluation.evaluate_run(cee_run, **options)


def test_split_by_hyper_reads_what_runs_write(swept_run):
    info = json.loads((swept_run / "run.json").read_text())
    assert info["points"] == [{"lr": 1e-3}, {"lr": 1e-2}]
    parts = history.split_by_hyper("template", history.load_run(swept_run))
    assert list(parts) == ["template (lr 0.001)", "template (lr 0.01)"]
    assert all(len(part.curve(reports.returns_of([part]))[1]) == 1 for part in parts.values())
