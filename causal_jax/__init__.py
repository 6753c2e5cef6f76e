"""causal_jax: causal reinforcement learning at the speed of JAX.

The names below are imported when first used, so that `import causal_jax` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS: dict[str, str | None] = {  # name -> module that holds it; None: the name is a module
    "make": "causal_jax.envs",
    "list_envs": "causal_jax.envs",
    "train": "causal_jax.training",
    "fit": "causal_jax.training",
    "grid": "causal_jax.training",
    "start": "causal_jax.training",
    "evaluate": "causal_jax.rollout",
    "load_policy": "causal_jax.policy",
    "export_policy": "causal_jax.policy",
    "ALGORITHMS": "causal_jax.algorithms",
    "ppo": None,
    "template": None,
    "effect_model": None,
}
__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'causal_jax' has no attribute {name!r}")
    module = _EXPORTS[name]
    if module is None:
        return importlib.import_module(f"causal_jax.algorithms.{name}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
