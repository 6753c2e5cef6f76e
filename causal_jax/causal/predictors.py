"""Masked predictors: one network per variable that sees only its parents' features. Shared by FCDL, NCD, Modular and the oracles.

FCDL (arXiv 2406.03234; authors' inference_ours_base.py, inference_ours_masking.py). One layer turns every source (N state variables, M
action variables) into F features, the same for all targets; target j multiplies the block of source i by its edge A_ji, concatenates, and
applies its own layers. Discrete variables are one-hot [C] with logits out; continuous ones are scalars [1] with a mean (and log std) out.
Parameters are a flat dict, matrices in x out: state_w [N, C, F], state_b [N, F], action_w [M, a, F], action_b [M, F], sa_w [N, S, F, F]
(target, source, in, out), sa_b [N, F], label_w [N, L, F] if there is a label, gen_w0 [N, F, F], gen_b0 [N, F], ..., out_w [N, F, O],
out_b [N, O].
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.causal import graphs, tables
from causal_jax.causal.tables import Tables
from causal_jax.fields import option, validate
from causal_jax.networks import uniform
from causal_jax.types import Key, Params, UserError

CONTEXTS = ("vq", "kmeans", "tree")
ADJACENCIES = ("codebook", "sampled", "full", "global", "given")
LOG_STD = (-10.0, -5.0)  # the authors' range of a learned log standard deviation
LEAST = float(jnp.finfo(jnp.float32).eps)  # probabilities are clipped to [LEAST, 1 - LEAST] as in the authors' code


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a dynamics model is made of; the defaults are the authors' for Chemical."""

    num_variables: int = option(10, low=1)
    """N, state variables."""
    variable_size: int = option(5, low=1)
    """C, choices of a discrete variable; 1 for continuous ones."""
    num_actions: int = option(1, low=1)
    """M, action variables."""
    action_size: int = option(50, low=1)
    """Choices of the discrete action (which is one variable), or components of each continuous action variable."""
    discrete: bool = True
    """One-hot variables and an int action with a categorical head, or scalars, a real action and a mean (log std)."""
    learn_std: bool = False
    """Continuous: a log standard deviation too, and the normal likelihood as loss."""
    width: int = option(128, low=1)
    """F, source features and hidden layers of the predictors."""
    num_hidden: int = option(2, low=0)
    """Hidden layers after the first (2 for Chemical; 3 for Magnetic)."""
    adjacency: str = option("codebook", choices=ADJACENCIES)
    """Where the graph comes from: codebook (FCDL), sampled (NCD), full (Modular), global (Oracle), given (Oracle-local)."""
    encoder_hidden: tuple[int, ...] = option((128, 64), low=1)
    """Hidden layers of the encoder; (128, 128) for NCD, whose encoder ends in the edge logits."""
    decoder_hidden: tuple[int, ...] = option((32,), low=1)
    """Hidden layers from a code to edge logits."""
    num_codes: int = option(16, low=1)
    """K."""
    code_dim: int = option(16, low=1)
    """D."""
    contexts: str = option("vq", choices=CONTEXTS)
    """What a code is: vq (FCDL), kmeans (the codes are k-means centroids of the same embedding), tree (the leaf of a decision tree over
    the one-hot state and action that is grown for the same embedding)."""
    ema: bool = True
    """Codes by moving averages (authors), or by the gradient of the codebook loss (the paper's formula)."""
    label: bool = False
    """The predictors also see which graph they have: the code (codebook) or the mask row (sampled; on in the authors' NCD runs)."""
    learn_upper: bool = False
    """No order is given: every edge between different variables is learned."""
    learn_action: bool = False
    """Edges from the action are learned."""
    table_rows: bool = True
    """First layers by table rows (`causal.tables`) where inputs are one-hot; same numbers, fewer operations."""

    @property
    def num_sources(self) -> int:
        """S = N + M."""
        return self.num_variables + self.num_actions

    @property
    def output_size(self) -> int:
        """O: logits per discrete variable, or mean (and log std)."""
        return self.variable_size if self.discrete else 1 + self.learn_std

    @property
    def label_size(self) -> int:
        """L: inputs that name the graph, 0 without label."""
        sizes = {"codebook": self.num_codes, "sampled": self.num_sources}
        return sizes.get(self.adjacency, 0) if self.label else 0

    @property
    def learns_graph(self) -> bool:
        """The graph is inferred from the state and action, so there are an encoder and a sparsity term."""
        return self.adjacency in ("codebook", "sampled")


def check(spec: Spec) -> None:
    """Raises UserError for a spec that cannot be built."""
    validate(spec)
    if spec.discrete and spec.num_actions != 1:
        raise UserError(f"num_actions = {spec.num_actions}: must be 1 for a discrete action")
    if not spec.discrete and spec.variable_size != 1:
        raise UserError(f"variable_size = {spec.variable_size}: must be 1 for continuous variables")
    if spec.contexts != "vq" and not spec.ema:
        raise UserError(f"ema = False: must be True for contexts = {spec.contexts!r}, whose codes have no gradient")
    if spec.contexts == "tree" and not spec.discrete:
        raise UserError("contexts = 'tree': must be vq or kmeans for continuous variables")
    if spec.contexts == "tree" and (spec.num_codes < 2 or spec.num_codes & (spec.num_codes - 1)):
        raise UserError(f"num_codes = {spec.num_codes}: must be a power of two for contexts = 'tree'")
    for name in ("encoder_hidden", "decoder_hidden"):
        if not getattr(spec, name):
            raise UserError(f"{name} = (): must name at least one hidden layer")


def init(key: Key, spec: Spec) -> Params:
    """Parameters of features and predictors, drawn as the authors do.

    Weights U(+-sqrt(6 / F)), the last layer's U(+-sqrt(6 / (F O))), whatever their fan-in; biases U(+-1 / sqrt(F)). key: consumed.
    """
    n, m, f, o = spec.num_variables, spec.num_actions, spec.width, spec.output_size
    weight, bias = math.sqrt(6.0 / f), 1.0 / math.sqrt(f)
    shapes = {"state": (n, spec.variable_size, f), "action": (m, spec.action_size, f), "sa": (n, spec.num_sources, f, f)}
    shapes |= {f"gen{i}": (n, f, f) for i in range(spec.num_hidden)} | {"out": (n, f, o)}
    params = {}
    for layer, (name, shape) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
        key_w, key_b, key_label = jax.random.split(layer, 3)
        w, b = names(name)
        params[w] = uniform(key_w, shape, math.sqrt(6.0 / (f * o)) if name == "out" else weight)
        params[b] = uniform(key_b, (shape[0], shape[-1]), bias)
        if name == "sa" and spec.label_size:
            params["label_w"] = uniform(key_label, (n, spec.label_size, f), weight)
    return params


def names(layer: str) -> tuple[str, str]:
    """The names of a layer's weight and bias: sa -> sa_w, sa_b; gen0 -> gen_w0, gen_b0."""
    number = layer.lstrip("abcdefghijklmnopqrstuvwxyz")
    stem = layer.removesuffix(number)
    return f"{stem}_w{number}", f"{stem}_b{number}"


def source_features(params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
    """relu features of every source: obs [B, N, C] and action [B, M, a] (one-hot or real) -> [B, S, F]."""
    state = jnp.einsum("bic,icf->bif", obs, params["state_w"]) + params["state_b"]
    acted = jnp.einsum("bma,maf->bmf", action, params["action_w"]) + params["action_b"]
    return jax.nn.relu(jnp.concatenate([state, acted], axis=1))


def layer_tables(params: Params, layer: jax.Array, obs: jax.Array | None = None) -> Tables:
    """Rows of the layer [J, S, F, O] (target, source, in, out) over the source features.

    obs: [N, C], any real numbers: rows of this one observation (their C is 1), which many plans then share.
    """
    weight = params["state_w"]
    if obs is not None:
        weight = jnp.einsum("ic,icf->if", obs, weight)[:, None]
    return tables.tabulate(weight, params["state_b"], params["action_w"], params["action_b"], layer)


def first_layer(layer: jax.Array, features: jax.Array, edges: jax.Array) -> jax.Array:
    """The plain masked product: layer [J, S, F, O], features [B, S, F], edges [B, J, S] -> [J, B, O]."""
    masked = edges[..., None] * features[:, None]
    flat = layer.reshape(layer.shape[0], -1, layer.shape[-1])
    return jnp.einsum("bjk,jko->jbo", masked.reshape(*masked.shape[:2], -1), flat)


def first_layer_rows(rows: Tables, obs: jax.Array, action: jax.Array, edges: jax.Array) -> jax.Array:
    """The same by table rows: obs [B, N, C] exactly one-hot, action int [B], edges [B, J, S] -> [J, B, O].

    Rows made for one observation leave nothing to choose: obs is then not read.
    """
    if rows.state.shape[1] == obs.shape[1]:
        obs = jnp.ones((*obs.shape[:2], 1))
    return tables.masked_rows(edges[..., :-1], edges[..., -1], obs, action, rows)


def predict(params: Params, first: jax.Array, label: jax.Array | None = None) -> jax.Array:
    """The layers after the first product: first [N, B, F], label [B, L] or [B, N, L] or None -> outputs [B, N, O]."""
    x = first + params["sa_b"][:, None]
    if label is not None:
        x = x + jnp.einsum("bl,nlf->nbf" if label.ndim == 2 else "bnl,nlf->nbf", label, params["label_w"])
    return outputs(params, jax.nn.relu(x))


def outputs(params: Params, x: jax.Array) -> jax.Array:
    """The hidden layers gen_* and the last one, each target its own: x [N, B, F] -> [B, N, O]."""
    i = 0
    while f"gen_w{i}" in params:
        x = jax.nn.relu(jnp.einsum("nbf,nfo->nbo", x, params[f"gen_w{i}"]) + params[f"gen_b{i}"][:, None])
        i += 1
    # asked for as bno, the product would first transpose x, which costs more than the product
    return jnp.swapaxes(jnp.matmul(x, params["out_w"]), 0, 1) + params["out_b"]


def fixed_graph(spec: Spec, everywhere: Any = None) -> jax.Array:
    """The graph of the models that learn none, [N, S] of 0.0 and 1.0: all ones (full), or the true global one (global).

    everywhere: bool [N, S], the global graph; None: all edges along the order of the variables, themselves and the action, as in Chemical.
    """
    n, m = spec.num_variables, spec.num_actions
    if spec.adjacency == "full":
        return jnp.ones((n, spec.num_sources))
    if everywhere is not None:
        return jnp.asarray(everywhere, jnp.float32)
    return graphs.with_self(jnp.asarray(graphs.free_edges(n, m)[:, :n]), m).astype(jnp.float32)


def log_probs(logits: jax.Array) -> jax.Array:
    """Log-probabilities of a discrete head, [..., C]: clipped to [1.2e-7, 1 - 1.2e-7] and renormalised (authors' mean_dist)."""
    return jax.nn.log_softmax(jnp.log(jnp.clip(jax.nn.softmax(logits), LEAST, 1.0 - LEAST)))


def nll(spec: Spec, output: jax.Array, target: Any) -> jax.Array:
    """The loss of each variable: output [..., N, O] -> [..., N].

    target: int [..., N] (discrete: cross-entropy, nats) or float [..., N] (squared error, no 1/2; with learn_std the normal's negative
    log-likelihood, log std clipped to [-10, -5]).
    """
    if spec.discrete:
        chosen = jax.nn.one_hot(target, spec.variable_size)
        return -jnp.sum(chosen * log_probs(output), axis=-1)
    error = jnp.square(output[..., 0] - target)
    if not spec.learn_std:
        return error
    log_std = jnp.clip(output[..., 1], *LOG_STD)
    return 0.5 * error * jnp.exp(-2.0 * log_std) + log_std + 0.5 * math.log(2.0 * math.pi)


def sample(spec: Spec, output: jax.Array, noise: jax.Array | None) -> jax.Array:
    """The next state that a rollout is fed: output [..., N, O] -> [..., N, C] (continuous: C = 1).

    Discrete: one-hot of argmax(log p + Gumbel noise [..., N, C]), hard forward and the softmax's gradient backward; noise None: the
    argmax. Continuous: the mean, with learn_std plus std * standard normal noise [..., N, 1].
    """
    if not spec.discrete:
        mean = output[..., :1]
        if noise is None or not spec.learn_std:
            return mean
        return mean + jnp.exp(jnp.clip(output[..., 1:], *LOG_STD)) * noise
    return graphs.choose(output if noise is None else log_probs(output), noise)
