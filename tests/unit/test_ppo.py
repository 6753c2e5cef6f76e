"""PPO: the first ratio and the mask in both modes, the fallback where everything is masked, time limits, defaults, one-line errors."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import networks
from causal_jax.algorithms import ppo
from causal_jax.causal import effects
from causal_jax.envs import make
from causal_jax.types import UserError

ONE_BATCH = ppo.Config(num_envs=4, num_steps=16, num_epochs=1, num_minibatches=1, hidden=(8,))


@functools.cache
def first_update(env_id: str, **fields: Any) -> tuple[Any, dict[str, float], Any, Any, Any]:
    """(state before, metrics of the first update, config, env, env params): one minibatch, so its ratio is the first one."""
    env, params = make(env_id)
    config = dataclasses.replace(ONE_BATCH, **fields)
    algorithm = ppo.build(env, params, config)

    def run(key: jax.Array, hyper: ppo.Hyper, task: ppo.Task) -> Any:
        key_init, key_step = jax.random.split(key)
        state = algorithm.init(key_init, hyper, task)
        return state, algorithm.step(key_step, state, hyper, task)[1]

    state, metrics = jax.jit(run)(jax.random.key(0), ppo.Hyper(clip=0.2), ppo.Task(params))
    return state, {name: float(x) for name, x in metrics.items()}, config, env, params


@pytest.mark.parametrize("selection", ["cee", "npm", "npm-random", "cee-woc", "unique"])
def test_the_first_ratio_is_one_where_the_loss_is_masked(selection: str) -> None:
    """facts/cee.md 4.2.7. npm-random draws its mask: the loss must read the one that acted."""
    _, metrics, *_ = first_update("maze-n3", selection=selection, n_values="oracle")
    assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["policy_loss"] == pytest.approx(0.0, abs=1e-5)  # -mean(advantage), which is standardised


@pytest.mark.parametrize(("selection", "num_kept"), [("cee", 4), ("npm", 5)])
def test_the_first_ratio_is_the_kept_mass_in_the_authors_mode(selection: str, num_kept: int) -> None:
    """Z(s), the unmasked policy's mass of the kept actions: a fresh policy is uniform up to its gain 0.01, so Z = kept / 8."""
    state, metrics, config, *_ = first_update("probe-masked", selection=selection, n_values="oracle", mode="authors")
    assert metrics["num_allowed"] == num_kept
    apply = networks.actor_critic((8,), config.hidden, 8, 0).apply
    kept = jnp.arange(8) < 4 if selection == "cee" else (jnp.arange(8) < 4) | (jnp.arange(8) == 7)
    obs = jnp.stack([jax.nn.one_hot(k, 8) for k in range(4)])
    masses = [jnp.sum(jax.nn.softmax(apply(state.policy.network, x)[0]) * kept) for x in obs]
    z = float(jnp.mean(jnp.stack(masses)))
    assert z == pytest.approx(num_kept / 8, abs=0.01)
    assert metrics["approx_kl"] == pytest.approx(z - 1 - np.log(z), abs=2e-3)  # (r - 1) - log r at r = Z
    assert metrics["clip_fraction"] == 1.0


def test_the_authors_mode_acts_by_the_mask_and_learns_without_it() -> None:
    definition, authors = (
        first_update("probe-masked", selection="cee", n_values="oracle", mode=mode)[1] for mode in ("definition", "authors")
    )
    assert definition["entropy"] == pytest.approx(np.log(4), abs=1e-3)
    assert authors["entropy"] == pytest.approx(np.log(8), abs=1e-3)


@functools.cache
def all_masked(mode: str) -> Any:
    """(metrics of the first update, shares of sampled actions): every action is masked, the policy prefers action 0."""
    env, params = make("probe-masked")
    algorithm = ppo.build(env, params, dataclasses.replace(ONE_BATCH, selection="cee-woc", n_values="oracle", mode=mode))
    hyper = ppo.Hyper(woc_threshold=0.99)  # no action has such a share: nothing is kept
    task = ppo.Task(params)

    def run(key: jax.Array) -> Any:
        key_init, key_step = jax.random.split(key)
        state = algorithm.init(key_init, hyper, task)
        network = jax.tree.map(lambda x: x, state.policy.network)
        bias = network["actor"]["layers_1"]["bias"]
        network["actor"]["layers_1"]["bias"] = bias.at[0].set(3.0)  # a policy that is far from uniform
        state = state._replace(policy=state.policy._replace(network=network))
        keys = jax.random.split(jax.random.fold_in(key, 2), 2000)
        obs = jax.nn.one_hot(0, 8)
        actions = jax.vmap(lambda k: algorithm.act(k, state, obs, False))(keys)
        return algorithm.step(key_step, state, hyper, task)[1], jnp.bincount(actions, length=8) / 2000

    metrics, shares = jax.jit(run)(jax.random.key(1))
    return {name: float(x) for name, x in metrics.items()}, np.asarray(shares)


def test_where_all_is_masked_the_mask_is_dropped_and_counted() -> None:
    metrics, shares = all_masked("definition")
    assert metrics["all_masked"] == 1.0
    assert metrics["num_allowed"] == 8.0
    assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert shares[0] == pytest.approx(np.exp(3) / (np.exp(3) + 7), abs=0.05)  # 0.74: the policy itself acts


def test_where_all_is_masked_the_authors_act_uniformly_with_log_probability_zero() -> None:
    metrics, shares = all_masked("authors")
    assert metrics["all_masked"] == 1.0
    np.testing.assert_allclose(shares, 1 / 8, atol=0.03)
    # log ratio = log pi(a) - 0 with a uniform: mean over a of pi - 1 - log pi, pi = (0.742, 7 x 0.037)
    p = np.exp([3.0] + [0.0] * 7)
    p /= p.sum()
    assert metrics["approx_kl"] == pytest.approx(np.mean(p - 1 - np.log(p)), abs=0.3)
    assert metrics["clip_fraction"] == 1.0


def test_evaluation_is_masked_as_the_policy_is() -> None:
    """Greedy and sampled actions are kept ones, though the network prefers a forbidden one; `evaluations` offers both."""
    env, params = make("probe-masked")
    task = ppo.Task(params)
    config = dataclasses.replace(ONE_BATCH, selection="cee", n_values="oracle")
    configs = ppo.evaluations(config)
    assert list(configs) == ["", "-unmasked"]
    obs = jax.nn.one_hot(2, 8)

    def play(key: jax.Array) -> Any:
        acts = {name: ppo.build(env, params, c) for name, c in configs.items()}
        state = acts[""].init(key, ppo.Hyper(), task)
        network = state.policy.network
        network["actor"]["layers_1"]["bias"] = jnp.zeros(8).at[6].set(10.0)
        state = state._replace(policy=state.policy._replace(network=network))
        keys = jax.random.split(jax.random.fold_in(key, 1), 200)
        greedy = {name: a.act(jax.random.fold_in(key, 2), state, obs, True) for name, a in acts.items()}
        return greedy, {name: jax.vmap(lambda k, a=a: a.act(k, state, obs, False))(keys) for name, a in acts.items()}

    greedy, sampled = jax.jit(play)(jax.random.key(0))
    assert int(greedy[""]) < 4
    assert set(sampled[""].tolist()) == {0, 1, 2, 3}
    assert int(greedy["-unmasked"]) == 6
    assert set(sampled["-unmasked"].tolist()) == {6}
    assert ppo.evaluations(ONE_BATCH) == {"": ONE_BATCH}


@pytest.mark.parametrize(("mode", "bootstrapped"), [("definition", True), ("authors", False)])
def test_a_time_limit_is_bootstrapped_in_the_definition_and_a_terminal_for_the_authors(mode: str, bootstrapped: bool) -> None:
    """The critic says 100 everywhere and gamma = 1, lambda = 0: targets are reward + 100, or the reward alone at the limit.

    probe-truncation cuts every fourth step and pays 0, 1, 1, 1: so the mean squared error of the first minibatch is known.
    """
    env, params = make("probe-truncation")
    algorithm = ppo.build(env, params, dataclasses.replace(ONE_BATCH, mode=mode))
    hyper = ppo.Hyper(gamma=1.0, gae_lambda=0.0)

    def run(key: jax.Array) -> jax.Array:
        key_init, key_step = jax.random.split(key)
        state = algorithm.init(key_init, hyper, ppo.Task(params))
        network = state.policy.network
        network["critic"] = jax.tree.map(jnp.zeros_like, network["critic"])
        network["critic"]["layers_1"]["bias"] = jnp.full(1, 100.0)
        state = state._replace(policy=state.policy._replace(network=network))
        return algorithm.step(key_step, state, hyper, ppo.Task(params))[1]["value_loss"]

    errors = [0.0, 1.0, 1.0, 1.0 if bootstrapped else 1.0 - 100.0]  # target - 100
    assert float(jax.jit(run)(jax.random.key(0))) == pytest.approx(np.mean(np.square(errors)), rel=1e-5)


def test_sb3_defaults() -> None:
    """stable-baselines3 2.x, PPO.__init__: batch_size 64 is 32 minibatches of 2048 steps."""
    config, hyper = ppo.sb3()
    assert (config.num_envs, config.num_steps, config.num_epochs, config.num_minibatches) == (1, 2048, 10, 32)
    assert (config.hidden, config.activation, config.normalize_advantage, config.normalize_obs) == ((64, 64), "tanh", True, False)
    assert (hyper.lr, hyper.gamma, hyper.gae_lambda, hyper.clip) == (3e-4, 0.99, 0.95, 0.2)
    assert (hyper.ent_coef, hyper.vf_coef, hyper.max_grad_norm) == (0.0, 0.5, 0.5)
    assert (hyper.epsilon, hyper.tau, hyper.temperature, hyper.woc_threshold) == (0.5, 0.8, 1.0, 0.03)
    assert (*effects.SELECTIONS, "unique") == ppo.SELECTIONS
    assert ppo.steps_per_update(config) == 2048


@pytest.mark.parametrize(
    ("env_id", "fields", "told"),
    [
        ("maze-n2", {"num_minibatches": 5}, "num_minibatches = 5: must divide num_envs * num_steps = 64"),
        ("probe-box", {"selection": "cee"}, "selection = 'cee': needs a Discrete action space, this one is Box"),
        ("probe-factored", {"selection": "npm"}, "selection = 'npm': needs a Discrete action space, this one is Factored"),
        (
            "probe-policy",
            {"selection": "cee", "n_values": "oracle"},
            "n_values = 'oracle', selection = 'cee': needs an environment with `successors`",
        ),
        ("maze-n2", {"num_envs": 0}, "num_envs = 0: must be 1 <= x"),
        ("maze-n2", {"num_steps": 1.5}, "num_steps = 1.5: must be of type int"),
        ("maze-n2", {"selection": "dee"}, "selection = 'dee': must be one of cee, npm, npm-random, cee-woc, all, unique"),
        ("maze-n2", {"mode": "paper"}, "mode = 'paper': must be one of definition, authors"),
        ("maze-n2", {"hidden": (8, 0)}, "hidden = (8, 0): must be 1 <= x"),
    ],
)
def test_one_line_per_mistake(env_id: str, fields: dict[str, Any], told: str) -> None:
    env, params = make(env_id)
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        ppo.build(env, params, dataclasses.replace(ONE_BATCH, **fields))
