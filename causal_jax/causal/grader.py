"""GRADER: one global causal graph from tests of independence, and a recurrent network per variable over its parents; a rival of FCDL.

Ding et al. 2022 (arXiv 2207.09081; authors' discover.py, gnn_modules.py; as run in FCDL, arXiv 2406.03234: embeddings and GRU of 128, the
tests every 10 episodes, not run on Magnetic). Every source has an embedding (linear, relu). The hidden state of variable j's GRU starts as
the embedding of j, reads the embeddings of its other parents, actions first and then variables in order, and ends (relu, linear) in j's
output; without other parents the embedding itself does. The graph starts with every allowed edge; a variable is always its own parent; of
the edges between variables those against a given order are never there (unless `learn_upper`), all edges of actions are tested.
The tests (`p_values`; an edge where p < 0.01, the authors' for Chemical) see all transitions so far, through statistics of a fixed size:
- discrete, given "nothing", the authors' and the default: Pearson's chi-squared test, without Yates' correction, of the table (value of the
  source) x (what became of the target: unchanged, or old and new value), on the values that occur.
- discrete, given "self": the same test of (value of the source) x (new value of the target) within each old value of the target; statistics
  and degrees of freedom are summed. A source that only goes with the target's old value is then no parent.
  One that goes with another parent is, under both: neither conditions on the other sources. On 10,000 random transitions of Chemical's fork
  "nothing" finds all 45 edges, and 43 more of the 45 against the order if it is not given; "self" 33 and 13.
- continuous: Fisher's z of the partial correlation of source and change of the target given all other sources, normal, two-sided; of an
  action variable with several components the smallest p times their number. The authors use trees instead (FCIT, 30 minutes a test); ours
  sees no dependence that has no linear part, and sources that determine one another hide each other.
Departures beside these: the network predicts the next value under the shared losses (the authors its change under a squared error), actions
have no network of their own, and the graph is decided anew each time (their edges, once found, stay). The authors leave out of the tests
the transitions whose action sets a variable to the value that it has; a caller does so by `counted`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax.causal import graphs, independence, predictors
from causal_jax.causal.dynamics import Model, Noise, State, Step
from causal_jax.causal.predictors import Spec
from causal_jax.causal.rivals import dense_spec, per_variable
from causal_jax.networks import uniform
from causal_jax.types import Key, Params, UserError

GIVEN = ("nothing", "self")


class Evidence(NamedTuple):
    """What the tests saw, and the graph [N, S] of 0.0 and 1.0 that they left.

    data, discrete: counts (states [N, N, C, C, C], actions [N, 1, C, A, C]) by target, source, old value, source's value, new value; exact
    up to 1.6e7 transitions. data, continuous: (number [], mean [D], sum of squared deviations [D, D]) of (variables, actions, changes).
    """

    data: Any
    graph: jax.Array


class Rows(NamedTuple):
    """One-hot sources by value: embeddings [C, N, F], what they add to gates: states [source N, target N, C, 3 F], action [N, A, 3 F]."""

    embedding: jax.Array
    state: jax.Array
    action: jax.Array


def allowed(spec: Spec) -> jax.Array:
    """Edges that are tested or certain, bool [N, S]: the variable itself, those along the order (or all), and every action."""
    free = graphs.free_edges(spec.num_variables, spec.num_actions, spec.learn_upper, learn_action=True)
    return jnp.asarray(free) | jnp.eye(spec.num_variables, spec.num_sources, dtype=bool)


def build(spec: Spec) -> Model:
    """GRADER's dynamics model. Of the spec the variables, action, head, width and `learn_upper` count.

    The graph is `state.evidence.graph`, in training and outside; `update_graph` moves it. Outside training one-hot sources are table rows.
    Raises: UserError for a spec out of range.
    """
    predictors.check(spec)
    n, m, f = spec.num_variables, spec.num_actions, spec.width
    use_rows = spec.table_rows and spec.discrete

    def init(key: Key) -> tuple[Params, State]:
        keys = jax.random.split(key, 7)
        shapes = {"wi": (n, f, 3 * f), "wh": (n, f, 3 * f), "bi": (n, 3 * f), "bh": (n, 3 * f)}
        gru = {name: uniform(key, shape, 1.0 / math.sqrt(f)) for key, (name, shape) in zip(keys[3:], shapes.items(), strict=True)}
        params = {"state": per_variable(keys[0], n, spec.variable_size, f), "action": per_variable(keys[1], m, spec.action_size, f)}
        params |= {"gru": gru, "out": per_variable(keys[2], n, f, spec.output_size)}
        return params, State({}, None, evidence=Evidence(_no_data(spec), allowed(spec).astype(jnp.float32)))

    def embed(layer: Params, x: jax.Array) -> jax.Array:
        return jax.nn.relu(jnp.einsum("...ic,icf->...if", x, layer["w"]) + layer["b"])

    def prepare(params: Params, obs: jax.Array | None = None) -> Rows | None:
        if not use_rows:
            return None
        weight = params["state"]["w"] if obs is None else jnp.einsum("ic,icf->if", obs, params["state"]["w"])[:, None]
        own = jax.nn.relu(weight + params["state"]["b"][:, None])
        acted = jax.nn.relu(params["action"]["w"][0] + params["action"]["b"])
        wi, bi = params["gru"]["wi"], params["gru"]["bi"][:, None]
        return Rows(jnp.swapaxes(own, 0, 1), jnp.einsum("icf,jfo->ijco", own, wi) + bi, jnp.einsum("af,jfo->jao", acted, wi) + bi)

    def step(params: Params, rows: Rows | None, state: State, obs: jax.Array, action: jax.Array, noise: Noise | None) -> tuple[Step, State]:
        gru, graph = params["gru"], state.evidence.graph
        # inputs: what a source itself adds to the gates, [S, N, B, 3 F] in the order of reading
        if rows is not None and noise is None:
            value = obs if rows.embedding.shape[0] > 1 else jnp.ones((*obs.shape[:2], 1))
            own = jnp.einsum("bic,cif->bif", value, rows.embedding)
            inputs = jnp.concatenate([rows.action[:, action][None], jnp.einsum("bic,ijco->ijbo", value, rows.state)])
        else:
            own = embed(params["state"], obs)
            acted = embed(params["action"], jax.nn.one_hot(action, spec.action_size)[:, None] if spec.discrete else action)
            inputs = jnp.einsum("bsf,jfo->sjbo", jnp.concatenate([acted, own], axis=1), gru["wi"]) + gru["bi"][:, None]
        others = graph * (1.0 - jnp.eye(n, n + m))
        reads = jnp.concatenate([others[:, n:], others[:, :n]], axis=1).T

        def read(hidden: jax.Array, source: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            gates, parent = source
            reset, update, new = jnp.split(gates, 3, axis=-1)
            by_reset, by_update, by_new = jnp.split(jnp.einsum("jbf,jfo->jbo", hidden, gru["wh"]) + gru["bh"][:, None], 3, axis=-1)
            new = jnp.tanh(new + jax.nn.sigmoid(reset + by_reset) * by_new)
            update = jax.nn.sigmoid(update + by_update)
            return jnp.where(parent[:, None, None] > 0, (1.0 - update) * new + update * hidden, hidden), None

        hidden, _ = jax.lax.scan(read, jnp.swapaxes(own, 0, 1), (inputs, reads))
        output = jnp.einsum("jbf,jfo->bjo", jax.nn.relu(hidden), params["out"]["w"]) + params["out"]["b"]
        return Step(output, edges=jnp.broadcast_to(graph, (obs.shape[0], *graph.shape))), state

    return Model(dense_spec(spec), init, prepare, step)


def update_graph(
    model: Model,
    state: State,
    obs: jax.Array,
    action: jax.Array,
    target: jax.Array,
    counted: jax.Array | None = None,
    level: Any = 0.01,
    given: str = "nothing",
) -> State:
    """Add new transitions to the evidence and test every edge again; to be called every 10 episodes with what they recorded.

    Args: obs [B, N, C] one-hot or real, action int [B] or [B, M, a], target int or float [B, N]: recorded transitions, each given once.
      counted: bool [B], rows that count (None: all). level: an edge where p is below it. given: "nothing" or "self", see above.
    Returns: the state with new evidence. Raises: UserError for another `given`.
    """
    spec = model.spec
    if given not in GIVEN:
        raise UserError(f"given = {given!r}: must be one of {', '.join(GIVEN)}")
    weight = jnp.ones(obs.shape[0]) if counted is None else counted.astype(jnp.float32)
    data = (_add_counts if spec.discrete else _add_moments)(spec, state.evidence.data, obs, action, target, weight)
    graph = (p_values(spec, data, given) < level) & allowed(spec) | jnp.eye(spec.num_variables, spec.num_sources, dtype=bool)
    return state._replace(evidence=Evidence(data, graph.astype(jnp.float32)))


def p_values(spec: Spec, data: Any, given: str = "nothing") -> jax.Array:
    """How likely data at least as dependent are if there is no edge, [N, S]; data: `Evidence.data`. 1 where a variable never varied."""
    if not spec.discrete:
        number, _, squares = data
        n = spec.num_variables
        p = independence.partial_correlations(squares, number, n)
        by_action = jnp.min(p[:, n:].reshape(n, spec.num_actions, -1), axis=2) * spec.action_size
        return jnp.concatenate([p[:, :n], jnp.minimum(by_action, 1.0)], axis=1)

    def test(table: jax.Array) -> jax.Array:
        return independence.chi_squared(table if given == "self" else _changes(table))

    return jnp.concatenate([jax.vmap(jax.vmap(test))(counts) for counts in data], axis=1)


def _changes(table: jax.Array) -> jax.Array:
    """Counts [C (old), V, C (new)] -> one table [1, V, C C + 1] by what became of the target: old and new value, or no change (last)."""
    stays = jnp.eye(table.shape[0])[:, None]
    moved = jnp.moveaxis(table * (1.0 - stays), 1, 0).reshape(table.shape[1], -1)
    return jnp.concatenate([moved, jnp.sum(table * stays, axis=(0, 2))[:, None]], axis=1)[None]


def _no_data(spec: Spec) -> Any:
    n, c = spec.num_variables, spec.variable_size
    if spec.discrete:
        return jnp.zeros((n, n, c, c, c)), jnp.zeros((n, 1, c, spec.action_size, c))
    size = 2 * n + spec.num_actions * spec.action_size
    return jnp.zeros(()), jnp.zeros(size), jnp.zeros((size, size))


def _add_counts(spec: Spec, data: Any, obs: jax.Array, action: jax.Array, target: jax.Array, weight: jax.Array) -> Any:
    new = jax.nn.one_hot(target, spec.variable_size)
    became = weight[:, None, None, None] * obs[..., None] * new[:, :, None]  # [B, N, C (old), C (new)]
    sources = obs, jax.nn.one_hot(action, spec.action_size)[:, None]
    return tuple(counts + jnp.einsum("biv,bjkw->jikvw", x, became) for counts, x in zip(data, sources, strict=True))


def _add_moments(spec: Spec, data: Any, obs: jax.Array, action: jax.Array, target: jax.Array, weight: jax.Array) -> Any:
    """Merge the moments of a batch into the running ones (Chan et al. 1983)."""
    state = obs[..., 0]
    x = jnp.concatenate([state, action.reshape(action.shape[0], -1), target - state], axis=1)
    number, mean, squares = data
    more = jnp.sum(weight)
    centre = jnp.sum(weight[:, None] * x, axis=0) / jnp.maximum(more, 1.0)
    deviation, shift = (x - centre) * weight[:, None], centre - mean
    share = more / jnp.maximum(number + more, 1.0)
    squares = squares + deviation.T @ (x - centre) + number * share * jnp.outer(shift, shift)
    return number + more, mean + share * shift, squares
