"""Unroll and evaluate on an environment whose every number is known."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make
from causal_jax.envs.base import Environment
from causal_jax.spaces import Box, Discrete


class Count(NamedTuple):
    x: jax.Array
    t: jax.Array


class Counter(Environment):
    """Counts the actions (0 or 1) up from 0; the reward is the new count. Ends at 3 with success, cut off after `params` steps."""

    default_params = 4

    def reset_env(self, key: jax.Array, params: Any) -> tuple[jax.Array, Count]:
        return jnp.zeros(1), Count(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def step_env(self, key: jax.Array, state: Count, action: Any, params: Any) -> Any:
        x = state.x + action
        info = {"success": x >= 3} if params != 5 else {}
        return x[None].astype(float), Count(x, state.t + 1), x.astype(float), x >= 3, info

    def is_truncated(self, state: Count, params: Any) -> jax.Array:
        return state.t >= params

    def action_space(self, params: Any) -> Discrete:
        return Discrete(2)

    def observation_space(self, params: Any) -> Box:
        return Box(0, 3, (1,))


ENV = Counter()


def unrolled(actions: list[int], limit: int = 4) -> Any:
    """Play the actions in order: the observation does not tell the step, so the actor reads it off the key's turn."""
    table = jnp.asarray(actions)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), (len(actions), 2))[:, 0])

    def act(key: jax.Array, obs: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        turn = jnp.argmax(jnp.all(keys == jax.random.key_data(key), axis=-1))
        return table[turn], {"turn": turn}

    cursor = rollout.start(jax.random.key(1), ENV, limit)
    return jax.jit(lambda key, cursor: rollout.unroll(key, ENV, limit, act, cursor, len(actions)))(jax.random.key(0), cursor)


def test_transitions_and_episode_sums() -> None:
    """An end at step 3, a time limit at step 7, then an episode that goes on."""
    cursor, rows, episodes = unrolled([1, 1, 1, 1, 0, 0, 1, 0, 1])
    assert rows.extra["turn"].tolist() == list(range(9))
    assert rows.obs[:, 0].tolist() == [0, 1, 2, 0, 1, 1, 1, 0, 0]
    assert rows.next_obs[:, 0].tolist() == [1, 2, 3, 1, 1, 1, 2, 0, 1]  # 3 and 2: before the reset
    assert rows.reward.tolist() == [1, 2, 3, 1, 1, 1, 2, 0, 1]
    assert np.flatnonzero(rows.terminated).tolist() == [2]
    assert np.flatnonzero(rows.truncated).tolist() == [6]
    assert np.flatnonzero(episodes["done"]).tolist() == [2, 6]
    assert episodes["return"][jnp.asarray([2, 6])].tolist() == [6.0, 5.0]
    assert episodes["length"][jnp.asarray([2, 6])].tolist() == [3, 4]
    assert episodes["success"][jnp.asarray([2, 6])].tolist() == [True, False]
    assert (float(cursor.episode_return), int(cursor.episode_length), cursor.obs.tolist()) == (1.0, 2, [1.0])
    metrics = rollout.episode_metrics(episodes)
    assert {name: float(x) for name, x in metrics.items()} == {
        "episode_return": 5.5, "episode_length": 3.5, "episode_success": 0.5, "num_episodes": 2.0,
    }  # fmt: skip


def test_no_episode_ended() -> None:
    metrics = rollout.episode_metrics(unrolled([1, 0])[2])
    assert float(metrics.pop("num_episodes")) == 0
    assert all(np.isnan(x) for x in metrics.values())


def test_an_unroll_goes_on_where_the_last_one_stopped() -> None:
    cursor, _, _ = unrolled([1, 1])

    def one(key: jax.Array, obs: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        return jnp.ones((), jnp.int32), {}

    _, rows, episodes = rollout.unroll(jax.random.key(0), ENV, 4, one, cursor, 1)
    assert rows.obs.tolist() == [[2.0]]
    assert (episodes["return"].tolist(), episodes["length"].tolist()) == ([6.0], [3])


@pytest.mark.parametrize(
    ("action", "limit", "max_steps", "expected"),
    [
        (1, 4, 50, (6.0, 3, True)),  # ends: what the dead steps pay counts for nothing
        (0, 4, 50, (0.0, 4, False)),  # the time limit
        (1, 4, 2, (3.0, 2, False)),  # max_steps comes first
        (1, 2, 50, (3.0, 2, False)),  # the limit comes before the end
        (1, 5, 50, (6.0, 3, False)),  # an environment that reports no success
    ],
)
def test_evaluate_stops_counting_when_the_episode_ends(action: int, limit: int, max_steps: int, expected: tuple[float, int, bool]) -> None:
    episode = rollout.evaluate(jax.random.key(0), ENV, limit, lambda key, obs: jnp.asarray(action), max_steps)
    assert (float(episode.total), int(episode.length), bool(episode.success)) == expected


@pytest.mark.parametrize(("probe", "total", "length"), [("probe-value", 1.0, 1), ("probe-discount", 1.0, 2), ("probe-truncation", 3.0, 4)])
def test_evaluate_on_probes(probe: str, total: float, length: int) -> None:
    env, params = make(probe)

    def play(key: jax.Array) -> rollout.Episode:
        return rollout.evaluate(key, env, params, lambda k, obs: jnp.zeros((), jnp.int32), 10)

    episode = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 3))
    assert episode.total.tolist() == [total] * 3
    assert episode.length.tolist() == [length] * 3


def test_an_environment_that_lacks_a_function_says_which() -> None:
    class Half(Counter):
        is_truncated = Environment.is_truncated

    with pytest.raises(TypeError, match="is_truncated"):
        Half()
