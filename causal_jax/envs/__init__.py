"""Environments by name: `make(id, **options) -> (env, params)` and `list_envs()`.

The table is literal and each module is imported when one of its names is asked for, so that importing this package costs nothing.
To add an environment: write a frozen dataclass on `base.Environment` whose fields are its options, and add a line to the table.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from typing import Any

from causal_jax.fields import validate
from causal_jax.types import UserError

ENVS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> module, class, fixed options
    **{f"maze-n{n}": ("causal_jax.envs.maze", "Maze", {"n": n}) for n in range(1, 11)},
}


def list_envs() -> list[str]:
    """The names that `make` knows."""
    return list(ENVS)


def make(id: str, **options: Any) -> tuple[Any, Any]:
    """The environment `id` and its params: `make("maze-n6", max_steps=100)`.

    Options are the fields of the environment's dataclass. Raises UserError, one line, for an unknown name (with the nearest ones),
    an unknown option, or a value of the wrong type or out of range.
    """
    if id not in ENVS:
        raise UserError(f"env = {id!r}: " + _nearest(id))
    module, name, fixed = ENVS[id]
    cls = getattr(importlib.import_module(module), name)
    known = [f.name for f in dataclasses.fields(cls) if f.name not in fixed]
    for option, value in options.items():
        if option not in known:
            raise UserError(f"{id}: {option} = {value!r}: unknown option, must be one of {', '.join(known) or '(it has none)'}")
    env = cls(**fixed, **options)
    validate(env, f"{id}: ")
    return env, env.default_params


def _nearest(id: str) -> str:
    if id.startswith("maze"):
        return "must be maze-n{n} with n in 1..10"
    near = difflib.get_close_matches(id, list_envs(), n=3, cutoff=0.4)
    return "unknown, did you mean " + ", ".join(near) + "?" if near else "unknown, must be one of " + ", ".join(list_envs())
