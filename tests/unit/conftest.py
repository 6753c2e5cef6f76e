"""Tiny finished runs that the tests of reports, pictures and exported policies read: trained once, never written to by a test."""

from __future__ import annotations

import pytest

from causal_jax import runs
from causal_jax.algorithms import effect_model, ppo, template

PPO = {"num_envs": 2, "num_steps": 16, "num_epochs": 1, "num_minibatches": 1, "hidden": (8,), "normalize_obs": True}
EFFECTS = {
    "num_envs": 2, "num_steps": 8, "warmup_steps": 8, "capacity": 64, "batch_size": 8, "num_updates": 2,
    "inverse_hidden": (8,), "n_hidden": (8,), "num_frequencies": 1,
}  # fmt: skip
TEMPLATE = {"num_envs": 2, "num_steps": 16, "hidden": (8,)}


@pytest.fixture(scope="session")
def train_tiny(tmp_path_factory):
    """(algorithm, name=..., config=..., hyper=..., settings...) -> the folder of a run of 64 steps, trained once a session by name."""
    place, done = tmp_path_factory.mktemp("runs"), {}

    def train(algorithm, name, config=None, hyper=None, **settings):
        if name not in done:
            sizes = {"members": 2, "steps": 64, "evaluations": 1, "eval_episodes": 2, "env": "maze-n3", "env_options": ("max_steps=30",)}
            found = runs.Settings(algorithm=algorithm, name=name, folder=str(place), **{**sizes, **settings})
            done[name] = runs.train_run(runs.resolve(found, config, hyper), say=lambda line: None)
        return done[name]

    return train


@pytest.fixture(scope="session")
def cee_run(train_tiny):
    """PPO under CEE's mask with exact N-values on the maze, two seeds, normalised observations."""
    return train_tiny("cee", "cee", ppo.Config(selection="cee", n_values="oracle", **PPO))


@pytest.fixture(scope="session")
def learned_run(train_tiny):
    """PPO under NPM's mask with learned N-values: the only run with a phase 1."""
    effects = train_tiny("effects", "effects", effect_model.Config(**EFFECTS))
    return train_tiny("npm", "npm", ppo.Config(selection="npm", **PPO), effects=str(effects))


@pytest.fixture(scope="session")
def swept_run(train_tiny):
    """The template on the maze, one seed of each of two step sizes."""
    return train_tiny("template", "template", template.Config(**TEMPLATE), template.Hyper(lr=(1e-3, 1e-2)), members=1)


@pytest.fixture(scope="session")
def hybrid_run(train_tiny):
    """The template on a probe: actions are pairs (k, z), and the environment has no render."""
    return train_tiny("template", "hybrid", template.Config(**TEMPLATE), members=1, env="probe-hybrid", env_options=())
