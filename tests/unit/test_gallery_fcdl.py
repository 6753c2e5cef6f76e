"""The pictures of a dynamics model in the report of a real (tiny) run."""

import dataclasses
from pathlib import Path

import numpy as np

from causal_jax import gallery, history
from causal_jax.algorithms import fcdl
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve


def test_a_report_draws_the_graph_of_every_code_and_what_is_imagined(tmp_path: Path) -> None:
    config = fcdl.Config(
        schedule="offline", num_steps=4, init_steps=4, capacity=10, batch_size=8, horizon=2, num_candidates=4, num_elites=2,
        plan_iterations=1, width=4, num_codes=3, code_dim=2,
    )  # fmt: skip
    settings = Settings(
        algorithm="fcdl", env="chemical-full-fork", env_options=("num_objects=4", "num_colours=2", "max_steps=4"), members=2, steps=80,
        evaluations=1, eval_episodes=2, folder=str(tmp_path), name="run",
    )  # fmt: skip
    folder = train_run(resolve(settings, config, fcdl.Hyper(lr=1e-3)), say=lambda line: None)
    run = history.load_run(folder)
    assert {"eval.greedy.return", "eval.greedy-n2.return", "eval.model.accuracy_n2", "eval.model.f1_local"} <= set(run.quantities())
    page = gallery.report([folder], tmp_path / "report").read_text()
    assert {"codes.png", "graphs.png", "code-usage.png", "imagined.png", "policy.gif"} <= {x.name for x in (tmp_path / "report").iterdir()}
    for text in ("A graph for every code", "<td>persistence_lowest</td>", "codes in use"):
        assert text in page


def test_members_have_worlds_of_their_own_unless_they_share_one() -> None:
    from causal_jax.runs import make_task, own_worlds

    settings = Settings(algorithm="oracle-graph", env="chemical-full-fork", members=2)
    config = fcdl.Config(model="oracle-graph")
    task, axes = make_task(resolve(settings, config))
    assert axes == fcdl.Task(0)
    first, second = np.asarray(task.env_params.mlp_w1)
    assert np.abs(first - second).max() > 0.1
    env = resolve(settings, config).env
    np.testing.assert_array_equal(own_worlds(env, [1]).mlp_w1[0], second)  # decided by the seeds alone
    other = own_worlds(dataclasses.replace(env, seed=1), [1])
    assert np.abs(other.mlp_w1[0] - second).max() > 0.1  # the option `seed` counts too
    shared, axes = make_task(resolve(Settings(algorithm="oracle-graph", env="chemical-full-fork", members=2, worlds="shared"), config))
    assert axes is None
    assert shared.env_params.mlp_w1.ndim == 3
