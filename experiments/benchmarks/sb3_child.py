"""Runs inside the peer's own virtual environment: stable-baselines3 PPO or DDPG, one measurement per line of input (see peers.py).

    python sb3_child.py '{"env": "CartPole-v1", "num_envs": 64, "num_steps": 128, "num_epochs": 4, "batch_size": 2048,
        "hidden": [64, 64], "updates": 4}'

A request {"threads": n} (of torch; 0: torch's own choice) times one `learn` of `updates` updates. Imports and the first update are not
measured. "algorithm": "DDPG" makes one update per step. Environments whose names begin with MinAtar/ come from the MinAtar package; the
policy is an MLP on the flat observation.
"""

import json
import sys
import time

import gymnasium
import stable_baselines3
import torch
from stable_baselines3 import DDPG, PPO
from stable_baselines3.common.env_util import make_vec_env

size = json.loads(sys.argv[1])
versions = {"stable_baselines3": stable_baselines3.__version__, "gymnasium": gymnasium.__version__, "torch": torch.__version__}
if size["env"].startswith("MinAtar/"):
    from minatar.gym import register_envs

    register_envs()
threads = torch.get_num_threads()
steps = size["num_envs"] * size["num_steps"]
envs = make_vec_env(size["env"], n_envs=size["num_envs"], seed=0)
if size.get("algorithm") == "DDPG":
    model = DDPG(
        "MlpPolicy", envs, learning_rate=1e-3, buffer_size=10_000, batch_size=size["batch_size"], train_freq=1, gradient_steps=1,
        learning_starts=100, seed=0, device="cpu", policy_kwargs={"net_arch": size["hidden"]},
    )  # fmt: skip
else:
    model = PPO(
        "MlpPolicy", envs, n_steps=size["num_steps"], batch_size=size["batch_size"], n_epochs=size["num_epochs"], learning_rate=3e-4,
        gamma=0.99, gae_lambda=0.95, clip_range=0.2, ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, seed=0, device="cpu",
        policy_kwargs={"net_arch": size["hidden"], "activation_fn": torch.nn.Tanh},
    )  # fmt: skip
model.learn(steps)
print(json.dumps({"versions": versions, "threads": threads}), flush=True)
for line in sys.stdin:
    torch.set_num_threads(json.loads(line).get("threads") or threads)
    began = time.perf_counter()
    model.learn(size["updates"] * steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": size["updates"] * steps / seconds}), flush=True)
