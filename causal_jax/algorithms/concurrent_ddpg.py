"""Concurrent learners in worlds that differ: DDPG for each of L learners, who read each other's rings as far as their worlds are alike.

CCRL (arXiv 2401.18012): find what makes the worlds differ (causal/extraction.py), cluster it (causal/mixtures.py), share data by
similarity (causal/sharing.py), explore differently where similar. Lillicrap et al. 2016 for DDPG. `init` draws the worlds
(`env.draw_worlds`; without it all learners live in the task's), plays `warmup_steps` random steps in each, and estimates who is like whom;
one `step` is `num_steps` steps of every learner, each followed by one update of every learner, then, with refresh="every", a new
estimate from those steps. Nothing is conditional on data. Each element of learner n's minibatch comes from ring m with probability W[n, m]:
individual (W = I), naive (1 / L), oracle (by true group), ccrl, shuffled (ccrl's with the agents permuted) are one code path; so is seed
sampling (Dimakopoulou et al. 2018, `prior`): naive sharing, a fixed random function added to each critic, rewards perturbed for good.
All sizes and rates are ours, the paper's are not known; transitions that were clipped never reach the estimate. A learner alone is a slice
[i:i+1] of the state's leaves: `seat`; `act` is learner 0's policy, `evaluator` plays every learner in its own world.
Reproduce: python -m experiments.ccrl; make train-ccrl
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from causal_jax import exploration, networks, optim, parallel, replay, rollout, spaces
from causal_jax.causal import extraction, hsic, mixtures, noise_models, sharing
from causal_jax.causal.sharing import SIMILARITIES
from causal_jax.envs.base import Worlds
from causal_jax.fields import option, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, Params, UserError

SHARING = ("individual", "naive", "oracle", "ccrl", "shuffled")
EVALUATION_MODES = ("greedy",)
FINAL = 3e-3  # bound of the last layers' first weights, DDPG's


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow; the defaults are for autoregressive."""

    sharing: str = option("ccrl", choices=SHARING)
    """Whose data a learner reads."""
    exploration: str = option("coordinated", choices=exploration.RULES)
    """ou; coordinated: around a mean drawn per learner and episode; commit: drawn once; matched: as much noise, no mean; none."""
    extractor: str = option("anm-mm", choices=extraction.EXTRACTORS)
    """How what differs is found."""
    refresh: str = option("once", choices=("once", "every"))
    """Estimate from the random steps only, or again after every step of the algorithm."""
    prior: bool = False
    """Seed sampling's prior functions and perturbed rewards."""
    num_learners: int = option(20, low=1)
    """L."""
    num_steps: int = option(50, low=1)
    """Environment steps of each learner in one step of the algorithm."""
    warmup_steps: int = option(50, low=1)
    """Random steps of each learner before the first update."""
    batch_size: int = option(32, low=1)
    """Transitions per update and learner."""
    capacity: int = option(10_000, low=1)
    """Transitions that each learner keeps."""
    hidden: tuple[int, ...] = option((32, 32), low=1)
    """Hidden layers of actors and critics."""
    samples: int = option(8, low=2)
    """Transitions of each learner that the estimate is made from."""
    latent: str = option("agent", choices=noise_models.LATENTS)
    """anm-mm: a theta per agent or per sample."""
    latent_dim: int = option(1, low=1)
    """Length of theta."""
    penalty: str = option("cka", choices=noise_models.PENALTIES)
    """anm-mm: how dependence of x and theta is measured."""
    restarts: int = option(8, low=1)
    """anm-mm: random starts."""
    fit_steps: int = option(300, low=1)
    """anm-mm: Adam steps of each start."""
    num_components: int = option(0, low=0)
    """Clusters; 0: as many as BIC says, up to 6."""
    similarity: str = option("dot", choices=SIMILARITIES)
    """Of two learners' cluster probabilities."""
    anneal_steps: int = option(3000, low=1)
    """Steps of each learner over which the spread of the exploration's means falls."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    actor_lr: float = option(1e-3, low=0.0)
    """Adam's step size, policies."""
    critic_lr: float = option(1e-3, low=0.0)
    """Adam's step size, critics."""
    gamma: float = option(0.95, low=0.0, high=1.0)
    """Discount per step."""
    tau: float = option(0.01, low=0.0, high=1.0)
    """Rate at which the target networks follow."""
    reward_scale: float = option(0.1, above=0.0)
    """Factor on rewards in the critic's targets."""
    ou_rate: float = option(0.15, above=0.0, below=2.0)
    """Rate of the Ornstein-Uhlenbeck process back to its mean, per step."""
    ou_std: float = option(0.2, low=0.0)
    """Standard deviation of its increments, in units of half the action's range."""
    sigma: float = option(0.6, low=0.0)
    """Spread of the means at first."""
    sigma_end: float = option(0.05, low=0.0)
    """Spread of the means after anneal_steps."""
    own: float = option(0.0, low=0.0, high=1.0)
    """Least share of its own data."""
    lam: float = option(1.0, low=0.0)
    """Weight of the independence term."""
    prior_scale: float = option(3.0, low=0.0)
    """Seed sampling: factor on the prior function."""
    reward_noise: float = option(0.1, low=0.0)
    """Seed sampling: standard deviation of the rewards' perturbation."""


class Task(NamedTuple):
    """What a run is given: the params that the learners' worlds are drawn around."""

    env_params: Any


class Learner(NamedTuple):
    """One learner's networks; prior: the fixed function and the seed of its rewards' noise (empty without seed sampling)."""

    actor: Params
    critic: Params
    target_actor: Params
    target_critic: Params
    actor_opt: Any
    critic_opt: Any
    prior: Any


class Row(NamedTuple):
    """One transition of a ring; serial: int32, its number among those of all learners."""

    obs: Obs
    action: Action
    reward: jax.Array
    next_obs: Obs
    terminated: jax.Array
    serial: jax.Array


class Sharing(NamedTuple):
    """theta [L, Q]; memberships [L, C]; components []; differ bool []; weights [L, L], row n: whom learner n reads."""

    theta: jax.Array
    memberships: jax.Array
    components: jax.Array
    differ: jax.Array
    weights: jax.Array


class State(NamedTuple):
    """What an update changes; leaves [L, ...], but in `sharing` and t, steps of each learner. ids: int32 [L], which learner is where."""

    learners: Learner
    buffers: replay.Buffer
    cursors: rollout.Cursor
    noise: exploration.Noise
    worlds: Worlds
    sharing: Sharing
    ids: jax.Array
    t: jax.Array


def steps_per_update(config: Config) -> int:
    """Environment steps of one step of the algorithm, those of all learners together (the warm-up, once, not counted)."""
    return config.num_learners * config.num_steps


def batch_sizes(config: Config) -> dict[str, int]:
    """What a mesh's `data` axis splits: the learners. The rings are whole on every device, for all read all."""
    return {"num_learners": config.num_learners}


def seats(config: Config) -> int:
    """Number of learners that an evaluation plays, each in its own world."""
    return config.num_learners


def seat(state: State, i: jax.Array) -> tuple[State, Any]:
    """(the state as `act` reads it, env_params) of learner i []: its networks come first, its world."""
    first = jax.tree.map(lambda x: x[i][None], state.learners)
    return state._replace(learners=first), jax.tree.map(lambda x: x[i], state.worlds.params)


def evidence(env: Any, obs: Obs, action: Action, next_obs: Obs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cause x [D], effect y [E], usable bool []) of a transition: the environment's own, else (obs, action) and the change of obs."""
    if hasattr(env, "evidence"):
        return env.evidence(obs, action, next_obs)
    return jnp.concatenate([obs, action]), next_obs - obs, jnp.ones((), bool)


def choose(key: Key, env: Any, rows: Row, num: int) -> tuple[jax.Array, jax.Array]:
    """`num` usable transitions of one learner's rows [T, ...], without replacement: x [num, D], y [num, E]. key: consumed."""
    x, y, usable = jax.vmap(lambda *row: evidence(env, *row))(rows.obs, rows.action, rows.next_obs)
    usable = usable & ~rows.terminated
    best = jax.lax.top_k(usable + jax.random.uniform(key, usable.shape), num)[1]
    return x[best], y[best]


def share(key: Key, config: Config, hyper: Hyper, worlds: Worlds, x: jax.Array, y: jax.Array) -> Sharing:
    """Who learns from whom, by evidence x [L, S, D], y [L, S, E] of the worlds. key: consumed."""
    num = config.num_learners
    width = config.num_components or 6
    blank = Sharing(
        jnp.zeros((num, config.latent_dim)), jnp.zeros((num, width)), jnp.zeros((), jnp.int32), jnp.zeros((), bool), sharing.identity(num)
    )  # fmt: skip
    if config.sharing in ("individual", "naive", "oracle"):
        weights = {"individual": sharing.identity(num), "naive": sharing.uniform(num)}.get(config.sharing)
        return blank._replace(weights=sharing.blocks(worlds.group) if weights is None else weights)
    spec = noise_models.Spec(config.latent, config.latent_dim, config.penalty, config.restarts, config.fit_steps)
    key_theta, key_mixture, key_order = jax.random.split(key, 3)
    found = extraction.extract(config.extractor, key_theta, x, y, spec, hyper.lam)
    theta = sharing.winsorise(found.theta)
    memberships, components = mixtures.assign(key_mixture, hsic.standardise(theta), config.num_components)
    like = sharing.similarity(memberships, config.similarity)
    if config.sharing == "shuffled":
        like = sharing.shuffled(like, jax.random.permutation(key_order, num))
    weights = jnp.where(found.differ, sharing.weights(like, hyper.own), sharing.uniform(num))
    return Sharing(found.theta, memberships, components, found.differ, weights)


def measure(env: Any, env_params: Any, config: Config) -> Any:
    """(key, state, task) -> {name: []}: how the learners share, and how well what was found agrees with the true groups."""

    def measured(key: Key, state: State, task: Task) -> Metrics:
        w, worlds, found = state.sharing.weights, state.worlds, state.sharing
        same = worlds.group[:, None] == worlds.group
        metrics = {"share_own": jnp.mean(jnp.diagonal(w)), "share_group": jnp.mean(jnp.sum(w * same, axis=1))}
        if config.sharing in ("ccrl", "shuffled"):
            metrics |= {
                "ari": mixtures.adjusted_rand(jnp.argmax(found.memberships, axis=1), worlds.group),
                "rank_correlation": jnp.abs(mixtures.rank_correlation(found.theta[:, 0], worlds.value)),
                "components": found.components.astype(jnp.float32),
                "differ": found.differ.astype(jnp.float32),
            }
        return metrics

    return measured


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """L learners as one member. Raises: UserError for a field out of range, actions not a Box, observations that are no vector."""
    validate(config)
    space = spaces.from_gymnax(env.action_space(env_params))
    shape = tuple(env.observation_space(env_params).shape)
    if not isinstance(space, spaces.Box) or len(shape) != 1:
        raise UserError(f"env = {type(env).__name__}: concurrent learners need Box actions and vector observations")
    for steps in ("warmup_steps", *(("num_steps",) if config.refresh == "every" else ())):
        if getattr(config, steps) < config.samples:
            raise UserError(f"{steps} = {getattr(config, steps)}: must be at least samples = {config.samples}")
    if config.warmup_steps > config.capacity:
        raise UserError(f"warmup_steps = {config.warmup_steps}: must be at most capacity = {config.capacity}")
    num, num_actions = config.num_learners, math.prod(space.shape)
    low, high = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), space.shape) for x in (space.low, space.high))
    middle, half = (low + high) / 2, (high - low) / 2
    final = FINAL * math.sqrt(config.hidden[-1]) if config.hidden else 1.0
    actor_net = networks.mlp(shape[0], config.hidden, num_actions, "relu", "torch", final)
    critic_net = networks.mlp(shape[0] + num_actions, config.hidden, 1, "relu", "torch", final)
    prior_net = networks.mlp(shape[0] + num_actions, config.hidden, 1, "relu", "torch")

    def policy(actor: Params, obs: Obs) -> jax.Array:
        return middle + half * jnp.tanh(actor_net.apply(actor, obs)).reshape(*obs.shape[:-1], *space.shape)

    def value(critic: Params, prior: Any, obs: Obs, action: Action, hyper: Hyper) -> jax.Array:
        unit = ((action - middle) / half).reshape(*obs.shape[:-1], num_actions)
        inputs = jnp.concatenate([obs, unit], axis=-1)
        q = critic_net.apply(critic, inputs)[..., 0]
        return q + hyper.prior_scale * prior_net.apply(prior["net"], inputs)[..., 0] if config.prior else q

    def learn(learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        """One DDPG update of one learner on rows [B, ...]."""
        reward = rows.reward * hyper.reward_scale
        if config.prior:  # the same number for the same learner and row, whenever it is drawn: hashed, not stored
            root = jax.random.key(learner.prior["seed"])
            reward += hyper.reward_noise * jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(root, i)))(rows.serial)
        next_action = policy(learner.target_actor, rows.next_obs)
        bootstrap = value(learner.target_critic, learner.prior, rows.next_obs, next_action, hyper)
        target = reward + hyper.gamma * jnp.where(rows.terminated, 0.0, bootstrap)

        def critic_loss(critic: Params) -> jax.Array:
            return jnp.mean(jnp.square(value(critic, learner.prior, rows.obs, rows.action, hyper) - target))

        error, grads = jax.value_and_grad(critic_loss)(learner.critic)
        updates, critic_opt = optim.adam(hyper.critic_lr).update(grads, learner.critic_opt)
        critic = optax.apply_updates(learner.critic, updates)

        def actor_loss(actor: Params) -> jax.Array:
            return -jnp.mean(value(critic, learner.prior, rows.obs, policy(actor, rows.obs), hyper))

        loss, grads = jax.value_and_grad(actor_loss)(learner.actor)
        updates, actor_opt = optim.adam(hyper.actor_lr).update(grads, learner.actor_opt)
        actor = optax.apply_updates(learner.actor, updates)
        target_actor, target_critic = optim.polyak((learner.target_actor, learner.target_critic), (actor, critic), hyper.tau)
        learner = Learner(actor, critic, target_actor, target_critic, actor_opt, critic_opt, learner.prior)
        return learner, {"critic_loss": error, "actor_loss": loss}

    def sigma_at(t: jax.Array, hyper: Hyper) -> jax.Array:
        return optim.linear(hyper.sigma, hyper.sigma_end, t / config.anneal_steps)

    def play(keys: Key, action: Action, cursor: rollout.Cursor, world: Any, serial: jax.Array) -> tuple[rollout.Cursor, Row, Any]:
        """One step of one learner in its world."""

        def act(key: Key, obs: Obs) -> tuple[Action, dict[str, Any]]:
            return action, {}

        cursor, rows, episodes = rollout.unroll(keys, env, world, act, cursor, 1)
        rows, episodes = jax.tree.map(lambda x: x[0], (rows, episodes))
        return cursor, Row(rows.obs, rows.action, rows.reward, rows.next_obs, rows.terminated, serial), episodes

    def each(key: Key, ids: jax.Array) -> Key:
        """Keys [L]: a learner's own does not depend on who is beside it."""
        return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_worlds, key_nets, key_start, key_warm, key_fit = jax.random.split(key, 5)
        ids = jnp.arange(num, dtype=jnp.int32)
        if hasattr(env, "draw_worlds"):
            worlds = env.draw_worlds(key_worlds, task.env_params, num)
        else:
            many = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *jnp.shape(x))), task.env_params)
            worlds = Worlds(many, jnp.zeros(num, jnp.int32), jnp.arange(num, dtype=jnp.float32))

        def new(key: Key) -> Learner:
            keys = jax.random.split(key, 4)
            actor, critic = actor_net.init(keys[0]), critic_net.init(keys[1])
            opt = optim.adam(0.0).init
            prior = {"net": prior_net.init(keys[2]), "seed": jax.random.bits(keys[3], (), jnp.uint32)} if config.prior else {}
            return Learner(actor, critic, actor, critic, opt(actor), opt(critic), prior)

        learners = jax.vmap(new)(each(key_nets, ids))
        key_cursor, key_noise = jax.random.split(key_start)
        cursors = jax.vmap(rollout.start, (0, None, 0))(each(key_cursor, ids), env, worlds.params)
        noise = jax.vmap(lambda key: exploration.start(key, config.exploration, num_actions, hyper.sigma))(each(key_noise, ids))

        def body(cursors: rollout.Cursor, inputs: Any) -> tuple[rollout.Cursor, Row]:
            t, keys = inputs
            actions = jax.vmap(space.sample)(each(keys[0], ids))
            cursors, rows, _ = jax.vmap(play)(each(keys[1], ids), actions, cursors, worlds.params, t * num + ids)
            return cursors, rows

        steps = jnp.arange(config.warmup_steps, dtype=jnp.int32)
        cursors, rows = jax.lax.scan(body, cursors, (steps, jax.random.split(key_warm, (config.warmup_steps, 2))))
        rows = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows)  # [L, T, ...]
        example = jax.tree.map(lambda x: x[0, 0], rows)
        buffers = jax.vmap(lambda rows: replay.add(replay.init(example, config.capacity), rows))(rows)
        found = estimate(key_fit, rows, hyper, worlds, ids)
        return State(learners, buffers, cursors, noise, worlds, found, ids, jnp.asarray(config.warmup_steps, jnp.int32))

    def estimate(key: Key, rows: Row, hyper: Hyper, worlds: Worlds, ids: jax.Array) -> Sharing:
        """Who learns from whom, from rows [L, T, ...]."""
        key_rows, key_share = jax.random.split(key)
        x, y = jax.vmap(lambda key, rows: choose(key, env, rows, config.samples))(each(key_rows, ids), rows)
        return share(key_share, config, hyper, worlds, x, y)

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        key_steps, key_fit = jax.random.split(key)
        weights, worlds, ids = state.sharing.weights, state.worlds.params, state.ids

        def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
            learners, buffers, cursors, noise = carry
            t, keys = inputs
            sigma = sigma_at(t, hyper)
            actions = jax.vmap(policy)(learners.actor, cursors.obs) + half * noise.u.reshape(len(ids), *space.shape)
            cursors, rows, episodes = jax.vmap(play)(each(keys[0], ids), jnp.clip(actions, low, high), cursors, worlds, t * num + ids)
            new = parallel.gather(jax.tree.map(lambda x: x[:, None], rows))
            buffers = jax.vmap(replay.add)(buffers, new)
            rule, ou = config.exploration, (sigma, hyper.ou_rate, hyper.ou_std)
            moved = jax.vmap(lambda key, one: exploration.advance(key, rule, one, *ou))(each(keys[1], ids), noise)
            fresh = jax.vmap(lambda key, one: exploration.begin(key, rule, one, sigma))(each(keys[2], ids), noise)
            noise = jax.tree.map(lambda a, b: jnp.where(episodes["done"][:, None], a, b), fresh, moved)
            batches = jax.vmap(lambda key, row: replay.across(buffers, key, row, config.batch_size))(each(keys[3], ids), weights)
            learners, metrics = jax.vmap(learn, (0, 0, None))(learners, parallel.split(batches), hyper)
            return (learners, buffers, cursors, noise), (metrics, episodes, rows)

        times = state.t + jnp.arange(config.num_steps, dtype=jnp.int32)
        start = (parallel.split(state.learners), state.buffers, state.cursors, state.noise)
        (learners, buffers, cursors, noise), (metrics, episodes, rows) = jax.lax.scan(
            body, start, (times, jax.random.split(key_steps, (config.num_steps, 4)))
        )
        found = state.sharing
        if config.refresh == "every" and config.sharing in ("ccrl", "shuffled"):
            rows = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), rows)
            found = estimate(key_fit, rows, hyper, state.worlds, ids)
        metrics = {**jax.tree.map(jnp.mean, metrics), **rollout.episode_metrics(episodes), "sigma": sigma_at(times[-1], hyper)}
        return State(learners, buffers, cursors, noise, state.worlds, found, ids, times[-1] + 1), metrics

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        """Learner 0's action for obs [D]; not greedy: with the stationary noise of a default Ornstein-Uhlenbeck process."""
        action = policy(jax.tree.map(lambda x: x[0], state.learners.actor), jnp.asarray(obs))
        if greedy:
            return action
        spread = Hyper.ou_std / math.sqrt(Hyper.ou_rate * (2 - Hyper.ou_rate))
        return jnp.clip(action + half * spread * jax.random.normal(key, space.shape), low, high)

    return Algorithm(init, step, act)
