"""Runs inside the peers' own virtual environment: navix and xminigrid grids alone, one measurement per line of input (see peers.py).

    python grids_child.py '{"envs": ["navix:Navix-Empty-8x8-v0", "xminigrid:MiniGrid-Empty-8x8"], "parallel": 1024, "env_steps": 1000}'

A request {"env": name} times one jit(vmap(scan)) with uniformly random actions and the package's own auto-reset; {"cpu": true} too: by the
CPU seconds of all threads, which other processes on the machine disturb less.
"""

import json
import sys
import time
from importlib import metadata

import jax

size = json.loads(sys.argv[1])


def parts(name):
    """(reset(key) -> timestep, step(timestep, action) -> timestep, number of actions)."""
    package, _, env_id = name.partition(":")
    if package == "navix":
        import navix

        env = navix.make(env_id)
        return env.reset, env.step, 7
    import xminigrid
    from xminigrid.wrappers import GymAutoResetWrapper

    env, params = xminigrid.make(env_id)
    env = GymAutoResetWrapper(env)
    return lambda key: env.reset(params, key), lambda timestep, action: env.step(params, timestep, action), env.num_actions(params)


def program(name):
    reset, step, num_actions = parts(name)

    def one(key):
        key_reset, key_action = jax.random.split(key)

        def body(timestep, action):
            timestep = step(timestep, action)
            return timestep, timestep.reward

        actions = jax.random.randint(key_action, (size["env_steps"],), 0, num_actions)
        last, reward = jax.lax.scan(body, reset(key_reset), actions)
        return reward.sum() + last.observation.astype(float).sum()  # so that no step is left out, which a constant reward would allow

    return jax.jit(lambda key: jax.vmap(one)(jax.random.split(key, size["parallel"])))


programs = {name: program(name) for name in size["envs"]}
for run in programs.values():
    jax.block_until_ready(run(jax.random.key(0)))
print(json.dumps({"versions": {name: metadata.version(name) for name in ("navix", "xminigrid", "jax")}}), flush=True)
for seed, line in enumerate(sys.stdin):
    key = jax.block_until_ready(jax.random.key(seed + 1))
    request = json.loads(line)
    clock = time.process_time if request.get("cpu") else time.perf_counter
    began = clock()
    jax.block_until_ready(programs[request["env"]](key))
    print(json.dumps({"steps_per_second": size["parallel"] * size["env_steps"] / (clock() - began)}), flush=True)
