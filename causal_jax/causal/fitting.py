"""Fitting a dynamics model to recorded episodes: the ring of episodes, the batches drawn from it, and one gradient update.

FCDL (arXiv 2406.03234; authors' replay_buffer.py, inference.py). Starts are uniform over all (episode, step) with H steps left, so no
window crosses an end. Of every ten episodes the last is held out. Departure: the authors let a row start a window at most 128 times,
which their released schedule does not reach (86 expected draws for the oldest rows), so there is no such cap.
`sparsity="target"` is ours: the weight of the sparsity term moves so that the mean probability of a learned edge tends to `edge_target`
(dual ascent on its logarithm), instead of being tuned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from causal_jax import optim, replay
from causal_jax.causal import cdl, graphs, imagination
from causal_jax.causal.dynamics import Model, State, Step
from causal_jax.causal.predictors import Spec
from causal_jax.types import Key, Metrics, Params

HELD_OUT = 10  # of so many episodes the last is held out
SPARSITIES = (*graphs.SPARSITIES, "target")


class Episode(NamedTuple):
    """One whole episode of T steps. values: what the variables were, int8 or float [T+1, N]. actions: int16 [T] or float [T, M, a]."""

    values: jax.Array
    actions: jax.Array


class Batch(NamedTuple):
    """Windows of H steps: obs [B, N, C] true values (one-hot), actions [B, H, ...], target [B, H, N] (int32 or float)."""

    obs: jax.Array
    actions: jax.Array
    target: jax.Array


class Fit(NamedTuple):
    """What an update changes. log_reg: [] log of the sparsity weight relative to hyper.reg, moved by sparsity "target" only."""

    params: Params
    model: State
    opt: Any
    log_reg: jax.Array


def start(key: Key, model: Model) -> Fit:
    """A fresh model. key: consumed."""
    params, state = model.init(key)
    return Fit(params, state, optim.adam(0.0, 1.0).init(params), jnp.zeros(()))


def encode(spec: Spec, values: jax.Array) -> jax.Array:
    """Recorded values [..., N] as the model's input [..., N, C]: one-hot, or as they are with C = 1."""
    if not spec.discrete:
        return values[..., None]
    return jax.nn.one_hot(values, spec.variable_size)


def windows(key: Key, spec: Spec, buffer: replay.Buffer, num: int, horizon: int, held_out: bool = False) -> Batch:
    """`num` windows of `horizon` steps, with replacement, of training or held-out episodes. key: consumed.

    buffer: a ring of `Episode`s, at least HELD_OUT of them, filled and overwritten in multiples of HELD_OUT.
    """
    key_row, key_start = jax.random.split(key)
    size = buffer.size // HELD_OUT
    if held_out:
        row = jax.random.randint(key_row, (num,), 0, size) * HELD_OUT + HELD_OUT - 1
    else:
        pick = jax.random.randint(key_row, (num,), 0, size * (HELD_OUT - 1))
        row = pick // (HELD_OUT - 1) * HELD_OUT + pick % (HELD_OUT - 1)
    num_steps = buffer.rows.actions.shape[1]
    first = jax.random.randint(key_start, (num,), 0, num_steps - horizon + 1)
    return cut(spec, buffer.rows, row, first, horizon)


def cut(spec: Spec, episodes: Episode, row: jax.Array, first: jax.Array, horizon: int) -> Batch:
    """The windows of `horizon` steps from step first [B] of episode row [B]; episodes: leaves [E, ...]."""
    steps = first[:, None] + jnp.arange(horizon)
    actions = episodes.actions[row[:, None], steps]
    target = episodes.values[row[:, None], steps + 1]
    if spec.discrete:
        actions, target = actions.astype(jnp.int32), target.astype(jnp.int32)
    return Batch(encode(spec, episodes.values[row, first]), actions, target)


def loss(
    key: Key, model: Model, params: Params, state: State, batch: Batch, rates: Any, sparsity: str, reg: Any
) -> tuple[jax.Array, tuple[State, Metrics]]:
    """What one update minimises, as `imagination.loss`; CDL has its own three terms. reg: [] weight of the sparsity term. key: consumed."""
    if state.cmi is not None:
        total, metrics = cdl.loss(key, model, params, state, *batch)
        return total, (state, metrics | {"loss_pred": metrics["loss_full"]})
    num, horizon = batch.target.shape[:2]
    noise = imagination.draw_noise(key, model, horizon, num)
    weights = imagination.Weights(reg, rates.commit, rates.vq)
    return imagination.loss(model, params, state, *batch, noise, weights, sparsity)


def update(key: Key, model: Model, fit: Fit, batch: Batch, rates: Any, sparsity: str = "mean") -> tuple[Fit, Metrics]:
    """One Adam step on one batch: (fit, metrics: loss_*, grad_norm, codes_used, reg_weight). key: consumed.

    rates: lr, max_grad_norm, reg, commit, vq, and for sparsity "target" edge_target, dual_lr, as in `algorithms.fcdl.Hyper`.
    """
    automatic = sparsity == "target"
    reg = rates.reg * jnp.exp(fit.log_reg) if automatic else rates.reg
    how = "mean" if automatic else sparsity

    def objective(params: Params) -> tuple[jax.Array, tuple[State, Metrics]]:
        return loss(key, model, params, fit.model, batch, rates, how, reg)

    grads, (state, metrics) = jax.grad(objective, has_aux=True)(fit.params)
    updates, opt = optim.adam(rates.lr, rates.max_grad_norm).update(grads, fit.opt)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    log_reg = fit.log_reg
    if automatic:
        log_reg = log_reg + rates.dual_lr * (free_share(model.spec, metrics["loss_reg"]) - rates.edge_target)
        metrics["reg_weight"] = reg
    return Fit(optax.apply_updates(fit.params, updates), state, opt, log_reg), metrics


def free_share(spec: Spec, mean_probability: jax.Array) -> jax.Array:
    """Mean probability of the learned edges alone, from the mean over all N S entries, [] -> []."""
    free = graphs.free_edges(spec.num_variables, spec.num_actions, spec.learn_upper, spec.learn_action)
    always = spec.num_variables + (0 if spec.learn_action else spec.num_variables * spec.num_actions)
    return (mean_probability * free.size - always) / free.sum()


def transitions(spec: Spec, episodes: Episode) -> Batch:
    """Every single step of whole episodes (leaves [E, ...]) as windows with H = 1, [E T, ...]."""
    num, length = episodes.actions.shape[:2]
    row, first = (x.ravel() for x in jnp.meshgrid(jnp.arange(num), jnp.arange(length), indexing="ij"))
    return cut(spec, episodes, row, first, 1)


def predict(model: Model, fit: Fit, features: jax.Array, actions: jax.Array, rows: Any = None) -> Step:
    """A deterministic rollout from what an agent sees: features [B, N, C], noisy or not; steps [H, B, ...]."""
    return imagination.rollout_encoded(model, fit.params, fit.model, features, actions, rows)
