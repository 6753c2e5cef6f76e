"""FCDL's dynamics model and its relatives as pure functions: infer a local graph, predict each variable from its parents in it.

FCDL (arXiv 2406.03234; authors' gumbel.py, inference_ours_*.py). encoder(features) -> h -> nearest code -> decoder -> edge logits -> graph
-> masked predictors. Relatives that share all but the graph (`Spec.adjacency`): NCD's encoder ends in edge logits (sampled), Modular sees
all sources (full), Oracle the global graph (global), Oracle-local the true local graph (given; not in the paper, its ceiling).
In training (noise given) edges are sampled, batch normalisation uses the batch, and both its statistics and the codebook move with EVERY
model step, so three times per update with a rollout of 3; a step infers its codes with the codebook that the step before left.
Without noise nothing is random and nothing moves. The decoder is normalised too: in training a sample's graph depends on its batch.
All inputs have a batch axis B, which batch normalisation needs; outside training rows do not influence each other.
Parameter names and layouts are those of `predictors` and enc_fc0_w [S, F, E0], enc_bn0_gamma, ..., enc_out_w, enc_out_b, dec_...
(codebook [K, D] among them only if learned by gradient). `Spec.contexts` has two alternatives to the codebook: k-means centroids of the
same embeddings, and a decision tree over the inputs, grown for the same embeddings, whose leaves are the codes.
Rollouts and losses: `causal.imagination`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.causal import codebook, context_tree, graphs, predictors
from causal_jax.causal.codebook import Codebook
from causal_jax.causal.context_tree import Tree
from causal_jax.causal.predictors import Spec
from causal_jax.causal.tables import Tables
from causal_jax.networks import NormStats, batch_norm, norm_stats, uniform
from causal_jax.types import Key, Params, UserError


class State(NamedTuple):
    """What training moves without gradients: batch normalisation statistics by layer name, the codebook or the tree in its place,

    CDL's running CMI [N, S] in nats, GRADER's `grader.Evidence` (None where a model has none).
    """

    norms: dict[str, NormStats]
    book: Codebook | Tree | None
    cmi: Any = None
    evidence: Any = None


class Rows(NamedTuple):
    """Table rows of the two first layers, computed once for one set of parameters: encoder (None without one) and predictors."""

    encoder: Tables | None
    predictor: Tables


class Step(NamedTuple):
    """One model step of a batch; None where a model has no such thing.

    output: [B, N, O] raw outputs (logits, or mean and log std). edges: [B, N, S] 0.0 or 1.0. logits: [B, N, S] edge logits.
    h: [B, D] embeddings; q: [B, D] their codes (the straight-through value is h + (q - h)); code: int [B].
    """

    output: jax.Array
    edges: jax.Array | None = None
    logits: jax.Array | None = None
    h: jax.Array | None = None
    q: jax.Array | None = None
    code: jax.Array | None = None


class Noise(NamedTuple):
    """Draws of one training step: edges, what the model's `draw` gave, and state [B, N, C], Gumbel or standard normal.

    edges: [B, N, S] logistic where a graph is sampled (0 where an edge is not learned), [B, N, S + R] Gumbel for NPS, the mask itself for

    CDL, else None.
    """

    edges: Any
    state: jax.Array


class Model(NamedTuple):
    """init(key) -> (params, state); prepare(params) -> rows, whatever speeds `step` up; and one model step

    step(params, rows, state, obs [B, N, C], action int [B] or [B, M, a], noise: Noise | None) -> (Step, state).
    rows None: the plain forward pass, needed where obs is not exactly one-hot. prepare(params, obs [N, C]): rows for a step in which the
    whole batch has this one observation, one-hot or not. draw(key, lead shape) -> the `edges` of `Noise`, leaves [*lead, ...]; None for a
    model whose training steps choose nothing at random.
    """

    spec: Spec
    init: Callable[[Key], tuple[Params, State]]
    prepare: Callable[..., Any]
    step: Callable[..., tuple[Step, State]]
    draw: Callable[[Key, tuple[int, ...]], Any] | None = None


def _hidden(spec: Spec) -> dict[str, tuple[int, Sequence[int], int]]:
    """Prefix -> (input size, hidden sizes, output size) of the normalised networks that infer the graph."""
    if not spec.learns_graph:
        return {}
    num_inputs = spec.num_sources * spec.width
    num_free = int(_free(spec).sum())
    if spec.adjacency == "sampled":
        return {"enc": (num_inputs, spec.encoder_hidden, num_free)}
    encoder = (num_inputs, spec.encoder_hidden, spec.code_dim)
    return {"enc": encoder, "dec": (spec.code_dim, spec.decoder_hidden, num_free)}


def _free(spec: Spec) -> Any:
    return graphs.free_edges(spec.num_variables, spec.num_actions, spec.learn_upper, spec.learn_action)


def _init_normalised(key: Key, prefix: str, num_in: int, hidden: Sequence[int], num_out: int) -> tuple[Params, dict[str, NormStats]]:
    """Linear (no bias), normalisation, leaky relu, repeated, then linear: bounds sqrt(1.5 / fan_in), the last bias 1 / sqrt(fan_in)."""
    params, norms = {}, {}
    for i, size in enumerate(hidden):
        key, key_w = jax.random.split(key)
        params[f"{prefix}_fc{i}_w"] = uniform(key_w, (num_in, size), math.sqrt(1.5 / num_in))
        params[f"{prefix}_bn{i}_gamma"], params[f"{prefix}_bn{i}_beta"] = jnp.ones(size), jnp.zeros(size)
        norms[f"{prefix}_bn{i}"], num_in = norm_stats(size), size
    key_w, key_b = jax.random.split(key)
    params[f"{prefix}_out_w"] = uniform(key_w, (num_in, num_out), math.sqrt(1.5 / num_in))
    params[f"{prefix}_out_b"] = uniform(key_b, (num_out,), 1.0 / math.sqrt(num_in))
    return params, norms


def _normalised(
    params: Params, norms: dict[str, NormStats], prefix: str, first: jax.Array, train: bool
) -> tuple[jax.Array, dict[str, NormStats]]:
    """A normalised network from the output `first` [B, E0] of its first linear layer on."""
    x, i, norms = first, 0, dict(norms)
    while (name := f"{prefix}_bn{i}") in norms:
        x = x if i == 0 else x @ params[f"{prefix}_fc{i}_w"]
        x, norms[name] = batch_norm(x, params[f"{name}_gamma"], params[f"{name}_beta"], norms[name], train)
        x, i = jax.nn.leaky_relu(x, 0.01), i + 1
    return x @ params[f"{prefix}_out_w"] + params[f"{prefix}_out_b"], norms


def decode(params: Params, norms: dict[str, NormStats], spec: Spec, codes: jax.Array, train: bool = False) -> tuple[jax.Array, Any]:
    """Edge logits of codes [B, D]: ([B, N, S], new statistics). With all K codes of a codebook: the graph that each stands for."""
    free_logits, norms = _normalised(params, norms, "dec", codes @ params["dec_fc0_w"], train)
    return graphs.place(free_logits, _free(spec)), norms


def build(spec: Spec, truth: Callable[[jax.Array, jax.Array], jax.Array] | None = None, everywhere: Any = None) -> Model:
    """The model of a spec.

    truth: for adjacency "given" the true local graph of one sample, (obs [N, C], action int [] or [M, a]) -> bool [N, S]; it also runs
    on predicted states (and on noisy first observations, of which it must read only clean parts).
    everywhere: for adjacency "global" the true global graph, bool [N, S]; None: see `predictors.fixed_graph`.
    Raises: UserError for a spec out of range, without `truth` where it is needed, or with a global graph of another shape.
    """
    predictors.check(spec)
    if spec.adjacency == "given" and truth is None:
        raise UserError("adjacency = 'given': needs truth, the function that tells the true local graph")
    shape = (spec.num_variables, spec.num_sources)
    if everywhere is not None and jnp.shape(everywhere) != shape:
        raise UserError(f"everywhere = an array {jnp.shape(everywhere)}: must be {shape}, targets by sources")
    networks = _hidden(spec)
    vector_quantised = spec.adjacency == "codebook"
    grows_tree = vector_quantised and spec.contexts == "tree"
    move_codes = codebook.kmeans_update if spec.contexts == "kmeans" else codebook.ema_update
    use_rows = spec.table_rows and spec.discrete

    def init(key: Key) -> tuple[Params, State]:
        key_predictors, key_book, *keys = jax.random.split(key, 2 + len(networks))
        params = predictors.init(key_predictors, spec)
        book: Codebook | Tree | None = None
        norms: dict[str, NormStats] = {}
        for key, (prefix, sizes) in zip(keys, networks.items(), strict=True):
            more, statistics = _init_normalised(key, prefix, *sizes)
            params, norms = params | more, norms | statistics
        if networks:
            params["enc_fc0_w"] = params["enc_fc0_w"].reshape(spec.num_sources, spec.width, -1)
        if grows_tree:
            book = context_tree.init(key_book, spec.num_variables * spec.variable_size + spec.action_size, spec.num_codes, spec.code_dim)
        elif vector_quantised and spec.ema:
            book = codebook.init(key_book, spec.num_codes, spec.code_dim)
        elif vector_quantised:
            params["codebook"] = jax.random.uniform(key_book, (spec.num_codes, spec.code_dim))
        return params, State(norms, book)

    def prepare(params: Params, obs: jax.Array | None = None) -> Rows | None:
        if not use_rows:
            return None
        encoder = predictors.layer_tables(params, params["enc_fc0_w"][None], obs) if networks else None
        return Rows(encoder, predictors.layer_tables(params, params["sa_w"], obs))

    def infer(params: Params, state: State, first: jax.Array, inputs: jax.Array, train: bool) -> tuple[jax.Array, Step, State]:
        """Edge logits [B, N, S] from the encoder's first linear layer [B, E0]; inputs [B, N C + A]: what a tree asks."""
        h, norms = _normalised(params, state.norms, "enc", first, train)
        if not vector_quantised:
            return graphs.place(h, _free(spec)), Step(h), State(norms, None)
        codes = params["codebook"] if state.book is None else state.book.codes
        book = state.book
        if isinstance(book, Tree):
            code = jnp.argmax(context_tree.descend(book, inputs)[1], axis=-1).astype(jnp.int32)
        else:
            code = jax.vmap(codebook.nearest, (None, 0))(codes, h)
        q = codes[code]
        if train and isinstance(book, Tree):
            book = context_tree.update(book, inputs, h)
        elif train and isinstance(book, Codebook):
            book = move_codes(book, h, code)
        logits, norms = decode(params, norms, spec, codebook.straight_through(h, q), train)
        return logits, Step(h, h=h, q=q, code=code), State(norms, book)

    def step(params: Params, rows: Rows | None, state: State, obs: jax.Array, action: jax.Array, noise: Noise | None) -> tuple[Step, State]:
        real_action = jax.nn.one_hot(action, spec.action_size)[:, None] if spec.discrete else action

        def first_layer(layer: jax.Array, rows: Tables | None, edges: jax.Array) -> jax.Array:
            if rows is not None:
                return predictors.first_layer_rows(rows, obs, action, edges)
            return predictors.first_layer(layer, predictors.source_features(params, obs, real_action), edges)

        result, label = Step(obs), None
        if networks:
            everything = jnp.ones((obs.shape[0], 1, spec.num_sources))
            first = first_layer(params["enc_fc0_w"][None], rows.encoder if rows else None, everything)[0]
            inputs = jnp.concatenate([obs.reshape(obs.shape[0], -1), real_action.reshape(obs.shape[0], -1)], axis=1)
            logits, result, state = infer(params, state, first, inputs, noise is not None)
            edges = graphs.likely_edges(logits) if noise is None else graphs.sample_edges(logits, noise.edges)
            if not spec.learn_action:  # always there, so without gradient: it would be 0 and cost a product
                edges = jnp.concatenate([edges[..., : spec.num_variables], jnp.ones_like(edges[..., spec.num_variables :])], axis=-1)
            result = result._replace(logits=logits)
            if spec.label:
                label = jax.nn.one_hot(result.code, spec.num_codes) if vector_quantised else jax.lax.stop_gradient(edges)
        elif truth is not None and spec.adjacency == "given":
            edges = jax.vmap(truth)(obs, action).astype(jnp.float32)
        else:
            edges = predictors.fixed_graph(spec, everywhere)
            edges = jnp.broadcast_to(edges, (obs.shape[0], *edges.shape))
        first = first_layer(params["sa_w"], rows.predictor if rows else None, edges)
        return result._replace(output=predictors.predict(params, first, label), edges=edges), state

    def draw(key: Key, lead: tuple[int, ...]) -> jax.Array:
        free = _free(spec)  # noise cannot move the other edges
        return graphs.spread(graphs.logistic_noise(key, (*lead, int(free.sum()))), free)

    return Model(spec, init, prepare, step, draw if networks else None)


def from_reference(arrays: Mapping[str, Any], prefix: str = "") -> tuple[Params, State]:
    """Parameters exported from the authors' FCDL or NCD program under the names of this module: (params, state).

    arrays: name -> array, names start with `prefix`; matrices in x out. Flat layouts are folded: sa_w [N, S F, F], enc_fc0_w [S F, E0],
    action_w [a, F] (one action variable); *_mean and *_var become statistics, codebook, ema_count and ema_sum the codebook.
    """
    named = {name.removeprefix(prefix): jnp.asarray(x) for name, x in arrays.items() if name.startswith(prefix)}
    norms = {name[:-5]: NormStats(named.pop(name), named.pop(f"{name[:-5]}_var")) for name in sorted(named) if name.endswith("_mean")}
    book = Codebook(named.pop("codebook"), named.pop("ema_count"), named.pop("ema_sum")) if "ema_count" in named else None
    width = named["state_w"].shape[-1]
    if named["action_w"].ndim == 2:
        named["action_w"], named["action_b"] = named["action_w"][None], named["action_b"][None]
    if named["sa_w"].ndim == 3:
        named["sa_w"] = named["sa_w"].reshape(named["sa_w"].shape[0], -1, width, named["sa_w"].shape[-1])
    if "enc_fc0_w" in named and named["enc_fc0_w"].ndim == 2:
        named["enc_fc0_w"] = named["enc_fc0_w"].reshape(-1, width, named["enc_fc0_w"].shape[-1])
    return named, State(norms, book)
