"""Factored Q-learning under the configurations in which it is an algorithm that is known: DecQN, and double DQN."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import losses, make, optim
from causal_jax.algorithms import ALGORITHMS, factored_q
from causal_jax.types import UserError

SMALL = {
    "num_envs": 2,
    "num_steps": 2,
    "init_steps": 8,
    "capacity": 40,
    "batch_size": 8,
    "hidden": (8,),
    "target_every": 2,
    "model_hidden": (8,),
}


def started(**fields: Any) -> tuple[Any, Any, factored_q.State]:
    """(algorithm, task, first state) on the point mass."""
    env, params = make("point-mass-3", max_steps=6)
    algorithm = factored_q.build(env, params, factored_q.Config(**{**SMALL, **fields}))
    task = factored_q.Task(params)
    return algorithm, task, jax.jit(algorithm.init)(jax.random.key(0), factored_q.Hyper(lam=0.0), task)


def test_without_projected_losses_and_with_the_average_mixer_it_is_decqn_step_by_step() -> None:
    """Whatever the projected losses are made of: models that are believed at once, and real rows."""
    hyper = factored_q.Hyper(lr=1e-2, lam=0.0, model_error=1e9)
    decqn, task, other = started(**ALGORITHMS["decqn"].preset)
    ours, _, state = started(mixer="average", aug="noop+real")
    step, other_step = jax.jit(ours.step), jax.jit(decqn.step)
    first = state.learner.params
    for i in range(6):
        key = jax.random.key(10 + i)
        state, metrics = step(key, state, hyper, task)
        other, _ = other_step(key, other, hyper, task)
        for a, b in zip(jax.tree.leaves(state.learner.params), jax.tree.leaves(other.learner.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_array_equal(state.buffer.rows.action, other.buffer.rows.action)
    assert metrics["loss_projected"] > 0  # they are there, and weigh nothing
    assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(state.learner.params), strict=True)) > 1e-2


def test_one_block_is_double_dqn() -> None:
    """An update of the algorithm on a batch against the equation, with online and target networks that differ."""
    env, params = make("point-mass-3", max_steps=6)
    config = factored_q.Config(**{**SMALL, **ALGORITHMS["dqn"].preset, "target_every": 1000})
    core = factored_q.factored.build(env, params, config)
    _, _, state = started(**ALGORITHMS["dqn"].preset)
    hyper = factored_q.Hyper(lr=1e-2, gamma=0.9)
    optimiser = optim.adam(hyper.lr, hyper.max_grad_norm)
    batch = jax.tree.map(lambda x: x[:8], state.buffer.rows)._replace(terminated=jnp.arange(8) == 3)
    learner = state.learner._replace(target=jax.tree.map(lambda x: 0.5 * x, state.learner.params))

    def q(params: Any, obs: jax.Array) -> jax.Array:
        return jax.vmap(lambda o: core.q(params, learner.scale, o)[0][0])(obs)

    chosen = jnp.argmax(q(learner.params, batch.next_obs), axis=1)
    bootstrap = jnp.take_along_axis(q(learner.target, batch.next_obs), chosen[:, None], axis=1)[:, 0]
    target = batch.reward + 0.9 * jnp.where(batch.terminated, 0.0, bootstrap)

    def loss(params: Any) -> jax.Array:
        return jnp.mean(losses.huber(jnp.take_along_axis(q(params, batch.obs), batch.action, axis=1)[:, 0], target))

    updates, _ = optimiser.update(jax.grad(loss)(learner.params), learner.opt_state)
    updated, metrics = core.update(learner, batch, hyper, optimiser)
    np.testing.assert_allclose(metrics["loss_q"], loss(learner.params), rtol=1e-5)
    for old, change, new in zip(*(jax.tree.leaves(x) for x in (learner.params, updates, updated.params)), strict=True):
        np.testing.assert_allclose(new, old + change, atol=1e-6)
    assert core.blocks.sizes == (9,)


def test_too_small_a_replay_is_refused() -> None:
    with pytest.raises(UserError, match="capacity = 4: must be at least 8"):
        started(capacity=4)
