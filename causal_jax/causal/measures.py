"""How good a dynamics model is and what it attends to: accuracy and local graphs, in distribution and in the test worlds.

FCDL (arXiv 2406.03234; authors' inference.py:262-326). In distribution: held-out windows, H steps fed back, mean over steps and variables.
In a test world: one step from recorded rows that the tests could visit before and after it, seen through the world's noise, over the
variables that count. Chance there is not 1 / C: the root is clean, never moves, and counts. The accuracy of a continuous variable is
minus its mean squared error. Graphs are compared with the one in force (`env.local_graph`) at that sample, for every model on the same
edges (`counted_edges`): those against an order count too, so who is given none (CDL, NPS, Modular) can be wrong about them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import replay
from causal_jax.causal import fitting, graphs
from causal_jax.causal.dynamics import Model, Step
from causal_jax.causal.fitting import Batch, Fit
from causal_jax.causal.predictors import Spec
from causal_jax.types import Key, Metrics

ROWS_ID, ROWS_TEST, CANDIDATES = 256, 1024, 8  # windows; rows of a test world; rows drawn for each of those


def accuracy(model: Model, output: jax.Array, target: jax.Array) -> jax.Array:
    """Right or not, [..., N] float, of outputs [..., N, O] and the true next values [..., N]; continuous: minus the squared error."""
    spec = model.spec
    if spec.discrete:
        return (jnp.argmax(output, axis=-1) == target).astype(jnp.float32)
    return -jnp.square(output[..., 0] - target)


def counted_edges(env: Any, spec: Spec) -> np.ndarray:
    """Edges that are compared, bool [N, S]: between different variables, and from the action where learned or not all there in truth."""
    n, m = spec.num_variables, spec.num_actions
    return graphs.free_edges(n, m, learn_upper=True, learn_action=spec.learn_action or not np.all(env.global_graph[:, n:]))


def agreement(env: Any, model: Model, steps: Step, truth: jax.Array) -> Metrics:
    """f1 and shd of the edges of one model step against the true graphs bool [B, N, S], each [B]; empty for a model without a graph."""
    if steps.edges is None:
        return {}
    counted, edges = counted_edges(env, model.spec), steps.edges > 0.5
    return {"f1": graphs.f1(edges, truth, counted), "shd": graphs.shd(edges, truth, counted)}


def in_distribution(key: Key, env: Any, model: Model, fit: Fit, buffer: replay.Buffer, horizon: int) -> Metrics:
    """On held-out windows: accuracy_id, and f1_local, f1_global, shd_local, shd_global by the context of the first step. key: consumed."""
    batch = fitting.windows(key, model.spec, buffer, ROWS_ID, horizon, held_out=True)
    steps = fitting.predict(model, fit, batch.obs, batch.actions)
    metrics = {"accuracy_id": jnp.mean(accuracy(model, steps.output, jnp.swapaxes(batch.target, 0, 1)))}
    truth = jax.vmap(env.local_graph)(batch.obs, batch.actions[:, 0])
    local = jnp.sum(truth, axis=(1, 2)) < jnp.max(jnp.sum(truth, axis=(1, 2)))
    first = jax.tree.map(lambda x: x[0], steps)
    for name, score in agreement(env, model, first, truth).items():
        metrics |= {f"{name}_local": _mean(score, local), f"{name}_global": _mean(score, ~local)}
    return metrics


def _mean(x: jax.Array, where: jax.Array) -> jax.Array:
    """Mean over the rows that count; NaN where there is none."""
    weight = where.reshape(where.shape + (1,) * (x.ndim - 1)).astype(jnp.float32)
    total = jnp.sum(jnp.broadcast_to(weight, x.shape))
    return jnp.sum(x * weight) / jnp.where(total > 0, total, jnp.nan)


def rows_of_tests(key: Key, env: Any, model: Model, buffer: replay.Buffer, num: int = ROWS_TEST) -> tuple[Batch, jax.Array]:
    """Recorded single steps that the tests could visit: (batch with H = 1, which rows are real [num]). key: consumed."""
    key_row, key_start = jax.random.split(key)
    size = num * CANDIDATES
    row = jax.random.randint(key_row, (size,), 0, jnp.maximum(buffer.size, 1))
    first = jax.random.randint(key_start, (size,), 0, buffer.rows.actions.shape[1])
    batch = fitting.cut(model.spec, buffer.rows, row, first, 1)
    after = fitting.encode(model.spec, batch.target[:, 0])
    fits = jax.vmap(env.in_tests)(batch.obs) & jax.vmap(env.in_tests)(after)
    best = jax.lax.top_k(fits.astype(jnp.float32), num)[1]
    return jax.tree.map(lambda x: x[best], batch), fits[best]


def in_test_worlds(key: Key, env: Any, model: Model, fit: Fit, buffer: replay.Buffer, env_params: Any) -> Metrics:
    """`in_worlds` for the tests of `env_params`. key: consumed."""
    return in_worlds(key, env, model, fit, buffer, env.tests(env_params))


def in_worlds(key: Key, env: Any, model: Model, fit: Fit, buffer: replay.Buffer, worlds: dict[str, Any]) -> Metrics:
    """For every test world, name -> params: accuracy_<world>, and f1_, shd_<world>; graph_kept_<world>: share of rows whose graph the noise

    leaves alone, code_kept_<world> the same for the code. key: consumed.
    """
    key_rows, key_noise = jax.random.split(key)
    batch, real = rows_of_tests(key_rows, env, model, buffer)
    clean, _ = model.step(fit.params, None, fit.model, batch.obs, batch.actions[:, 0], None)
    truth = jax.vmap(env.local_graph)(batch.obs, batch.actions[:, 0])
    if not worlds:
        return {}

    def measure(key: Key, params: Any) -> Metrics:
        seen = jax.vmap(env.disturb, (0, 0, None))(jax.random.split(key, real.shape[0]), batch.obs, params)
        step, _ = model.step(fit.params, None, fit.model, seen, batch.actions[:, 0], None)
        counted = real[:, None] & env.counted(params)
        right = accuracy(model, step.output, batch.target[:, 0])
        found = {"accuracy": jnp.sum(right * counted) / jnp.maximum(jnp.sum(counted), 1)}
        found |= {name: _mean(score, real) for name, score in agreement(env, model, step, truth).items()}
        if model.spec.learns_graph and step.edges is not None and clean.edges is not None:
            found["graph_kept"] = _mean(jnp.all(step.edges == clean.edges, axis=(1, 2)).astype(jnp.float32), real)
        if step.code is not None and clean.code is not None:
            found["code_kept"] = _mean((step.code == clean.code).astype(jnp.float32), real)
        return found

    several = jax.tree.map(lambda *x: jnp.stack(x), *worlds.values())
    results = jax.lax.map(lambda x: measure(*x), (jax.random.split(key_noise, len(worlds)), several))  # one program for all worlds
    return {f"{name}_{world}": x[i] for name, x in results.items() for i, world in enumerate(worlds)}
