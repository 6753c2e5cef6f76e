"""What a policy is worth, from trajectories of another one: importance sampling, fitted Q evaluation, doubly robust; choosing by them.

A trajectory is T decisions, padded: `mask` bool [T] is True where a decision was scored. The scores of Tang et al. (2022, the protocol that
AD-RL follows) are `softened`, `prefix_weights`, `wis`, `ess`: the evaluated policy follows its greedy action except with probability eps,
when it follows an estimate of the behaviour; the CUMULATIVE ratio is clipped, not the steps'. All of them take actions as JOINT indices and
probabilities by joint index, so that a factored argmax cannot be mistaken for one: their program's `offline_evaluation_F` did that, and
scored 3 to 4 points too high.

Also per-decision weighted importance sampling (Precup et al. 2000), doubly robust (Jiang and Li 2016), fitted Q evaluation (Le et al.
2019), bootstrap intervals over trajectories, the Pareto front of (WIS, ESS) with the selection rule, and bounds under hidden confounding:
if an unseen variable changes every step's ratio by at most a factor `odds`, where can the truth be (in the manner of Zhao et al. 2019)?
All but `fqe` are for one data set [N, T]; `softened`, `ratios`, `prefix_weights` and `doubly_robust` for one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from causal_jax import optim
from causal_jax.types import Key, Network, Params, UserError

MAX_WEIGHT = 1e3


def softened(greedy: jax.Array, action: jax.Array, estimated: jax.Array, eps: float | jax.Array = 0.01) -> jax.Array:
    """pi(a_t | s_t) of the softened greedy policy, [T]: eps estm_pi_b(a_t | s_t) + (1 - eps) [a_t = greedy_t].

    Args: greedy, action: int [T], joint indices. estimated: [T, A], estimated behaviour. Source: Tang et al. 2022.
    """
    of_action = jnp.take_along_axis(estimated, action[..., None], -1)[..., 0]
    return eps * of_action + (1.0 - eps) * (greedy == action)


def ratios(policy: jax.Array, behaviour: jax.Array, mask: jax.Array) -> jax.Array:
    """rho_t = pi(a_t | s_t) / pi_b(a_t | s_t), [T]; 1 where nothing was decided. All [T], probabilities of the action taken, pi_b > 0."""
    return jnp.where(mask, policy / jnp.where(mask, behaviour, 1.0), 1.0)


def prefix_weights(ratio: jax.Array, max_weight: float = MAX_WEIGHT) -> jax.Array:
    """clip(rho_1 ... rho_t, 0, max_weight) for every t, [T]; the last is the trajectory's weight. A ratio of 0 makes all later ones 0."""
    return jnp.minimum(jnp.exp(jnp.cumsum(jnp.log(ratio), axis=-1)), max_weight)


def returns(reward: jax.Array, mask: jax.Array, gamma: float = 1.0) -> jax.Array:
    """sum_t gamma^t r_t over scored decisions, [...] of [..., T]."""
    return jnp.sum(jnp.where(mask, reward, 0.0) * gamma ** jnp.arange(reward.shape[-1]), axis=-1)


def wis(weight: jax.Array, value: jax.Array) -> jax.Array:
    """Weighted importance sampling, []: sum_i w_i G_i / sum_i w_i of weights and returns [N]. Not all weights may be 0."""
    return jnp.sum(weight * value) / jnp.sum(weight)


def ess(weight: jax.Array) -> jax.Array:
    """Effective sample size, [] in [1, N]: (sum w)^2 / sum w^2 of weights [N]."""
    weight = weight / jnp.max(weight)
    return jnp.sum(weight) ** 2 / jnp.sum(weight**2)


class Scores(NamedTuple):
    """WIS, ESS [] and the weights [N] that they come from."""

    wis: jax.Array
    ess: jax.Array
    weight: jax.Array


def wis_ess(
    action: jax.Array, greedy: jax.Array, behaviour: jax.Array, estimated: jax.Array, reward: jax.Array, mask: jax.Array,
    eps: float = 0.01, max_weight: float = MAX_WEIGHT, gamma: float = 1.0,
) -> Scores:  # fmt: skip
    """WIS and ESS of a greedy policy on N trajectories, exactly as Tang et al. 2022 score their checkpoints.

    Args: action, greedy: int [N, T], JOINT indices, logged and of the evaluated policy. behaviour, estimated: [N, T, A], pi_b (the
      denominator) and the estimate that softens. reward: [N, T]. mask: bool [N, T], scored decisions. gamma: 1 in the protocol.
    Many checkpoints: vmap over greedy.
    """
    of_action = jnp.take_along_axis(behaviour, action[..., None], -1)[..., 0]
    weight = prefix_weights(ratios(softened(greedy, action, estimated, eps), of_action, mask), max_weight)[:, -1]
    return Scores(wis(weight, returns(reward, mask, gamma)), ess(weight), weight)


def per_decision_wis(ratio: jax.Array, reward: jax.Array, mask: jax.Array, gamma: float = 1.0, max_weight: float = MAX_WEIGHT) -> jax.Array:
    """Per-decision WIS, []: sum_t gamma^t sum_i w_it r_it / sum_i w_it; a trajectory that is over keeps its weight. All [N, T]."""
    weight = prefix_weights(ratio, max_weight)
    mean = jnp.sum(weight * jnp.where(mask, reward, 0.0), axis=0) / jnp.sum(weight, axis=0)
    return jnp.sum(mean * gamma ** jnp.arange(reward.shape[-1]))


def doubly_robust(
    ratio: jax.Array, q_action: jax.Array, value: jax.Array, reward: jax.Array, mask: jax.Array, gamma: float = 1.0
) -> jax.Array:
    """The doubly robust estimate of one trajectory's value, []: V_DR = V(s) + rho (r + gamma V_DR' - Q(s, a)). The mean over N estimates J.

    Args, all [T]: ratio; q_action, value: a model's Q(s_t, a_t) and V(s_t) = sum_a pi Q; reward; mask. Unbiased if either the ratios or
      the model are right. Source: Jiang and Li 2016, eq. 10.
    """

    def back(later: jax.Array, x: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        ratio, q, v, reward, scored = x
        return jnp.where(scored, v + ratio * (reward + gamma * later - q), 0.0), None

    return jax.lax.scan(back, jnp.zeros(()), (ratio, q_action, value, reward, mask), reverse=True)[0]


class Steps(NamedTuple):
    """Logged transitions for `fqe`: obs, next_obs [N, D], action int [N] (joint), reward [N], terminated bool [N], and the evaluated
    policy's probabilities at next_obs, next_policy [N, A]."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    next_obs: jax.Array
    terminated: jax.Array
    next_policy: jax.Array


def fqe(
    key: Key, network: Network, steps: Steps, gamma: float, lr: float | jax.Array = 1e-3, num_updates: int = 2000, batch_size: int = 256,
    target_rate: float = 0.01,
) -> Params:  # fmt: skip
    """Fitted Q evaluation: parameters with which network.apply(params, obs) [A] is about Q of the policy in `steps.next_policy`.

    Minibatch Adam on (r + gamma (1 - terminated) sum_a pi(a | s') Q_target(s', a) - Q(s, a))^2 with a Polyak target. The key is consumed.
    On one-hot states with a linear network it is tabular FQE. Source: Le, Voloshin and Yue 2019.
    """
    key_init, key_batch = jax.random.split(key)
    params, adam = network.init(key_init), optim.adam(lr)

    def loss(params: Params, target: Params, rows: Steps) -> jax.Array:
        q = jnp.take_along_axis(network.apply(params, rows.obs), rows.action[:, None], -1)[:, 0]
        later = jnp.sum(rows.next_policy * network.apply(target, rows.next_obs), -1)
        return jnp.mean((rows.reward + gamma * jnp.where(rows.terminated, 0.0, later) - q) ** 2)

    def update(carry: Any, key: Key) -> tuple[Any, None]:
        params, target, state = carry
        rows = jax.tree.map(lambda x: x[jax.random.randint(key, (batch_size,), 0, len(steps.action))], steps)
        gradient = jax.grad(loss)(params, jax.lax.stop_gradient(target), rows)
        change, state = adam.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        return (params, optim.polyak(target, params, target_rate), state), None

    start = (params, params, adam.init(params))
    return jax.lax.scan(update, start, jax.random.split(key_batch, num_updates))[0][1]


def bootstrap(key: Key, estimate: Callable[..., jax.Array], *data: jax.Array, num: int = 100) -> jax.Array:
    """`num` estimates [num] on trajectories drawn with replacement: estimate(*[x[rows] for x in data]), data [N, ...].

    Their standard deviation is the spread that is published, their quantiles an interval. The key is consumed.
    """

    def one(key: Key) -> jax.Array:
        rows = jax.random.randint(key, (len(data[0]),), 0, len(data[0]))
        return estimate(*(x[rows] for x in data))

    return jax.lax.map(one, jax.random.split(key, num))


def pareto_front(score: jax.Array, size: jax.Array) -> jax.Array:
    """bool [C]: no other checkpoint is at least as good in both WIS and ESS and better in one. Both [C]."""
    at_least = (score[None, :] >= score[:, None]) & (size[None, :] >= size[:, None])
    better = (score[None, :] > score[:, None]) | (size[None, :] > size[:, None])
    return ~jnp.any(at_least & better, axis=1)


def select(score: Any, size: Any, min_size: float = 200.0) -> int:
    """The checkpoint with the highest validation WIS among those of ESS >= min_size (Tang et al. 2022). Both [C].

    Raises: UserError where none has so many: a WIS of few effective trajectories is not to be reported.
    """
    score, size = jnp.asarray(score), jnp.asarray(size)
    if not bool(jnp.any(size >= min_size)):
        raise UserError(f"min_size = {min_size}: the largest ESS is {float(jnp.max(size)):.1f}, must be at most that")
    return int(jnp.argmax(jnp.where(size >= min_size, score, -jnp.inf)))


def confounding_bounds(weight: jax.Array, value: jax.Array, length: jax.Array, odds: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """(lowest, highest) WIS, both [], if every step's ratio may be wrong by a factor in [1 / odds, odds], odds >= 1.

    A trajectory's weight is then within odds^length of what it seems. The extreme of a weighted mean gives all large returns the largest
    weights, or the smallest, from some return on: all N + 1 thresholds are tried. weight, value, length: [N]. odds = 1 is WIS.
    """
    order = jnp.argsort(value)
    weight, value, factor = weight[order], value[order], jnp.asarray(odds, jnp.float32) ** length[order]

    def extreme(small: jax.Array, large: jax.Array) -> jax.Array:
        """Means with the first j returns weighing `small`, the others `large`, for j = 0 .. N."""

        def total(v: jax.Array | float) -> jax.Array:
            first = jnp.concatenate([jnp.zeros(1), jnp.cumsum(small * v)])
            rest = jnp.concatenate([jnp.cumsum((large * v)[::-1])[::-1], jnp.zeros(1)])
            return first + rest

        return total(value) / total(1.0)

    low, high = weight / factor, weight * factor
    return jnp.min(extreme(high, low)), jnp.max(extreme(low, high))
