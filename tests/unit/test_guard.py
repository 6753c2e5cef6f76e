"""Divergence and memory: who diverged, when, by what; how many bytes a program needs, before it is compiled."""

from __future__ import annotations

import math
import os
import signal
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import guard, memory, ppo, template, training
from causal_jax.envs import make
from causal_jax.guard import Divergence
from causal_jax.types import Algorithm, UserError


def test_finite_is_told_per_member_and_leaf() -> None:
    state = {"a": jnp.asarray([[1.0, 2.0], [jnp.inf, 0.0]]), "n": jnp.asarray([1, 2]), "b": jnp.asarray([jnp.nan, 1.0])}
    told = {path: good.tolist() for path, good in guard.finite(state).items()}
    assert told == {"['a']": [True, False], "['b']": [False, True]}


def test_the_first_bad_update_metric_and_leaf_are_named() -> None:
    nan, inf = math.nan, math.inf
    metrics = {
        "episode_return": np.asarray([[nan, nan, nan, 1.0], [nan, nan, nan, inf], [1.0, 1.0, 1.0, 1.0]]),  # nan: no episode ended
        "loss": np.asarray([[1.0, 1.0, 1.0, 1.0], [1.0, nan, 1.0, 1.0], [1.0, nan, 1.0, nan]]),
        "value": np.asarray([[1.0, inf, 1.0, 1.0], [1.0, nan, 1.0, 1.0], [1.0, nan, 1.0, 1.0]]),
        "count": np.ones((3, 4), int),
    }
    leaves = {".w": np.asarray([True, False, False, True]), ".b": np.asarray([True, False, True, True])}
    assert guard.divergences(30, metrics, leaves) == {
        1: Divergence(28, "value = inf, state.w is not finite"),
        2: Divergence(30, "state.w is not finite"),
        3: Divergence(29, "episode_return = inf"),
    }
    assert list(guard.divergences(30, metrics, leaves)) == [1, 2, 3]
    assert guard.divergences(3, {"loss": np.ones((3, 4))}, {}) == {}


def test_excluded_members_say_nan() -> None:
    tree = {"a": np.asarray([1, 2, 3]), "b": {"c": np.asarray([1.0, 2.0, 3.0])}}
    told = guard.excluded(tree, [0, 2])
    np.testing.assert_array_equal(told["a"], [math.nan, 2, math.nan])
    np.testing.assert_array_equal(told["b"]["c"], [math.nan, 2, math.nan])
    assert tree["a"].tolist() == [1, 2, 3]


class Counter(NamedTuple):
    best: jax.Array
    x: jax.Array


def test_a_leaf_that_was_not_finite_at_the_start_does_not_count_and_members_are_apart() -> None:
    """`best` begins at -inf, as a best score does; x of member 1 becomes inf in update 3."""

    def step(key: jax.Array, state: Counter, rate: jax.Array, task: None) -> tuple[Counter, dict[str, jax.Array]]:
        return Counter(state.best, state.x * rate), {}

    algorithm = Algorithm(lambda key, hyper, task: Counter(jnp.asarray(-jnp.inf), jnp.asarray(1.0)), step, lambda *args: None)
    run = training.start(algorithm, [0, 1], jnp.asarray([2.0, 1e19]), None)
    seen: list[dict[int, Divergence]] = []
    training.fit(algorithm, run, None, 4, chunk_updates=2, on_chunk=lambda c: seen.append(guard.divergences(c.t, c.metrics, c.finite)))
    assert seen == [{}, {1: Divergence(4, "state.x is not finite")}]


def test_sigterm_sets_a_flag_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with guard.terminable() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) is before
    told: list[bool] = []

    def elsewhere() -> None:
        with guard.terminable() as asked:
            told.append(asked())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert told == [False]


def test_peak_of_a_jaxpr() -> None:
    def f(x: jax.Array) -> jax.Array:
        y = jnp.sin(x)  # 4 kB, dies at the next line
        z = jnp.cos(y)  # 4 kB
        return z.sum()

    assert memory.peak(jax.make_jaxpr(f)(jnp.zeros(1000)).jaxpr) == 8000

    def loop(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (jnp.sin(jnp.sin(c)), c), x, None, length=10)[1].sum()

    most = memory.peak(jax.make_jaxpr(loop)(jnp.zeros(1000)).jaxpr)
    assert 44_000 <= most <= 60_000  # ten stacked rows and the carry, and what one iteration needs


@pytest.mark.parametrize("module", [ppo, template])
def test_the_estimate_is_of_the_size_that_xla_needs(module: object) -> None:
    env, params = make("maze-n4")
    config = module.Config(num_envs=32, num_steps=128, hidden=(32,))  # type: ignore[attr-defined]
    algorithm, task = module.build(env, params, config), module.Task(params)  # type: ignore[attr-defined]
    hyper, seeds, _ = training.grid(module.Hyper(), range(4))  # type: ignore[attr-defined]
    told: list[int] = []
    compiled = training.compile_run(algorithm, training.start(algorithm, seeds, hyper, task), task, 2, on_estimate=told.append)
    assert 0.5 < told[0] / compiled.bytes < 4


def test_the_limit() -> None:
    assert memory.available(jax.devices()) > 2**28
    memory.check(10, 10)
    with pytest.raises(UserError, match=r"^memory = 3.0 GiB: more than the limit of 5 MiB; .*--memory-limit$"):
        memory.check(3 * 2**30, 5 * 2**20)


def test_an_estimate_may_refuse_before_anything_is_compiled() -> None:
    env, params = make("probe-policy")
    algorithm, task = template.build(env, params, template.Config(num_envs=2, num_steps=2, hidden=(2,))), template.Task(params)
    hyper, seeds, _ = training.grid(template.Hyper(), (0,))

    def refuse(num_bytes: int) -> None:
        memory.check(num_bytes, 10)

    def never(compiled: training.Compiled) -> None:
        raise AssertionError("compiled")

    with pytest.raises(UserError, match="^memory = "):
        training.fit(
            algorithm, training.start(algorithm, seeds, hyper, task), task, 1, chunk_updates=1, on_estimate=refuse, on_compiled=never
        )


def test_a_run_goes_on_past_2_to_the_31_steps() -> None:
    """Updates are counted in int32, steps in Python's integers: 2^31 - 10 updates of 2,048 steps, and 8 more."""
    env, params = make("probe-policy")
    algorithm, task = template.build(env, params, template.Config(num_envs=2, num_steps=2, hidden=(2,))), template.Task(params)
    hyper, seeds, _ = training.grid(template.Hyper(), (0, 1))
    late, end = 2**31 - 10, 2**31 - 2
    run = training.start(algorithm, seeds, hyper, task)._replace(t=jnp.asarray(late, jnp.int32))
    chunks: list[training.Chunk] = []
    training.fit(algorithm, run, task, end, chunk_updates=4, on_chunk=lambda c: chunks.append(c._replace(run=int(c.run.t))))
    assert [(c.t, c.run) for c in chunks] == [(late + 2, late + 2), (late + 6, late + 6), (end, end)]
    assert all(type(c.t) is int and c.t * 2048 > 2**41 for c in chunks)
    assert all(np.isfinite(c.metrics["loss"]).all() for c in chunks)
