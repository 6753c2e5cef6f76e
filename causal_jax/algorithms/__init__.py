"""The table of algorithms: a name, the module that builds it, and the Config fields that the name fixes.

A module has `Config`, `Hyper`, `Task` (first field `env_params`), `build(env, env_params, config)` and `steps_per_update(config)`;
where they apply also `needs_effects(config)` (a phase 1 must come first) and `evaluations(config)` ({suffix: Config to act by}).
Modules are imported when asked for, and never import each other.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

from causal_jax.types import UserError


class Entry(NamedTuple):
    """One algorithm: module path, Config fields that its name sets, a line of description."""

    module: str
    preset: dict[str, Any]
    about: str


_PPO = "causal_jax.algorithms.ppo"
ALGORITHMS: dict[str, Entry] = {
    "ppo": Entry(_PPO, {}, "proximal policy optimisation (Schulman et al. 2017)"),
    "cee": Entry(_PPO, {"selection": "cee"}, "PPO, redundant actions masked by causal effect (arXiv 2501.14543)"),
    "npm": Entry(_PPO, {"selection": "npm"}, "PPO, one action kept per group of similar ones (arXiv 2312.06258)"),
    "npm-random": Entry(_PPO, {"selection": "npm-random"}, "NPM with a random action kept per group"),
    "cee-woc": Entry(_PPO, {"selection": "cee-woc"}, "CEE without classes: a threshold on the softmax of all effects"),
    "effects": Entry("causal_jax.algorithms.effect_model", {}, "phase 1 of CEE and NPM: inverse dynamics model and N-value network"),
    "template": Entry("causal_jax.algorithms.template", {}, "REINFORCE with a baseline, the file to copy"),
}


def nearest(name: str, known: list[str]) -> str:
    """ "did you mean ...?" for a misspelt name, or all the names."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"must be one of {', '.join(known)}"


def algorithm_module(name: str) -> Any:
    """The module of an algorithm. Raises: UserError with the nearest names for an unknown one."""
    if name not in ALGORITHMS:
        raise UserError(f"algorithm = {name!r}: {nearest(name, list(ALGORITHMS))}")
    return importlib.import_module(ALGORITHMS[name].module)
