"""World models for hybrid actions (DLPA, arXiv 2404.03037): next state, reward and going on, from a state and an action (k, z).

Four networks, one each for the next state, the reward of a step that goes on, the reward of a step that ends, and the logits of
(ends, goes on). All but the first read the PREDICTED next state, with k and z. Each gives a mean and a log deviation for every output;
where there is a key, a normal is drawn from them, and that draw is trained with squared errors and cross-entropy (authors' world_model.py).
Three structures (paper's names): `parallel` reads s, k and z at once; `masking` has outputs for every k and keeps those of the chosen one
(its second hidden layer is K times as wide, or with `shared` as wide as the first, like in the authors' first commit and Platform curve);
`sequential` reads s and k first, z in the second layer. Unlike the paper's R(r | s, k, z), and like the authors' code, reward and end
see the next state, not s; with `state_only` ends see nothing else, as the paper has it, and rewards neither if told so.
Left out: a second reward network nobody reads, and layers of `sequential` that no output depends on.
Ours: code="bits" shows k by its binary digits instead of one-hot, for thousands of actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from causal_jax import networks, row_blocks, spaces
from causal_jax.episodes import Window
from causal_jax.noise import standard_normal
from causal_jax.types import Env, Key, Network, Params, UserError

STRUCTURES = ("parallel", "masking", "sequential")
CODES = ("one-hot", "bits")
REWARDS = ("linear", "unit")
HEADS = ("dynamics", "reward", "last_reward", "going")
STATE_ONLY: dict[str, tuple[str, ...]] = {"none": (), "ends": ("going",), "outcomes": ("reward", "last_reward", "going")}
FEW = 64  # one-hot actions up to here are multiplied; more are looked up
CLAMP = 1e4  # largest loss term of a sample


class Spec(NamedTuple):
    """Sizes: obs_size S, num_actions K, num_parameters Z, hidden width. bounded: states are squashed into [-1, 1] by tanh; reward: linear,

    or "unit", squashed into [0, 1]; two_rewards: steps that end have a reward network of their own; code: how k is shown; shared:
    with `masking`, all actions share the second hidden layer; state_only: the networks that do not see the action (STATE_ONLY);
    residual: the change of the state is predicted, not the state.
    """

    obs_size: int
    num_actions: int
    num_parameters: int
    structure: str = "parallel"
    width: int = 64
    bounded: bool = True
    reward: str = "linear"
    two_rewards: bool = False
    code: str = "one-hot"
    shared: bool = False
    state_only: str = "none"
    residual: bool = False

    def seen_by(self, name: str) -> Spec:
        """The sizes for one network: with no action where it reads the state alone."""
        if name not in STATE_ONLY[self.state_only]:
            return self
        return self._replace(structure="parallel", num_actions=0, num_parameters=0, code="one-hot")

    @property
    def heads(self) -> dict[str, int]:
        """{network: outputs}."""
        heads = {"dynamics": self.obs_size, "reward": 1, "last_reward": 1, "going": 2}
        return {name: size for name, size in heads.items() if name != "last_reward" or self.two_rewards}

    @property
    def num_outputs(self) -> int:
        """Outputs of all networks: so many normals make a draw, those of the next state first."""
        return sum(self.heads.values())

    @property
    def code_size(self) -> int:
        """Inputs that show k."""
        return self.num_actions if self.code == "one-hot" else max(1, math.ceil(math.log2(self.num_actions)))


def model_spec(env: Env, env_params: Any, config: Any) -> Spec:
    """The sizes that a dlpa.Config names.

    Raises: UserError for an environment without hybrid actions, or with more of them than `structure` is for.
    """
    space = spaces.from_gymnax(env.action_space(env_params))
    if not isinstance(space, spaces.Hybrid):
        raise UserError(f"env = {type(env).__name__}: dlpa needs hybrid actions (a choice with parameters), such as platform's")
    if config.structure == "masking" and space.n > FEW:  # every layer behind the first is as many times as large
        raise UserError(f"structure = masking: only for up to {FEW} actions, not {space.n}; use parallel or sequential")
    return Spec(
        spaces.flat_size(env.observation_space(env_params)), space.n, space.num_parameters, config.structure, config.width,
        config.bounded, config.reward, config.reward_nets == 2, config.code, config.shared, config.state_only, config.residual,
    )  # fmt: skip


class Prediction(NamedTuple):
    """next_obs [..., S]; reward and last_reward [...] (the same with one reward network); logits [..., 2] of (ends, goes on)."""

    next_obs: jax.Array
    reward: jax.Array
    last_reward: jax.Array
    logits: jax.Array


def _linear(key: Key, inputs: int, outputs: int, bound: float, bias: float | None = 0.1) -> Params:
    """Kernel U(-bound, bound); biases `bias`, or like the kernel."""
    key_kernel, key_bias = jax.random.split(key)
    constant = jnp.full(outputs, 0.0 if bias is None else bias)
    return {
        "kernel": networks.uniform(key_kernel, (inputs, outputs), bound),
        "bias": networks.uniform(key_bias, (outputs,), bound) if bias is None else constant,
    }


def init_head(key: Key, spec: Spec, outputs: int) -> Params:
    """One network: {first, second, mean, log_std}, each a kernel and a bias. The key is consumed.

    Hidden kernels U(-1/sqrt(n), 1/sqrt(n)) with n the number of OUTPUTS (rlkit's fanin_init, authors' model_utils.py), their biases 0.1,
    the last layers U(-1e-3, 1e-3): at first every mean is about 0 and every deviation about 1.
    """
    keys = jax.random.split(key, 4)
    copies = spec.num_actions if spec.structure == "masking" else 1
    inputs = {"parallel": (spec.obs_size + spec.code_size + spec.num_parameters, 0), "masking": (spec.obs_size + spec.num_parameters, 0),
              "sequential": (spec.obs_size + spec.code_size, spec.num_parameters)}[spec.structure]  # fmt: skip
    width, second = spec.width, spec.width * (1 if spec.shared else copies)
    return {
        "first": _linear(keys[0], inputs[0], width, width**-0.5),
        "second": _linear(keys[1], width + inputs[1], second, second**-0.5),
        "mean": _linear(keys[2], second, outputs * copies, 1e-3, None),
        "log_std": _linear(keys[3], second, outputs * copies, 1e-3, None),
    }


def init(key: Key, spec: Spec) -> dict[str, Params]:
    """All networks by name. The key is consumed."""
    keys = jax.random.split(key, len(HEADS))
    return {name: init_head(keys[HEADS.index(name)], spec.seen_by(name), size) for name, size in spec.heads.items()}


def _code(spec: Spec, k: jax.Array) -> jax.Array:
    """k [...] as the networks see it, [..., code_size]."""
    if spec.code == "bits":
        return (k[..., None] >> jnp.arange(spec.code_size) & 1).astype(jnp.float32)
    return jax.nn.one_hot(k, spec.num_actions)


def apply_head(params: Params, spec: Spec, obs: jax.Array, k: jax.Array, z: jax.Array, with_std: bool) -> tuple[jax.Array, Any]:
    """(mean [..., out], log_std [..., out] in [-20, 2], or None): obs [..., S], k int [...], z [..., Z].

    `masking` computes all K rows and picks one: for the few actions it is meant for that is less work than gathering weights per sample.
    A spec without actions (`seen_by`) reads obs alone.
    """
    z = z[..., : spec.num_parameters]
    first, second = params["first"], params["second"]
    if spec.structure == "masking":
        h = jnp.concatenate([obs, z], -1) @ first["kernel"]
    elif spec.code == "bits" or spec.num_actions <= FEW:
        inputs = (obs, _code(spec, k), z) if spec.structure == "parallel" else (obs, _code(spec, k))
        h = jnp.concatenate(inputs, -1) @ first["kernel"]
    else:
        size, end = spec.obs_size, spec.obs_size + spec.num_actions
        h = obs @ first["kernel"][:size] + first["kernel"][size:end][k]
        h = h + z @ first["kernel"][end:] if spec.structure == "parallel" else h
    h = jax.nn.relu(h + first["bias"])
    h = jnp.concatenate([h, z], -1) if spec.structure == "sequential" else h
    h = jax.nn.relu(h @ second["kernel"] + second["bias"])
    ends = [params["mean"], params["log_std"]] if with_std else [params["mean"]]
    out = h @ jnp.concatenate([end["kernel"] for end in ends], -1) + jnp.concatenate([end["bias"] for end in ends])
    out = out.reshape(*out.shape[:-1], len(ends), -1)
    if spec.structure == "masking":
        out = out.reshape(*out.shape[:-1], spec.num_actions, -1)
        chosen = (k[..., None] == jnp.arange(spec.num_actions))[..., None, :, None]
        out = jnp.sum(jnp.where(chosen, out, 0.0), axis=-2)  # for the few actions it is meant for; a gather costs more under vmap
    return out[..., 0, :], jnp.clip(out[..., 1, :], -20.0, 2.0) if with_std else None


def _draw(mean: jax.Array, log_std: Any, noise: Any) -> jax.Array:
    return mean if noise is None else mean + jnp.exp(log_std) * noise


def _reward(spec: Spec, y: jax.Array) -> jax.Array:
    return (jnp.tanh(y[..., 0]) + 1.0) / 2.0 if spec.reward == "unit" else y[..., 0]


def next_state(params: Any, spec: Spec, obs: jax.Array, k: jax.Array, z: jax.Array, noise: jax.Array | None) -> jax.Array:
    """The predicted next state [..., S], drawn with unit normal `noise` [..., S], or the mean where noise is None."""
    y = _draw(*apply_head(params["dynamics"], spec, obs, k, z, noise is not None), noise)
    return jnp.tanh(y) if spec.bounded else obs + y if spec.residual else y


def outcome(params: Any, spec: Spec, next_obs: jax.Array, k: jax.Array, z: jax.Array, noise: jax.Array | None) -> Prediction:
    """Rewards and logits of a step that led to next_obs [..., S]; noise [..., 3 or 4]: logits, then rewards. None: the means."""

    def head(name: str, begin: int, end: int) -> jax.Array:
        drawn = None if noise is None else noise[..., begin:end]
        return _draw(*apply_head(params[name], spec.seen_by(name), next_obs, k, z, drawn is not None), drawn)

    reward = _reward(spec, head("reward", 2, 3))
    last = _reward(spec, head("last_reward", 3, 4)) if spec.two_rewards else reward
    return Prediction(next_obs, reward, last, head("going", 0, 2))


def returns(
    params: Any, spec: Spec, noise: jax.Array | None, obs: jax.Array, plans: tuple[jax.Array, jax.Array], gamma: jax.Array,
    value: Callable[[jax.Array], jax.Array] | None = None, block: int = 0,
) -> jax.Array:  # fmt: skip
    """Discounted return [P] of plans (k [P, H], z [P, H, Z]) imagined from obs [S].

    value: obs [P, S] -> [P], what comes after the H steps is worth; None: nothing, as the authors have it.
    A plan ends where the model says so: after a step whose logits say "ends", which pays the last reward. noise: from `draw_noise`; None:
    the model's means are used, not its draws. A return that is not a number counts 0. Source: authors' DLPA.py, estimate_value.
    block: 0: every plan is imagined to its last step, ended or not. Else: before each step those that go on are moved together, and only
    blocks of so many rows that hold one of them are computed; the same numbers for less work where plans end early.
    """
    count = plans[0].shape[0]
    block = min(block, count)
    size = -(-count // block) * block if block else count  # whole blocks
    inputs = jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, size - count), *((0, 0),) * (x.ndim - 2))),
        (plans[0].T, jnp.swapaxes(plans[1], 0, 1), noise),
    )

    def ahead(obs: jax.Array, alive: jax.Array, k: jax.Array, z: jax.Array, noise: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One step of some plans: (obs, alive, what the step paid)."""
        split = spec.obs_size
        obs = next_state(params, spec, obs, k, z, None if noise is None else noise[:, :split])
        step = outcome(params, spec, obs, k, z, None if noise is None else noise[:, split:])
        going = step.logits[:, 1] > step.logits[:, 0]
        return obs, alive & going, jnp.where(alive, jnp.where(going, step.reward, step.last_reward), 0.0)

    def together(carry: Any, inputs: Any) -> tuple[Any, None]:
        rows, total, discount = carry
        obs, alive, paid = ahead(*rows, *inputs)
        return ((obs, alive), total + discount * paid, discount * gamma), None

    def by_blocks(carry: Any, inputs: Any) -> tuple[Any, None]:
        (obs, alive), total, order, discount = carry
        first, num = row_blocks.true_first(alive)
        obs, total, order = obs[first], total[first], order[first]
        inputs = jax.tree.map(lambda x: x[order], inputs)

        def one(i: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            def cut(x: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(x, i * block, block)

            new = ahead(*map(cut, found[:2]), *jax.tree.map(cut, inputs))
            new = (*new[:2], cut(found[2]) + discount * new[2])
            return tuple(jax.lax.dynamic_update_slice_in_dim(x, y, i * block, 0) for x, y in zip(found, new, strict=True))

        obs, alive, total = jax.lax.fori_loop(0, -(-num // block), one, (obs, jnp.arange(size) < num, total))
        return ((obs, alive), total, order, discount * gamma), None

    rows = (jnp.broadcast_to(obs, (size, spec.obs_size)), jnp.arange(size) < count)
    nothing, one, order = jnp.zeros(size), jnp.ones(()), jnp.arange(size)
    if block:
        ((last, alive), total, order, discount), _ = jax.lax.scan(by_blocks, (rows, nothing, order, one), inputs)
    else:
        ((last, alive), total, discount), _ = jax.lax.scan(together, (rows, nothing, one), inputs)
    if value is not None:
        total = total + discount * alive * value(last)
    total = nothing.at[order].set(total, unique_indices=True)[:count] if block else total
    return jnp.where(jnp.isnan(total), 0.0, total)


def draw_noise(key: Key, spec: Spec, count: int, horizon: int) -> jax.Array:
    """The normals of a draw in every step of so many windows or plans, [H, B, num_outputs]. The key is consumed."""
    return standard_normal(key, (horizon, count, spec.num_outputs))


def unroll(
    params: Any, spec: Spec, noise: jax.Array | None, window: Window, counted: jax.Array | None = None, block: int = 0,
    moved: int = 0,
) -> Prediction:  # fmt: skip
    """Predictions [B, H, ...] along the actions of windows [B, H], each from the prediction before.

    noise: from `draw_noise`; None: the model's means are used, not its draws. counted: bool [B, H], of each window the first steps, for:
    block: 0: rewards and logits of all steps. Else only of the counted ones, so many at a time, zeros for the others.
    moved: the same of next states.
    """
    size, heads = spec.obs_size, {name: params[name] for name in spec.heads}
    k, z = window.k.T, jnp.swapaxes(window.z, 0, 1)
    first, second = (None, None) if noise is None else (noise[..., :size], noise[..., size:])

    def move(params: Any, obs: jax.Array, rest: Any) -> jax.Array:
        return next_state(params, spec, obs, *rest)

    def pay(params: Any, obs: jax.Array, rest: Any) -> Any:
        return outcome(params, spec, obs, *rest)[1:]

    dynamics = {"dynamics": heads.pop("dynamics")}
    if moved and counted is not None:
        order = jnp.argsort(-jnp.sum(counted, axis=1))  # the longest first
        rest = jax.tree.map(lambda x: x[:, order], (k, z, first))
        states = row_blocks.unroll(jnp.sum(counted, axis=0), move, dynamics, window.obs[order], rest, moved)[:, jnp.argsort(order)]
    else:
        _, states = jax.lax.scan(lambda obs, rest: (move(dynamics, obs, rest),) * 2, window.obs, (k, z, first))
    if block and counted is not None:
        rows, obs, rest = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (counted.T, states, (k, z, second)))
        steps = row_blocks.where(rows, pay, heads, obs, rest, block)
        steps = jax.tree.map(lambda x: x.reshape(*k.shape, *x.shape[1:]), steps)
    else:
        steps = pay(heads, states, (k, z, second))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), Prediction(states, *steps))


def counted(window: Window, mode: str = "definition") -> jax.Array:
    """Which steps of windows [B, H] the losses look at, bool [B, H]: those up to the end of the episode, that one included.

    mode "authors": steps behind a cut count like an end.
    """
    going = window.going
    before = jnp.cumprod(jnp.concatenate([jnp.ones_like(going[:, :1]), going[:, :-1]], axis=1), axis=1) > 0
    return before if mode == "authors" else before & window.inside


def losses(spec: Spec, steps: Prediction, window: Window, rho: jax.Array, mode: str = "definition") -> dict[str, jax.Array]:
    """The H-step losses "state", "reward" and "going", means over windows [B, H] of sums over steps discounted by rho.

    Squared error of states (mean over components) and rewards, cross-entropy of going on, of the steps that count (`counted`). The reward
    network is that of what really happened. mode "authors": the cross-entropy of ALL steps counts, times the share of windows that have
    not ended, as their [B] x [B, 1] product has it.
    """
    going, alive = window.going, counted(window, mode).astype(jnp.float32)
    weight = rho ** jnp.arange(going.shape[1])
    state = jnp.mean(jnp.square(steps.next_obs - window.next_obs), axis=-1)
    reward = jnp.square(jnp.where(going, steps.reward, steps.last_reward) - window.reward)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(steps.logits), going[..., None].astype(jnp.int32), axis=-1)[..., 0]

    def over_windows(x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.minimum((x * alive) @ weight, CLAMP))

    ends = jnp.mean(alive, axis=0) * jnp.mean(entropy, axis=0) @ weight if mode == "authors" else over_windows(entropy)
    return {"state": over_windows(state), "reward": over_windows(reward), "going": ends}


def value_network(spec: Spec) -> Network:
    """State values [...] of obs [..., S] (a last axis of 1): two hidden layers of the model's width."""
    return networks.mlp(spec.obs_size, (spec.width, spec.width), 1, "relu", "torch")


def value_loss(apply: Callable[..., jax.Array], params: Params, target: Params, window: Window, gamma: Any) -> jax.Array:
    """Mean squared error of TD(0) over the first steps of windows [B, H]; a step that ended its episode is worth its reward alone."""
    going, inside = window.going[:, 0].astype(jnp.float32), window.inside[:, 0].astype(jnp.float32)
    goal = window.reward[:, 0] + gamma * going * jax.lax.stop_gradient(apply(target, window.next_obs[:, 0])[..., 0])
    return jnp.mean(inside * jnp.square(apply(params, window.obs)[..., 0] - goal))
