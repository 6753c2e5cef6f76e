"""FCDL and its rivals: learn a dynamics model of every variable from its parents, act by planning in it.

FCDL (arXiv 2406.03234; authors' main_policy.py, model_based.py). The models share everything but the graph: `fcdl` (a code per state and
action selects the local graph), `ncd` (a sampled graph per state and action), `oracle-graph` (the global graph), `oracle-local` (the true
local graph), `modular` (all edges), and with networks of their own `mlp`, `gnn`, `cdl`, `nps`, `grader`.
schedule="online", the authors': one `step` is an episode of num_envs environments in lock-step; in every time step act (CEM, or with
probability epsilon all at random), then make one update on the episodes that ended before. `init` plays the first init_steps at random.
schedule="offline": `init` collects the episodes at random, a step only makes as many updates as an episode has steps; plans at test only.
The reward is known and applied to predicted states; the planner never sees a state that was not predicted.
Departures: no cap on how often a row is drawn (causal/fitting.py); the held-out episodes are every tenth; CDL measures its CMI twice in an
episode's updates instead of every tenth update, and keeps its causal loss then.
Reproduce: python -m experiments.fcdl chemical; make train-fcdl
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax import planning, replay, spaces
from causal_jax.causal import cdl, dynamics, fitting, grader, imagination, measures, nps, predictors, rivals
from causal_jax.causal.dynamics import Model
from causal_jax.causal.fitting import Episode, Fit
from causal_jax.envs.base import Factors
from causal_jax.fields import option, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, UserError

ADJACENCY = {"fcdl": "codebook", "ncd": "sampled", "modular": "full", "oracle-graph": "global", "oracle-local": "given"}
MODELS = (*ADJACENCY, "mlp", "gnn", "cdl", "nps", "grader")
ORDERED = ("fcdl", "ncd", "grader")  # unless learn_upper, these are given the order of the variables
USED_BY: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {  # field -> (models that read it, values that ask for nothing)
    "contexts": (("fcdl",), ("vq",)), "ema": (("fcdl",), (True,)), "label": (("fcdl", "ncd"), ("auto", "no")),
    "sparsity": (("fcdl", "ncd"), ("mean",)), "learn_upper": (ORDERED, (False,)), "learn_action": (("fcdl", "ncd"), (False,)),
    "num_rules": (("nps",), (0,)),
}  # fmt: skip
CMI_ROWS = 256
EVALUATION_MODES = ("greedy",)  # planning has no other policy worth the price


@dataclasses.dataclass(frozen=True)
class Config:
    """What decides shapes and control flow; the defaults are the authors' for Chemical."""

    model: str = option("fcdl", choices=MODELS)
    """The dynamics model."""
    schedule: str = option("online", choices=("online", "offline"))
    """Learn while acting, or from a data set of the random policy."""
    num_envs: int = option(10, low=1)
    """Environments in lock-step."""
    num_steps: int = option(25, low=1)
    """Steps of an episode; must be the environment's."""
    init_steps: int = option(1000, low=1)
    """Random steps of each environment before the first update (rounded up to whole episodes): offline the whole data set."""
    capacity: int = option(10_000, low=1)
    """Episodes kept."""
    batch_size: int = option(256, low=1)
    """Windows per update."""
    horizon: int = option(3, low=1)
    """Steps of a training rollout and of a plan."""
    num_candidates: int = option(64, low=1)
    """Plans drawn in each iteration of the planner."""
    num_elites: int = option(32, low=1)
    """Plans that the next distribution is fitted to."""
    plan_iterations: int = option(5, low=1)
    """Iterations of the planner."""
    width: int = option(128, low=1)
    """Source features and hidden layers of the predictors."""
    num_hidden: int = option(2, low=0)
    """Hidden layers of the predictors after the first."""
    hidden: tuple[int, ...] = option((1024, 1024, 1024), low=1)
    """Hidden layers of the model "mlp"."""
    num_codes: int = option(16, low=1)
    """K, size of the codebook."""
    code_dim: int = option(16, low=1)
    """D, length of a code."""
    num_rules: int = option(0, low=0)
    """Rules of the model "nps"; 0: the published number, 20, for continuous variables 15."""
    contexts: str = option("vq", choices=predictors.CONTEXTS)
    """What a code of the model "fcdl" is: its own quantised embedding, a k-means cluster of it, or the leaf of a decision tree (ours)."""
    ema: bool = True
    """Codes by moving averages (authors), or by gradient (the paper's formula)."""
    label: str = option("auto", choices=("auto", "yes", "no"))
    """The predictors also see which graph they have; auto: for ncd only, as in the authors' runs."""
    sparsity: str = option("mean", choices=fitting.SPARSITIES)
    """Sparsity term: mean edge probability (authors), sum of edges (the paper's formula), or a target on the edges."""
    learn_std: bool = False
    """Continuous variables: predict a standard deviation too, and maximise the likelihood."""
    learn_upper: bool = False
    """Learn edges against the given order of the variables too."""
    learn_action: bool = False
    """Learn the edges from the action."""
    table_rows: bool = True
    """First layers by table rows where inputs are one-hot: the same numbers, fewer operations."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps; the defaults are the authors'."""

    lr: float = option(1e-4, low=0.0)
    """Adam's step size."""
    max_grad_norm: float = option(20_000.0, above=0.0)
    """Largest global norm of the gradient."""
    reg: float = option(1e-3, low=0.0)
    """Weight of the sparsity term (with sparsity "target" where it starts)."""
    commit: float = option(0.25, low=0.0)
    """Weight of the commitment loss."""
    vq: float = option(1.0, low=0.0)
    """Weight of the codebook loss, where codes are learned by gradient."""
    edge_target: float = option(0.4, low=0.0, high=1.0)
    """Sparsity "target": mean probability wanted of the learned edges."""
    dual_lr: float = option(1e-2, low=0.0)
    """Sparsity "target": step size of the logarithm of the weight."""

    epsilon: float = option(0.05, low=0.0, high=1.0)
    """Chance that a time step is random, one coin for all environments."""
    action_noise: float = option(1e-4, low=0.0)
    """Standard deviation added to planned continuous actions while training, in units of the action."""
    cmi_tau: float = option(0.9, low=0.0, high=1.0)
    """CDL: decay of the running mutual information."""


class Task(NamedTuple):
    """What a run is given."""

    env_params: Any


class State(NamedTuple):
    """What an update changes; buffer: a ring of `fitting.Episode`s."""

    fit: Fit
    buffer: replay.Buffer


def steps_per_update(config: Config) -> int:
    """Environment steps of one step of the algorithm, an episode of all environments; offline the same number, though none is played."""
    return config.num_envs * config.num_steps


def evaluations(config: Config) -> dict[str, Config]:
    """Play by the plans."""
    return {"": config}


def worlds(env: Any, env_params: Any) -> dict[str, Any]:
    """{suffix: params} of the worlds that are evaluated: the training world and its tests."""
    tests = env.tests(env_params) if hasattr(env, "tests") else {}
    return {"": env_params, **{f"-{name}": params for name, params in tests.items()}}


def check(env: Any, config: Config) -> None:
    """Raises: UserError for a field that the model does not read or that the environment's variables do not allow."""
    for name, (models, idle) in USED_BY.items():
        value = getattr(config, name)
        if config.model not in models and value not in idle:
            allowed = " or ".join(map(str, idle))
            raise UserError(f"{name} = {value!r}: must be {allowed} for {config.model}; only {', '.join(models)} can have another")
    if config.model in ORDERED and not (env.factors.ordered or config.learn_upper):
        raise UserError(f"learn_upper = False: must be True for {type(env).__name__}, whose variables have no order")
    if config.learn_std and env.factors.discrete:
        raise UserError(f"learn_std = True: must be False for {type(env).__name__}, whose variables are discrete")


def dynamics_model(env: Any, config: Config) -> Model:
    """The model that a config names, for a factored environment. Raises: UserError for a field out of range."""
    check(env, config)
    factors: Factors = env.factors
    sizes = {name: value for name, value in factors._asdict().items() if name != "ordered"}
    label = config.model == "ncd" if config.label == "auto" else config.label == "yes"
    spec = predictors.Spec(
        **sizes, width=config.width, num_hidden=config.num_hidden, adjacency=ADJACENCY.get(config.model, "full"), label=label,
        encoder_hidden=(config.width,) * 2 if config.model == "ncd" else (config.width, max(config.width // 2, 1)),
        num_codes=config.num_codes, code_dim=config.code_dim, contexts=config.contexts, ema=config.ema, learn_std=config.learn_std,
        learn_upper=config.learn_upper, learn_action=config.learn_action, table_rows=config.table_rows,
    )  # fmt: skip
    if config.model == "mlp":
        return rivals.dense(spec, config.hidden)
    if config.model == "gnn":
        return rivals.gnn(spec, 2 * config.width, 4 * config.width)
    if config.model == "nps":
        return nps.build(spec, config.num_rules or (20 if spec.discrete else 15))
    if config.model in ("cdl", "grader"):
        return cdl.build(spec) if config.model == "cdl" else grader.build(spec)
    return dynamics.build(spec, env.local_graph, env.global_graph)


def planner(env: Any, model: Model, config: Config, space: Any) -> Any:
    """(key, fit, rows, obs) -> action: plan from what one observation shows; rows: `model.prepare(fit.params)`."""
    spec, weigh = model.spec, planning.elite(config.num_elites)
    size = {"iterations": config.plan_iterations, "samples": config.num_candidates}

    def rewards(obs: Obs, values: jax.Array) -> jax.Array:
        """values [P, N, C] -> [P]."""
        return jax.vmap(env.imagined_reward, (None, 0))(obs, values)

    def follow(fit: Fit, rows: Any, obs: Obs, first: jax.Array, actions: jax.Array) -> jax.Array:
        """Return [P] of the states first [P, N, C] and of what the other actions [P, H - 1, ...] lead to."""
        total = rewards(obs, first)
        if actions.shape[1]:
            steps, _ = imagination.rollout(model, fit.params, fit.model, first, actions, rows=rows)
            values = predictors.sample(spec, steps.output, None)
            total = total + jnp.sum(jax.vmap(rewards, (None, 0))(obs, values), axis=0)
        return total

    def one_step(fit: Fit, obs: Obs, actions: jax.Array) -> jax.Array:
        """What the observation leads to under P first actions, [P, N, C]; noisy or not."""
        features = env.features(obs)
        everywhere = jnp.broadcast_to(features, (actions.shape[0], *features.shape))
        step, _ = model.step(fit.params, model.prepare(fit.params, features), fit.model, everywhere, actions, None)
        return predictors.sample(spec, step.output, None)

    def discrete(key: Key, fit: Fit, rows: Any, obs: Obs) -> Action:
        outcomes = one_step(fit, obs, jnp.arange(spec.action_size))  # every first action once: fewer than there are plans

        def value(key: Key, plans: jax.Array) -> jax.Array:
            return follow(fit, rows, obs, outcomes[plans[:, 0]], plans[:, 1:])

        theta, proposal = planning.uniform_theta(spec.action_size, config.horizon), planning.categorical()
        return proposal.mode(planning.plan(key, theta, value, proposal, weigh, **size)[0])[0]

    def continuous(key: Key, fit: Fit, rows: Any, obs: Obs) -> Action:
        low, high = jnp.ravel(jnp.asarray(space.low)), jnp.ravel(jnp.asarray(space.high))
        shape = (spec.num_actions, spec.action_size)

        def value(key: Key, plans: jax.Array) -> jax.Array:
            actions = plans.reshape(*plans.shape[:2], *shape)
            return follow(fit, rows, obs, one_step(fit, obs, actions[:, 0]), actions[:, 1:])

        size_of_action = spec.num_actions * spec.action_size
        mean, std = (jnp.broadcast_to(x, (config.horizon, size_of_action)) for x in ((low + high) / 2, (high - low) / 2))
        proposal = planning.gaussian(low, high)
        chosen = proposal.mode(planning.plan(key, planning.Normal(mean, std), value, proposal, weigh, **size)[0])[0]
        return chosen.reshape(space.shape)

    return discrete if spec.discrete else continuous


def measure(env: Any, env_params: Any, config: Config) -> Any:
    """(key, state, task) -> {name: []}: accuracy and graphs of the model, in distribution and in the test worlds (causal/measures.py)."""
    model = dynamics_model(env, config)

    def measured(key: Key, state: State, task: Task) -> Metrics:
        key_id, key_tests = jax.random.split(key)
        metrics = measures.in_distribution(key_id, env, model, state.fit, state.buffer, config.horizon)
        return metrics | measures.in_test_worlds(key_tests, env, model, state.fit, state.buffer, task.env_params)

    return measured


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """One member. Raises: UserError for a field out of range, an environment without factors, episodes shorter than the horizon."""
    validate(config)
    if not hasattr(env, "factors"):
        raise UserError(f"env = {type(env).__name__}: {config.model} needs an environment with factors, such as chemical-full-fork")
    if config.num_elites > config.num_candidates:
        raise UserError(f"num_elites = {config.num_elites}: must be at most num_candidates = {config.num_candidates}")
    factored: Any = env
    length, model = config.num_steps, dynamics_model(env, config)
    if length != int(env_params.max_steps):
        raise UserError(f"num_steps = {length}: must be {int(env_params.max_steps)}, the steps of an episode")
    if config.horizon > length:
        raise UserError(f"horizon = {config.horizon}: must be at most {length}, the steps of an episode")
    spec, space = model.spec, spaces.from_gymnax(env.action_space(env_params))
    first_blocks = -(-config.init_steps // length)
    num_first = first_blocks * config.num_envs
    if config.num_envs % fitting.HELD_OUT and config.schedule == "online":
        raise UserError(f"num_envs = {config.num_envs}: must be a multiple of {fitting.HELD_OUT}, of which one episode is held out")
    if num_first < fitting.HELD_OUT:
        least = (-(-fitting.HELD_OUT // config.num_envs) - 1) * length + 1
        told = f"{fitting.HELD_OUT} episodes, of which one is held out"
        raise UserError(f"init_steps = {config.init_steps}: must be at least {least} with num_envs = {config.num_envs}, for {told}")
    num_first = num_first // fitting.HELD_OUT * fitting.HELD_OUT
    if config.capacity % fitting.HELD_OUT or config.capacity < num_first:
        raise UserError(f"capacity = {config.capacity}: must be a multiple of {fitting.HELD_OUT} and at least {num_first}")
    plan = planner(factored, model, config, space)

    def seen(obs: Obs) -> jax.Array:
        """What is recorded of an observation, [N]: colours as int8, or real numbers. A noisy one-hot still shows where it is not 0."""
        features = factored.features(obs)
        return jnp.argmax(jnp.abs(features), axis=-1).astype(jnp.int8) if spec.discrete else features[:, 0]

    def recorded(action: Action) -> jax.Array:
        return action.astype(jnp.int16) if spec.discrete else action.reshape(spec.num_actions, spec.action_size)

    def random_episode(key: Key, task: Task) -> Episode:
        key_reset, key_steps = jax.random.split(key)
        obs, env_state = factored.reset_env(key_reset, task.env_params)

        def body(carry: Any, keys: Key) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            obs, env_state = carry
            action = space.sample(keys[0])
            obs, env_state, *_ = factored.step_env(keys[1], env_state, action, task.env_params)
            return (obs, env_state), (seen(obs), recorded(action))

        _, (values, actions) = jax.lax.scan(body, (obs, env_state), jax.random.split(key_steps, (length, 2)))
        return Episode(jnp.concatenate([seen(obs)[None], values]), actions)

    def regard(fit: Fit, episodes: Episode) -> Fit:
        """GRADER tests its graph on the episodes that have come; interventions that set what was there already count for nothing."""
        if config.model != "grader":
            return fit
        rows = fitting.transitions(spec, episodes)
        counted = None
        if spec.discrete:
            node, colour = jnp.divmod(rows.actions[:, 0], spec.variable_size)
            old = jnp.take_along_axis(rows.obs, node[:, None, None], axis=1)[:, 0]
            counted = jnp.take_along_axis(old, colour[:, None], axis=1)[:, 0] == 0
        return fit._replace(model=grader.update_graph(model, fit.model, rows.obs, rows.actions[:, 0], rows.target[:, 0], counted))

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_model, key_data = jax.random.split(key)
        episodes = jax.vmap(random_episode, (0, None))(jax.random.split(key_data, num_first), task)
        buffer = replay.add(replay.init(jax.tree.map(lambda x: x[0], episodes), config.capacity), episodes)
        return State(regard(fitting.start(key_model, model), episodes), buffer)

    def learn(key: Key, i: jax.Array, fit: Fit, buffer: replay.Buffer, hyper: Hyper) -> tuple[Fit, Metrics]:
        """The i-th update of a step; i is the same for all members, so that what only some updates do costs nothing in the others."""
        key_batch, key_update, key_cmi = jax.random.split(key, 3)
        batch = fitting.windows(key_batch, spec, buffer, config.batch_size, config.horizon)
        fit, metrics = fitting.update(key_update, model, fit, batch, hyper, config.sparsity)
        if config.model == "cdl":

            def remeasure(state: dynamics.State) -> dynamics.State:
                rows = fitting.windows(key_cmi, spec, buffer, CMI_ROWS, 1, held_out=True)
                return cdl.update_cmi(model, fit.params, state, rows.obs, rows.actions[:, 0], rows.target[:, 0], hyper.cmi_tau)

            due = (i == length // 2) | (i == length - 1)
            fit = fit._replace(model=jax.lax.cond(due, remeasure, lambda state: state, fit.model))
        return fit, metrics

    def act_all(key: Key, fit: Fit, obs: Obs, hyper: Hyper) -> Action:
        """Actions of all environments: planned, or all at random if the one coin says so."""
        key_coin, key_random, key_plan, key_noise = jax.random.split(key, 4)
        rows = model.prepare(fit.params)
        planned = jax.vmap(plan, (0, None, None, 0))(jax.random.split(key_plan, config.num_envs), fit, rows, obs)
        if not spec.discrete:
            planned = planned + hyper.action_noise * jax.random.normal(key_noise, planned.shape)
        random: jax.Array = jax.vmap(space.sample)(jax.random.split(key_random, config.num_envs))  # type: ignore[assignment]
        return jnp.where(jax.random.uniform(key_coin) < hyper.epsilon, random, planned)

    def online(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        key_reset, key_steps = jax.random.split(key)
        obs, env_state = jax.vmap(factored.reset_env, (0, None))(jax.random.split(key_reset, config.num_envs), task.env_params)

        def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
            (fit, obs, env_state, total, success), (i, keys) = carry, inputs
            action = act_all(keys[0], fit, obs, hyper)
            obs, env_state, reward, _, info = jax.vmap(factored.step_env, (0, 0, 0, None))(
                jax.random.split(keys[1], config.num_envs), env_state, action, task.env_params
            )
            fit, metrics = learn(keys[2], i, fit, state.buffer, hyper)
            return (fit, obs, env_state, total + reward, success | info["success"]), (
                jax.vmap(seen)(obs),
                jax.vmap(recorded)(action),
                metrics,
            )

        start = (state.fit, obs, env_state, jnp.zeros(config.num_envs), jnp.zeros(config.num_envs, bool))
        inputs = (jnp.arange(length), jax.random.split(key_steps, (length, 3)))
        (fit, _, _, total, success), (values, actions, metrics) = jax.lax.scan(body, start, inputs)
        values = jnp.concatenate([jax.vmap(seen)(obs)[None], values])
        episodes = Episode(jnp.swapaxes(values, 0, 1), jnp.swapaxes(actions, 0, 1))
        fit, buffer = regard(fit, episodes), replay.add(state.buffer, episodes)
        metrics = jax.tree.map(jnp.mean, metrics)
        return State(fit, buffer), {**metrics, "episode_return": jnp.mean(total), "episode_success": jnp.mean(success.astype(jnp.float32))}

    def offline(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        def body(fit: Fit, inputs: Any) -> tuple[Fit, Metrics]:
            return learn(inputs[1], inputs[0], fit, state.buffer, hyper)

        fit, metrics = jax.lax.scan(body, state.fit, (jnp.arange(length), jax.random.split(key, length)))
        return state._replace(fit=fit), jax.tree.map(jnp.mean, metrics)

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        """The planned action; the noise of exploration is a matter of training."""
        return plan(key, state.fit, model.prepare(state.fit.params), obs)

    return Algorithm(init, online if config.schedule == "online" else offline, act)
