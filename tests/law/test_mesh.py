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
    return run, jax.device_get(program(fresh(), case.task, np.int32(20))[1]), program.as_text()


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
    # members that the devices do not divide: two on the first, one on each of the others, and no one's numbers differ
    uneven, split, _ = advance(case, "pop=3")
    law.assert_close(uneven, alone)
    assert [shard.data.shape[0] for shard in jax.tree.leaves(uneven.state)[0].addressable_shards] == [4] * 3
    for metric, x in split.items():
        scale = max(1.0, float(np.nanmax(np.abs(curve[metric]), initial=0.0)))
        np.testing.assert_allclose(x, curve[metric], rtol=1e-4, atol=1e-4 * scale, err_msg=metric)
    # started on the mesh: the same members
    placed = mesh.make_mesh(4, "pop=4")
    task = mesh.shard_task(case.task, case.task_axes, placed)
    started = training.start(case.algorithm, law.SEEDS, case.run.hyper, task, case.task_axes, placed)
    law.assert_close(started, case.run)
    assert jax.tree.leaves(started.state)[0].sharding == leaf.sharding
print(json.dumps(results))
"""


def four_devices(*names: str) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    here = Path(__file__).with_name("conftest.py")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(here), *names],
        capture_output=True,
        text=True,
        cwd=here.parents[2],
        env={**os.environ, "XLA_FLAGS": flags},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    expected = {"devices": 4, "rows": [1, 1, 1, 1], "collectives": [], "partitions": True}
    assert json.loads(result.stdout.splitlines()[-1]) == dict.fromkeys(names, expected)


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
