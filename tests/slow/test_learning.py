"""What the paper claims, on a budget of minutes: with exact N-values CEE learns maze-n6 faster than NPM, and NPM faster than PPO."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from causal_jax import history, statistics
from causal_jax.algorithms import ppo
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve


@pytest.mark.slow
def test_the_order_of_the_methods(tmp_path: Path) -> None:
    areas = {}
    for selection in ("all", "npm", "cee"):
        config = ppo.Config(num_epochs=10, num_minibatches=32, selection=selection, n_values="oracle")
        settings = Settings(env="maze-n6", members=4, steps=100_000, eval_episodes=8, name=selection, folder=str(tmp_path))
        run = history.load_run(train_run(resolve(settings, config, ppo.Hyper(ent_coef=0.2))))
        areas[selection] = np.mean(statistics.area_under_curve(*run.curve("eval.sampled.return")))
    assert areas["cee"] > areas["npm"] > areas["all"]
