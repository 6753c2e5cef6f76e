"""What the paper claims, on a budget of minutes: with learned N-values CEE and NPM learn maze-n6 faster than PPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causal_jax import history, statistics
from causal_jax.algorithms import ppo
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve


@pytest.mark.slow
def test_the_order_of_the_methods(tmp_path: Path) -> None:
    """The exact mask drops the actions that reach the goal together with a twin (README), so it is not above PPO."""

    def area(name: str, selection: str, effects: str = "", **fields: Any) -> Any:
        config = ppo.Config(num_epochs=10, num_minibatches=32, selection=selection, **fields)
        settings = Settings(
            env="maze-n6", members=4, steps=100_000, eval_episodes=8, name=name, folder=str(tmp_path), effects=effects
        )  # fmt: skip
        run = history.load_run(train_run(resolve(settings, config, ppo.Hyper(ent_coef=0.2))))
        return np.mean(statistics.area_under_curve(*run.curve("eval.sampled.return")))

    plain = area("ppo", "all")
    train_run(
        resolve(Settings(algorithm="effects", env="maze-n6", members=4, steps=400_000, evaluations=2, name="effects", folder=str(tmp_path)))
    )
    npm, cee = area("npm", "npm", "effects"), area("cee", "cee", "effects")
    oracle = area("oracle", "cee", n_values="oracle")
    assert cee > plain + 3
    assert npm > plain + 3
    assert oracle < min(npm, cee) - 3
