"""Runs inside the peer's own virtual environment: rejax PPO on its gymnax, one measurement per line of input (see peers.py).

    python rejax_child.py '{"env": "CartPole-v1", "num_envs": 64, "num_steps": 128, "num_epochs": 4, "num_minibatches": 4,
        "hidden": [64, 64], "updates": 8, "members": [1, 8]}'

A request {"members": m} (one of `members`) times one vmapped `train` of `updates` updates from new keys, without its evaluations.
Compilation is not measured.
"""

import json
import sys
import time
from importlib import metadata

import jax
from rejax import PPO

size = json.loads(sys.argv[1])
total = size["updates"] * size["num_envs"] * size["num_steps"]
algo = PPO.create(
    env=size["env"], total_timesteps=total, eval_freq=total, skip_initial_evaluation=True, num_envs=size["num_envs"],
    num_steps=size["num_steps"], num_epochs=size["num_epochs"], num_minibatches=size["num_minibatches"], learning_rate=3e-4, gamma=0.99,
    gae_lambda=0.95, clip_eps=0.2, ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5,
    agent_kwargs={"activation": "tanh", "hidden_layer_sizes": tuple(size["hidden"])},
).replace(eval_callback=lambda algo, ts, rng: ts.global_step)  # fmt: skip


def program(members):
    keys = jax.random.split(jax.random.PRNGKey(0), members)
    return jax.jit(jax.vmap(PPO.train, in_axes=(None, 0))).lower(algo, keys).compile()


programs = {members: program(members) for members in size["members"]}
for members, train in programs.items():
    jax.block_until_ready(train(algo, jax.random.split(jax.random.PRNGKey(1), members)))
print(json.dumps({"versions": {name: metadata.version(name) for name in ("rejax", "gymnax", "jax")}}), flush=True)
for seed, line in enumerate(sys.stdin):
    members = json.loads(line)["members"]
    keys = jax.block_until_ready(jax.random.split(jax.random.PRNGKey(2 + seed), members))
    began = time.perf_counter()
    jax.block_until_ready(programs[members](algo, keys))
    print(json.dumps({"steps_per_second": members * total / (time.perf_counter() - began)}), flush=True)
