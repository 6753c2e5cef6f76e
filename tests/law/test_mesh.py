"""One run on one device and on four: members along `pop` never talk, environments along `data` give the same learning curve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from causal_jax import mesh
from causal_jax.types import UserError

SCRIPT = """
import importlib.util, json, sys
import jax, numpy as np
spec = importlib.util.spec_from_file_location("law", sys.argv[1])
law = sys.modules["law"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(law)
from causal_jax import mesh, training

COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter", "collective-broadcast")
law.SEEDS = (0, 1, 2, 3)


def advance(case, text):
    # the run after 3 updates, the metrics of 20, the program
    def fresh():
        return mesh.shard_run(case.start(), mesh.make_mesh(4, text))

    run = fresh()
    program = training.compile_run(case.algorithm, run, case.task, 20).chunk
    run = program(run, case.task, np.int32(3))[0]
    return run, jax.device_get(program(fresh(), case.task, np.int32(20))[1]), getattr(program, "as_text", str)()


results = {}
for name in sys.argv[2:]:
    case = law.build_case(name)
    alone, curve, _ = advance(case, "pop=1")
    run, _, text = advance(case, "pop=4")
    law.assert_close(run, alone)
    leaf = jax.tree.leaves(run.state)[0]
    results[name] = {
        "devices": len(leaf.sharding.device_set),
        "rows": [list(shard.data.shape)[0] for shard in leaf.addressable_shards],
        "collectives": [word for word in COLLECTIVES if word in text],
        "partitions": "num_partitions=4" in text,
    }
    run, split, text = advance(case, "pop=2,data=2")
    rows = [shard.data.shape[:2] for shard in run.state.cursor.episode_return.addressable_shards]
    assert rows == [(2, 1)] * 4, rows  # 4 members of 2 environments
    assert any(word in text for word in COLLECTIVES)
    for metric, x in split.items():
        scale = max(1.0, float(np.nanmax(np.abs(curve[metric]), initial=0.0)))
        np.testing.assert_allclose(x, curve[metric], rtol=1e-4, atol=1e-4 * scale, err_msg=metric)
    # members that the devices do not divide: no one's numbers differ
    uneven, split, _ = advance(case, "pop=3")
    law.assert_close(uneven, alone)
    assert [shard.data.shape[0] for shard in jax.tree.leaves(uneven.state)[0].addressable_shards] == [4] * 3
    for metric, x in split.items():
        scale = max(1.0, float(np.nanmax(np.abs(curve[metric]), initial=0.0)))
        np.testing.assert_allclose(x, curve[metric], rtol=1e-4, atol=1e-4 * scale, err_msg=metric)
    # started on the mesh: the same members
    placed = mesh.make_mesh(4, "pop=4")
    task = mesh.shard_task(case.task, case.task_axes, placed)
    uneven = training.start(case.algorithm, law.SEEDS, case.run.hyper, task, case.task_axes, mesh.make_mesh(4, "pop=3"))
    law.assert_close(uneven, case.run)
    started = training.start(case.algorithm, law.SEEDS, case.run.hyper, task, case.task_axes, placed)
    law.assert_close(started, case.run)
    assert jax.tree.leaves(started.state)[0].sharding == leaf.sharding
print(json.dumps(results))
"""


WINDOWS = """
import jax, numpy as np
from causal_jax import make, mesh, training
from causal_jax.algorithms import dlpa

env, params = make("platform")
size = {"width": 8, "num_samples": 16, "num_elites": 4, "plan_iterations": 1, "horizon": 4, "num_updates": 3, "batch_size": 8}
config = dlpa.Config(**size, capacity=60, shared=True)
algorithm, task = dlpa.build(env, params, config), dlpa.Task(params)

def curve(text):
    hyper, seeds, _ = training.grid(dlpa.Hyper(), [0, 1])
    run = mesh.shard_run(training.start(algorithm, seeds, hyper, task), mesh.make_mesh(2, text, dlpa.batch_sizes(config)))
    program = training.compile_run(algorithm, run, task, 10).chunk
    run, metrics = program(run, task, np.int32(10))
    return jax.device_get((metrics, run.state.params)), program.as_text()


(alone, _), (split, program) = curve("pop=1"), curve("pop=2,data=2")
assert "all-reduce" in program  # the gradients
assert "all-gather" in program  # what plans are worth
for a, b in zip(jax.tree.leaves(split), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(np.nanmax(np.abs(b), initial=0.0))))
"""


UNEVEN = """
from typing import Any, NamedTuple
import jax, jax.numpy as jnp, numpy as np
from flax import struct
from causal_jax import mesh, training
from causal_jax.types import Algorithm

@struct.dataclass
class Hyper:
    rate: jax.Array

class State(NamedTuple):
    x: Any
    key: Any
    none: Any
    empty: Any

class Task(NamedTuple):
    shared: Any
    own: Any
    none: Any
    key: Any

def init(key, hyper, task):
    return State(jax.random.normal(key, (4,)) + task.own["p"], key, None, jnp.zeros(0))

def step(key, state, hyper, task):
    x = state.x + hyper.rate * jax.random.normal(key, (4,)) + task.shared * jax.random.normal(task.key, ()) + task.own["p"]
    return state._replace(x=x, key=key), {"mean": x.mean()}

def evaluate(key, state, task):
    return {"score": state.x.sum() + jax.random.normal(key, ()) + task.own["p"].sum()}

algorithm = Algorithm(init, step, None)
task = Task(jnp.float32(0.5), {"p": jnp.arange(20.0).reshape(5, 4)}, None, jax.random.key(3))
axes = Task(None, 0, None, None)

def train(text):
    placed = mesh.make_mesh(5, text)
    run = training.start(algorithm, range(5), Hyper(jnp.linspace(0.1, 1.0, 5)), task, axes, placed)
    told = []
    run = training.fit(
        algorithm, run, mesh.shard_task(task, axes, placed), 7, chunk_updates=3, evaluate=evaluate, task_axes=axes, on_chunk=told.append
    )
    numbers = [(chunk.metrics, chunk.evaluation, chunk.finite) for chunk in told]
    assert all(x.shape[-1] == 5 for x in jax.tree.leaves(numbers))
    return mesh.copies(placed, 5), (np.asarray(run.state.x), np.asarray(jax.random.key_data(run.state.key)), numbers)

_, alone = train("pop=1")
for text, copies in (("pop=2", 2), ("pop=4", 4), ("", 3)):
    found, numbers = train(text)
    assert found == copies, (text, found)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), numbers, alone)

# the program of a chunk waits for no other device
placed = mesh.make_mesh(5, "pop=2")
run = training.start(algorithm, range(5), Hyper(jnp.linspace(0.1, 1.0, 5)), task, axes, placed)
with mesh.ambient(placed):
    chunk = jax.jit(training.chunk_function(algorithm, 3, axes, placed))
    text = chunk.lower(run, mesh.shard_task(task, axes, placed), np.int32(3)).compile().as_text()
assert not any(word in text for word in ("all-reduce", "all-gather", "collective-permute", "all-to-all"))
"""

EVALUATED = """
import sys
import numpy as np
from causal_jax import evaluation, mesh, runs
from causal_jax.algorithms import template

make_mesh = mesh.make_mesh
config = template.Config(num_envs=2, num_steps=16, hidden=(8,))
sizes = {"members": 5, "steps": 64, "evaluations": 1, "eval_episodes": 2}
settings = runs.Settings(algorithm="template", env="catch-point", folder=sys.argv[1], **sizes)
folder = runs.train_run(runs.resolve(settings, config, None), say=lambda line: None)
spread = evaluation.evaluate_run(folder, 5, seed=2)
run = runs.load_run(folder).resolved
assert [runs.placement(run, num_bytes)[0].size for num_bytes in (1, 10**15)] == [3, 1]  # copies only where there is room
evaluation.mesh.make_mesh = lambda num, *_: make_mesh(num, "pop=1")
alone = evaluation.evaluate_run(folder, 5, seed=2)
assert spread.keys() == alone.keys() and alone["sampled"]["return"][1] > 0.0  # the members differ
for policy, values in alone.items():
    for name, value in values.items():
        np.testing.assert_allclose(spread[policy][name], value, rtol=1e-5, err_msg=name)
"""


def on_four_devices(script: str, *arguments: str) -> str:
    """What a script prints that has four virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    here = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=here, env={**os.environ, "XLA_FLAGS": flags}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_members_that_devices_do_not_divide_have_the_same_numbers() -> None:
    """Start, chunks, evaluation, with a key, None and nothing in the state, and a task in part each member's own."""
    on_four_devices(UNEVEN)


def test_a_run_is_evaluated_on_several_devices_with_the_same_numbers(tmp_path: Path) -> None:
    on_four_devices(EVALUATED, str(tmp_path))


def test_windows_of_an_update_and_plans_are_split_over_devices_with_the_same_curve() -> None:
    on_four_devices(WINDOWS)


def four_devices(*names: str) -> None:
    told = on_four_devices(SCRIPT, str(Path(__file__).with_name("conftest.py")), *names)
    expected = {"devices": 4, "rows": [1, 1, 1, 1], "collectives": [], "partitions": True}
    assert json.loads(told.splitlines()[-1]) == dict.fromkeys(names, expected)


def test_members_are_sharded_without_a_collective_and_data_with_the_same_curve() -> None:
    four_devices("cee-oracle-definition", "effects")


@pytest.mark.slow
def test_every_algorithm_on_four_devices() -> None:
    four_devices("template", "ppo", "ppo-authors", "effects-authors")


@pytest.mark.parametrize(
    ("text", "batch", "line"),
    [
        ("four", None, "mesh = 'four': must be pop=P,data=D or one of the two, counts of devices"),
        ("pop=0", None, "mesh = 'pop=0': must be pop=P,data=D"),
        ("pop=1,envs=2", None, "mesh = 'pop=1,envs=2': must be pop=P,data=D"),
        ("pop=4096", None, "mesh = 'pop=4096,data=1': must be at most"),
        ("pop=4", None, "mesh = 'pop=4,data=1': pop must be at most 3, the number of members"),
        ("pop=2,data=2", None, "mesh = 'pop=2,data=2': pop must divide the 3 members, with data or several processes"),
        ("data=2", {"num_envs": 5}, "mesh = 'pop=1,data=2': data must divide num_envs = 5"),
        ("data=2", {}, "mesh = 'pop=1,data=2': data must be 1"),
    ],
)
def test_bad_sizes_are_one_line(text: str, batch: dict[str, int] | None, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh.jax, "devices", lambda: [None] * 4)  # never placed on: all of these are refused before
    with pytest.raises(UserError, match=r"^mesh = ") as error:
        mesh.make_mesh(3, text, batch)
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("members", "devices", "pop"),
    [(1, 2, 1), (3, 2, 2), (5, 2, 2), (8, 2, 2), (6, 4, 3), (7, 4, 4), (5, 8, 5), (17, 16, 4), (32, 16, 16), (34, 16, 4)],
)
def test_members_lie_along_devices_so_that_none_has_more_than_need_be(members: int, devices: int, pop: int) -> None:
    assert mesh._spread(members, devices) == pop
