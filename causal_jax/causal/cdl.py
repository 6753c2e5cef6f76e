"""CDL: one global causal graph from conditional mutual information, a rival of FCDL and its ancestor.

CDL (Wang et al. 2022, arXiv 2206.13452; as run in FCDL, arXiv 2406.03234: widths 128, epsilon 0.001, tau 0.9 on Chemical). Every pair
(target, source) has its own feature network of two layers; a target takes the element-wise MAX over the sources its mask lets through.
Trained on three losses: with all sources, with one source per sample and target left out, with the current graph. Source i is a parent of j
where the running mean of CMI_ji = E[NLL_j without i - NLL_j with all] reaches epsilon; a variable is always its own parent.
Departures: losses are means over steps and variables as in the rest of this package (the authors' CDL sums them); CMI is measured on one
step from recorded states, its definition; and it starts at epsilon, so that every edge exists until it is measured.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.causal import imagination, predictors
from causal_jax.causal.dynamics import Model, Noise, State, Step
from causal_jax.causal.predictors import Spec
from causal_jax.causal.rivals import dense_spec
from causal_jax.networks import uniform
from causal_jax.types import Key, Metrics, Params


def graph(cmi: jax.Array, epsilon: float = 0.001) -> jax.Array:
    """The parents by CMI, [N, S] of 0.0 and 1.0: cmi [N, S] nats, threshold epsilon nats; the diagonal is always on."""
    return ((cmi >= epsilon) | jnp.eye(cmi.shape[0], cmi.shape[1], dtype=bool)).astype(jnp.float32)


def build(spec: Spec, epsilon: float = 0.001) -> Model:
    """CDL's dynamics model. Of the spec the variables, action, head, width and num_hidden count; table rows are used outside training.

    In a training step `noise.edges` [B, N, S] is the mask of every sample; without noise the mask is `graph(state.cmi)`.
    Raises: UserError for a spec out of range.
    """
    predictors.check(spec)
    n, f, o = spec.num_variables, spec.width, spec.output_size
    use_rows = spec.table_rows and spec.discrete

    def init(key: Key) -> tuple[Params, State]:
        weight, bias = math.sqrt(6.0 / f), 1.0 / math.sqrt(f)
        shapes: dict[str, tuple[int, ...]] = {"state": (n, n, spec.variable_size, f), "action": (n, spec.num_actions, spec.action_size, f)}
        shapes |= {"feature": (n, spec.num_sources, f, f)} | {f"gen{i}": (n, f, f) for i in range(spec.num_hidden)} | {"out": (n, f, o)}
        params = {}
        for layer, (name, shape) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
            key_w, key_b = jax.random.split(layer)
            w, b = predictors.names(name)
            params[w] = uniform(key_w, shape, math.sqrt(6.0 / (f * o)) if name == "out" else weight)
            params[b] = uniform(key_b, (*shape[:-2], shape[-1]), bias)
        return params, State({}, None, jnp.full((n, spec.num_sources), epsilon))

    def features(params: Params, state_hidden: jax.Array, action_hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The second layer for states and for actions: [..., N, N, F] and [..., N, M, F] alike in and out."""

        def layer(x: jax.Array, sources: slice) -> jax.Array:
            x = jnp.einsum("...jif,jifo->...jio", jax.nn.relu(x), params["feature_w"][:, sources])
            return jax.nn.relu(x + params["feature_b"][:, sources])

        return layer(state_hidden, slice(0, n)), layer(action_hidden, slice(n, None))

    def prepare(params: Params, obs: jax.Array | None = None) -> tuple[jax.Array, jax.Array] | None:
        if not use_rows:
            return None
        weight = params["state_w"] if obs is None else jnp.einsum("ic,jicf->jif", obs, params["state_w"])[:, :, None]
        state = jnp.moveaxis(weight + params["state_b"][:, :, None], 2, 0)
        action = jnp.moveaxis(params["action_w"] + params["action_b"][:, :, None], 2, 0)
        return features(params, state, action)  # [C or 1, N, N, F], [a, N, M, F]

    def step(
        params: Params, rows: tuple[jax.Array, jax.Array] | None, state: State, obs: jax.Array, action: jax.Array, noise: Noise | None
    ) -> tuple[Step, State]:
        real_action = jax.nn.one_hot(action, spec.action_size)[:, None] if spec.discrete else action
        if rows is not None and noise is None:
            choice = obs if rows[0].shape[0] > 1 else jnp.ones((*obs.shape[:2], 1))
            x = (jnp.einsum("bic,cjif->bjif", choice, rows[0]), jnp.einsum("bma,ajmf->bjmf", real_action, rows[1]))
        else:
            by_state = jnp.einsum("bic,jicf->bjif", obs, params["state_w"]) + params["state_b"]
            by_action = jnp.einsum("bma,jmaf->bjmf", real_action, params["action_w"]) + params["action_b"]
            x = features(params, by_state, by_action)
        edges = graph(state.cmi, epsilon) if noise is None or noise.edges is None else noise.edges
        edges = jnp.broadcast_to(edges, (obs.shape[0], n, spec.num_sources))
        # At least one source always passes: a target is its own parent, and no more than one source is left out.
        masked = jnp.where(edges[..., None] > 0, jnp.concatenate(x, axis=2), -jnp.inf)
        strongest = jnp.moveaxis(jnp.max(masked, axis=2), 1, 0)
        return Step(predictors.outputs(params, strongest), edges=edges), state

    return Model(dense_spec(spec), init, prepare, step)


def loss(
    key: Key,
    model: Model,
    params: Params,
    state: State,
    obs: jax.Array,
    actions: jax.Array,
    target: jax.Array,
    causal: Any = True,
) -> tuple[jax.Array, Metrics]:
    """The three losses of one update, summed: (loss [], metrics loss_full, loss_dropped, loss_causal). key: consumed.

    obs, actions, target: as in `imagination.loss`. causal: False leaves the loss under the current graph out, as on the updates that
    measure the CMI (every 10th).
    """
    spec, (size, num_steps) = model.spec, actions.shape[:2]
    key_drop, *keys = jax.random.split(key, 4)
    left_out = jax.random.randint(key_drop, (num_steps, size, spec.num_variables), 0, spec.num_sources)
    dropped = 1.0 - jax.nn.one_hot(left_out, spec.num_sources)
    metrics = {}
    for key, (name, mask) in zip(keys, {"full": jnp.ones_like(dropped), "dropped": dropped, "causal": None}.items(), strict=True):
        noise = imagination.draw_noise(key, model, num_steps, size)._replace(edges=mask)
        steps, _ = imagination.rollout(model, params, state, obs, actions, noise)
        metrics[f"loss_{name}"] = imagination.losses(spec, steps, target)["pred"]
    return metrics["loss_full"] + metrics["loss_dropped"] + causal * metrics["loss_causal"], metrics


def update_cmi(model: Model, params: Params, state: State, obs: jax.Array, action: jax.Array, target: jax.Array, tau: float = 0.9) -> State:
    """Measure the CMI on held-out transitions and move its running mean: cmi = tau cmi + (1 - tau) measured.

    Args: obs [B, N, C], action int [B] or [B, M, a], target int or float [B, N]: recorded transitions. tau: 0.9 Chemical, 0.99 Magnetic.
    """
    spec, size = model.spec, obs.shape[0]

    def mean_nll(mask: jax.Array) -> jax.Array:
        edges = jnp.broadcast_to(mask, (size, spec.num_variables, spec.num_sources))
        result, _ = model.step(params, None, state, obs, action, Noise(edges, jnp.zeros(())))
        return jnp.mean(predictors.nll(spec, result.output, target), axis=0)

    without = jax.lax.map(mean_nll, 1.0 - jnp.eye(spec.num_sources))  # [S, N]
    measured = (without - mean_nll(jnp.ones(spec.num_sources))).T
    return state._replace(cmi=tau * state.cmi + (1.0 - tau) * measured)
