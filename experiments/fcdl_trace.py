"""The training trace of FCDL on recorded episodes, beside the one that the authors' program left on the same data.

    python -m experiments.fcdl_trace   # 3 data sets, 12 seeds: experiments/results/fcdl_trace.json, fcdl_trace_<k>.png

400 random-policy episodes (the first 360 for training), full width, learning rate 1e-4, batch 256, horizon 3, 341 updates. The recorded
runs are 3, 2 and 2 initialisations (tests/data/fcdl_train.npz; data sets 0 and 1 are fork, 2 is chain). Compared per data set: levels
differ between data sets by more than between runs. The commitment loss of a run goes to its end with how many codes it starts
with (updates 2 to 10), one or more, so it is also told for the two kinds of runs apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import make, plots_fcdl
from causal_jax.algorithms import fcdl
from causal_jax.causal import fitting, graphs, measures
from causal_jax.cli import configure
from experiments.records import RESULTS, command

DATA = Path(__file__).parents[1] / "tests" / "data" / "fcdl_train.npz"
QUANTITIES = {"loss_pred": "trace_pred", "loss_reg": "trace_reg", "loss_commit": "trace_commit", "codes_used": "trace_codes_used"}
COMPARED = {**QUANTITIES, "grad_norm": "trace_grad_norm"}
HELD_OUT = ("eval_pred_loss", "eval_accuracy_3step", "eval_codes_used", "eval_edge_frac_root0", "eval_edge_frac_other")
POINTS = (100, 200, 341)
COLUMNS = ("ours", "recorded", "ours / recorded", "deviation of our runs", "difference in standard errors")
SEEDS = tuple(range(100, 112))


def recorded(data_set: int) -> dict[str, np.ndarray]:
    """The arrays of one recorded data set, by the names of its README."""
    arrays = np.load(DATA)
    return {name.partition("/")[2]: arrays[name] for name in arrays.files if name.startswith(f"{data_set}/")}


def run(data_set: int, seeds: list[int], num_updates: int = 341) -> dict[str, np.ndarray]:
    """Our trace: {"loss_pred", ...: [R, updates]}, and of the held-out starts after the last update what HELD_OUT names: [R].

    eval_edge_frac_*: share of the learned edges that are there in the first step, by the root's colour; loss and accuracy over 3 steps.
    """
    arrays = recorded(data_set)
    env, _ = make(f"chemical-{str(arrays['rule']).replace('_', '-')}")
    model = fcdl.dynamics_model(env, fcdl.Config())
    episodes = fitting.Episode(jnp.asarray(arrays["states"], jnp.int8), jnp.asarray(arrays["actions"], jnp.int16))
    num_train, horizon = int(arrays["n_train_episodes"]), 3
    rates: Any = jax.tree.map(jnp.float32, fcdl.Hyper())
    num_starts = episodes.actions.shape[1] - horizon + 1

    def one(seed: jax.Array) -> dict[str, jax.Array]:
        key_model, key_train = jax.random.split(jax.random.key(seed))

        def body(fit: fitting.Fit, key: jax.Array) -> tuple[fitting.Fit, Any]:
            key_row, key_first, key_update = jax.random.split(key, 3)
            row = jax.random.randint(key_row, (256,), 0, num_train)
            first = jax.random.randint(key_first, (256,), 0, num_starts)
            return fitting.update(key_update, model, fit, fitting.cut(model.spec, episodes, row, first, horizon), rates)

        fit, metrics = jax.lax.scan(body, fitting.start(key_model, model), jax.random.split(key_train, num_updates))
        row, first = (x.ravel() for x in jnp.meshgrid(jnp.arange(num_train, 400), jnp.arange(num_starts), indexing="ij"))
        held = fitting.cut(model.spec, episodes, row, first, horizon)
        steps = fitting.predict(model, fit, held.obs, held.actions)
        target = jnp.swapaxes(held.target, 0, 1)
        assert steps.code is not None
        assert steps.edges is not None
        edges = jnp.mean(steps.edges[0][:, graphs.free_edges(model.spec.num_variables)], axis=1)
        root0 = held.obs[:, 0, 0]  # 1 where the root has colour 0
        return {
            **{name: metrics[name] for name in COMPARED},
            "eval_codes_used": jnp.sum(jnp.bincount(steps.code.ravel(), length=model.spec.num_codes) > 0),
            "eval_edge_frac_root0": jnp.sum(edges * root0) / jnp.sum(root0),
            "eval_edge_frac_other": jnp.sum(edges * (1 - root0)) / jnp.sum(1 - root0),
            "eval_pred_loss": fcdl.imagination.losses(model.spec, steps, held.target)["pred"],
            "eval_accuracy_3step": jnp.mean(measures.accuracy(model, steps.output, target)),
        }

    return {name: np.asarray(x) for name, x in jax.jit(lambda seeds: jax.lax.map(one, seeds))(jnp.asarray(seeds)).items()}


def compare(data_set: int, ours: dict[str, np.ndarray]) -> dict[str, Any]:
    """Over the runs: {name: {update of POINTS: COLUMNS}}, at the end HELD_OUT, and every run's commitment loss by how it started."""
    arrays = recorded(data_set)
    table: dict[str, Any] = {"columns": COLUMNS}

    def row(a: np.ndarray, b: np.ndarray) -> list[float]:
        deviation = a.std(ddof=1)
        error = max(deviation, 1e-9) * np.sqrt(1.0 / len(a) + 1.0 / len(b))
        return [round(float(x), 4) for x in (a.mean(), b.mean(), a.mean() / b.mean(), deviation, (a.mean() - b.mean()) / error)]

    def at(trace: np.ndarray, update: int) -> np.ndarray:
        return trace[:, update - 10 : update + 9].mean(axis=1)  # a batch alone is noisy

    for name, theirs in COMPARED.items():
        table[name] = {str(update): row(at(ours[name], update), at(arrays[theirs], update)) for update in POINTS}
    for name in HELD_OUT:
        table[name] = row(ours[name], arrays[name][:, -1])
    runs = {
        "ours": (ours["codes_used"], ours["loss_commit"]),
        "recorded": (arrays["trace_codes_used"], arrays["trace_commit"]),
    }
    for whose, (codes, commit) in runs.items():
        one, end = codes[:, 1:10].mean(axis=1) < 1.5, at(commit, POINTS[-1])
        for start, some in (("one code in updates 2 to 10", one), ("more", ~one)):
            table[f"{whose}: commitment at {POINTS[-1]}, {start}"] = [round(float(x), 4) for x in end[some]]
        table[f"{whose}: codes at the end"] = codes[:, -1].tolist()
    return table


def main() -> None:
    """Every data set, all seeds."""
    RESULTS.mkdir(exist_ok=True)
    results: dict[str, Any] = {"command": command("fcdl_trace")}
    for data_set in range(3):
        ours, theirs = run(data_set, list(SEEDS)), recorded(data_set)
        results[f"data set {data_set}, {theirs['rule']}"] = compare(data_set, ours)
        (RESULTS / "fcdl_trace.json").write_text(json.dumps(results, indent=1) + "\n")
        steps = np.arange(1, ours["loss_pred"].shape[1] + 1)
        plots_fcdl.training_trace(
            {name: (steps, ours[name]) for name in QUANTITIES},
            {name: (steps, theirs[source].mean(axis=0)) for name, source in QUANTITIES.items()},
            RESULTS / f"fcdl_trace_{data_set}.png",
        )
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    configure()
    main()
