"""The host loop: grid and members, chunks of dynamic length, what `fit` tells its callbacks, one-line errors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from causal_jax import training
from causal_jax.types import Algorithm, UserError


@struct.dataclass
class Hyper:
    rate: float = 1.0
    shift: float = 0.0


class State(NamedTuple):
    start: jax.Array
    total: jax.Array
    seen: jax.Array


def init(key: jax.Array, hyper: Any, task: Any) -> State:
    return State(jax.random.uniform(key), task + hyper.shift, jnp.zeros((), jnp.int32))


def step(key: jax.Array, state: State, hyper: Any, task: Any) -> tuple[State, dict[str, jax.Array]]:
    state = state._replace(total=state.total + hyper.rate, seen=state.seen + 1)
    return state, {"total": state.total, "noise": jax.random.uniform(key)}


ADDER = Algorithm(init, step, lambda key, state, obs, greedy: jnp.zeros((), jnp.int32))
TASK = jnp.asarray(10.0)


def fresh(seeds: tuple[int, ...] = (0, 1), rate: Any = 1.0) -> training.Run:
    hyper, seeds, _ = training.grid(Hyper(rate=rate), seeds)
    return training.start(ADDER, seeds, hyper, TASK)


def test_grid_is_every_combination_times_the_seeds() -> None:
    hyper, seeds, points = training.grid(Hyper(rate=[1.0, 2.0], shift=(0.0, 5.0)), [7, 8])
    assert hyper.rate.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert hyper.shift.tolist() == [0, 0, 5, 5, 0, 0, 5, 5]
    assert seeds == [7, 8] * 4
    assert points[2] == {"rate": 1.0, "shift": 5.0}
    assert hyper.rate.dtype == jnp.float32
    assert training.grid(Hyper(), [3])[1:] == ([3], [{}])  # nothing swept, nothing to name


@pytest.mark.parametrize(("hyper", "seeds"), [(Hyper(), []), (Hyper(rate=[]), [0])])
def test_no_members(hyper: Hyper, seeds: list[int]) -> None:
    with pytest.raises(UserError, match=r"^members = 0: must be at least 1$"):
        training.grid(hyper, seeds)


def test_streams_are_three_and_the_members_start_from_theirs() -> None:
    run = fresh((4, 9))
    assert jax.random.key_data(run.key).tolist() == [jax.random.key_data(jax.random.key(s)).tolist() for s in (4, 9)]
    expected = [jax.random.uniform(jax.random.split(jax.random.key(s), 3)[0]) for s in (4, 9)]
    assert run.state.start.tolist() == [float(x) for x in expected]
    assert int(run.t) == 0


def test_a_chunk_runs_as_many_updates_as_it_is_told() -> None:
    chunk = jax.jit(training.chunk_function(ADDER, 4))
    for num in (1, 3, 4):
        run, metrics = chunk(fresh(rate=[1.0, 2.0]), TASK, num)
        assert run.state.seen.tolist() == [num] * 4
        assert int(run.t) == num
        assert metrics["total"].shape == (4, 4)  # [capacity, members]; rows from num on are zero
        assert metrics["total"][:, 0].tolist() == [11.0, 12.0, 13.0, 14.0][:num] + [0.0] * (4 - num)
        assert metrics["total"][:num, 3].tolist() == [12.0, 14.0, 16.0, 18.0][:num]
    assert chunk._cache_size() == 1


def test_update_t_draws_from_its_own_key() -> None:
    train = jax.random.split(jax.random.key(1), 3)[1]
    expected = [float(jax.random.uniform(jax.random.fold_in(train, t))) for t in range(5)]
    _, metrics = training.train(jax.random.key(1), Hyper(), TASK, algorithm=ADDER, num_updates=5)
    assert metrics["noise"].tolist() == expected


def test_train_is_differentiable_in_its_hyperparameters() -> None:
    def total(rate: jax.Array) -> jax.Array:
        return training.train(jax.random.key(0), Hyper(rate=rate), TASK, algorithm=ADDER, num_updates=5)[0].total

    assert float(jax.grad(total)(jnp.asarray(2.0))) == 5.0


def test_fit_tells_its_callbacks() -> None:
    chunks, compiled = [], []
    run = training.fit(
        ADDER, fresh(), TASK, 5, chunk_updates=2, evaluate=lambda key, state, task: {"total": state.total},
        on_compiled=compiled.append, on_chunk=lambda chunk: chunks.append(chunk._replace(run=int(chunk.run.t))),
    )  # fmt: skip
    assert [(c.t, c.run) for c in chunks] == [(0, 0), (2, 2), (4, 4), (5, 5)]
    assert [c.evaluation["total"].tolist() for c in chunks] == [[10, 10], [12, 12], [14, 14], [15, 15]]
    shapes = [{name: x.shape for name, x in c.metrics.items()} for c in chunks]
    assert shapes == [{}, *({"total": (num, 2), "noise": (num, 2)} for num in (2, 2, 1))]
    assert np.concatenate([c.metrics["total"][:, 0] for c in chunks[1:]]).tolist() == [11, 12, 13, 14, 15]
    assert len(compiled) == 1
    assert compiled[0].bytes > 0
    assert compiled[0].seconds > 0
    assert (int(run.t), run.state.seen.tolist()) == (5, [5, 5])


def test_fit_goes_on_from_any_update_and_rejoins_the_chunks() -> None:
    """A run stopped at 3 evaluates at 4 and 6 again, as the uninterrupted one; nothing is evaluated twice."""
    run = training.fit(ADDER, fresh(), TASK, 3, chunk_updates=2)
    seen: list[tuple[int, Any]] = []
    run = training.fit(ADDER, run, TASK, 6, chunk_updates=2, on_chunk=lambda chunk: seen.append((chunk.t, chunk.evaluation)))
    assert seen == [(4, None), (6, None)]
    assert run.state.total.tolist() == [16.0, 16.0]


def test_worlds_of_a_population_differ_by_task_axes() -> None:
    hyper, seeds, _ = training.grid(Hyper(), (0, 1))
    worlds = jnp.asarray([1.0, 100.0])
    run = training.start(ADDER, seeds, hyper, worlds, 0)
    run = training.fit(ADDER, run, worlds, 2, chunk_updates=2, task_axes=0)
    assert run.state.total.tolist() == [3.0, 102.0]


@pytest.mark.parametrize(
    ("counts", "told"),
    [((0, 2), "num_updates = 0: must be at least 1"), ((5, 0), "chunk_updates = 0: must be at least 1")],
)
def test_counts_must_be_positive(counts: tuple[int, int], told: str) -> None:
    with pytest.raises(UserError, match=f"^{told}$"):
        training.fit(ADDER, fresh(), TASK, counts[0], chunk_updates=counts[1])
