"""Runs inside the peer's own virtual environment: stable-baselines3 PPO on gymnasium's CartPole-v1, one measurement per line of input.

    python sb3_child.py '{"num_envs": 64, "num_steps": 128, "num_epochs": 4, "batch_size": 2048, "hidden": [64, 64], "updates": 4}'

It prints a line of JSON when it is ready (versions, threads), then waits. A line of input, the number of torch threads (0: torch's own
choice), starts one `learn` of `updates` updates; its environment steps per second go out as a line of JSON. Imports and the first
update are not measured.
"""

import json
import sys
import time

import gymnasium
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

size = json.loads(sys.argv[1])
threads = torch.get_num_threads()
steps = size["num_envs"] * size["num_steps"]
model = PPO(
    "MlpPolicy", make_vec_env("CartPole-v1", n_envs=size["num_envs"], seed=0), n_steps=size["num_steps"], batch_size=size["batch_size"],
    n_epochs=size["num_epochs"], learning_rate=3e-4, gamma=0.99, gae_lambda=0.95, clip_range=0.2, ent_coef=0.0, vf_coef=0.5,
    max_grad_norm=0.5, seed=0, device="cpu", policy_kwargs={"net_arch": size["hidden"], "activation_fn": torch.nn.Tanh},
)  # fmt: skip
model.learn(steps)
versions = {"stable_baselines3": stable_baselines3.__version__, "gymnasium": gymnasium.__version__, "torch": torch.__version__}
print(json.dumps({"versions": versions, "threads": threads}), flush=True)
for line in sys.stdin:
    torch.set_num_threads(int(line) or threads)
    began = time.perf_counter()
    model.learn(size["updates"] * steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": size["updates"] * steps / seconds}), flush=True)
