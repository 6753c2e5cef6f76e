"""Runs inside d3rlpy's own virtual environment: python d3rlpy_child.py '{"updates": 10000, "threshold": 0.3, ...}' OUT.npz IN.npz

IN.npz: obs [R, D], action [R], reward [R], terminated, timeout bool [R], whole episodes after one another; `every` [S, D], observations
to be asked about. Trains d3rlpy's discrete BCQ; OUT.npz: greedy [S], the greedy action of each. Prints updates per second too.
"""

import json
import sys
import time
from importlib import metadata

import d3rlpy
import numpy as np
from d3rlpy.models.encoders import VectorEncoderFactory

size, rows = json.loads(sys.argv[1]), np.load(sys.argv[3])
d3rlpy.seed(size["seed"])
dataset = d3rlpy.dataset.MDPDataset(
    rows["obs"].astype(np.float32), rows["action"][:, None].astype(np.int32), rows["reward"][:, None].astype(np.float32),
    rows["terminated"].astype(np.float32), rows["timeout"].astype(np.float32), action_space=d3rlpy.ActionSpace.DISCRETE,
    action_size=size["num_actions"],
)  # fmt: skip
learner = d3rlpy.algos.DiscreteBCQConfig(
    batch_size=size["batch_size"], learning_rate=size["lr"], gamma=size["gamma"], action_flexibility=size["threshold"], beta=size["beta"],
    target_update_interval=size["target_every"], encoder_factory=VectorEncoderFactory(hidden_units=size["hidden"]),
).create(device="cpu")  # fmt: skip
began, cpu = time.perf_counter(), time.process_time()
learner.fit(
    dataset, n_steps=size["updates"], n_steps_per_epoch=size["updates"], show_progress=False, save_interval=2,
    experiment_name="bcq", with_timestamp=False, logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
)  # fmt: skip
seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
np.savez(sys.argv[2], greedy=learner.predict(rows["every"].astype(np.float32)))
told = {"updates_per_second": size["updates"] / seconds, "updates_per_cpu_second": size["updates"] / cpu}
print(json.dumps({"versions": {name: metadata.version(name) for name in ("d3rlpy", "torch")}, **told}))
