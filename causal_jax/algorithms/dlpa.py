"""DLPA: plan over hybrid actions in a learned model of states, rewards and ends (arXiv 2404.03037; authors' DLPA.py, main.py, utils.py).

One `step`: plan, act in the environment once, then 25 updates on windows of the episodes that are over. `init` plays 50 random episodes.
The planner (planning.py, hybrid_planning.py) draws 1,000 plans six times, each time around the 100 best of the last; it begins where the
plan of the previous step left off (probabilities and means, not deviations) and plays the first action of an elite, drawn by weight.
Training plans with the model's draws and adds noise of the elites' deviation to z; evaluation plans with the model's means.
mode="definition" (default): the loss of a window counts its steps up to the end of its episode. mode="authors": as their code has it, the
cross-entropy of "goes on" counts all steps (losses in world_models.py), every 50 steps the episode is cut short (by their evaluations), and
an episode that was cut short ends in a step that never was.
Departures: the memory of the planner is kept apart for training and evaluation; networks and layers that nothing reads are left out; the
authors' flags without effect (priorities, target network, clipping, least deviation, mixture of policies) are not there; 4,000 episodes
are kept, not 20,000.
The defaults are Platform's; other environments need their own: causal-jax train --preset goal-dlpa, written by experiments/dlpa.py.
Reproduce: python -m experiments.dlpa study; make train-dlpa
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from causal_jax import episodes, hybrid_planning, optim, parallel, planning, spaces, world_models
from causal_jax.episodes import Episodes
from causal_jax.fields import option, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, Params, Recall, UserError
from causal_jax.world_models import Spec

EVALUATION_MODES = ("greedy",)  # planning with the model's draws is a matter of training
MODES = ("definition", "authors")


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow; the defaults are the authors' for Platform, but for `capacity`."""

    structure: str = option("masking", choices=world_models.STRUCTURES)
    """How the networks of the model read an action: parallel, masking or sequential."""
    code: str = option("one-hot", choices=world_models.CODES)
    """How they see k: one-hot, or by its binary digits (ours, for thousands of actions; not for masking, which does not read k)."""
    width: int = option(64, low=1)
    """Width of their hidden layers."""
    shared: bool = False
    """Masking's second hidden layer is as wide as the first (the authors' first commit), not K times (their last)."""
    bounded: bool = True
    """Predicted states are squashed into [-1, 1]; for environments whose observations stay there."""
    residual: bool = False
    """The change of the state is predicted, which holds where data are few; the authors predict the state. Not for bounded states."""
    reward: str = option("unit", choices=world_models.REWARDS)
    """Predicted rewards: linear, or squashed into [0, 1] (unit)."""
    reward_nets: int = option(1, low=1, high=2)
    """2: steps that end have a reward network of their own."""
    state_only: str = option("none", choices=tuple(world_models.STATE_ONLY))
    """Networks that read the predicted state without the action: none (the authors' code), ends ("goes on", as in the paper), or outcomes
    (the rewards too). Where the state tells the outcome, as in Hard Move, what they learn of one action then holds for all."""
    horizon: int = option(10, low=1)
    """Steps of a plan."""
    loss_horizon: int = option(0, low=0)
    """Steps of a training window; 0: those of a plan, 1: the ablation "one-step loss"."""
    mode: str = option("definition", choices=MODES)
    """The loss as defined and episodes cut by nothing but their limit of steps, or both as the authors' code has them."""
    proposal: str = option("table", choices=hybrid_planning.PROPOSALS)
    """Distribution of plans: table (of every action's own parameters), joint (one for all actions; but the noise of training has the
    deviation of the elites that begin with the same action, as in table), sampled (ours, at a cost that does not depend on the number of
    actions), or uniform (random shooting of as many plans as all iterations draw)."""
    num_samples: int = option(1000, low=1)
    """Plans drawn in each iteration of the planner."""
    num_elites: int = option(100, low=1)
    """Plans that the next distribution is fitted to."""
    plan_iterations: int = option(6, low=1)
    """Iterations of the planner."""
    block: int = option(250, low=0)
    """Plans imagined together: those that the model has ended are left out by so many at a time, and in training rewards and ends behind
    the end of a window's episode; members, and episodes evaluated at once, take turns. 0: all in one, for a GPU. Same numbers."""
    window_block: int = option(16, low=0)
    """Windows whose next states are predicted together in an update, unless `block` is 0: those that have ended are left out by so many at
    a time. 0: none, which is quicker where few episodes end within a window (Hard Move). Same numbers."""
    least_std: float = option(0.0, low=0.0)
    """Floor of a fitted deviation of the planner, in units of z; not of the noise that training adds to the z it plays. The authors have
    none. Not for uniform, which fits nothing."""
    terminal_value: bool = False
    """Plans are worth what they lead to as well: a network of the values of states, learned from the same windows by TD(0) with a target
    that follows by tau, so the values of what was played. The authors have none."""
    warm_start: bool = True
    """A plan begins where that of the previous step left off."""
    random_episodes: int = option(50, low=1)
    """Episodes played at random before the first step."""
    episode_steps: int = option(25, low=2)
    """Steps after which a training episode is cut; not stored as an end."""
    break_every: int = option(-1, low=-1)
    """Steps between two forced cuts of the training episode; 0: none. -1: as the mode has it, none or 50 (authors), where an evaluation
    breaks the episode off."""
    capacity: int = option(4000, low=2)
    """Episodes kept; the authors keep 20,000."""
    num_updates: int = option(25, low=1)
    """Updates after each step in the environment."""
    batch_size: int = option(64, low=1)
    """Windows per update."""
    episodes_at_once: int = option(1, low=1)
    """Evaluated episodes planned for in parallel: 1 suits a processor's cache and stops with each episode, 64 and block = 0 a GPU."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps; the defaults are the authors'."""

    lr: float = option(3e-4, low=0.0)
    """Adam's step size."""
    gamma: float = option(0.99, low=0.0, high=1.0)
    """Discount per step of a plan."""
    rho: float = option(0.5, low=0.0, high=1.0)
    """Discount per step of a training window."""
    state_weight: float = option(2.0, low=0.0)
    """Weight of the loss of states. With the authors' 2 the network of states learns mostly from the errors of rewards and ends, which
    read its predictions; experiments/dlpa.py learns faster with 1,000."""
    reward_weight: float = option(0.5, low=0.0)
    """Weight of the loss of rewards."""
    going_weight: float = option(0.5, low=0.0)
    """Weight of the loss of "goes on"."""
    sharpness: float = option(0.5, low=0.0)
    """Elites weigh exp(sharpness * (return - best return)), returns in task units."""
    momentum: float = option(0.1, low=0.0, high=1.0)
    """Share of the plans' distribution that an iteration leaves in place."""
    epsilon: float = option(0.0, low=0.0, high=1.0)
    """Share of the training steps that play a uniformly random action instead of the plan's; the authors have none. A member whose model
    has never seen what pays plans as if nothing did, and does not see it otherwise."""
    end_epsilon: float = option(0.0, low=0.0, high=1.0)
    """The same (the larger counts) where the model expects the plan's action to end the episode; the authors have none. For environments
    where a member can settle for an early end that pays a little: falling far on Platform, a shot from anywhere on Goal."""
    average: float = option(1.0, above=0.0, high=1.0)
    """Share by which the weights that evaluation plans with follow the trained ones in every update; 1: they are these, as the authors'."""
    tau: float = option(0.01, above=0.0, high=1.0)
    """With terminal_value: the share by which the target follows in every update."""


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


class Running(NamedTuple):
    """The training episode: environment state, observation, steps taken, return so far, memory of the planner."""

    env_state: Any
    obs: Obs
    t: jax.Array
    total: jax.Array
    theta: Any


class State(NamedTuple):
    """What a step changes; target: of the values, if there are any; average: of the weights, with which evaluation plans; hyper: the

    planner's, kept for `act`; t: steps since `init`.
    """

    params: Params
    target: Params | None
    average: Params
    opt_state: Any
    buffer: Episodes
    running: Running
    hyper: Hyper
    t: jax.Array


def steps_per_update(config: Config) -> int:
    """Environment steps of one step of the algorithm."""
    return 1


def episodes_at_once(config: Config) -> int:
    """Evaluated episodes that run in parallel."""
    return config.episodes_at_once


def batch_sizes(config: Config) -> dict[str, int]:
    """What a `data` axis splits: windows of an update, drawn plans; in mode "authors" nothing, whose loss is a product of two means."""
    return {"batch_size": config.batch_size, "num_samples": config.num_samples} if config.mode == "definition" else {}


def break_steps(config: Config) -> int:
    """Steps between two forced cuts of the training episode, 0 for none: `break_every`, or what the mode stands for."""
    return config.break_every if config.break_every >= 0 else {"definition": 0, "authors": 50}[config.mode]


def imagined(spec: Spec, config: Config = Config()) -> Callable[..., jax.Array]:
    """What the learned model says plans are worth, for `planner`: world_models.returns."""
    network = world_models.value_network(spec) if config.terminal_value else None

    def of_rows(whole: Any, rows: Any) -> jax.Array:
        (params, obs, gamma), (plans, noise), block = whole, rows, parallel.portion(config.block)
        value = (lambda obs: network.apply(params["value"], obs)[..., 0]) if network else None
        return parallel.everyone(world_models.returns(params, spec, noise, obs, plans, gamma, value, block))

    def returns(params: Params, key: Key | None, obs: jax.Array, plans: Any, gamma: jax.Array) -> jax.Array:
        noise = None if key is None else world_models.draw_noise(key, spec, *plans[0].shape)
        return parallel.by_rows(of_rows, (params, obs, gamma), (plans, noise), (0, 1))

    # members one after the other: the blocks of all together would go on until the last of them has none left
    return jax.custom_batching.sequential_vmap(returns) if config.block else returns


def planner(returns: Callable[..., jax.Array], space: spaces.Hybrid, config: Config) -> Any:
    """(key, params, hyper, obs, theta, greedy) -> (action in the unit box, theta of the next step, planning.Iterations).

    returns: (params, key or None for means, obs, plans, gamma) -> [P], what plans from obs are worth; `imagined` or any other model.
    """
    shooting = config.proposal == "uniform"
    rounds = 1 if shooting else config.plan_iterations
    samples = config.num_samples * (config.plan_iterations if shooting else 1)

    def act(key: Key, params: Params, hyper: Hyper, obs: jax.Array, theta: Any, greedy: bool) -> tuple[Action, Any, Any]:
        key_plan, key_elite, key_noise = jax.random.split(key, 3)
        distribution = hybrid_planning.proposal_of(space, config, hyper.momentum)

        def value(key: Key, plans: Any) -> jax.Array:
            return returns(params, None if greedy else key, obs, plans, jnp.asarray(hyper.gamma))

        weigh = planning.elite(1) if shooting else planning.soft_elite(config.num_elites, hyper.sharpness)
        theta, iterations = planning.plan(key_plan, theta, value, distribution.proposal, weigh, iterations=rounds, samples=samples)
        plans, _, weights = jax.tree.map(lambda x: x[-1], iterations)
        chosen = planning.draw(key_elite, weights[None], 1)[0, 0]
        k, z = plans[0][chosen, 0], plans[1][chosen, 0]
        if not greedy and not shooting:  # not clipped: what the environment does with it is its own matter
            z = z + hybrid_planning.spread(plans, weights, k) * jax.random.normal(key_noise, z.shape)
        return (k, z), distribution.shift(theta) if config.warm_start else distribution.start, iterations

    return act


def _check(config: Config) -> None:
    """Raises: UserError for a field out of range or at odds with another."""
    validate(config)
    if config.num_elites > config.num_samples:
        raise UserError(f"num_elites = {config.num_elites}: must be at most num_samples = {config.num_samples}")
    horizon = config.loss_horizon or config.horizon
    if horizon >= config.episode_steps:
        raise UserError(f"episode_steps = {config.episode_steps}: must be more than the steps of a training window, {horizon}")
    if config.shared and config.structure != "masking":
        raise UserError(f"shared = True: only for structure = masking, not {config.structure}")
    if config.code != "one-hot" and config.structure == "masking":
        raise UserError(f"code = {config.code}: only for structure = parallel or sequential, not masking, which does not read k")
    if config.least_std > 0 and config.proposal == "uniform":
        raise UserError(f"least_std = {config.least_std}: only for proposal = table, joint or sampled, not uniform, which fits nothing")
    if config.residual and config.bounded:
        raise UserError("residual = True: only for bounded = False, not True")
    if config.capacity <= config.random_episodes:
        raise UserError(f"capacity = {config.capacity}: must be more than random_episodes = {config.random_episodes}")


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """One member. Raises: UserError for a field out of range, or an environment without hybrid actions."""
    _check(config)
    spec = world_models.model_spec(env, env_params, config)
    space: Any = spaces.from_gymnax(env.action_space(env_params))
    unit = spaces.Hybrid(space.sizes)  # plans and networks have z in [-1, 1]
    plan = planner(imagined(spec, config), unit, config)
    value = world_models.value_network(spec) if config.terminal_value else None
    length, horizon, breaks = config.episode_steps, config.loss_horizon or config.horizon, break_steps(config)
    whole = config.block == 0 or config.mode == "authors"  # authors: the cross-entropy of all steps counts
    blocks = (0, 0) if whole else (config.batch_size, config.window_block)
    in_unit = np.all(np.asarray(space.low) == -1.0) and np.all(np.asarray(space.high) == 1.0)

    def played(action: Action) -> Action:
        """The action in task units; what lies outside the unit box lies outside the bounds."""
        if in_unit:
            return action
        low, high = space.take(action[0], space.low), space.take(action[0], space.high)
        return action[0], low + (high - low) * (action[1] + 1.0) / 2.0

    def flat(obs: Obs) -> jax.Array:
        return jnp.ravel(obs).astype(jnp.float32)

    def starts(num_steps: jax.Array, terminated: jax.Array) -> jax.Array:
        return episodes.num_starts(num_steps, terminated, length, horizon, config.mode == "authors")

    def fresh(key: Key, task: Task) -> Running:
        obs, env_state = env.reset_env(key, task.env_params)
        return Running(env_state, obs, jnp.zeros((), jnp.int32), jnp.zeros(()), hybrid_planning.proposal_of(unit, config, 0.0).start)

    def move(key: Key, running: Running, action: Action, task: Task) -> tuple[Running, jax.Array, jax.Array, jax.Array]:
        """(the episode one step on, reward, terminated, truncated by the environment)."""
        obs, env_state, reward, terminated, _ = env.step_env(key, running.env_state, played(action), task.env_params)
        reward = jnp.asarray(reward, jnp.float32)
        on = running._replace(env_state=env_state, obs=obs, t=running.t + 1, total=running.total + reward)
        return on, reward, jnp.asarray(terminated, bool), jnp.asarray(env.is_truncated(env_state, task.env_params), bool)

    def random_episode(key: Key, task: Task) -> Any:
        """(obs [T + 1, S], k [T], z [T, Z], reward [T], length, terminated) of a uniformly random episode."""
        key_reset, key_steps = jax.random.split(key)
        running = fresh(key_reset, task)

        def body(carry: Any, keys: Key) -> Any:
            running, alive, ended = carry
            action = unit.sample(keys[0])
            on, reward, terminated, truncated = move(keys[1], running, action, task)
            row = (jnp.where(alive, flat(on.obs), 0.0), *action, reward)
            return (jax.tree.map(lambda new, old: jnp.where(alive, new, old), on, running), alive & ~terminated & ~truncated,
                    ended | (alive & terminated)), row  # fmt: skip

        start = (running, jnp.ones((), bool), jnp.zeros((), bool))
        (last, _, ended), (obs, k, z, reward) = jax.lax.scan(body, start, jax.random.split(key_steps, (length, 2)))
        return jnp.concatenate([flat(running.obs)[None], obs]), k, z, reward, last.t, ended

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_model, key_data, key_reset = jax.random.split(key, 3)
        params, num = world_models.init(key_model, spec), config.random_episodes
        if value:
            params["value"] = value.init(jax.random.fold_in(key_model, len(world_models.HEADS)))  # no head's key, which are as without it
        obs, k, z, reward, steps, ended = jax.vmap(random_episode, (0, None))(jax.random.split(key_data, num), task)
        empty = episodes.init(config.capacity, length, spec.obs_size, spec.num_parameters)
        found = (obs, k, z, reward, steps, ended, starts(steps, ended))
        rows = [old.at[:num].set(new) for old, new in zip(empty[:-1], found, strict=True)]
        buffer = Episodes._make([*rows, jnp.asarray(num, jnp.int32)])
        opt_state, running = optim.adam(hyper.lr).init(params), fresh(key_reset, task)
        return State(params, params.get("value"), params, opt_state, buffer, running, hyper, jnp.zeros((), jnp.int32))

    def learn(carry: Any, inputs: Any, hyper: Hyper) -> tuple[Any, Metrics]:
        (params, target, average, opt_state), (window, noise) = carry, inputs

        def total(params: Params) -> tuple[jax.Array, Metrics]:
            steps = world_models.unroll(params, spec, noise, window, world_models.counted(window), *blocks)
            terms = world_models.losses(spec, steps, window, jnp.asarray(hyper.rho), config.mode)
            loss = hyper.state_weight * terms["state"] + hyper.reward_weight * terms["reward"] + hyper.going_weight * terms["going"]
            if value:
                terms["value"] = world_models.value_loss(value.apply, params["value"], target, window, hyper.gamma)
                loss = loss + terms["value"]
            return loss / horizon, {"loss": loss, **{f"loss_{name}": x for name, x in terms.items()}}

        grads, metrics = parallel.mean(jax.grad(total, has_aux=True)(params))
        updates, opt_state = optim.adam(hyper.lr).update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        target = optim.polyak(target, params["value"], hyper.tau) if value else None
        return (params, target, optim.polyak(average, params, hyper.average), opt_state), metrics

    def updates(whole: Any, rows: Any) -> tuple[Any, Metrics]:
        """whole: (carry of `learn`, hyper); rows: its inputs, windows [U, B, ...] and noise [U, H, B, ...]."""

        def of_rows(whole: Any, rows: Any) -> tuple[Any, Metrics]:
            return jax.lax.scan(lambda carry, inputs: learn(carry, inputs, whole[1]), whole[0], rows)

        return parallel.by_rows(of_rows, whole, rows, (1, 2))

    updates = jax.custom_batching.sequential_vmap(updates) if config.block else updates  # as in `imagined`

    def random_share(params: Params, hyper: Hyper, obs: jax.Array, action: Action) -> jax.Array:
        """The probability of a random action instead of a planned one."""
        then = world_models.next_state(params, spec, obs, action[0], action[1], None)
        ends, goes_on = world_models.outcome(params, spec, then, action[0], action[1], None).logits
        return jnp.where(ends > goes_on, jnp.maximum(hyper.epsilon, hyper.end_epsilon), hyper.epsilon)

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        key_plan, key_env, key_reset, key_windows, key_learn = jax.random.split(key, 5)
        running, buffer = state.running, state.buffer
        action, theta, iterations = plan(key_plan, state.params, hyper, flat(running.obs), running.theta, False)
        key_explore, key_random = jax.random.split(jax.random.fold_in(key_plan, 3))  # not one of the planner's three
        explore = jax.random.bernoulli(key_explore, random_share(state.params, hyper, flat(running.obs), action))
        action = jax.tree.map(lambda random, planned: jnp.where(explore, random, planned), unit.sample(key_random), action)
        on, reward, terminated, truncated = move(key_env, running, action, task)
        cut = truncated | (on.t >= length) | ((state.t + 1) % breaks == 0 if breaks else False)
        over = terminated | cut
        num = config.num_updates
        windows = episodes.windows(buffer, key_windows, num * config.batch_size, horizon)  # the running episode is not among them
        windows = jax.tree.map(lambda x: x.reshape(num, config.batch_size, *x.shape[1:]), windows)
        noise = jax.vmap(lambda key: world_models.draw_noise(key, spec, config.batch_size, horizon))(jax.random.split(key_learn, num))
        (params, target, average, opt_state), losses = updates((state[:4], hyper), (windows, noise))

        ready = starts(on.t, terminated)
        buffer = episodes.record(buffer, flat(running.obs), action, reward, flat(on.obs), terminated, over, ready)
        on = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh(key_reset, task), on._replace(theta=theta))
        none = jnp.where(over, 1.0, jnp.nan)  # NaN: no episode ended
        metrics = {**jax.tree.map(jnp.mean, losses), "plan_return": iterations.scores[-1, 0],
                   "episode_return": none * (running.total + reward), "episode_length": none * (running.t + 1)}  # fmt: skip
        return State(params, target, average, opt_state, buffer, on, state.hyper, state.t + 1), metrics

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        """The first action of an episode, or of one that is planned anew in every step."""
        return remembering(key, state, obs, greedy, hybrid_planning.proposal_of(unit, config, 0.0).start)[0]

    def remembering(key: Key, state: State, obs: Obs, greedy: bool, theta: Any) -> tuple[Action, Any]:
        action, theta, _ = plan(key, state.average if greedy else state.params, state.hyper, flat(obs), theta, greedy)
        return played(action), theta

    return Algorithm(init, step, act, Recall(lambda: hybrid_planning.proposal_of(unit, config, 0.0).start, remembering))
