"""Law 4 and the host loop: one compilation per chunk function, and watching a run does not change it."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import training
from causal_jax.algorithms import ALGORITHMS

_listeners: list[Any] = []
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **about: [f(event, about) for f in _listeners])


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Names of the programs compiled (or read from the cache of programs) from here on."""
    names: list[str] = []

    def listen(event: str, about: dict[str, Any]) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    _listeners.append(listen)
    yield names
    _listeners.remove(listen)


@pytest.mark.parametrize("case", ALGORITHMS, indirect=True)
def test_one_compilation_serves_every_chunk_and_evaluation_changes_nothing(law: ModuleType, case: Any, compilations: list[str]) -> None:
    """Six updates as 4 + 2 with evaluations, by a program of capacity 4, against six at once, unwatched, by one of capacity 6."""
    expected, metrics = law.reference(case.name)

    obs, _ = case.env.reset_env(jax.random.key(0), case.env.default_params)

    def evaluate(key: jax.Array, state: Any, task: Any) -> dict[str, jax.Array]:
        return {"action": case.algorithm.act(key, state, obs, False)}

    chunks: list[training.Chunk] = []
    compiled_later: list[int] = []

    def on_chunk(chunk: training.Chunk) -> None:
        chunks.append(chunk._replace(run=None))  # its buffers are given away to the next chunk
        compiled_later.append(len(compilations))

    run = case.start()
    compilations.clear()
    run = training.fit(
        case.algorithm, run, case.task, law.NUM_UPDATES, chunk_updates=4, evaluate=evaluate, task_axes=case.task_axes,
        on_compiled=lambda compiled: compilations.append("ready"), on_chunk=on_chunk,
    )  # fmt: skip
    assert [chunk.t for chunk in chunks] == [0, 4, 6]
    assert compilations.count("jit(chunk)") == 1
    assert compilations[compilations.index("ready") :] == ["ready"]  # nothing at all is compiled once the first chunk runs
    law.assert_equal(run, expected)
    rows = {key: np.concatenate([chunk.metrics[key] for chunk in chunks[1:]]) for key in metrics}
    law.assert_equal(rows, metrics)
    assert all(x.shape[0] == 2 for chunk in chunks for x in jax.tree.leaves(chunk.evaluation["action"]))
    assert chunks[0].metrics == {}


def test_the_count_can_fail(compilations: list[str]) -> None:
    for size in (3, 4):
        jax.jit(lambda x: x + 1).lower(jnp.zeros(size)).compile()
    assert compilations.count("jit(<lambda>)") == 2
