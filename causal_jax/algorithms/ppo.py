"""PPO (Schulman et al. 2017) with a pluggable mask of allowed actions: PPO, NPM, NPM-Random, CEE and CEE-WOC are one algorithm.

The mask comes from the N-matrix of the current state (causal/effects.py; CEE: arXiv 2501.14543, NPM: arXiv 2312.06258), learned
in phase 1 (`n_values="learned"`, algorithms/effect_model.py), or with the policy, in one phase (`n_values="online"`), or exact where the
environment can be enumerated (`n_values="oracle"`).
mode="definition": the policy is softmax(logits + log mask) everywhere: sampling, loss and evaluation; a state whose actions are all
masked is left unmasked and counted. mode="authors": as the CEE code runs: the transposed similarity, one drawn survivor per group,
the mask in sampling only, log-probability 0 where everything is masked, and a time limit treated as a terminal.
What the paper leaves open, ours (python -m experiments.cee_questions). n_values="online": the mask is not looked at with probability w,
so that the policy is w softmax(logits) + (1 - w) softmax(logits + log mask), everywhere; w falls from 1, plain PPO, to `leak` as the model
learns. Every action stays possible, so the model goes on learning what masked actions do; it learns from all that PPO collects, corrected
for who acted (causal/online_effects.py), and no gradient passes between the two. tau_rule: tau rises to its value ("ramp"), or becomes the
largest that leaves an action in all but a share masked_budget of the states ("learned": tau += tau_rate (masked_budget - share of states
all masked), stochastic approximation).
Defaults are a vectorised PPO; `sb3()` gives stable-baselines3's defaults. Departure from stable-baselines3: its rewards are
completed with gamma V(final) at a time limit, here GAE bootstraps from the final observation, which is the same number.
Reproduce: python -m experiments.cee
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from causal_jax import distributions, losses, networks, normalize, optim, parallel, replay, rollout, spaces
from causal_jax.causal import effect_space, inverse, online_effects
from causal_jax.causal import effects as causal
from causal_jax.fields import option, validate
from causal_jax.returns import gae
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, Params, Transition, UserError

SELECTIONS = (*causal.SELECTIONS, "unique")


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow."""

    num_envs: int = option(16, low=1)
    """Environments stepped in parallel by one member."""
    num_steps: int = option(128, low=1)
    """Steps of each environment between two updates."""
    num_epochs: int = option(4, low=1)
    """Passes over the collected batch in one update."""
    num_minibatches: int = option(8, low=1)
    """Minibatches of a pass; must divide num_envs * num_steps."""
    hidden: tuple[int, ...] = option((64, 64), low=1)
    """Widths of the hidden layers of actor and critic."""
    activation: str = option("tanh", choices=("tanh", "relu", "gelu", "silu"))
    """Activation of the hidden layers."""
    normalize_obs: bool = False
    """Standardise observations by running statistics."""
    normalize_advantage: bool = True
    """Standardise advantages in every minibatch."""
    selection: str = option("all", choices=SELECTIONS)
    """Which actions the mask keeps: all (plain PPO), cee, npm, npm-random, cee-woc, or unique (no other action has the same successor)."""
    n_values: str = option("learned", choices=("learned", "oracle", "online"))
    """Where the N-matrix comes from: a model fitted in phase 1, exact enumeration of the successors, or a model fitted with the policy."""
    tau_rule: str = option("fixed", choices=("fixed", "ramp", "learned"))
    """cee: tau as it is, rising to it from 0, or learned from it."""
    effect_updates: int = option(64, low=1)
    """online: updates of inverse model and N-network in one update."""
    effect_batch: int = option(128, low=1)
    """online: transitions per update of them."""
    effect_warmup: int = option(128, low=1)
    """online: random steps of each environment before the first update; they set the units of the inputs."""
    effect_capacity: int = option(32_768, low=1)
    """online: transitions kept for them."""
    effect_hidden: tuple[int, ...] = option((128, 128), low=1)
    """online: widths of their hidden layers."""
    effect_frequencies: int = option(0, low=0)
    """online: sines and cosines per coordinate; 6 for positions, 0 for flags."""
    mode: str = option("definition", choices=("definition", "authors"))
    """The paper's definition, or the authors' code bug for bug."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    lr: float = option(3e-4, low=0.0)
    """Adam's step size."""
    gamma: float = option(0.99, low=0.0, high=1.0)
    """Discount per step."""
    gae_lambda: float = option(0.95, low=0.0, high=1.0)
    """Decay of generalised advantage estimation."""
    clip: float = option(0.2, above=0.0)
    """Half-width of the trust region of the probability ratio."""
    ent_coef: float = option(0.0, low=0.0)
    """Weight of the entropy bonus."""
    vf_coef: float = option(0.5, low=0.0)
    """Weight of the value loss."""
    max_grad_norm: float = option(0.5, above=0.0)
    """Global norm to which gradients are clipped."""
    epsilon: float = option(0.5, above=0.0)
    """Actions whose effects differ by less (nats) form a group."""
    tau: float = option(0.8, low=0.0, high=1.0)
    """Share of its group's causal effect from which an action is kept."""
    temperature: float = option(1.0, above=0.0)
    """Temperature of the softmax that turns causal effects into shares."""
    woc_threshold: float = option(0.03, low=0.0, high=1.0)
    """CEE-WOC: share over all actions above which an action is kept."""
    tau_rate: float = option(0.05, low=0.0, high=1.0)
    """What tau rises by in an update (ramp), or how fast it learns (learned)."""
    masked_budget: float = option(0.05, low=0.0, high=1.0)
    """tau_rule learned: share of states that may lose all of their actions."""
    effect_lr: float = option(3e-3, low=0.0)
    """online: Adam's step size for inverse model and N-network."""
    effect_floor: float = option(1e-2, above=0.0)
    """online: added to probabilities inside logarithms, see phase 1."""
    leak: float = option(0.05, low=0.0, high=1.0)
    """online: probability with which the mask is not looked at, in the end."""
    mask_rate: float = option(0.05, low=0.0, high=1.0)
    """online: what that probability, 1 at first, falls by in an update."""


def sb3() -> tuple[Config, Hyper]:
    """stable-baselines3's PPO defaults: one environment, 2048 steps, 10 epochs of minibatches of 64."""
    return Config(num_envs=1, num_steps=2048, num_epochs=10, num_minibatches=32), Hyper()


class Task(NamedTuple):
    """What a run is given: the environment's params, and the effect model of phase 1 (None where no mask is learned)."""

    env_params: Any
    effects: Any = None


class Policy(NamedTuple):
    """All that acting needs, and what an exported policy holds; hyper.tau is the present tau.

    `unmasked` []: probability with which the mask is not looked at, None where it always is.
    """

    network: Params
    obs_stats: Any
    hyper: Hyper
    task: Task
    unmasked: jax.Array | None = None


class State(NamedTuple):
    """What an update changes; `cursor` has a leading axis of environments [N]; `effects` only where N is learned online."""

    policy: Policy
    opt_state: Any
    cursor: rollout.Cursor
    effects: online_effects.State | None = None


class Batch(NamedTuple):
    """One rollout, flat: every leaf [B, ...]."""

    transition: Transition
    advantage: jax.Array
    target: jax.Array


def needs_effects(config: Config) -> bool:
    """Whether the mask reads an effect model that phase 1 must fit."""
    return config.selection not in ("all", "unique") and config.n_values == "learned"


def evaluations(config: Config) -> dict[str, Config]:
    """The policies to evaluate: as trained and, where a mask is used, also without it."""
    return {"": config} if config.selection == "all" else {"": config, "-unmasked": dataclasses.replace(config, selection="all")}


def steps_per_update(config: Config) -> int:
    """Environment steps that one update takes."""
    return config.num_envs * config.num_steps


def batch_sizes(config: Config) -> dict[str, int]:
    """What a mesh axis `data` splits."""
    minibatch = steps_per_update(config) // config.num_minibatches
    return {"num_envs": config.num_envs, "num_envs * num_steps / num_minibatches": minibatch}


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """PPO for one member. env_params only tell shapes here; the task's are used.

    Raises: UserError for a field out of range, sizes that do not divide, a mask on an action space that is not Discrete,
      or an oracle on an environment without `successors`.
    """
    validate(config)
    space = spaces.from_gymnax(env.action_space(env_params))
    batch_size = steps_per_update(config)
    if batch_size % config.num_minibatches:
        raise UserError(f"num_minibatches = {config.num_minibatches}: must divide num_envs * num_steps = {batch_size}")
    masked = config.selection != "all"
    if masked and not isinstance(space, spaces.Discrete):
        raise UserError(f"selection = {config.selection!r}: needs a Discrete action space, this one is {type(space).__name__}")
    online = masked and config.selection != "unique" and config.n_values == "online"
    enumerated = masked and not needs_effects(config) and not online
    if enumerated and not hasattr(env, "successors"):
        raise UserError(f"n_values = {config.n_values!r}, selection = {config.selection!r}: needs an environment with `successors`")
    authors = config.mode == "authors"
    if online and authors:
        raise UserError("n_values = 'online': must be learned or oracle in mode 'authors'")
    if config.tau_rule != "fixed" and config.selection != "cee":
        raise UserError(f"tau_rule = {config.tau_rule!r}: needs selection 'cee', this one is {config.selection!r}")
    if online:
        effect = online_effects.build(
            env, env_params, num_envs=config.num_envs, num_rows=batch_size, warmup_steps=config.effect_warmup,
            capacity=config.effect_capacity, num_updates=config.effect_updates, batch_size=config.effect_batch,
            hidden=config.effect_hidden, num_frequencies=config.effect_frequencies,
        )  # fmt: skip
    drawn = config.selection == "npm-random" or (authors and config.selection == "cee")
    head = distributions.policy_head(space)
    actor_critic = networks.actor_critic(
        env.observation_space(env_params).shape, config.hidden, head.num_outputs, head.num_log_std, activation=config.activation
    )

    def normalized(policy: Policy, obs: Obs) -> Obs:
        return normalize.apply(policy.obs_stats, obs) if config.normalize_obs else obs

    def kept_actions(key: Key, policy: Policy, obs: Obs) -> jax.Array:
        """The actions that the selection keeps, bool [A]; possibly none."""
        hyper, task = policy.hyper, policy.task
        numbers = {name: getattr(hyper, name) for name in ("epsilon", "tau", "temperature", "woc_threshold")}
        if enumerated:
            successors = env.successors(obs, task.env_params)  # type: ignore[attr-defined]
            if config.selection == "unique":
                return causal.unique(successors[0])
            return causal.select(config.selection, key, causal.oracle_n_matrix(*successors), mode=config.mode, **numbers)
        z = None if authors else inverse.points(task.effects, obs)
        if z is not None:
            return effect_space.select(config.selection, key, z, task.effects.policy, **numbers)
        return causal.select(config.selection, key, inverse.n_matrix(task.effects, obs), mode=config.mode, **numbers)

    def mask(key: Key, policy: Policy, obs: Obs) -> tuple[jax.Array | None, jax.Array]:
        """(allowed [A] or None where nothing is ever masked, whether everything was masked and the mask was dropped)."""
        if not masked:
            return None, jnp.zeros((), bool)
        return causal.fallback(kept_actions(key, policy, obs))

    def distribution(policy: Policy, obs: Obs, allowed: jax.Array | None, uniform: jax.Array | bool = False) -> Any:
        logits, log_std = actor_critic.apply(policy.network, normalized(policy, obs))[:2]
        return build_head(policy, jnp.where(uniform, 0.0, logits), log_std, allowed)

    def build_head(policy: Policy, logits: jax.Array, log_std: jax.Array, allowed: jax.Array | None) -> Any:
        pi = head.build(logits, log_std, allowed)
        if policy.unmasked is None or allowed is None:
            return pi
        w = policy.unmasked
        mixed = jnp.logaddexp(jnp.log1p(-w) + pi.logits, jnp.log(w) + head.build(logits, log_std).logits)
        return head.build(mixed, log_std)

    def sample(key: Key, policy: Policy, obs: Obs) -> tuple[Action, dict[str, Any]]:
        key_mask, key_action = jax.random.split(key) if drawn else (key, key)  # a mask that is not drawn leaves its key alone
        allowed, all_masked = mask(key_mask, policy, obs)
        # authors: every logit is -1e10 where all are masked: a uniform draw whose log-probability float32 rounds to 0
        pi = distribution(policy, obs, allowed, uniform=authors & all_masked)
        action, log_prob = pi.sample_and_log_prob(seed=key_action)
        if authors:
            log_prob = jnp.where(all_masked, 0.0, log_prob)
        extra = {"log_prob": log_prob, "all_masked": all_masked}
        if online:
            extra["log_policy"] = pi.logits
        return action, extra if allowed is None else {**extra, "allowed": allowed}

    def env_act(key: Key, policy: Policy, obs: Obs) -> tuple[Action, dict[str, Any]]:
        action, extra = sample(key, policy, obs)
        return distributions.clip_action(space, action), {**extra, "action": action}

    def value(policy: Policy, obs: Obs) -> jax.Array:
        return actor_critic.apply(policy.network, normalized(policy, obs))[2]

    def loss(network: Params, policy: Policy, batch: Batch, hyper: Hyper) -> tuple[jax.Array, Metrics]:
        policy = policy._replace(network=network)
        advantage = batch.advantage
        if config.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)

        def one(row: Transition, advantage: jax.Array, target: jax.Array) -> Metrics:
            logits, log_std, v = actor_critic.apply(network, normalized(policy, row.obs))
            pi = build_head(policy, logits, log_std, None if authors else row.extra.get("allowed"))
            log_prob, old = pi.log_prob(row.extra["action"]), row.extra["log_prob"]
            log_ratio = log_prob - old
            return {
                "policy_loss": losses.ppo_clip(log_prob, old, advantage, hyper.clip),
                "value_loss": losses.value_loss(v, target),
                "entropy": pi.entropy(),
                "approx_kl": jnp.expm1(log_ratio) - log_ratio,
                "clip_fraction": (jnp.abs(jnp.expm1(log_ratio)) > hyper.clip).astype(jnp.float32),
            }

        metrics = jax.tree.map(jnp.mean, jax.vmap(one)(batch.transition, advantage, batch.target))
        total = metrics["policy_loss"] + hyper.vf_coef * metrics["value_loss"] - hyper.ent_coef * metrics["entropy"]
        return total, metrics

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_network, key_env, *key_effects = jax.random.split(key, 3 if online else 2)
        cursor = jax.vmap(rollout.start, (0, None, None))(jax.random.split(key_env, config.num_envs), env, task.env_params)
        network = actor_critic.init(key_network)
        stats = normalize.init(jax.tree.map(lambda x: x[0], cursor.obs)) if config.normalize_obs else None
        optimizer = optim.adam(hyper.lr, hyper.max_grad_norm, eps=1e-5)
        if config.tau_rule == "ramp":
            hyper = with_tau(hyper, jnp.zeros_like(hyper.tau))
        policy = Policy(network, stats, hyper, task)
        if not online:
            return State(policy, optimizer.init(network), cursor)
        cursor, model, effects = effect.start(*key_effects, cursor, task.env_params, hyper.effect_floor)
        policy = policy._replace(task=task._replace(effects=model), unmasked=jnp.ones(()))
        return State(policy, optimizer.init(network), cursor, effects)

    def with_tau(hyper: Hyper, tau: Any) -> Hyper:
        return dataclasses.replace(hyper, tau=tau)

    def next_tau(hyper: Hyper, tau: Any, all_masked: jax.Array) -> Hyper:
        """The hyperparameters to act by after an update, in which a share `all_masked` of the states lost all of their actions."""
        if config.tau_rule == "ramp":
            return with_tau(hyper, jnp.minimum(tau + hyper.tau_rate, hyper.tau))
        return with_tau(hyper, jnp.clip(tau + hyper.tau_rate * (hyper.masked_budget - all_masked), 0.0, 1.0))

    def collect(key: Key, policy: Policy, cursor: rollout.Cursor, hyper: Hyper, task: Task) -> tuple[rollout.Cursor, Batch, Metrics]:
        def one(key: Key, cursor: rollout.Cursor) -> tuple[Any, ...]:
            return rollout.unroll(key, env, task.env_params, lambda k, obs: env_act(k, policy, obs), cursor, config.num_steps)

        cursor, transition, episodes = jax.vmap(one)(jax.random.split(key, config.num_envs), cursor)  # leaves [N, T, ...]
        values = jax.vmap(jax.vmap(lambda obs: value(policy, obs)))
        v, next_v = values(transition.obs), values(transition.next_obs)
        done = transition.terminated | transition.truncated
        terminated = done if authors else transition.terminated
        advantage = jax.vmap(gae, (0, 0, 0, 0, 0, None, None))(
            transition.reward, v, next_v, terminated, done, hyper.gamma, hyper.gae_lambda
        )
        metrics = {**rollout.episode_metrics(episodes), "value": v.mean()}
        if masked:
            metrics["num_allowed"] = transition.extra["allowed"].sum(-1).mean()
            metrics["all_masked"] = transition.extra["all_masked"].mean()
        return cursor, Batch(transition, advantage, advantage + v), metrics

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        key_collect, key_learn, *key_effects = jax.random.split(key, 3 if online else 2)
        tau = state.policy.hyper.tau if config.tau_rule != "fixed" else hyper.tau
        task_now = task._replace(effects=state.policy.task.effects) if online else task
        policy = state.policy._replace(hyper=with_tau(hyper, tau), task=task_now)
        cursor, batch, metrics = collect(key_collect, policy, state.cursor, hyper, task)
        batch = parallel.gather(jax.tree.map(lambda x: x.reshape(batch_size, *x.shape[2:]), batch))
        optimizer = optim.adam(hyper.lr, hyper.max_grad_norm, eps=1e-5)

        def minibatch(carry: tuple[Params, Any], rows: jax.Array) -> tuple[tuple[Params, Any], Metrics]:
            network, opt_state = carry
            picked = parallel.split(jax.tree.map(lambda x: x[rows], batch))
            grads, metrics = jax.grad(loss, has_aux=True)(network, policy, picked, hyper)
            updates, opt_state = optimizer.update(grads, opt_state, network)
            return (optax.apply_updates(network, updates), opt_state), metrics

        def epoch(carry: tuple[Params, Any], key: Key) -> tuple[tuple[Params, Any], Metrics]:
            rows = replay.permutation(key, batch_size).reshape(config.num_minibatches, -1)
            return jax.lax.scan(minibatch, carry, rows)

        keys = jax.random.split(key_learn, config.num_epochs)
        (network, opt_state), learning = jax.lax.scan(epoch, (policy.network, state.opt_state), keys)
        if config.normalize_obs:
            policy = policy._replace(obs_stats=normalize.update(policy.obs_stats, batch.transition.obs))
        metrics.update(jax.tree.map(jnp.mean, learning))
        policy, effects = policy._replace(network=network), state.effects
        if config.tau_rule != "fixed":
            metrics["tau"] = jnp.asarray(tau)
            policy = policy._replace(hyper=next_tau(hyper, tau, metrics["all_masked"]))
        if policy.unmasked is not None:  # online
            effects, model, fitted = effect.fit(
                *key_effects, effects, task_now.effects, batch.transition, hyper.effect_lr, hyper.effect_floor
            )
            metrics.update(fitted, unmasked=policy.unmasked)
            unmasked = jnp.maximum(policy.unmasked - hyper.mask_rate, hyper.leak)
            policy = policy._replace(task=task._replace(effects=model), unmasked=unmasked)
        return State(policy, opt_state, cursor, effects), metrics

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        if not greedy:
            return env_act(key, state.policy, obs)[0]
        allowed, _ = mask(key, state.policy, obs)
        return distributions.clip_action(space, distribution(state.policy, obs, allowed).mode())

    return Algorithm(init, step, act)
