"""Where the package icu-sepsis is installed: python icu_sepsis_child.py '{"steps": 100000, "seed": 0}' OUT.npz

Plays the package's own environment with uniform actions: before, action (joint), after, reward, terminated [steps], total and length of
every episode that ended.
"""

import json
import sys
from importlib import metadata

import numpy as np
from icu_sepsis.envs.sepsis import ICUSepsisEnv

size = json.loads(sys.argv[1])
rng, env = np.random.default_rng([size["seed"], 1]), ICUSepsisEnv()  # not the stream of the environment itself
state, _ = env.reset(seed=size["seed"])
rows, ends, begin = [], [], 0
for t in range(size["steps"]):
    action = rng.integers(5, size=2)
    after, reward, terminated, _, _ = env.step(action)
    rows.append((state, 5 * action[0] + action[1], after, reward, terminated))
    state = after
    if terminated:
        ends.append((sum(row[3] for row in rows[begin:]), t + 1 - begin))
        begin = t + 1
        state, _ = env.reset()
before, action, after, reward, terminated = np.asarray(rows).T
total, length = np.asarray(ends).T
rows = {"before": before.astype(int), "action": action.astype(int), "after": after.astype(int), "reward": reward}
np.savez_compressed(sys.argv[2], **rows, terminated=terminated.astype(bool), total=total, length=length)
print(json.dumps({"versions": {name: metadata.version(name) for name in ("icu-sepsis", "gymnasium")}}))
