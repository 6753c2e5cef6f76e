"""A population sharded over four devices: the same members, and no device ever waits for another."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib.util, json, sys
import jax, jax.numpy as jnp, numpy as np
spec = importlib.util.spec_from_file_location("law", sys.argv[1])
law = sys.modules["law"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(law)
from causal_jax import mesh, training

COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter", "collective-broadcast")
law.SEEDS = (0, 1, 2, 3)
results = {}
for name in ("cee-oracle-definition", "effects"):
    case = law.build_case(name)
    runs, texts = [], []
    for devices in (1, 4):
        run = mesh.shard_run(case.start(), mesh.make_mesh(4, f"pop={devices}"))
        program = training.compile_run(case.algorithm, run, case.task, 3).chunk
        runs.append(program(run, case.task, jnp.asarray(3, jnp.int32))[0])
        texts.append(program.as_text())
    law.assert_close(*(run._replace(key=run.key) for run in runs))
    leaf = jax.tree.leaves(runs[1].state)[0]
    results[name] = {
        "devices": len(leaf.sharding.device_set),
        "rows": [list(shard.data.shape)[0] for shard in leaf.addressable_shards],
        "collectives": [word for word in COLLECTIVES if word in texts[1]],
        "partitions": "num_partitions=4" in texts[1],
    }
print(json.dumps(results))
"""


def test_members_are_sharded_without_a_collective() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    here = Path(__file__).with_name("conftest.py")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(here)],
        capture_output=True,
        text=True,
        cwd=here.parents[2],
        env={**os.environ, "XLA_FLAGS": flags},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    expected = {"devices": 4, "rows": [1, 1, 1, 1], "collectives": [], "partitions": True}
    assert json.loads(result.stdout.splitlines()[-1]) == {"cee-oracle-definition": expected, "effects": expected}
