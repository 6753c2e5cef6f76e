"""What the pictures of a learned dynamics model show: the local graph of every code, who uses which code where, imagined trajectories.

Member 0 of a run of `algorithms/fcdl.py`. Codes are counted on held-out windows (in distribution) and, through the noise of every test
world, on recorded rows that the tests could visit. Imagined trajectories start at a held-out state and take the recorded actions.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import plots_fcdl, runs
from causal_jax.algorithms import fcdl
from causal_jax.causal import dynamics, fitting, measures, predictors
from causal_jax.evaluation import member_of
from causal_jax.page import Section

NUM_DRAWN = 3  # codes whose graphs are drawn with arrows
NUM_IMAGINED, IMAGINED_STEPS = 4, 8
ROWS = 1024


def has_model(loaded: runs.Loaded) -> bool:
    """A run that learned a dynamics model."""
    return loaded.resolved.module is fcdl


def sections(loaded: runs.Loaded, place: Path, label: str, prefix: str) -> list[Section]:
    """The sections of one run; files are place/<prefix><what>.png."""
    run = loaded.resolved
    state, task = member_of(loaded, 0)
    model = fcdl.dynamics_model(run.env, run.config)
    found = jax.device_get(jax.jit(lambda state, task: _study(run.env, model, state, task))(state, task))
    parts = []
    if "codes" in found:
        parts += _code_sections(found, place, label, prefix)
    frames = list(zip(found["real"], found["imagined"], strict=True))
    image = plots_fcdl.imagined(frames, place / f"{prefix}imagined.png")
    text = f"{len(frames)} held-out starts, {IMAGINED_STEPS} recorded actions: what happened, and what the model of member 0 imagines."
    return [*parts, Section(f"Imagined trajectories: {label}", text, [image])]


def _code_sections(found: dict[str, Any], place: Path, label: str, prefix: str) -> list[Section]:
    usage, probs = found["codes"], found["probs"]
    heat = plots_fcdl.code_graphs(probs, place / f"{prefix}codes.png", usage["ID"], found["truth"])
    last = list(usage)[-1]
    often = np.argsort(-usage[last])[:NUM_DRAWN]
    drawn = {**found["truth"], **{f"code {k}: {usage['ID'][k]:.0%} ID, {usage[last][k]:.0%} {last}": probs[k] > 0.5 for k in often}}
    ring = plots_fcdl.drawn_graphs(drawn, place / f"{prefix}graphs.png")
    bars = plots_fcdl.code_histograms(usage, place / f"{prefix}code-usage.png")
    columns = "".join(f"<th>{html.escape(name)}</th>" for name in usage)
    shares = "".join(f"<td>{int(np.sum(x > 0))} of {len(x)}</td>" for x in usage.values())
    table = f"<table><tr><th>codes in use</th>{columns}</tr><tr><td>member 0</td>{shares}</tr></table>"
    return [
        Section(f"A graph for every code: {label}", "Edge probabilities, row = target, column = source, most used code first.", [heat]),
        Section(f"The graphs of the codes most used in {last}: {label}", "Edges with a probability above one half.", [ring]),
        Section(f"Who uses which code: {label}", "In distribution, and in the test worlds.", [bars], table=table),
    ]


def _study(env: Any, model: dynamics.Model, state: fcdl.State, task: fcdl.Task) -> dict[str, Any]:
    """All that the pictures need, as arrays."""
    spec, fit, buffer = model.spec, state.fit, state.buffer
    key_id, key_rows, key_noise, key_dream = jax.random.split(jax.random.key(0), 4)
    found: dict[str, Any] = {}
    if spec.adjacency == "codebook":
        batch = fitting.windows(key_id, spec, buffer, ROWS, 1, held_out=True)
        usage = {"ID": _usage(model, fit, batch.obs, batch.actions[:, 0], jnp.ones(ROWS))}
        rows, real = measures.rows_of_tests(key_rows, env, model, buffer)
        for key, (name, params) in zip(jax.random.split(key_noise, 8), env.tests(task.env_params).items(), strict=False):
            seen = jax.vmap(env.disturb, (0, 0, None))(jax.random.split(key, real.shape[0]), rows.obs, params)
            usage[name] = _usage(model, fit, seen, rows.actions[:, 0], real.astype(jnp.float32))
        codes = fit.params["codebook"] if fit.model.book is None else fit.model.book.codes
        logits, _ = dynamics.decode(fit.params, fit.model.norms, spec, codes)
        truths = jax.vmap(env.local_graph)(batch.obs, batch.actions[:, 0])
        size = jnp.sum(truths, axis=(1, 2))
        found |= {"codes": usage, "probs": jax.nn.sigmoid(logits)}
        found["truth"] = {"true, local": truths[jnp.argmin(size)], "true, global": truths[jnp.argmax(size)]}
    dreams = fitting.windows(key_dream, spec, buffer, NUM_IMAGINED, min(IMAGINED_STEPS, buffer.rows.actions.shape[1]), held_out=True)
    steps = fitting.predict(model, fit, dreams.obs, dreams.actions)
    imagined = jnp.swapaxes(predictors.sample(spec, steps.output, None), 0, 1)
    values = jnp.concatenate([dreams.obs[:, None], imagined], axis=1)
    start = jnp.argmax(dreams.obs, -1).astype(dreams.target.dtype) if spec.discrete else dreams.obs[..., 0]
    found["imagined"] = jnp.argmax(values, -1).astype(jnp.int32) if spec.discrete else values[..., 0]
    found["real"] = jnp.concatenate([start[:, None], dreams.target], axis=1)
    return found


def _usage(model: dynamics.Model, fit: fitting.Fit, obs: jax.Array, action: jax.Array, weight: jax.Array) -> jax.Array:
    """Share of the rows that each code got, [K]."""
    step, _ = model.step(fit.params, None, fit.model, obs, action, None)
    assert step.code is not None
    return jnp.einsum("b,bk->k", weight, jax.nn.one_hot(step.code, model.spec.num_codes)) / jnp.maximum(jnp.sum(weight), 1.0)
