"""NPS: neural production systems, a rival of FCDL. Every variable picks one rule and one other source, and the rule makes its next value.

Neural Production Systems (Goyal et al. 2021, arXiv 2103.01937) as CDL's and FCDL's experiments run it (Wang et al. 2022, arXiv 2206.13452;
FCDL, arXiv 2406.03234: 20 rules, 15 for Magnetic, all widths 128, encoder of 2 layers, rule networks of 3). All variables are the primary
slot once per step, in parallel. Each source has an encoder. Attention of a variable's features over R rule embeddings picks its rule,
attention over the features of all S sources (itself and the action among them) the one it is combined with, its context; both by
Gumbel-softmax, one-hot, in training and by the largest score otherwise. The rule's network reads both features. Rules are shared by all
variables; a discrete variable has its own last layer for each rule. So the local graph has the variable itself and one more parent.
Departures from those experiments: weights are drawn as the other models' here; every action variable is a source of its own; and attention
matrices are U(+-1 / sqrt(F)) ("definition"). The experiments drew them from U(+-sqrt(D)) ("authors"), D the attention width, which makes
scores so large that the softmax is a step and the choices hardly learn.
Table rows: a one-hot source has as many feature vectors as values, so outside training the whole model is a table over (variable, own
value, context, its value), computed once per set of parameters; a step only looks up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.causal import graphs, predictors
from causal_jax.causal.dynamics import Model, Noise, State, Step
from causal_jax.causal.predictors import Spec
from causal_jax.causal.rivals import dense_spec
from causal_jax.networks import uniform
from causal_jax.types import Key, Params, UserError

SELECTORS = ("definition", "authors")


class Rows(NamedTuple):
    """The model by table, V = N C + A values of sources (states first): scores [N, C, V] of contexts, output [N, C, V, O]."""

    scores: jax.Array
    output: jax.Array


def build(spec: Spec, num_rules: int = 20, num_layers: int = 3, selectors: str = "definition") -> Model:
    """NPS's dynamics model; 15 rules for Magnetic. Of the spec the variables, action, head and width (F, also the attention's D) count.

    num_layers: hidden layers of a rule network. selectors: "definition" or "authors", see above. In a training step `noise.edges`
    [B, N, S + R] are Gumbel draws for the context and for the rule; `Step.edges` has the variable itself and its context.
    Raises: UserError for a spec or an argument out of range.
    """
    predictors.check(spec)
    for name, value in (("num_rules", num_rules), ("num_layers", num_layers)):
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")
    if selectors not in SELECTORS:
        raise UserError(f"selectors = {selectors!r}: must be one of {', '.join(SELECTORS)}")
    n, s, f, r, o = spec.num_variables, spec.num_sources, spec.width, num_rules, spec.output_size
    use_rows = spec.table_rows and spec.discrete

    def init(key: Key) -> tuple[Params, State]:
        weight, bias = math.sqrt(6.0 / f), 1.0 / math.sqrt(f)
        shapes: dict[str, tuple[int, ...]] = {"state0": (n, spec.variable_size, f), "action0": (spec.num_actions, spec.action_size, f)}
        shapes |= {"state1": (n, f, f), "action1": (spec.num_actions, f, f)}
        shapes |= {f"rule{i}": (r, f if i else 2 * f, f) for i in range(num_layers)} | {"out": (n if spec.discrete else 1, r, f, o)}
        params = {}
        key, key_embed = jax.random.split(key)
        for layer, (name, shape) in zip(jax.random.split(key, len(shapes)), shapes.items(), strict=True):
            key_w, key_b = jax.random.split(layer)
            w, b = predictors.names(name)
            params[w] = uniform(key_w, shape, math.sqrt(6.0 / (f * o)) if name == "out" else weight)
            params[b] = uniform(key_b, (*shape[:-2], shape[-1]), bias)
        key_embed, key_attention = jax.random.split(key_embed)
        params["embed"] = jax.random.normal(key_embed, (r, f))
        attention = {"rule_query": n, "rule_key": r, "context_query": n, "context_key": s}
        for layer, (name, num) in zip(jax.random.split(key_attention, 4), attention.items(), strict=True):
            params[f"{name}_w"] = uniform(layer, (num, f, f), math.sqrt(f) if selectors == "authors" else bias)
            params[f"{name}_b"] = jnp.zeros((num, f))
        return params, State({}, None)

    def encode(params: Params, name: str, x: jax.Array) -> jax.Array:
        """The features of the states or actions: [..., n, in] -> [..., n, F]."""
        x = jnp.einsum("...ic,icf->...if", x, params[f"{name}_w0"]) + params[f"{name}_b0"]
        return jnp.einsum("...if,ifo->...io", jax.nn.relu(x), params[f"{name}_w1"]) + params[f"{name}_b1"]

    def project(params: Params, name: str, x: jax.Array) -> jax.Array:
        """Queries or keys [..., n, F] of features alike, scaled such that their product is the score."""
        return (jnp.einsum("...if,ifd->...id", x, params[f"{name}_w"]) + params[f"{name}_b"]) / f**0.25

    def rule_scores(params: Params, own: jax.Array) -> jax.Array:
        """[..., N, F] -> [..., N, R]."""
        return jnp.einsum("...id,rd->...ir", project(params, "rule_query", own), project(params, "rule_key", params["embed"]))

    def prepare(params: Params, obs: jax.Array | None = None) -> Rows | None:
        if not use_rows:
            return None
        # one row of inputs for each value: all sources have value c in row c, or what was observed in the only row
        size = spec.variable_size
        inputs = jnp.broadcast_to(jnp.eye(size)[:, None], (size, n, size)) if obs is None else obs[None]
        own, acted = encode(params, "state", inputs), encode(params, "action", jnp.eye(spec.action_size)[:, None])
        rule = jnp.argmax(rule_scores(params, own), axis=-1)  # [C, N]
        query = project(params, "context_query", own)
        key_w, key_b = params["context_key_w"], params["context_key_b"]
        parts = {"context_key_w": key_w[:n], "context_key_b": key_b[:n]}, {"context_key_w": key_w[n:], "context_key_b": key_b[n:]}
        keys = (project(part, "context_key", x) for part, x in zip(parts, (own, acted), strict=True))

        def flat(states: jax.Array, actions: jax.Array) -> jax.Array:
            return jnp.concatenate([jnp.swapaxes(states, 0, 1).reshape(-1, f), actions[:, 0]])  # [V, F]

        scores = jnp.einsum("cid,vd->icv", query, flat(*keys))
        first, context = params["rule_w0"][rule], flat(own, acted)
        x = jnp.einsum("cif,cifo->cio", own, first[:, :, :f])[:, :, None] + jnp.einsum("vf,cifo->civo", context, first[:, :, f:])
        x = jax.nn.relu(x + params["rule_b0"][rule][:, :, None])
        for i in range(1, num_layers):
            x = jax.nn.relu(jnp.einsum("civf,cifo->civo", x, params[f"rule_w{i}"][rule]) + params[f"rule_b{i}"][rule][:, :, None])
        last_w, last_b = params["out_w"][jnp.arange(n), rule], params["out_b"][jnp.arange(n), rule]
        output = jnp.einsum("civf,cifo->icvo", x, last_w) + jnp.swapaxes(last_b, 0, 1)[:, :, None]
        return Rows(scores, output)

    def look_up(rows: Rows, obs: jax.Array, action: jax.Array) -> Step:
        """A step without noise from one-hot observations, or from those that the rows were made for."""
        size = rows.scores.shape[1]
        value = jnp.argmax(obs, axis=-1) if size > 1 else jnp.zeros(obs.shape[:2], int)
        here = jnp.concatenate([jnp.arange(n) * size + value, n * size + action[:, None]], axis=1)  # [B, S] values in force
        scores = rows.scores[jnp.arange(n)[:, None], value[..., None], here[:, None]]  # [B, N, S]
        context = jnp.argmax(scores, axis=-1)
        output = rows.output[jnp.arange(n), value, jnp.take_along_axis(here, context, axis=1)]
        return Step(output, edges=_graph(jax.nn.one_hot(context, s)))

    def step(params: Params, rows: Rows | None, state: State, obs: jax.Array, action: jax.Array, noise: Noise | None) -> tuple[Step, State]:
        if rows is not None and noise is None:
            return look_up(rows, obs, action), state
        own = encode(params, "state", obs)
        acted = encode(params, "action", jax.nn.one_hot(action, spec.action_size)[:, None] if spec.discrete else action)
        sources = jnp.concatenate([own, acted], axis=1)
        query, key = project(params, "context_query", own), project(params, "context_key", sources)
        draws = (None, None) if noise is None else (noise.edges[..., :s], noise.edges[..., s:])
        context = graphs.choose(jnp.einsum("bid,bsd->bis", query, key), draws[0])
        rule = graphs.choose(rule_scores(params, own), draws[1])
        x = jnp.concatenate([own, jnp.einsum("bis,bsf->bif", context, sources)], axis=-1)
        # every rule for every variable: the gradient of the choice needs what the others would have said
        x = jnp.einsum("bif,rfo->rbio", x, params["rule_w0"]) + params["rule_b0"][:, None, None]
        for i in range(1, num_layers):
            x = jnp.einsum("rbif,rfo->rbio", jax.nn.relu(x), params[f"rule_w{i}"]) + params[f"rule_b{i}"][:, None, None]
        last_w, last_b = (jnp.broadcast_to(params[name], (n, *params[name].shape[1:])) for name in ("out_w", "out_b"))
        said = jnp.einsum("rbif,irfo->biro", jax.nn.relu(x), last_w) + last_b
        return Step(jnp.einsum("bir,biro->bio", rule, said), edges=_graph(context)), state

    def draw(key: Key, lead: tuple[int, ...]) -> jax.Array:
        return jax.random.gumbel(key, (*lead, n, s + r))

    return Model(dense_spec(spec), init, prepare, step, draw)


def _graph(context: jax.Array) -> jax.Array:
    """[B, N, S] of 0.0 and 1.0: the variable itself and the context, which is a choice [B, N, S]."""
    return jax.lax.stop_gradient(jnp.maximum(jnp.round(context), jnp.eye(context.shape[1], context.shape[2])))
