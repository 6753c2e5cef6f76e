"""The five model-free methods for hybrid actions find the known answer of the probe: the right choice, with its own right parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import training
from causal_jax.algorithms import ALGORITHMS, algorithm_module
from causal_jax.envs import make

SIZES: dict[str, Any] = {"hidden": (64,), "random_steps": 500, "capacity": 5000, "batch_size": 64, "num_steps": 50}
LATENT: dict[str, Any] = {"width": 32, "k_size": 3, "z_size": 3, "pretrain_updates": 2000, "retrain_updates": 5, "bound_rows": 256}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accuracy"), [("pdqn", 0.3), ("paddpg", 0.35), ("hhqn", 0.3), ("hyar-td3", 0.5), ("hyar-ddpg", 0.5)])
def test_the_right_choice_and_its_parameters(name: str, accuracy: float) -> None:
    """Rewards are flat near the answer: a parameter off by 0.3 costs 2%. HyAR plays what its auto-encoder can write."""
    module, (env, params) = algorithm_module(name), make("probe-hybrid")
    hyar = name.startswith("hyar")
    config = module.Config(**{**ALGORITHMS[name].preset, **SIZES, **(LATENT if hyar else {})})
    hyper = module.Hyper(lr=3e-3, actor_lr=1e-3, gamma=0.9, explore_steps=2000.0, **({"embed_lr": 3e-3} if hyar else {}))
    algorithm = module.build(env, params, config)

    def run(key: jax.Array, hyper: Any, task: Any) -> Any:
        return training.train(key, hyper, task, algorithm=algorithm, num_updates=80)

    state, _ = jax.jit(run)(jax.random.key(0), hyper, module.Task(params))
    for obs, _, (right, target) in env.solution(0.9):
        k, z = algorithm.act(jax.random.key(0), state, jnp.asarray(obs), True)
        assert int(k) == right
        np.testing.assert_allclose(z, target, atol=accuracy)
        assert float(env.advance(jnp.asarray(obs), (k, z))[1]) > 0.96
