"""Runs inside dm_control's own virtual environment: python point_mass_child.py '{"episodes": 3, "steps": 200, "seed": 0}' OUT.npz

Records the suite's point mass, easy and hard: {task}_states [N, T + 1, 4], _torques [N, T, 2] (multiples of 1/4, held for 25 steps),
_rewards [N, T], _gains [N, 2, 2] (row = torque). Episode 1 starts on the edge of the target, episode 2 pushes into a corner.
"""

import json
import os
import sys
from importlib import metadata

os.environ["MUJOCO_GL"] = "disable"

import numpy as np
from dm_control import suite

size = json.loads(sys.argv[1])
num, steps, rng, out = size["episodes"], size["steps"], np.random.default_rng(size["seed"]), {}
for task in ("easy", "hard"):
    env = suite.load("point_mass", task, task_kwargs={"random": size["seed"]}, environment_kwargs={"flat_observation": False})
    states, torques, rewards, gains = (
        np.zeros((num, steps + 1, 4)),
        np.zeros((num, steps, 2)),
        np.zeros((num, steps)),
        np.zeros((num, 2, 2)),
    )
    for i in range(num):
        env.reset()
        physics = env.physics
        gains[i] = physics.model.wrap_prm[:4].reshape(2, 2)
        if i == 1:
            with physics.reset_context():
                physics.data.qpos[:] = (0.02, -0.01)
        states[i, 0] = (*physics.position(), *physics.velocity())
        for t in range(steps):
            if t % 25 == 0:
                torque = rng.integers(-4, 5, 2) / 4
            torques[i, t] = (1.0, -1.0) if i == 2 else torque
            rewards[i, t] = env.step(torques[i, t]).reward
            states[i, t + 1] = (*physics.position(), *physics.velocity())
    out |= {f"{task}_states": states, f"{task}_torques": torques, f"{task}_rewards": rewards, f"{task}_gains": gains}
np.savez_compressed(sys.argv[2], **out)
print(json.dumps({"versions": {name: metadata.version(name) for name in ("dm_control", "mujoco")}}))
