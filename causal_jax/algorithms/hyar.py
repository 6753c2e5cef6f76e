"""HyAR: TD3 or DDPG in a learned latent space of hybrid actions (Li et al. 2022, arXiv 2109.05490), on the loop of off_policy.py.

`init` plays at random and trains the representation (hybrid_embedding.py) on what it saw; then the policy acts in the latent space: its
output is noised, rescaled to the bounds of the space, decoded into (k, z). Every `step` ends with more training of the representation and
new bounds; before the critics learn from a stored step, its latent action is checked, and made anew where it no longer means the step.
learner = td3: two critics, the smaller target, smoothed target actions, an actor every second update (Fujimoto et al. 2018). ddpg: none
of these.
Settings that others report of the paper and its code: 5,000 random episodes (here random_steps; about 2 steps each on Platform), c = 96% of
the space, batch 128, noise from 1.0 to 0.1 over 1,000 episodes, tau 0.005, weights of the loss. The paper's appendix was not at hand: step
sizes, 6 + 6 components, beta and the length of pretraining and of retraining are ours. Departures: the bound on embeddings is the range of
the table (see `constraint`); their code bounds the policy's output by inverting gradients, here by the paper's tanh.
Many actions: with K = 1024 a step stores 12 numbers more than k and z, and the largest work is [batch, K] distances to the table.
Reproduce: python -m experiments.dlpa_rivals
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from causal_jax import hybrid_embedding, networks, off_policy, optim, replay, spaces
from causal_jax.fields import option
from causal_jax.hybrid_embedding import Bounds, Spec
from causal_jax.noise import standard_normal
from causal_jax.off_policy import Choice, Learner, Method, Row, descend, follow, td_target
from causal_jax.types import Algorithm, Env, Key, Metrics, Params

LEARNERS = ("td3", "ddpg")
SMOOTHING, SMOOTHING_CLIP = 0.2, 0.5  # TD3: noise of target actions, in units of [-1, 1]


@dataclasses.dataclass(frozen=True)
class Config(off_policy.Config):
    """What decides shapes and control flow."""

    learner: str = option("td3", choices=LEARNERS)
    """What learns in the latent space."""
    hidden: tuple[int, ...] = option((256, 256), low=1)
    """Widths of the hidden layers of actors and critics."""
    capacity: int = option(100_000, low=1)
    """Steps kept."""
    random_steps: int = option(10_000, low=1)
    """Steps of random play before the first step (the authors': 5,000 episodes); they are not counted as steps of the run."""
    num_steps: int = option(100, low=1)
    """Steps in the environment between two trainings of the representation."""
    k_size: int = option(6, low=1)
    """Components of an embedding of k."""
    z_size: int = option(6, low=1)
    """Components of a latent of the parameters."""
    width: int = option(256, low=1)
    """Width of the representation's networks."""
    pretrain_updates: int = option(5000, low=1)
    """Updates of the representation on random play."""
    retrain_updates: int = option(20, low=1)
    """Updates of the representation after every num_steps steps."""
    embed_batch: int = option(64, low=1)
    """Steps per update of the representation."""
    central: float = option(0.96, above=0.0, high=1.0)
    """Share of the latent space that the policy may go to."""
    bound_rows: int = option(1000, low=2)
    """Steps from which that share and the error of prediction are measured."""


@struct.dataclass
class Hyper(off_policy.Hyper):
    """Floats that may be searched: every one is a leaf that vmaps."""

    lr: float = option(3e-4, low=0.0)
    """Adam's step size of the critics."""
    actor_lr: float = option(3e-4, low=0.0)
    """Adam's step size of the actor."""
    tau: float = option(5e-3, above=0.0, high=1.0)
    """Share of the critics that moves into their targets in an update."""
    actor_tau: float = option(5e-3, above=0.0, high=1.0)
    """The same of the actor."""
    explore_end: float = option(0.1, low=0.0, high=1.0)
    """Deviation of the noise in the end; it begins at 1, in units of [-1, 1]."""
    embed_lr: float = option(1e-4, low=0.0)
    """Adam's step size of the representation."""
    beta: float = option(1.0, low=0.0)
    """Weight of the prediction of the state's change."""


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


class Model(NamedTuple):
    """The representation, Adam's state, the bounds of the latent space, and the mean squared error of its prediction []."""

    params: Params
    opt_state: Any
    bounds: Bounds
    error: jax.Array


def steps_per_update(config: Config) -> int:
    """Environment steps of one step of the algorithm."""
    return config.num_steps


def td3_target(reward: Any, terminated: Any, next_values: jax.Array, gamma: Any) -> jax.Array:
    """r + gamma (1 - terminated) min_j Q_j(s', a'): next_values [J, B], the others [B]. J = 1: DDPG's. Source: Fujimoto et al., eq. 10."""
    return td_target(reward, terminated, jnp.min(next_values, axis=0), gamma)


def smoothed(key: Key, action: jax.Array) -> jax.Array:
    """Target actions in [-1, 1] with clipped normal noise (Fujimoto et al., eq. 14)."""
    noise = jnp.clip(SMOOTHING * standard_normal(key, action.shape), -SMOOTHING_CLIP, SMOOTHING_CLIP)
    return jnp.clip(action + noise, -1.0, 1.0)


def method_of(spec: Spec, config: Config) -> Method:
    """HyAR; stored: {"k", "z", "latent" [k_size + z_size]}, latents as the decoder reads them."""
    size, twin = spec.k_size + spec.z_size, config.learner == "td3"
    q = networks.ensemble(networks.mlp(spec.obs_size + size, config.hidden, 1, activation="relu", init="torch"), 2 if twin else 1)
    mu = networks.mlp(spec.obs_size, config.hidden, size, activation="relu", init="torch")

    def policy(params: Params, obs: jax.Array) -> jax.Array:
        return jnp.tanh(mu.apply(params, obs))

    def values(params: Params, obs: jax.Array, u: jax.Array) -> jax.Array:
        return q.apply(params, jnp.concatenate([obs, u], -1))[..., 0]

    def decoded(learner: Learner, obs: jax.Array, u: jax.Array) -> Choice:
        params = learner.model.params
        latent = hybrid_embedding.from_unit(learner.model.bounds, u)
        k = hybrid_embedding.nearest(hybrid_embedding.table(params), latent[: spec.k_size])
        z, _ = hybrid_embedding.decode(params, spec, obs, k, latent[spec.k_size :])
        return Choice(k, z, {"k": k, "z": z, "latent": latent})

    def init(key: Key, hyper: Hyper) -> Learner:
        key_nets, key_model = jax.random.split(key)
        params = hybrid_embedding.init(key_model, spec)
        bounds = Bounds(jnp.full(size, -1.0), jnp.full(size, 1.0))
        model = Model(params, optim.adam(hyper.embed_lr).init(params), bounds, jnp.zeros(()))
        return off_policy.learner(key_nets, {"critic": q, "actor": mu}, model)

    def random(key: Key, learner: Learner, obs: jax.Array) -> Choice:
        k, z = spaces.Hybrid(spec.space.sizes).sample(key)
        e = hybrid_embedding.table(learner.model.params)[k]
        mean, _ = hybrid_embedding.encode(learner.model.params, spec, obs, k, z)
        return Choice(k, z, {"k": k, "z": z, "latent": jnp.concatenate([e, mean])})

    def act(learner: Learner, obs: jax.Array) -> Choice:
        return decoded(learner, obs, policy(learner.online["actor"], obs))

    def explore(key: Key, learner: Learner, obs: jax.Array, exploration: jax.Array) -> Choice:
        u = policy(learner.online["actor"], obs) + exploration * standard_normal(key, (size,))
        return decoded(learner, obs, jnp.clip(u, -1.0, 1.0))

    def represent(key: Key, model: Model, buffer: replay.Buffer, hyper: Hyper, num: int) -> tuple[Model, Metrics]:
        """`num` updates of the representation, then new bounds."""

        def update(carry: Any, key: Key) -> tuple[Any, Metrics]:
            params, opt_state = carry
            key_rows, key_noise = jax.random.split(key)
            rows = replay.sample(buffer, key_rows, config.embed_batch)
            noise = standard_normal(key_noise, (config.embed_batch, spec.z_size))
            loss = lambda p: hybrid_embedding.losses(p, spec, noise, *_step(rows), hyper.beta)  # noqa: E731
            grads, terms = jax.grad(loss, has_aux=True)(params)
            updates, opt_state = optim.adam(hyper.embed_lr).update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), terms

        key_updates, key_rows = jax.random.split(key)
        start = (model.params, model.opt_state)
        (params, opt_state), terms = jax.lax.scan(update, start, jax.random.split(key_updates, num))
        obs, k, z, next_obs = _step(replay.sample(buffer, key_rows, config.bound_rows))
        bounds = hybrid_embedding.constraint(params, spec, obs, k, z, config.central)
        zero = jnp.zeros((config.bound_rows, spec.z_size))
        _, measured = hybrid_embedding.losses(params, spec, zero, obs, k, z, next_obs, 1.0)
        means = {f"embed_{name}": jnp.mean(x) for name, x in terms.items()}
        return Model(params, opt_state, bounds, measured["prediction"]), means

    def begin(key: Key, learner: Learner, buffer: replay.Buffer, hyper: Hyper) -> Learner:
        return learner._replace(model=represent(key, learner.model, buffer, hyper, config.pretrain_updates)[0])

    def refresh(key: Key, learner: Learner, buffer: replay.Buffer, hyper: Hyper) -> tuple[Learner, Metrics]:
        model, metrics = represent(key, learner.model, buffer, hyper, config.retrain_updates)
        return learner._replace(model=model), metrics

    def critic(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        key_relabel, key_smooth = jax.random.split(key)
        model = learner.model
        noise = standard_normal(key_relabel, (len(rows.obs), spec.z_size))
        latent = hybrid_embedding.relabel(model.params, spec, noise, _step(rows), rows.stored["latent"], model.error)
        u = hybrid_embedding.to_unit(model.bounds, latent)
        next_u = policy(learner.target["actor"], rows.next_obs)
        next_u = smoothed(key_smooth, next_u) if twin else next_u
        next_values = values(learner.target["critic"], rows.next_obs, next_u)
        target = td3_target(rows.reward, rows.terminated, next_values, hyper.gamma)

        def loss(params: Params) -> jax.Array:
            return jnp.sum(jnp.mean(jnp.square(values(params, rows.obs, u) - target), axis=-1))

        learner, value = descend(learner, "critic", loss, hyper.lr, hyper)
        kept = jnp.mean((latent == rows.stored["latent"])[:, spec.k_size].astype(jnp.float32))
        return learner, {"critic_loss": value, "target": jnp.mean(target), "latents_kept": kept}

    def actor(key: Key, learner: Learner, rows: Row, hyper: Hyper) -> tuple[Learner, Metrics]:
        def loss(params: Params) -> jax.Array:
            return -jnp.mean(values(learner.online["critic"], rows.obs, policy(params, rows.obs))[0])

        learner, value = descend(learner, "actor", loss, hyper.actor_lr, hyper)
        return follow(learner, hyper), {"actor_loss": value}

    return Method(init, random, explore, act, critic, actor, begin, refresh)


def _step(rows: Row) -> tuple[Any, Any, Any, Any]:
    return rows.obs, rows.stored["k"], rows.stored["z"], rows.next_obs


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """One member. Raises: UserError for a field out of range, or an environment without hybrid actions."""
    delay = 2 if config.learner == "td3" else 1
    off_policy.check(config, delay)
    space = off_policy.hybrid_space(env, env_params, "hyar")
    num_obs = spaces.flat_size(env.observation_space(env_params))
    spec = Spec(num_obs, spaces.Hybrid(space.sizes), config.k_size, config.z_size, config.width)
    return off_policy.build(env, space, config, method_of(spec, config), delay)
