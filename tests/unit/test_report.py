"""Reports of synthetic runs: the numbers of the table, every picture, broken files, one member, sweeps, hostile labels."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from causal_jax import plots, plots_causal, report
from causal_jax.statistics import Estimate, compare
from causal_jax.types import UserError

STEPS = [0, 1000, 2000]


def write_run(folder, returns, success=None, tail="", **info):
    """A run folder from returns [points][members]."""
    members = len(returns[0])
    facts = {
        "name": folder.name, "algorithm": "cee", "env": "maze-n6", "config": {"unroll": 128}, "hyper": {"lr": [3e-4]},
        "points": [{}] * members, "seeds": list(range(members)), "members": members, "steps": 2000, "versions": {"jax": "0.9.2"},
        "device": "cpu", "git": "abc123", "command": "causal-jax train cee --env maze-n6",
        "seconds": {"compile": 4.4, "train": 61.0},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**facts, **info}))
    lines = []
    for t, values in enumerate(returns):
        scores = {"return": values} | ({"success": success[t]} if success else {})
        metrics = {"loss": [0.5 * t] * members, "entropy": [None] * members if t == 0 else [1.0] * members}
        lines.append(json.dumps({"t": t, "steps": STEPS[t], "seconds": 1.0 * t, "metrics": metrics, "eval": {"sampled": scores}}))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n" + tail)
    return report.load_run(folder)


def drawn(path):
    """The file is a picture of sensible size in which something is drawn."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert min(pixels.shape[:2]) > 100
    ink = np.mean(np.any(pixels != 255, axis=-1))
    assert 0.01 < ink < 0.999, f"{path}: {ink:.3f} of the pixels are not white"
    return pixels


@pytest.fixture
def pair(tmp_path):
    half = [[0.0] * 4, [0.5, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    none = [[0.0] * 4, [0.0] * 4, [0.5] * 4]
    cee = write_run(tmp_path / "cee", [[0.0] * 4, [10.0, 20, 30, 40], [90.0, 92, 94, 140]], half)
    ppo = write_run(tmp_path / "ppo", [[0.0] * 4, [0.0] * 4, [50.0] * 4], none)
    return {"CEE": cee, "PPO": ppo}


def test_load_run_survives_a_truncated_line_and_a_resume(tmp_path):
    tail = '{"t": 1, "steps": 1000, "metrics": {"loss": [7.0, 8.0]}}\n{"t": 3, "steps": 30'
    run = write_run(tmp_path / "run", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], tail=tail)
    assert run.broken_lines == 1
    assert [line["t"] for line in run.lines] == [0, 1, 2]
    steps, loss = run.curve("metrics.loss")
    np.testing.assert_array_equal(steps, [0, 1000, 2000])
    np.testing.assert_array_equal(loss, [[0.0, 7.0, 1.0], [0.0, 8.0, 1.0]])  # the later line of t = 1 stands
    steps, returns = run.curve("eval.sampled.return")  # and it has no evaluation
    np.testing.assert_array_equal(returns, [[1.0, 5.0], [2.0, 6.0]])
    assert np.isnan(run.curve("metrics.entropy")[1][:, 0]).all()  # null is NaN
    assert run.quantities() == ["metrics.loss", "metrics.entropy", "eval.sampled.return"]


def test_load_run_and_curve_refuse_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"run\.json and results\.jsonl"):
        report.load_run(tmp_path / "absent")
    run = write_run(tmp_path / "run", [[1.0]])
    with pytest.raises(UserError, match=r"got 'metrics\.los', expected one of metrics\.loss, "):
        run.curve("metrics.los")
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        report.load_run(tmp_path / "run")


def test_row_and_table_hold_the_literal_numbers(pair):
    rows = [report.row("CEE", pair["CEE"], published="96%"), report.row("PPO", pair["PPO"])]
    assert rows[0].final.value == 93.0  # the mean of 92 and 94: the IQM of four members
    assert rows[0].to_90 == [2000.0, 2000.0, 1000.0, 1000.0]
    assert rows[0].area.value == 35.75  # the mean of (2 * 20 + 92) / 4 and (2 * 30 + 94) / 4
    page, text = report.comparison_table([*report.reference_rows({"random": {"return": 3.6, "success": 0.26}}), *rows])
    lines = text.splitlines()
    assert lines[0] == "| Method | Final return | Success | Area under curve | Steps to 90% | Seconds (compile) | Members | Published |"
    # Intervals by hand: 3 or more of the 4 draws are the smallest (or largest) member in 13 of 256 resamples, over 2.5%.
    assert lines[2] == "| CEE | 93.0 [90.0, 140.0] | 100% | 35.8 [27.5, 55.0] | 2k (4 of 4) | 61 (+4) | 4 | 96% |"
    assert lines[3] == "| PPO | 50.0 | 50% | 12.5 | not reached (0 of 4) | 61 (+4) | 4 | not available |"
    assert lines[4] == "| random | 3.60 | 26% | - | - | - | - | - |"  # references stand last
    assert '<tr class="reference"><td>random</td><td>3.60</td><td>26%</td>' in page
    assert "<td>93.0 <small>[90.0, 140.0]</small></td>" in page


def test_a_success_that_nobody_has_is_not_shown(tmp_path, monkeypatch):
    """An environment that tells no success logs 0: a panel and columns of zeros would say that everyone fails."""
    silent = write_run(tmp_path / "silent", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[0.0, 0.0]] * 3)
    told = write_run(tmp_path / "told", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[0.0, 0.0], [0.0, 0.0], [0.5, 1.0]])
    monkeypatch.setattr(plots, "curves", lambda panels, path, percent: [title.split(",")[0] for title, _, _ in panels])
    assert report.learning_curves({"run": silent}, tmp_path) == ["Return"]
    assert report.learning_curves({"run": told}, tmp_path) == ["Return", "Success rate"]
    others = {"random": {"return": 1.0, "success": 0.1}}
    assert report.learning_curves({"run": silent}, tmp_path, references=others) == ["Return", "Success rate"]
    assert "Success" not in report.comparison_table([report.row("silent", silent)])[1]
    assert "Steps to 90%" not in report.comparison_table([report.row("silent", silent)])[1]
    assert "| Success | Area under curve | Steps to 90% |" in report.comparison_table([report.row("told", told)])[1]


def test_a_diverged_member_is_told_not_averaged(tmp_path):
    run = write_run(tmp_path / "run", [[1.0, 2.0], [1.0, None], [1.0, 2.0]])
    entry = report.row("run", run)
    assert entry.final is None
    assert "1 of 2 members not finite" in report.comparison_table([entry])[1]
    drawn(report.learning_curves({"run": run}, tmp_path / "curves.png"))
    assert report.report_runs({"run": run}, tmp_path / "out").is_file()


def test_split_by_hyper_keeps_intervals_over_seeds(tmp_path):
    points = [{"lr": 1e-3}, {"lr": 1e-3}, {"lr": 3e-4}, {"lr": 3e-4}]
    hyper = {"lr": [1e-3, 3e-4], "gamma": [0.99]}
    run = write_run(tmp_path / "run", [[1.0, 2.0, 3.0, 4.0]], hyper=hyper, points=points, seeds=[0, 1, 0, 1])
    parts = report.split_by_hyper("ppo", run)
    assert list(parts) == ["ppo (lr 0.001)", "ppo (lr 0.0003)"]
    np.testing.assert_array_equal(parts["ppo (lr 0.0003)"].curve("eval.sampled.return")[1], [[3.0], [4.0]])
    assert parts["ppo (lr 0.0003)"].info["seeds"] == [0, 1]
    assert parts["ppo (lr 0.0003)"].info["hyper"] == {"lr": [3e-4], "gamma": [0.99]}
    assert report.split_by_hyper("one", write_run(tmp_path / "one", [[1.0, 2.0]])).keys() == {"one"}


def test_report_runs_embeds_every_picture_and_number(tmp_path, pair):
    frames = [np.full((32, 32, 3), shade, np.uint8) for shade in (0, 128, 255)]
    section = report.Section("The learned policy", "One episode.", [plots.gif(frames, tmp_path / "policy.gif")], facts={"seed": 0})
    path = report.report_runs(pair, tmp_path / "out", sections=[section], references={"shortest path": {"return": 99.5, "success": 1.0}})
    page = path.read_text()
    for name in ("curves.png", "comparison.png", "profiles.png", "metrics.png"):
        drawn(path.parent / name)
        assert base64.b64encode((path.parent / name).read_bytes()).decode() in page
    assert base64.b64encode((tmp_path / "policy.gif").read_bytes()).decode() in page
    assert page.count("<img ") == page.count("base64,") == 5
    for text in (
        "93.0 <small>[",
        "not available",
        "shortest path",
        "causal-jax train cee --env maze-n6",
        "abc123",
        "0.9.2",
        "<dd>maze-n6</dd>",
    ):
        assert text in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["']?http""", page)


def test_one_member_and_one_evaluation_make_a_report(tmp_path):
    run = write_run(tmp_path / "run", [[7.25]], [[1.0]])
    path = report.report_runs({"solo": run}, tmp_path / "out")
    assert "one member, hence no interval" in path.read_text()
    assert "<td>7.25</td>" in path.read_text()
    drawn(tmp_path / "out" / "curves.png")


def test_labels_are_escaped_in_html_only_text(tmp_path):
    label = "<script>alert(1)</script> $x | y"
    run = write_run(tmp_path / "run", [[1.0, 2.0]], command="train <b> & more")
    page = report.report_runs({label: run}, tmp_path / "out", title="<i>t</i>").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x | y" in page
    assert "train &lt;b&gt; &amp; more" in page
    assert "<title>&lt;i&gt;t&lt;/i&gt;</title>" in page
    assert r"$x \| y" in report.comparison_table([report.Row(label, Estimate(1.0, 1.0, 1.0))])[1]


def test_write_report_refuses_a_missing_picture(tmp_path):
    with pytest.raises(UserError, match=r"images: got '.*absent\.png'"):
        report.write_report(tmp_path, "t", [report.Section("s", images=[tmp_path / "absent.png"])])


def maze(n):
    """Motions [2^n, 2] of the maze's actions and their groups on open floor."""
    units = np.round([[np.cos(2 * np.pi * k / n), np.sin(2 * np.pi * k / n)] for k in range(n)], 3)
    motions = ((np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1) @ units
    motions = motions / np.linalg.norm(motions, axis=1).max()
    return motions, np.unique(np.round(motions, 3), axis=0, return_inverse=True)[1].reshape(-1)


def test_mask_map_draws_grids_scatter_and_panels(tmp_path):
    motions, labels = maze(4)
    spec = {"extent": (0, 1, 0, 1), "obstacles": [(0.0, 0.5, 0.25, 0.3)], "goal": (0.25, 0.3, 0.45, 0.5), "start": (0.25, 0.1)}
    grid = np.stack(np.meshgrid(*[(np.arange(12) + 0.5) / 12] * 2), axis=-1).reshape(-1, 2)
    unique = np.tile(np.bincount(labels)[labels] == 1, (len(grid), 1))
    plain = drawn(plots_causal.mask_map(grid, unique, motions, spec, tmp_path / "grid.png"))
    empty = drawn(plots_causal.mask_map(grid, np.zeros_like(unique), motions, spec, tmp_path / "none.png"))
    assert (plain == (18, 50, 74)).all(-1).sum() > 1000 > (empty == (18, 50, 74)).all(-1).sum()  # arrows where something is kept
    drawn(plots_causal.mask_map(grid, {"CEE": unique, "all": np.ones_like(unique)}, motions, spec, tmp_path / "two.png"))
    scattered = np.random.default_rng(0).uniform(size=(40, 2))
    drawn(plots_causal.mask_map(scattered, unique[:40], motions, spec, tmp_path / "scatter.png"))
    with pytest.raises(UserError, match=r"expected \(144, 16\)"):
        plots_causal.mask_map(grid, unique[:5], motions, spec, tmp_path / "bad.png")


def test_action_groups_draws_many_actions(tmp_path):
    motions, labels = maze(8)
    drawn(plots_causal.action_groups(labels, motions, tmp_path / "kept.png", np.bincount(labels)[labels] == 1))
    motions, labels = maze(4)
    drawn(plots_causal.action_groups(np.zeros_like(labels), motions, tmp_path / "merged.png"))  # one group of everything


def test_n_matrices_sorts_by_group(tmp_path):
    labels = np.array([1, 0, 1, 0])
    matrix = np.where(labels[:, None] == labels, 1.0, -10.0)
    image = drawn(plots_causal.n_matrices([("start", matrix, labels)], tmp_path / "one.png"))
    ordered = drawn(
        plots_causal.n_matrices([("start", np.kron(np.eye(2), np.full((2, 2), 11.0)) - 10, [0, 0, 1, 1])], tmp_path / "same.png")
    )
    np.testing.assert_array_equal(image, ordered)
    drawn(plots_causal.n_matrices([("start", matrix, labels)] * 2, tmp_path / "both.png", oracle=[matrix] * 2))
    with pytest.raises(UserError, match="oracle: got 1 matrices, expected 2"):
        plots_causal.n_matrices([("a", matrix, labels)] * 2, tmp_path / "bad.png", oracle=[matrix])


def test_gif_is_animated_and_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 120, 120, 3), dtype=np.uint8)
    path = plots.gif(list(noise), tmp_path / "noise.gif", fps=20, limit=200_000)
    assert path.stat().st_size <= 200_000
    with Image.open(path) as image:
        assert image.n_frames == 40
        assert image.info["loop"] == 0
        assert image.info["duration"] == 50
    with pytest.raises(UserError, match="uint8"):
        plots.gif([np.zeros((4, 4, 3))], tmp_path / "bad.gif")


def test_comparison_picture_and_step_labels(tmp_path):
    drawn(plots.comparison(compare({"a": [1.0, 2.0], "b": [1.5, 2.5]}, resamples=50), tmp_path / "compare.png"))
    assert [plots.short(value) for value in (0, 500, 20_000, 1.5e6)] == ["0", "500", "20k", "1.5M"]


def test_compare_of_arrays_writes_pictures_and_a_table(tmp_path):
    scores = {"cee": [[1.0, 3.0], [2.0, 4.0]], "ppo": [[0.0, 1.0], [1.0, 2.0]]}
    numbers = report.compare(scores, resamples=200)
    assert numbers.scores["cee"].value == 2.5
    assert numbers.improvement["cee", "ppo"].value == (3.5 / 4 + 1) / 2  # task 1: three wins and a tie of four pairs; task 2: all
    assert not list(tmp_path.iterdir())
    written = report.compare(scores, tmp_path / "out", quantity="normalised return", resamples=200)
    assert written.scores == numbers.scores
    drawn(tmp_path / "out" / "comparison.png")
    drawn(tmp_path / "out" / "profiles.png")
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert lines[0] == "| Method | IQM of the normalised return | Members | Tasks |"
    assert lines[2].startswith("| cee | 2.50 [")
    assert lines[2].endswith("] | 2 | 2 |")
    assert lines[7].startswith("| cee | ppo | 0.94 [")
