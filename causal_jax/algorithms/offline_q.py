"""BCQ, factored BCQ and AD-BCQ: the same values learned from a data set, kept near the policy that made it (causal/factored.py).

`ad-bcq` (arXiv 2504.21326), `factored-bcq` (Tang et al. 2022: a block per factor, average mixer, no projected losses) and `bcq` (one block
of all factors: discrete BCQ, Fujimoto et al. 2019). A behaviour network gives pi_k(a_k | s) per block; actions with pi_k / max pi_k <=
threshold in some block are never chosen, neither acting nor in targets. Loss: Huber + cross entropy + 0.01 mean(logits^2); Adam with L2
decay in the gradient (not AdamW); targets follow by tau in every update. Widths and rates are those of Tang et al.'s code.
The task is a data set. On the command line it is made by a behaviour policy of the environment, one per seed (`--worlds shared`: one for
all), and a step plays nothing; in Python `Task(env_params, rows)` takes any `datasets.Rows`, and an environment may be `datasets.Recorded`.
Departure: the factored network's last layer is one block-padded matrix; what pads it has no gradient.
Reproduce: python -m experiments.adrl offline
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from causal_jax import datasets, optim
from causal_jax.causal import factored
from causal_jax.causal.factored import Batch, Learner
from causal_jax.fields import option, suggest, validate
from causal_jax.types import Action, Algorithm, Env, Key, Metrics, Obs, UserError

EVALUATION_MODES = ("greedy",)
SCALE_ROWS = 10_000  # by which observations are standardised
DATA = 0x0FF11E  # the root seed of the data sets, apart from the members' own


@dataclasses.dataclass(frozen=True)
class Config(factored.Config):
    """What decides shapes and control flow."""

    batch_size: int = option(100, low=1)
    """Transitions per update."""
    hidden: tuple[int, ...] = option((256, 256), low=1)
    """Hidden layers of the Q-network and of the behaviour network, relu."""
    target_every: int = option(1, low=1)
    """Updates between two of the target networks (by the share tau)."""
    num_updates: int = option(10, low=1)
    """Updates of a step."""
    behaviour: str = "random"
    """The policy that makes the data: random, or one of the environment's `behaviours`."""
    episodes: int = option(2000, low=1)
    """Episodes of the data set."""
    max_steps: int = option(20, low=1)
    """Longest episode of the data set."""


@struct.dataclass
class Hyper:
    """Floats that may be searched: every one is a leaf that vmaps."""

    lr: float = option(3e-4, low=0.0)
    """Adam's step size."""
    gamma: float = option(0.99, low=0.0, high=1.0)
    """Discount per step."""
    threshold: float = option(0.3, low=0.0, below=1.0)
    """An action needs more than this share of the likeliest action's probability."""
    lam: float = option(1.0, low=0.0)
    """Weight of the projected losses."""
    tau: float = option(0.005, above=0.0, high=1.0)
    """Share of the online networks in an update of the target."""
    logit_l2: float = option(0.01, low=0.0)
    """Weight of the mean squared logit of the behaviour network."""
    weight_decay: float = option(1e-3, low=0.0)
    """L2 penalty, added to the gradient."""
    model_lr: float = option(1e-3, low=0.0)
    """Adam's step size for the models."""
    model_error: float = option(2.0, low=0.0)
    """Synthetic batches are used while the dynamics' running squared error, in variances of a step's change, is below this."""


class Task(NamedTuple):
    """What a run is given: `data` is a datasets.Rows."""

    env_params: Any
    data: datasets.Rows


class State(NamedTuple):
    """What an update changes; threshold [] is what `act` filters by."""

    learner: Learner
    threshold: jax.Array


def steps_per_update(config: Config) -> int:
    """Gradient steps of one step of the algorithm: nothing is played."""
    return config.num_updates


def behaviour_of(env: Env, env_params: Any, name: str) -> datasets.Behaviour:
    """A behaviour policy by name. Raises: UserError with the nearest names for one that the environment has not."""
    known: dict[str, Any] = getattr(env, "behaviours", lambda params: {})(env_params)
    if name != "random" and name not in known:
        raise UserError(f"behaviour = {name!r}: {suggest(name, ['random', *known])}")
    return known[name] if name in known else datasets.uniform(env.action_space(env_params))


def make_task(env: Env, env_params: Any, config: Config, seeds: Sequence[int], own: bool) -> tuple[Task, Any]:
    """The data sets of a run's members, made by `config.behaviour`, and the task's vmap axes; own: one per seed, else one for all."""
    behaviour = behaviour_of(env, env_params, config.behaviour)

    def one(seed: jax.Array) -> datasets.Rows:
        key = jax.random.fold_in(jax.random.key(DATA), seed)
        return datasets.rows(datasets.generate(key, env, env_params, behaviour, config.episodes, config.max_steps))

    if not own:
        return Task(env_params, jax.jit(one)(jnp.uint32(seeds[0]))), None
    return Task(env_params, jax.jit(jax.vmap(one))(jnp.asarray(seeds, jnp.uint32))), Task(None, 0)  # type: ignore[arg-type]


def build(env: Env, env_params: Any, config: Config = Config()) -> Algorithm:
    """One member. Raises: UserError for a field out of range, an action space that is not discrete, blocks that do not fit."""
    validate(config)
    core = factored.build(env, env_params, config, filtered=True)
    if isinstance(env, datasets.Recorded):
        if config.behaviour != "random":
            raise UserError(f"behaviour = {config.behaviour!r}: recorded data have their own")
    else:
        behaviour_of(env, env_params, config.behaviour)

    def batch(data: datasets.Rows, key: Key, num: int) -> Batch:
        obs, action, reward, next_obs, terminated = datasets.sample(data, key, num)
        return Batch(obs, core.blocks.encode(action), reward, next_obs, terminated)

    def init(key: Key, hyper: Hyper, task: Task) -> State:
        key_rows, key_learner = jax.random.split(key)
        rows = batch(task.data, key_rows, SCALE_ROWS)
        learner = core.init(key_learner, factored.scale_of(rows.obs, rows.next_obs), optim.adam(hyper.lr))
        return State(learner, jnp.asarray(hyper.threshold, jnp.float32))

    def step(key: Key, state: State, hyper: Hyper, task: Task) -> tuple[State, Metrics]:
        optimiser = optim.adam(hyper.lr)

        def learn(learner: Learner, key: Key) -> tuple[Learner, Metrics]:
            return core.update(learner, batch(task.data, key, config.batch_size), hyper, optimiser, hyper.weight_decay)

        learner, metrics = jax.lax.scan(learn, state.learner, jax.random.split(key, config.num_updates))
        return State(learner, jnp.asarray(hyper.threshold, jnp.float32)), {name: jnp.mean(x) for name, x in metrics.items()}

    def act(key: Key, state: State, obs: Obs, greedy: bool) -> Action:
        return core.blocks.decode(core.greedy(state.learner, obs, state.threshold))

    return Algorithm(init, step, act)
