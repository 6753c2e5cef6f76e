"""The benchmarks run, at sizes that say nothing about speed, and write what they promise."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time

import jax
import numpy as np
import pytest

from causal_jax.types import Algorithm, UserError
from experiments.benchmarks import dynamics, figures, hybrid, learners, measure, offline, sweeps
from experiments.benchmarks.__main__ import Options, run
from experiments.benchmarks.speed import Sizes, env_rate

TINY = Sizes(
    rounds=2, parallel=2, env_steps=3, members=2, num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1, hidden=(4,), updates=1,
    environments=(1, 4), model="oracle-graph", width=4, batch_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmarks") / "results" / "all.json"
    run(Options(("members", "scale-envs"), out, TINY))
    return json.loads(out.read_text())


def test_rows_hold_every_round_and_their_summary(results):
    assert list(results) == ["members", "scale-envs"]
    rows = results["scale-envs"]["rows"]
    assert [row["label"] for row in rows] == ["1 envs x 8 steps", "4 envs x 2 steps"]
    for row in rows:
        assert len(row["values"]) == 2
        assert min(row["values"]) > 0
        assert (row["median"], row["min"], row["max"]) == (statistics.median(row["values"]), min(row["values"]), max(row["values"]))


def test_the_picture_has_a_line_for_every_file_and_names_the_machine(results, tmp_path):
    gpu = json.loads(json.dumps(results))
    gpu["scale-envs"]["machine"]["devices"] = "1 x NVIDIA H100"
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, content in zip(files, (results, gpu), strict=True):
        file.write_text(json.dumps(content))
    cores = results["scale-envs"]["machine"]["cores"]
    assert [figures.machine(content["scale-envs"]) for content in (results, gpu)] == [f"{cores} CPU cores", "NVIDIA H100"]
    sizes = [figures.draw(files[:n], tmp_path / f"{n}.png").stat().st_size for n in (1, 2)]
    assert 0 < sizes[0] < sizes[1]


def test_each_result_says_where_it_comes_from(results):
    for result in results.values():
        assert {"about", "date", "command", "machine", "versions", "xla_flags", "load_average", "sizes", "seconds"} <= set(result)
        assert result["machine"]["cores"] >= 1
        assert {"python", "jax", "jaxlib"} <= set(result["versions"])
        assert len(result["load_average"]) == 3
        assert result["sizes"]["parallel"] == 2


def test_ratio_is_median_over_median_with_the_range_of_paired_rounds():
    rows = [measure.Row("a", "steps/s", [10.0, 30.0, 20.0]), measure.Row("b", "steps/s", [5.0, 5.0, 4.0])]
    told = measure.summary(rows, [measure.Ratio("a / b", "a", "b", ">= 50"), measure.Ratio("a / 10", "a", 10.0, "< 4")])["ratios"]
    assert (told[0]["value"], told[0]["min"], told[0]["max"], told[0]["met"]) == (4.0, 2.0, 6.0, False)
    assert (told[1]["value"], told[1]["min"], told[1]["max"], told[1]["met"]) == (2.0, 1.0, 3.0, True)


def test_contestants_alternate():
    calls = []

    def contestant(label):
        return lambda: calls.append(label) or float(len(calls))

    assert measure.alternate({"a": contestant("a"), "b": contestant("b")}, 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert calls == ["a", "b", "a", "b"]


def test_a_second_result_leaves_the_first_and_replaces_its_own(tmp_path):
    path = tmp_path / "results.json"
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        measure.record(path, name, {"value": value})
    assert json.loads(path.read_text()) == {"a": {"value": 3}, "b": {"value": 2}}
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_name_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^names = 'membres': unknown, did you mean members, scale-members\?$"):
        run(Options(("membres",), tmp_path / "x.json", TINY))


def test_sweep_adds_up_the_runs_and_compares_their_members(monkeypatch):
    """Without a process: what is started, and how seconds and differences are put together."""
    started = []

    def timed(words, cache):
        started.append((words, cache.name))
        return (5.0, 3.0) if words[0] == "sweep" else (10.0, 2.0)

    class Read:
        def __init__(self, folder):
            self.folder = folder

        def curve(self, metric):
            assert metric == "eval.sampled.return"
            count = 2 if self.folder.name == "program-000" else 1
            return None, np.full((count, 3), 7.0 if count == 2 else 6.5)

    monkeypatch.setattr(sweeps, "timed", timed)
    monkeypatch.setattr(sweeps, "read_run", Read)
    monkeypatch.setattr(sweeps, "differences", lambda program, lone: [1e-7, 2e-5])
    told = sweeps.against_runs(2, 64)
    assert [row["median"] for row in told["rows"]] == [20.0, 20.0, 5.0, 5.0, 4.0, 4.0, 3.0, 3.0]
    assert [(ratio["value"], ratio["met"]) for ratio in told["ratios"]] == [(4.0, False)] * 2 + [(pytest.approx(4 / 3), None)] * 2
    assert told["notes"][0].startswith("last checkpoint of a member and of its lone run: 1 of 2 within 1e-5")
    assert "differ by at most 0.5" in told["notes"][1]
    assert [cache for _, cache in started] == ["cache-sweep", "cache-0", "cache-1", "cache-sweep", "cache-1", "cache-1"]
    words = started[1][0]
    assert words[:2] == ["train", "ppo"]
    assert words[words.index("--steps") + 1] == "64"
    assert "--hyper.lr=0.0001" in words
    assert "--log" not in words


def test_cpu_time_is_that_of_the_contestant():
    def busy():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return 3.0

    contestants, spent = measure.with_cpu_time({"busy": busy, "asleep": lambda: time.sleep(0.05) or 4.0})
    assert measure.alternate(contestants, 2) == {"busy": [3.0, 3.0], "asleep": [4.0, 4.0]}
    assert len(spent["busy"]) == len(spent["asleep"]) == 2
    assert min(spent["busy"]) >= 0.05
    assert sum(spent["asleep"]) < sum(spent["busy"])


def test_an_update_and_a_plan_are_measured():
    """Real programs, of a model that compiles fast."""
    contestants = dynamics.contestants_of(TINY, True)
    assert list(contestants) == ["an update, table rows", "a CEM call, table rows"]
    for measured in contestants.values():
        assert 0 < measured() < 60


def test_figures_of_learning_are_per_update_and_per_plan(monkeypatch):
    def contestants_of(sizes, table_rows):
        what = "table rows" if table_rows else "plain"
        return {f"an update, {what}": lambda: 0.01 if table_rows else 0.03, f"a CEM call, {what}": lambda: 0.05}

    monkeypatch.setattr(dynamics, "contestants_of", contestants_of)
    monkeypatch.setattr(dynamics, "compile_seconds", lambda sizes: (20.0, 10.0))
    monkeypatch.setattr(dynamics, "product_seconds", lambda sizes: lambda: 2.0)
    monkeypatch.setattr(dynamics, "with_cpu_time", lambda contestants: (contestants, {label: [5.0, 5.0] for label in contestants}))
    told = dynamics.learning(TINY)
    medians = {row["label"]: row["median"] for row in told["rows"]}
    assert medians["an update, plain"] == 0.03
    assert medians["an update, plain, CPU time"] == 5.0 / 25  # an episode's updates in a measurement
    assert medians["a CEM call, table rows, CPU time"] == 5.0
    assert medians["compile the online step, CPU time"] == 10.0
    assert medians["a product of two matrices"] == 1e-9 * 2048**3
    assert [ratio["met"] for ratio in told["ratios"]] == [True, False, True, None, None]


def test_compilation_is_of_the_step_and_leaves_the_cache_as_it_was(monkeypatch):
    seen = []

    def step(key, state, hyper, task):
        seen.append(jax.config.jax_enable_compilation_cache)
        return state + 1, {}

    monkeypatch.setattr(
        dynamics.fcdl, "build", lambda env, params, config: Algorithm(lambda key, hyper, task: jax.numpy.zeros(2), step, None)
    )
    before = jax.config.jax_enable_compilation_cache
    seconds, cpu = dynamics.compile_seconds(TINY)
    assert seconds > 0
    assert cpu > 0
    assert seen == [False]
    assert jax.config.jax_enable_compilation_cache == before


def test_environments_alone_are_told_by_the_clock_and_by_cpu_time(monkeypatch):
    assert env_rate("magnetic", TINY, physics="closed")() > 0  # a real one
    asked = []

    def fake(name, sizes, parallel=0, **options):
        asked.append((name, parallel, options))
        return lambda: 1e5

    monkeypatch.setattr(dynamics, "env_rate", fake)
    monkeypatch.setattr(dynamics, "with_cpu_time", lambda contestants: (contestants, {label: [0.5, 0.5] for label in contestants}))
    told = dynamics.environments(TINY)
    assert asked[2:] == [("magnetic", 2, {"physics": "mjx"}), ("magnetic", 2, {"physics": "closed"})]
    assert [row["median"] for row in told["rows"]] == [1e5] * 4 + [2 * 3 / 0.5] * 4
    assert [ratio["met"] for ratio in told["ratios"]][:3] == [False, False, True]


def test_figures_of_planning_are_per_step_and_per_plan(monkeypatch):
    monkeypatch.setattr(
        hybrid, "plan_seconds", lambda sizes, env, *devices, **fields: lambda: {"platform": 0.04, "hard-move-10": 0.08}[env]
    )
    monkeypatch.setattr(
        hybrid,
        "step_seconds",
        lambda sizes, members, updates, **fields: lambda: 0.02 * members if "plan_iterations" in fields else 0.1 * members,
    )
    monkeypatch.setattr(hybrid, "with_cpu_time", lambda contestants: (contestants, {label: [3.0, 3.0] for label in contestants}))
    told = hybrid.planning(TINY)
    medians = {row["label"]: row["median"] for row in told["rows"]}
    assert medians["a plan, platform"] == 0.04
    assert medians["25 updates, CPU time"] == 3.0
    assert medians["20,000 episodes of hard-move-10"] == pytest.approx(20_000 * (26 * 4 + 25 * 3 + 2.25) * 4 / 1e6)
    missed = [ratio["label"] for ratio in told["ratios"] if not ratio["met"]]
    assert missed == ["a plan, hard-move-10 / 0.04 s", "5 members / 1", "5 members / 1, shared"]
    assert len(told["ratios"]) == 14


@pytest.mark.slow
def test_a_real_plan_and_a_real_step_take_time():
    few = dataclasses.replace(TINY, plans=2)
    assert hybrid.plan_seconds(few, "hard-move-4")() > 0
    assert hybrid.step_seconds(few, 2, 1, random_episodes=1)() > 0


def test_figures_of_offline_runs(monkeypatch):
    assert offline.update_rate(dataclasses.replace(TINY, parallel=3), "factored-bcq", 2)() > 0  # a real one
    monkeypatch.setattr(offline, "update_rate", lambda sizes, name, members: lambda: 10.0 * members)
    monkeypatch.setattr(offline, "peer_rate", lambda sizes: (4.0, 2.0))
    told = offline.learning(TINY)
    medians = {row["label"]: row["median"] for row in told["rows"]}
    assert medians["40 runs of 10,000 updates of bcq at that rate"] == pytest.approx(10_000 / 10 / 60)
    assert [ratio["met"] for ratio in told["ratios"]][:3] == [False, False, True]


def test_learners_stand_beside_their_peer_in_updates_per_second(monkeypatch):
    class Peer:
        told = {"threads": 2, "versions": {}}

        def contestant(self, threads):
            return lambda: 100.0 * threads

    monkeypatch.setattr(learners.peers, "peer", lambda name, size: contextlib.nullcontext(Peer()))
    monkeypatch.setattr(learners, "learn_rate", lambda env, config, members, updates: lambda: 20.0 * members * config.num_learners)
    told = learners.ddpg(TINY)
    assert {row["label"]: row["median"] for row in told["rows"]} == {
        "20 learners x 10 seeds": 4000.0, "one learner": 20.0, "stable-baselines3, 1 thread": 100.0, "stable-baselines3, 2 threads": 200.0
    }  # fmt: skip
    assert [(ratio["value"], ratio["met"]) for ratio in told["ratios"][1:3]] == [(40.0, True), (20.0, False)]


@pytest.mark.slow
def test_real_learners_take_time():
    small = dataclasses.replace(learners.CONFIG, num_learners=2, num_steps=2, warmup_steps=8, batch_size=2, capacity=8, hidden=(4,))
    assert learners.learn_rate("autoregressive-hard", small, 1, 1)() > 0
