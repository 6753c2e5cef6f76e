"""Concurrent learners: alone together, whose data is read, what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import make, replay
from causal_jax.algorithms import concurrent_ddpg as ddpg
from causal_jax.types import UserError

SMALL = {"num_steps": 5, "warmup_steps": 6, "samples": 4, "batch_size": 4, "capacity": 32, "hidden": (8,), "exploration": "ou"}


OWN = ("learners", "buffers", "cursors", "noise", "worlds", "ids")  # leaves of a state with an axis of learners


def test_learners_that_share_nothing_are_learners_alone() -> None:
    """With W = I a learner among others is, bit for bit, the same whoever they are; a program of its own rounds differently (1e-6)."""
    env, params = make("autoregressive-hard")
    together = ddpg.build(env, params, ddpg.Config(sharing="individual", num_learners=3, **SMALL))
    alone = ddpg.build(env, params, ddpg.Config(sharing="individual", num_learners=1, **SMALL))
    hyper, task = ddpg.Hyper(), ddpg.Task(params)
    state = jax.jit(together.init)(jax.random.key(0), hyper, task)
    step, one_step = jax.jit(together.step), jax.jit(alone.step)

    def take(state: ddpg.State, index: jax.Array) -> ddpg.State:
        return state._replace(**{name: jax.tree.map(lambda x: x[index], getattr(state, name)) for name in OWN})

    def after(step: Any, state: ddpg.State) -> ddpg.State:
        return step(jax.random.key(2), step(jax.random.key(1), state, hyper, task)[0], hyper, task)[0]

    ended = after(step, state)
    for i in range(3):
        clones = after(step, take(state, jnp.full(3, i)))  # beside two of its own kind
        single = after(one_step, take(state, jnp.asarray([i]))._replace(sharing=state.sharing._replace(weights=jnp.eye(1))))
        for name in ("learners", "noise", "cursors"):
            leaves = zip(*(jax.tree.leaves(getattr(s, name)) for s in (ended, clones, single)), strict=True)
            for among, cloned, lone in leaves:
                np.testing.assert_array_equal(cloned[0], among[i])
                np.testing.assert_allclose(lone[0], among[i], atol=2e-6)


def test_rows_come_from_the_rings_as_often_as_the_weights_say() -> None:
    rings = [replay.add(replay.init(jnp.int32(0), 16), jnp.full(5 + i, i, jnp.int32)) for i in range(3)]
    buffers = jax.tree.map(lambda *x: jnp.stack(x), *rings)
    weights = jnp.asarray([0.5, 0.3, 0.2])
    drawn = replay.across(buffers, jax.random.key(0), weights, 100_000)
    shares = np.bincount(drawn, minlength=3) / 100_000
    np.testing.assert_allclose(shares, weights, atol=4 * np.sqrt(0.25 / 100_000))


@pytest.mark.parametrize(("spread", "same"), [(0.0, 1 / 3), (1.0, 1.0)])
def test_where_worlds_are_the_same_everyone_is_read_alike(spread: float, same: float) -> None:
    """Share of a learner's batches from its own group of three: what it is by chance, or all of it."""
    env, params = make("autoregressive-hard", spread=spread, jitter=0.0)
    config = ddpg.Config(num_learners=9, extractor="regression", num_components=3)
    key_worlds, key_data, key_share = jax.random.split(jax.random.key(0), 3)
    worlds = env.draw_worlds(key_worlds, params, 9)
    draws = jax.random.uniform(key_data, (3, 9, 8, 1), minval=-1.0)
    y = worlds.value[:, None, None] * draws[0] + draws[1] + 0.1 * draws[2]
    found = ddpg.share(key_share, config, ddpg.Hyper(), worlds, jnp.concatenate([draws[0], draws[1]], axis=2), y)
    assert bool(found.differ) == (spread > 0)
    shares = jnp.sum(found.weights * (worlds.group[:, None] == worlds.group), axis=1)
    np.testing.assert_allclose(shares, same, atol=0.02)
    if not spread:
        np.testing.assert_allclose(found.weights, 1 / 9, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sharing": "all"}, "sharing = 'all'"),
        ({"warmup_steps": 3, "samples": 8}, "warmup_steps = 3: must be at least samples = 8"),
        ({"warmup_steps": 50, "capacity": 20}, "warmup_steps = 50: must be at most capacity = 20"),
        ({"num_learners": 0}, "num_learners = 0"),
    ],
)
def test_bad_fields_are_one_line(fields: dict, message: str) -> None:
    env, params = make("autoregressive-hard")
    with pytest.raises(UserError, match=message):
        ddpg.build(env, params, ddpg.Config(**fields))


def test_discrete_actions_are_refused() -> None:
    env, params = make("maze-n4")
    with pytest.raises(UserError, match="concurrent learners need Box actions"):
        ddpg.build(env, params, ddpg.Config())
