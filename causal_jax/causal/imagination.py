"""Rollouts of a dynamics model: the training loss over H steps, and the imagined states that a planner scores.

FCDL (arXiv 2406.03234; authors' inference.py, inference_ours_base.py:254-278). A rollout feeds every step the state sampled (training) or
most likely (otherwise) at the step before. loss = mean over batch, steps and variables of the prediction loss + reg * sparsity
+ commit * commitment (+ vq * codebook loss where the codes are learned by gradient). Works for every `dynamics.Model`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.causal import codebook, graphs, predictors
from causal_jax.causal.dynamics import Model, Noise, State, Step
from causal_jax.causal.predictors import Spec
from causal_jax.types import Key, Metrics, Params


class Weights(NamedTuple):
    """Weights of the losses beside the prediction; the authors' values."""

    reg: Any = 0.001
    commit: Any = 0.25
    vq: Any = 1.0


AUTHORS = Weights()


def draw_noise(key: Key, model: Model, num_steps: int, batch_size: int) -> Noise:
    """All random numbers of one training rollout: leaves [H, B, ...]. key: consumed."""
    key_edges, key_state = jax.random.split(key)
    spec, lead, n = model.spec, (num_steps, batch_size), model.spec.num_variables
    edges = model.draw(key_edges, lead) if model.draw is not None else None
    draw = jax.random.gumbel if spec.discrete else jax.random.normal
    return Noise(edges, draw(key_state, (*lead, n, spec.variable_size)))


def rollout(
    model: Model,
    params: Params,
    state: State,
    obs: jax.Array,
    actions: jax.Array,
    noise: Noise | None = None,
    rows: Any = None,
) -> tuple[Step, State]:
    """H model steps from the observations of a batch.

    Args: obs: [B, N, C], one-hot (with `table_rows` it must be; noisy encodings go through `rollout_encoded`) or real. actions: int
      [B, H] or [B, H, M, a]. noise: from `draw_noise` for a training pass, None for a deterministic one that leaves the state alone.
      rows: `model.prepare(params)` where a loop calls this several times with the same params.
    Returns: steps stacked [H, B, ...], and the state after H updates.
    """
    rows = model.prepare(params) if rows is None else rows

    def body(carry: tuple[jax.Array, State], inputs: tuple[jax.Array, Noise | None]) -> tuple[tuple[jax.Array, State], Step]:
        obs, state = carry
        action, noise = inputs
        result, state = model.step(params, rows, state, obs, action, noise)
        return (predictors.sample(model.spec, result.output, None if noise is None else noise.state), state), result

    (_, state), steps = jax.lax.scan(body, (obs, state), (jnp.swapaxes(actions, 0, 1), noise), unroll=noise is not None)
    return steps, state


def rollout_encoded(model: Model, params: Params, state: State, obs: jax.Array, actions: jax.Array, rows: Any = None) -> Step:
    """A deterministic rollout from encoded observations that need not be one-hot, such as noisy ones: arguments and steps as `rollout`.

    Only the first step takes the plain forward pass: predicted states are one-hot again.
    """
    first, _ = model.step(params, None, state, obs, actions[:, 0], None)
    return _continue(model, params, state, first, actions, rows)


def imagine(model: Model, params: Params, state: State, obs: jax.Array, actions: jax.Array, rows: Any = None) -> Step:
    """What one observation leads to under P plans, deterministic: what a planner scores. The first layers of obs are computed once.

    Args: obs: [N, C], one-hot or not (noisy encodings). actions: int [P, H] or [P, H, M, a]. rows: as in `rollout`.
    Returns: steps [H, P, ...]; the predicted colours are argmax of `output`. The caller vmaps over observations.
    """
    everywhere = jnp.broadcast_to(obs, (actions.shape[0], *obs.shape))
    first, _ = model.step(params, model.prepare(params, obs), state, everywhere, actions[:, 0], None)
    return _continue(model, params, state, first, actions, rows)


def _continue(model: Model, params: Params, state: State, first: Step, actions: jax.Array, rows: Any) -> Step:
    """The steps after the first one, and all of them together."""
    predicted = predictors.sample(model.spec, first.output, None)
    first = jax.tree.map(lambda x: x[None], first)
    if actions.shape[1] == 1:
        return first
    later, _ = rollout(model, params, state, predicted, actions[:, 1:], rows=rows)
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first, later)


def losses(spec: Spec, steps: Step, target: jax.Array, sparsity: str = "mean") -> dict[str, jax.Array]:
    """The terms of the loss, scalars: pred, and where the model has them reg, commit, vq.

    Args: steps: from a rollout, [H, B, ...]. target: the true next states, int [B, H, N] (discrete) or float [B, H, N].
      sparsity: "mean" (authors) or "sum" (the paper's formula), see `causal.graphs`.
    """
    terms = {"pred": jnp.mean(predictors.nll(spec, steps.output, jnp.swapaxes(target, 0, 1)))}
    if steps.logits is not None and steps.edges is not None:  # a learned graph
        terms["reg"] = graphs.sparsity(steps.logits, steps.edges, sparsity)
    if steps.h is not None and steps.q is not None:
        terms["commit"] = jnp.mean(jax.vmap(jax.vmap(codebook.commitment_loss))(steps.h, steps.q))
        if not spec.ema:
            terms["vq"] = jnp.mean(jax.vmap(jax.vmap(codebook.codebook_loss))(steps.h, steps.q))
    return terms


def loss(
    model: Model,
    params: Params,
    state: State,
    obs: jax.Array,
    actions: jax.Array,
    target: jax.Array,
    noise: Noise | None,
    weights: Weights = AUTHORS,
    sparsity: str = "mean",
) -> tuple[jax.Array, tuple[State, Metrics]]:
    """What one update minimises: (loss [], (state after H model steps, metrics)); differentiate by `params`.

    obs, actions, noise: as in `rollout`; target, sparsity: as in `losses`. Metrics: loss_<term>, and for a codebook codes_used
    (distinct codes over the H B assignments).
    """
    steps, state = rollout(model, params, state, obs, actions, noise)
    terms = losses(model.spec, steps, target, sparsity)
    total = sum((value if name == "pred" else getattr(weights, name) * value for name, value in terms.items()), jnp.zeros(()))
    metrics = {f"loss_{name}": value for name, value in terms.items()}
    if steps.code is not None:
        metrics["codes_used"] = jnp.sum(codebook.usage(steps.code, model.spec.num_codes) > 0).astype(jnp.float32)
    return total, (state, metrics)
