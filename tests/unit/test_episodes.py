"""The ring of episodes: which windows there are, what they hold, and what is overwritten."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import episodes
from causal_jax.types import UserError

STEPS, HORIZON = 6, 3


@pytest.mark.parametrize(
    ("length", "terminated", "authors", "definition"), [(3, True, 3, 3), (3, False, 4, 3), (20, True, 15, 15), (25, False, 15, 15)]
)
def test_valid_starts_of_the_authors_buffer(length: int, terminated: bool, authors: int, definition: int) -> None:
    assert int(episodes.num_starts(length, terminated, 25, 10, one_more=True)) == authors
    assert int(episodes.num_starts(length, terminated, 25, 10)) == definition


def write(buffer: episodes.Episodes, first: float, length: int, terminated: bool, authors: bool = False) -> episodes.Episodes:
    """An episode whose states are first, first + 1, ...; reward and parameter are the state, the action its step."""
    record = jax.jit(episodes.record)
    for t in range(length):
        over = jnp.asarray(t == length - 1)
        starts = episodes.num_starts(t + 1, terminated, STEPS, HORIZON, authors)
        state, z = jnp.full(1, first + t), jnp.full(1, first + t)
        buffer = record(buffer, state, (jnp.int32(t), z), first + t, state + 1, over & terminated, over, starts)
    return buffer


def all_windows(buffer: episodes.Episodes) -> episodes.Window:
    return jax.jit(lambda key: episodes.windows(buffer, key, 512, HORIZON))(jax.random.key(0))


def test_windows_are_uniform_and_stop_at_the_end_of_their_episode() -> None:
    buffer = write(write(episodes.init(4, STEPS, 1, 1), 10.0, 2, True), 20.0, 6, False)
    buffer = write(buffer, 30.0, 1, False)._replace(starts=buffer.starts)  # a running one is not read
    windows = all_windows(buffer)
    first, counts = np.unique(windows.obs[:, 0], return_counts=True)
    np.testing.assert_array_equal(first, [10, 11, 20, 21, 22])
    np.testing.assert_allclose(counts / 512, 0.2, atol=0.06)
    at = {int(x): jax.tree.map(lambda leaf, i=i: leaf[i], windows) for i, x in enumerate(windows.obs[:, 0])}
    assert at[10].inside.tolist() == [True, True, False]
    assert at[10].going.tolist() == [True, False, False]
    assert at[10].next_obs[:, 0].tolist() == [11, 12, 0]
    assert at[10].reward.tolist() == [10, 11, 0]
    assert at[10].z[:, 0].tolist() == [10, 11, 0]
    assert at[11].k.tolist() == [1, 0, 0]
    assert at[22].k.tolist() == [2, 3, 4]
    assert at[22].going.all()


def test_authors_read_one_step_behind_a_cut() -> None:
    windows = all_windows(write(episodes.init(4, STEPS, 1, 1), 10.0, 2, False, authors=True))
    assert sorted({int(x) for x in windows.obs[:, 0]}) == [10, 11, 12]
    last = np.flatnonzero(windows.obs[:, 0] == 12)[0]
    assert not windows.inside[last].any()
    assert not np.asarray(windows.going[last]).any()
    assert not np.asarray(windows.next_obs[last]).any()


def test_the_oldest_episode_is_overwritten() -> None:
    buffer = episodes.init(3, STEPS, 1, 1)
    for i in range(4):
        buffer = write(buffer, 10.0 * (i + 1), 4 - i, True)
    assert sorted({int(x) // 10 for x in all_windows(buffer).obs[:, 0]}) == [3, 4]
    assert int(buffer.head) == 1
    with pytest.raises(UserError, match=r"^capacity = 1: must be 2 <= x"):
        episodes.init(1, STEPS, 1, 1)
