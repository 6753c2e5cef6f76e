"""The learner that AD-DQN and AD-BCQ share: one factored Q-network, a mixer, models of single blocks, and one update on a batch.

A trunk gives the projected values Q_k(s, a_k) of all blocks, padded to [K, max |A_k|]; a mixer F makes Q(s, a) of them (AD-RL,
arXiv 2504.21326). Two losses, both 1-step and Huber:
  L_Q  F(Q(s, a)) against r + gamma F-(Q-(s', a*)), a* the greedy allowed joint action at s' (of the online nets: double Q);
  L_k  Q_k(s, a_k) against r_k + gamma max Q_k-(s'_k, .), in the projected MDP where only block k acts: s'_k, r_k come from learned models
       asked for do(a_k), no-op elsewhere (aug "noop"), or from the real row (aug "none": the other blocks marginalised).
No pseudo-code of the paper was at hand: what it leaves open are switches here (aug, grad_through_mixer, lam, mixer). With aug "off" and the
average mixer this is DecQN (Seyde et al. 2022), with one block double DQN; with `filtered` discrete BCQ (Fujimoto et al. 2019), factored
as by Tang et al. 2022. Ours: a state-dependent offset b(s) added to F, without which no mixer can make the two losses agree
(Q* = sum_k Q_k* - (K - 1) V^noop where effects are separable and rewards additive).
Departure: terminal rows stay real in every synthetic batch.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from causal_jax import losses, networks, normalize, optim
from causal_jax.causal import codec, mixers
from causal_jax.causal.codec import Codec
from causal_jax.causal.mixers import Mixer
from causal_jax.fields import option
from causal_jax.types import Env, Key, Metrics, Network, Obs, Params, UserError

AUGS = ("off", "none", "noop", "noop+real")
MODELS = ("joint", "block")
ERROR_DECAY = 0.99  # of the running error of the models


@dataclasses.dataclass(frozen=True)
class Config:
    """What the online and the offline algorithm have in common."""

    blocks: str = "each"
    """Blocks of action factors: each (one per factor), joint (one of all), or the factors of every block, as in 0+2,1."""
    noop: tuple[int, ...] = option((), low=0)
    """Value of each factor that does nothing; empty: what the environment says (`noop`), else 0."""
    mixer: str = option("linear", choices=mixers.MIXERS)
    """What makes Q of the blocks' values."""
    argmax: str = option("joint", choices=("joint", "block"))
    """Greedy actions: the joint action of the largest F, or the largest Q_k of every block (right where F is monotone in each)."""
    aug: str = option("noop", choices=AUGS)
    """Batches of the projected losses: off (no such losses), none (the real one), noop (models, no-op elsewhere), noop+real (half each)."""
    grad_through_mixer: bool = True
    """Whether the loss of Q trains the blocks' values too, or the mixer alone."""
    offset: bool = False
    """Add a state-dependent offset b(s) to the mixer."""
    double: bool = True
    """Choose the target's action by the online networks."""
    target_every: int = option(100, low=1)
    """Updates between two of the target networks (by the share tau)."""
    batch_size: int = option(256, low=1)
    """Transitions per update."""
    hidden: tuple[int, ...] = option((512, 512), low=1)
    """Hidden layers of the Q-network, relu."""
    layer_norm: bool = False
    """Layer normalisation and tanh after the first layer, elu after the others (acme's LayerNormMLP, DecQN's trunk)."""
    normalize: bool = True
    """Standardise what the networks see by the first data (random steps, or the data set)."""
    model: str = option("joint", choices=MODELS)
    """Dynamics model: joint f(s, a), or block f_k(s, a_k) for the variables that block k owns (the environment's `owner`)."""
    model_hidden: tuple[int, ...] = option((256, 256), low=1)
    """Hidden layers of the dynamics and reward models, relu."""


class Batch(NamedTuple):
    """One transition (or a batch, with a leading axis): action int32 [K] in blocks, reward [], terminated bool []."""

    obs: Obs
    action: jax.Array
    reward: jax.Array
    next_obs: Obs
    terminated: jax.Array


class Scale(NamedTuple):
    """Statistics of observations and of their changes in one step; fixed once the first data are there."""

    obs: normalize.Stats
    delta: normalize.Stats


class Learner(NamedTuple):
    """All that an update changes but `scale`. params, target: {"q", "mixer", and "behaviour" where filtered}; models may be empty."""

    params: Params
    target: Params
    opt_state: Any
    models: Params
    model_opt: Any
    model_error: jax.Array
    updates: jax.Array
    scale: Scale


class Core(NamedTuple):
    """The pure functions of a learner; all are written for one transition but `init` and `update`.

    init(key, scale, optimiser) -> Learner; q(params, scale, obs) -> ([K, width], offset []); allowed(params, scale, obs, threshold) -> bool
    [K, width]; greedy(learner, obs, threshold) -> int32 [K]; predict(models, scale, obs, action [K]) -> (next obs, reward);
    update(learner, batch [B], hyper, optimiser, weight_decay) -> (learner, metrics).
    """

    blocks: Codec
    mixer: Mixer
    init: Any
    q: Any
    allowed: Any
    greedy: Any
    predict: Any
    update: Any


def blocks_of(env: Env, env_params: Any, config: Config) -> Codec:
    """The blocks that a config names in an environment. Raises: UserError, see `codec.parse`."""
    uses_it = config.aug in ("noop", "noop+real")  # else an action that does nothing need not exist
    noop = config.noop or (tuple(getattr(env, "noop", ())) if uses_it else ())
    return codec.parse(config.blocks, env.action_space(env_params), noop)


def scale_of(obs: jax.Array, next_obs: jax.Array) -> Scale:
    """Statistics of rows [N, ...]."""
    empty = normalize.init(obs[0])
    return Scale(normalize.update(empty, obs), normalize.update(empty, jnp.asarray(next_obs, jnp.float32) - obs))


def build(env: Env, env_params: Any, config: Config, filtered: bool = False) -> Core:
    """The learner of an environment's action and observation spaces.

    filtered: with a behaviour network that forbids what the data's policy hardly does (BCQ). Raises: UserError for an action space that
    is not discrete, blocks that do not fit, observations that are no vectors where models are asked for, a model "block" without `owner`.
    """
    blocks = blocks_of(env, env_params, config)
    mixers.check(config.mixer, blocks.sizes)
    mixer = mixers.build(config.mixer, blocks.num)
    valid, num, width = jnp.asarray(blocks.valid), blocks.num, blocks.width
    shape = tuple(env.observation_space(env_params).shape)
    outputs = num * width + int(config.offset)
    if config.layer_norm:
        q_network = networks.layer_norm_mlp(math.prod(shape), config.hidden, outputs)
    else:
        q_network = networks.torso(shape, config.hidden, outputs, activation="relu", init="torch")
    behaviour = networks.torso(shape, config.hidden, num * width, activation="relu", init="torch") if filtered else None
    imagines = config.aug in ("noop", "noop+real")
    if imagines and len(shape) != 1:
        raise UserError(f"aug = {config.aug!r}: needs observations that are vectors, these are {shape}; aug none does not")
    owner = np.asarray(getattr(env, "owner", ()), int)  # the factor that moves each variable
    if imagines and config.model == "block" and owner.shape != shape:
        raise UserError(f"model = block: needs an environment that says which factor moves each of its {shape[0]} variables (`owner`)")
    dynamics, reward_model = _models(config, blocks, shape[0]) if imagines else (None, None)
    owner_block = np.asarray([next(k for k, g in enumerate(blocks.groups) if f in g) for f in owner.tolist()], int)

    def seen(scale: Scale, obs: Obs) -> jax.Array:
        return normalize.apply(scale.obs, obs) if config.normalize else jnp.asarray(obs, jnp.float32)

    def init(key: Key, scale: Scale, optimiser: optax.GradientTransformation) -> Learner:
        key_q, key_mixer, key_behaviour, key_dynamics, key_reward = jax.random.split(key, 5)
        params = {"q": q_network.init(key_q), "mixer": mixer.init(key_mixer)}
        params |= {"behaviour": behaviour.init(key_behaviour)} if behaviour is not None else {}
        models = {}
        if dynamics is not None and reward_model is not None:
            models = {"dynamics": dynamics.init(key_dynamics), "reward": reward_model.init(key_reward)}
        opt_state, model_opt = optimiser.init(params), optim.adam(0.0).init(models)
        return Learner(params, params, opt_state, models, model_opt, jnp.ones(()), jnp.zeros((), jnp.int32), scale)

    def q(params: Params, scale: Scale, obs: Obs) -> tuple[jax.Array, jax.Array]:
        out = q_network.apply(params["q"], seen(scale, obs))
        offset = out[num * width] if config.offset else jnp.zeros(())
        return out[: num * width].reshape(num, width), offset

    def logits(params: Params, scale: Scale, obs: Obs) -> jax.Array:
        assert behaviour is not None
        return behaviour.apply(params["behaviour"], seen(scale, obs)).reshape(num, width)

    def allowed(params: Params, scale: Scale, obs: Obs, threshold: jax.Array) -> jax.Array:
        """BCQ: pi_k(a_k | s) / max pi_k > threshold, block by block; without a filter all that is valid."""
        if behaviour is None:
            return valid
        found = jnp.where(valid, logits(params, scale, obs), -jnp.inf)
        return valid & (jnp.exp(found - jnp.max(found, axis=-1, keepdims=True)) > threshold)

    def best(params: Params, values: jax.Array, may: jax.Array) -> jax.Array:
        if config.argmax == "block":
            return jnp.argmax(jnp.where(may, values, jnp.finfo(values.dtype).min), axis=-1).astype(jnp.int32)
        return mixers.greedy(mixer, params["mixer"], blocks.sizes, values, may)

    def greedy(learner: Learner, obs: Obs, threshold: jax.Array) -> jax.Array:
        values, _ = q(learner.params, learner.scale, obs)
        return best(learner.params, values, allowed(learner.params, learner.scale, obs, threshold))

    def mixed(params: Params, scale: Scale, obs: Obs, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """F(Q(s, a)) [] and the blocks' values [K]."""
        values, offset = q(params, scale, obs)
        taken = jnp.take_along_axis(values, action[:, None], axis=-1)[:, 0]
        into = taken if config.grad_through_mixer else jax.lax.stop_gradient(taken)
        return mixer.apply(params["mixer"], into) + offset, taken

    def predict(models: Params, scale: Scale, obs: Obs, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        assert dynamics is not None
        assert reward_model is not None
        change = _change(dynamics, models["dynamics"], blocks, normalize.apply(scale.obs, obs), action, owner_block, config.model)
        next_obs = obs + scale.delta.mean + change * jnp.sqrt(scale.delta.var + 1e-8)
        inputs = [normalize.apply(scale.obs, obs), blocks.one_hot(action).ravel(), normalize.apply(scale.obs, next_obs)]
        return next_obs, reward_model.apply(models["reward"], jnp.concatenate(inputs))[0]

    def model_loss(models: Params, scale: Scale, row: Batch) -> tuple[jax.Array, jax.Array]:
        assert dynamics is not None
        assert reward_model is not None
        obs, next_obs = normalize.apply(scale.obs, row.obs), normalize.apply(scale.obs, row.next_obs)
        change = _change(dynamics, models["dynamics"], blocks, obs, row.action, owner_block, config.model)
        wanted = (row.next_obs - row.obs - scale.delta.mean) * jax.lax.rsqrt(scale.delta.var + 1e-8)
        found = reward_model.apply(models["reward"], jnp.concatenate([obs, blocks.one_hot(row.action).ravel(), next_obs]))[0]
        return jnp.mean(jnp.square(change - wanted)), jnp.square(found - row.reward)

    def projected(learner: Learner, row: Batch, next_obs: jax.Array, reward: jax.Array, taken: jax.Array, hyper: Any) -> jax.Array:
        """sum_k L_k of one transition; next_obs [K, ...], reward [K]: what block k alone leads to."""

        def target(k: jax.Array, next_obs: Obs, reward: jax.Array) -> jax.Array:
            values, _ = q(learner.target, learner.scale, next_obs)
            may = allowed(learner.params, learner.scale, next_obs, _threshold(hyper))
            best_value = jnp.max(jnp.where(may, values, jnp.finfo(values.dtype).min), axis=-1)[k]
            return reward + hyper.gamma * jnp.where(row.terminated, 0.0, best_value)

        wanted = jax.lax.stop_gradient(jax.vmap(target)(jnp.arange(num), next_obs, reward))
        return jnp.sum(losses.huber(taken, wanted))

    def synthetic(learner: Learner, row: Batch) -> tuple[jax.Array, jax.Array]:
        """(next obs [K, D], reward [K]) by the models; a terminal row stays real."""
        actions = blocks.completions(row.action)
        next_obs, reward = jax.vmap(predict, (None, None, None, 0))(learner.models, learner.scale, row.obs, actions)
        return jnp.where(row.terminated, row.next_obs, next_obs), jnp.where(row.terminated, row.reward, reward)

    def loss(params: Params, learner: Learner, row: Batch, hyper: Any) -> tuple[jax.Array, Metrics]:
        scale = learner.scale
        value, taken = mixed(params, scale, row.obs, row.action)
        chooser = params if config.double else learner.target
        may = allowed(params, scale, row.next_obs, _threshold(hyper))
        chosen = best(chooser, q(chooser, scale, row.next_obs)[0], may)
        next_value, _ = mixed(learner.target, scale, row.next_obs, chosen)
        target = jax.lax.stop_gradient(row.reward + hyper.gamma * jnp.where(row.terminated, 0.0, next_value))
        loss_q = losses.huber(value, target)
        total, metrics = loss_q, {"loss_q": loss_q, "q": value}
        if config.aug != "off":
            of_blocks = jnp.zeros(())
            if config.aug in ("none", "noop+real"):
                real_next = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), row.next_obs)
                of_blocks += projected(learner, row, real_next, jnp.broadcast_to(row.reward, (num,)), taken, hyper)
            if imagines:
                ready = learner.model_error < hyper.model_error
                of_blocks += jnp.where(ready, projected(learner, row, *synthetic(learner, row), taken, hyper), 0.0)
            of_blocks *= 0.5 if config.aug == "noop+real" else 1.0
            total, metrics = total + hyper.lam * of_blocks, {**metrics, "loss_projected": of_blocks}
        if filtered:
            found = jnp.where(valid, logits(params, scale, row.obs), jnp.finfo(jnp.float32).min)
            nll = jnp.sum(jax.vmap(losses.cross_entropy)(found, row.action))
            size = jnp.sum(jnp.where(valid, jnp.square(found), 0.0)) / blocks.valid.sum()
            total, metrics = total + nll + hyper.logit_l2 * size, {**metrics, "loss_behaviour": nll}
        return total, metrics

    def fit_models(learner: Learner, batch: Batch, hyper: Any) -> tuple[Learner, Metrics]:
        def total(models: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            parts = jax.vmap(model_loss, (None, None, 0))(models, learner.scale, batch)
            dynamics_loss, reward_loss = jnp.mean(parts[0]), jnp.mean(parts[1])
            return dynamics_loss + reward_loss, (dynamics_loss, reward_loss)

        grads, (dynamics_loss, reward_loss) = jax.grad(total, has_aux=True)(learner.models)
        updates, model_opt = optim.adam(hyper.model_lr).update(grads, learner.model_opt)
        error = ERROR_DECAY * learner.model_error + (1 - ERROR_DECAY) * dynamics_loss  # the batch was not yet fitted: an honest error
        learner = learner._replace(models=optax.apply_updates(learner.models, updates), model_opt=model_opt, model_error=error)
        return learner, {"loss_dynamics": dynamics_loss, "loss_reward": reward_loss}

    def update(
        learner: Learner, batch: Batch, hyper: Any, optimiser: optax.GradientTransformation, weight_decay: Any = 0.0
    ) -> tuple[Learner, Metrics]:
        """One gradient step on all losses, then one of the models on the same rows, then the targets where it is their turn."""

        def total(params: Params) -> tuple[jax.Array, Metrics]:
            value, metrics = jax.vmap(loss, (None, None, 0, None))(params, learner, batch, hyper)
            return jnp.mean(value), {name: jnp.mean(x) for name, x in metrics.items()}

        grads, metrics = jax.grad(total, has_aux=True)(learner.params)
        grads = jax.tree.map(lambda g, p: g + weight_decay * p, grads, learner.params)  # as torch's Adam does: not AdamW
        updates, opt_state = optimiser.update(grads, learner.opt_state)
        params = optax.apply_updates(learner.params, updates)
        count = learner.updates + 1
        due = count % config.target_every == 0
        target = jax.tree.map(lambda old, new: jnp.where(due, new, old), learner.target, optim.polyak(learner.target, params, hyper.tau))
        metrics |= mixers.describe(mixer, params["mixer"])
        fitted = learner._replace(params=params, target=target, opt_state=opt_state, updates=count)
        if imagines:
            fitted, model_metrics = fit_models(fitted, batch, hyper)
            metrics |= {**model_metrics, "model_error": fitted.model_error}
        return fitted, metrics

    return Core(blocks, mixer, init, q, allowed, greedy, predict, update)


def _threshold(hyper: Any) -> Any:
    return getattr(hyper, "threshold", 0.0)


def _models(config: Config, blocks: Codec, num_variables: int) -> tuple[Network, Network]:
    """Dynamics (one network of all blocks, or one per block) and reward, of standardised inputs."""
    options: dict[str, Any] = {"activation": "relu", "init": "torch"}
    all_actions = blocks.num * blocks.width
    reward = networks.mlp(2 * num_variables + all_actions, config.model_hidden, 1, **options)
    if config.model == "joint":
        return networks.mlp(num_variables + all_actions, config.model_hidden, num_variables, **options), reward
    one = networks.mlp(num_variables + blocks.width, config.model_hidden, num_variables, **options)
    return networks.ensemble(one, blocks.num), reward


def _change(
    network: Network, params: Params, blocks: Codec, seen: jax.Array, action: jax.Array, owner: np.ndarray, model: str
) -> jax.Array:
    """The standardised change [D] of every variable; with one model per block each variable from the block that owns it."""
    one_hot = blocks.one_hot(action)
    if model == "joint":
        return network.apply(params, jnp.concatenate([seen, one_hot.ravel()]))
    inputs = jnp.concatenate([jnp.broadcast_to(seen, (blocks.num, *seen.shape)), one_hot], axis=-1)
    each = jax.vmap(lambda params, x: _alone(network, params, x))(params, inputs)
    return each[owner, np.arange(len(owner))]


def _alone(network: Network, params: Params, x: jax.Array) -> jax.Array:
    """One member of an ensemble, its params without their leading axis, on its own input."""
    return network.apply(jax.tree.map(lambda p: p[None], params), x)[0]
