"""Causal effects of discrete actions at one state: N-values, similarity, groups, and the actions worth keeping.

CEE (arXiv 2501.14543) and NPM (arXiv 2312.06258). `N[i, j] = E_{s'|s,i}[log P(j|s,s') - log pi(j)]`; its diagonal is the causal effect
`KL(P(.|s,i) || P(.|s))` and `N[i,i] - N[i,j] = KL(P(.|s,i) || P(.|s,j))`, so actions with small differences are interchangeable.
Row i of every [A, A] matrix is the executed action.

`mode="definition"` is the papers' similarity and keeps every member whose share of its group's effect reaches tau; `mode="authors"` is the
published code, which has the other diagonal term (`N[j,j] - N[i,j]`) and draws one survivor per group. The grouping rule (leaders, with
stealing) is the published code's in both: the papers ask for pairwise closeness inside a group, which has no unique solution.
Where nothing is kept the published code acts uniformly with log-probability 0; here `fallback` removes the mask and says so.

Everything is written for one state; the caller vmaps. The networks that estimate N are in `causal_jax.causal.inverse`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from causal_jax.types import Key, UserError

PerAction = Float[Array, "A"]
Labels = Int[Array, "A"]
Kept = Bool[Array, "A"]
Matrix = Float[Array, "A A"]
Scalar = float | Float[Array, ""]

MODES = ("definition", "authors")
SELECTIONS = ("cee", "npm", "npm-random", "cee-woc", "all")


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")


def similarity(n_matrix: Matrix, mode: str = "definition") -> Matrix:
    """How differently two actions act, in nats (NPM's similarity factor; 0 = alike).

    Args: n_matrix: [A, A]. mode: "definition" gives N[i,i] - N[i,j] = KL(P_i || P_j); "authors" gives N[j,j] - N[i,j] (maskppo.py:172).
    Returns: [A, A]. Raises: UserError for another mode.
    """
    _check("mode", mode, MODES)
    diagonal: jax.Array = jnp.diagonal(n_matrix)
    return (diagonal[:, None] if mode == "definition" else diagonal[None, :]) - n_matrix


def group(similarity: Matrix, epsilon: Scalar, stealing: bool = True) -> Labels:
    """Groups of interchangeable actions by the leader rule (classify_points.py).

    In index order an action without a group leads a new one, and every later action j with max(similarity[i,j], similarity[j,i]) < epsilon
    joins it. With `stealing` it joins even if it had a group already, so it ends with its last leader; without, it stays with its first.
    Args: similarity: [A, A] nats. epsilon: scalar, nats. Returns: int32 [A], labels 0, 1, ... in the order of the leaders.
    """
    # A sequential scan over rows reads the matrix once; a fixed-point iteration over the leader set measured 2 to 6 times slower on CPU.
    num_actions = similarity.shape[0]
    index = jnp.arange(num_actions)
    close = jnp.maximum(similarity, similarity.T) < epsilon

    def visit(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        labels, count = carry
        leads = labels[i] < 0
        joins = leads & ((close[i] & (index > i)) | (index == i))
        if not stealing:
            joins &= labels < 0
        return jnp.where(joins, count, labels), count + leads

    start = jnp.full(num_actions, -1, jnp.int32)
    labels: jax.Array = jax.lax.fori_loop(0, num_actions, visit, (start, jnp.int32(0)))[0]
    return labels


def shares(effect: PerAction, labels: Labels, temperature: Scalar = 1.0) -> PerAction:
    """Relative causal effect: the softmax of effect / temperature inside each group (CEE; 1 for an action that is alone).

    Args: effect: [A] nats, the diagonal of N. labels: int [A]. temperature: scalar > 0. Returns: [A] in [0, 1].
    """
    scaled = effect / temperature
    weight = jnp.exp(scaled - _of_group(jax.ops.segment_max, scaled, labels))
    return weight / _of_group(jax.ops.segment_sum, weight, labels)


def _of_group(reduce: Callable[..., jax.Array], values: jax.Array, labels: jax.Array) -> jax.Array:
    """A reduction over each group, given back to its members: [A] -> [A]. Linear in A, where comparing all pairs of labels is quadratic."""
    return reduce(values, labels, num_segments=labels.shape[0])[labels]


def _best_member(score: PerAction, labels: Labels, eligible: Kept) -> Kept:
    """bool [A]: the eligible action with the highest score in its group; of equal ones the last."""
    index = jnp.arange(score.shape[0])
    score = jnp.where(eligible, score, -jnp.inf)
    best = eligible & (score == _of_group(jax.ops.segment_max, score, labels))
    return best & (index == _of_group(jax.ops.segment_max, jnp.where(best, index, -1), labels))


def survivors(effect: PerAction, labels: Labels, tau: Scalar, temperature: Scalar = 1.0) -> Kept:
    """CEE's candidates, bool [A]: actions alone in their group, and members whose share is at least tau (a tie at tau survives)."""
    alone = _of_group(jax.ops.segment_sum, jnp.ones_like(labels), labels) == 1
    return alone | (shares(effect, labels, temperature) >= tau)


def select(
    selection: str,
    key: Key,
    n_matrix: Matrix,
    *,
    mode: str = "definition",
    epsilon: Scalar = 0.5,
    tau: Scalar = 0.8,
    temperature: Scalar = 1.0,
    woc_threshold: Scalar = 0.03,
) -> Kept:
    """The actions a method keeps at one state.

    Args: selection: "cee" (per group, actions that cause a share tau of its effect), "npm" (per group the highest index), "npm-random" (per
      group a random one), "cee-woc" (no groups: softmax of the whole diagonal above woc_threshold), "all". key: consumed (drawn from by
      npm-random and by cee in mode "authors"). n_matrix: [A, A]. mode: see the module. epsilon: nats. tau, woc_threshold: in [0, 1].
    Returns: bool [A], True = kept; it may be all False (see `fallback`). Raises: UserError for an unknown selection or mode.
    """
    _check("selection", selection, SELECTIONS)
    num_actions = n_matrix.shape[0]
    effect = jnp.diagonal(n_matrix)
    if selection == "all":
        return jnp.ones(num_actions, bool)
    if selection == "cee-woc":
        return jax.nn.softmax(effect / temperature) > woc_threshold
    labels = group(similarity(n_matrix, mode), epsilon)
    return of_groups(selection, key, effect, labels, mode=mode, tau=tau, temperature=temperature)


def of_groups(
    selection: str, key: Key, effect: PerAction, labels: Labels, tau: Scalar, temperature: Scalar = 1.0, mode: str = "definition"
) -> Kept:
    """What "cee", "npm" and "npm-random" keep of given groups, bool [A]: effect [A] nats, labels int [A], the rest as in `select`."""
    num_actions = labels.shape[0]
    everyone = jnp.ones(num_actions, bool)
    if selection == "npm":
        return _best_member(jnp.zeros(num_actions), labels, everyone)
    if selection == "npm-random":
        return _best_member(jax.random.uniform(key, (num_actions,)), labels, everyone)
    surviving = survivors(effect, labels, tau, temperature)
    if mode == "definition":
        return surviving
    # One draw per group from softmax(shares of the survivors), by the Gumbel trick.
    score = shares(effect, labels, temperature) + jax.random.gumbel(key, (num_actions,))
    return _best_member(score, labels, surviving)


def fallback(kept: Kept) -> tuple[Kept, Bool[Array, ""]]:
    """Where nothing is kept everything is allowed: (allowed bool [A], all_masked bool [], for a counter)."""
    all_masked = ~jnp.any(kept)
    return kept | all_masked, all_masked


def same_successor(next_obs: Float[Array, "A D"], terminated: Kept | None = None, tolerance: float = 1e-5) -> Bool[Array, "A A"]:
    """bool [A, A]: both actions lead to the same next state, up to tolerance in every coordinate (never float equality).

    Args: next_obs: [A, D], the deterministic successor of each action. terminated: bool [A] or None, part of the next state if given.
    """
    same = jnp.all(jnp.abs(next_obs[:, None, :] - next_obs[None, :, :]) <= tolerance, axis=-1)
    return same if terminated is None else same & (terminated[:, None] == terminated[None, :])


def oracle_n_matrix(next_obs: Float[Array, "A D"], terminated: Kept | None = None, tolerance: float = 1e-5, floor: float = 1e-8) -> Matrix:
    """The exact floored N-matrix of a deterministic environment under the uniform policy, from its enumerated successors.

    What a perfect network would learn: log(p + floor) - log(1/A + floor) with p = 1/k for the k actions that share the successor, else 0.
    Args: next_obs: [A, D]; terminated: bool [A] or None; tolerance: as in `same_successor`. Returns: [A, A] nats, diagonal log(A / k).
    """
    same = same_successor(next_obs, terminated, tolerance)
    num_actions = same.shape[0]
    alike = jnp.log(1.0 / jnp.sum(same, axis=1, keepdims=True) + floor)  # one logarithm a row
    return jnp.where(same, alike, jnp.log(floor)) - jnp.log(1.0 / num_actions + floor)


def unique(next_obs: Float[Array, "A D"], terminated: Kept | None = None, tolerance: float = 1e-5) -> Kept:
    """The control without N-values, bool [A]: keep the actions whose next state no other action reaches."""
    return jnp.sum(same_successor(next_obs, terminated, tolerance), axis=1) == 1


def exact_n(transition: Float[Array, "A S"], policy: PerAction, floor: float | None = None) -> Matrix:
    """The exact N-matrix of one state from its known dynamics (CEE, the definition of N).

    Args: transition: [A, S], P(s'|s,a). policy: [A], positive, sums to 1. floor: None for the exact value (-inf where i reaches a state
      that j cannot), else the expectation of log(posterior + floor) - log(policy + floor). Returns: [A, A] nats.
    """
    mixture = policy @ transition
    if floor is None:
        ratio = jnp.log(transition) - jnp.log(mixture)
    else:
        posterior = policy[:, None] * transition / jnp.where(mixture > 0, mixture, 1.0)
        ratio = jnp.log(posterior + floor) - jnp.log(policy + floor)[:, None]
    # A state that i never reaches counts 0, also where the ratio is infinite.
    terms = jnp.where(transition[:, None, :] > 0, transition[:, None, :] * ratio[None, :, :], 0.0)
    return jnp.sum(terms, axis=-1)


def kl_matrix(transition: Float[Array, "A S"]) -> Matrix:
    """KL(P_i || P_j) between the effects of actions: transition [A, S] -> [A, A] nats, +inf where i reaches a state that j cannot."""
    log_p = jnp.log(transition)
    p_i = transition[:, None, :]
    return jnp.sum(jnp.where(p_i > 0, p_i * (log_p[:, None, :] - log_p[None, :, :]), 0.0), axis=-1)


def n_target(logits: PerAction, policy: PerAction, floor: Scalar = 1e-8) -> PerAction:
    """What the N-network regresses on for one transition (mf_model_trainer.py:107-119): log(softmax(logits) + floor) - log(policy + floor).

    Args: logits: [A] of the inverse model at (s, s'). policy: [A] behaviour probabilities. floor: added to both, not a clip.
    Returns: [A] nats, without gradient.
    """
    return jax.lax.stop_gradient(jnp.log(jax.nn.softmax(logits) + floor) - jnp.log(policy + floor))


def n_loss(prediction: PerAction, target: PerAction) -> Float[Array, ""]:
    """Mean squared error over the A columns of one N-row: [A], [A] -> []."""
    return jnp.mean(jnp.square(prediction - target))


def idm_loss(logits: PerAction, action: Int[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy of the executed action under the inverse model: [A], int [] -> [] nats."""
    return -jax.nn.log_softmax(logits)[action]


def agreement(labels: Labels, reference: Labels) -> dict[str, Float[Array, ""]]:
    """How well a grouping of A actions matches another, each score a scalar, 1 = equal.

    `action_accuracy`: share of actions whose group is the same set of actions as in the reference. `pair_accuracy`: share of pairs of
    different actions judged alike, the mean over pairs that the reference joins and pairs that it parts (if it has both kinds).
    `rand_index`: the adjusted Rand index (Hubert & Arabie 1985). Args: int [A] each; the numbering of the groups does not matter.
    """
    num_actions = labels.shape[0]
    same, wanted = labels[:, None] == labels[None, :], reference[:, None] == reference[None, :]
    other = ~jnp.eye(num_actions, dtype=bool)
    joined, parted = jnp.sum(wanted & other), jnp.sum(~wanted)
    right_joined, right_parted = jnp.sum(same & wanted & other), jnp.sum(~same & ~wanted)
    joined_score = jnp.where(joined > 0, right_joined / jnp.maximum(joined, 1), right_parted / jnp.maximum(parted, 1))
    parted_score = jnp.where(parted > 0, right_parted / jnp.maximum(parted, 1), joined_score)
    found, total = jnp.sum(same & other), num_actions * (num_actions - 1)
    expected = found * (joined / max(total, 1))
    spread = 0.5 * (found + joined) - expected
    return {
        "action_accuracy": jnp.mean(jnp.all(same == wanted, axis=1)),
        "pair_accuracy": 0.5 * (joined_score + parted_score),
        "rand_index": jnp.where(spread > 1e-6, (right_joined - expected) / jnp.where(spread > 1e-6, spread, 1.0), 1.0),
    }
