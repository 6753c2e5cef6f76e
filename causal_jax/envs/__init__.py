"""Environments by name: `make(id, **options) -> (env, params)` and `list_envs()`.

The tables are literal and each module is imported when one of its names is asked for, so that importing this package costs nothing.
To add an environment: write a frozen dataclass on `base.Environment` whose fields are its options, and add a line to `ENVS`.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from causal_jax.fields import suggest, validate
from causal_jax.types import UserError

ENVS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name -> module, class, options that the name fixes
    **{f"maze-n{n}": ("maze", "Maze", {"n": n}) for n in range(1, 11)},
    **{
        f"chemical-{rule.replace('_', '-')}{suffix}": ("chemical", "Chemical", {"rule": rule, "drift": bool(suffix)})
        for suffix in ("", "-drift")
        for rule in ("full_fork", "full_chain", "none")
    },
    "magnetic": ("magnetic", "Magnetic", {}),
    **{f"point-mass-{n}": ("point_mass", "PointMass", {"levels": n, "hard": False}) for n in (2, 3, 5, 9, 17, 33)},
    **{f"point-mass-hard-{n}": ("point_mass", "PointMass", {"levels": n, "hard": True}) for n in (2, 3, 5, 9, 17, 33)},
    "sepsis-sim": ("sepsis", "SepsisSim", {}),
    "icu-sepsis": ("icu_sepsis", "ICUSepsis", {}),
    "platform": ("platform", "Platform", {}),
    "goal": ("goal", "Goal", {}),
    "hard-goal": ("goal", "Goal", {"hard": True}),
    "catch-point": ("particle", "CatchPoint", {}),
    **{f"hard-move-{n}": ("particle", "HardMove", {"n": n}) for n in range(4, 17, 2)},
    **{
        f"minigrid-{task}": ("minigrid", "Minigrid", {"task": task})
        for task in (
            *("unlockpickup", "gotolocal", "putnextlocal"),
            *(f"gotodooropenr2-{target}" for target in ("redball", "greenball", "blueball", "greykey", "greenbox")),
            *(f"gotor3-{target}" for target in ("greykey", "greenbox", "bluekey", "blueball", "purpleball", "redbox")),
            "keycorridors3r3",
        )
    },
    **{f"autoregressive-{level}": ("autoregressive", "Autoregressive", {"level": level}) for level in ("easy", "hard")},
    "pendulum-wind": ("pendulum_wind", "PendulumWind", {"sparse": False}),
    "pendulum-wind-sparse": ("pendulum_wind", "PendulumWind", {"sparse": True}),
    "cartpole-swingup": ("cartpole_swingup", "CartpoleSwingup", {"reward": "dense"}),
    "cartpole-swingup-sparse": ("cartpole_swingup", "CartpoleSwingup", {"reward": "sparse"}),
    "cartpole-swingup-seeds": ("cartpole_swingup", "CartpoleSwingup", {"reward": "seeds"}),
    "probe-value": ("probes", "ProbeValue", {}),
    "probe-credit": ("probes", "ProbeCredit", {}),
    "probe-policy": ("probes", "ProbePolicy", {}),
    "probe-discount": ("probes", "ProbeDiscount", {}),
    "probe-truncation": ("probes", "ProbeTruncation", {}),
    "probe-masked": ("probes", "ProbeMasked", {}),
    "probe-factored": ("probes", "ProbeFactored", {}),
    "probe-hybrid": ("probes", "ProbeHybrid", {}),
    "probe-box": ("probes", "ProbeBox", {}),
}
FAMILIES = {"maze": "maze-n1 .. maze-n10", "hard-move": "hard-move-4, hard-move-6, .. hard-move-16"}  # beginning of a name -> the names
ADAPTERS = {
    "gymnax": "a gymnax 1.0 environment, e.g. gymnax:CartPole-v1",
    "minatar": "a MinAtar game as a flat vector, e.g. minatar:breakout or alias:minatar:breakout",
    "brax": "a brax environment, e.g. brax:ant",
    "brax-worlds": "a brax environment with gravity, masses or friction of each learner's own, e.g. brax-worlds:ant",
    "navix": "a navix task, e.g. navix:Navix-DoorKey-8x8-v0",
    "ale": "an Atari game (extra `atari`), one member a run, e.g. ale:breakout",
    "jaxtari": "an Atari game in JAX, where jaxtari and its sprites are installed, e.g. jaxtari:pong",
    "alias": "any environment with Discrete actions and copies of them, e.g. alias:minigrid-unlockpickup",
    "bank": "any environment with a bounded Box of actions, k candidates in its place, e.g. bank:pendulum-wind",
}


def list_envs() -> list[str]:
    """The names that `make` knows, those of `ADAPTERS` (`gymnax:<Id>`, `brax:<name>`, ...) left out."""
    return list(ENVS)


def make(id: str, **options: Any) -> tuple[Any, Any]:
    """The environment `id` and its params: `make("maze-n6", max_steps=100)`, `make("gymnax:CartPole-v1")`, `make("brax:ant")`.

    Options are the fields of the environment's dataclass (for gymnax: of its params), and where actions are real numbers `levels`:
    `make("brax:ant", levels=3)` has 3 torques a joint. Raises UserError, one line, for an unknown name (with the nearest ones), an unknown
    option, or a value of the wrong type or out of range.
    """
    if "levels" in options:
        env, params = make(id, **{name: value for name, value in options.items() if name != "levels"})
        env = _module("wrappers").Discretized(env, options["levels"])
        validate(env, f"{id}: ")
        env.check(params)
        return env, params
    prefix, colon, name = id.partition(":")
    if colon and prefix == "gymnax":
        return _module("adapters").make_gymnax(name, **options)
    if colon and prefix == "minatar":
        return _module("adapters").make_minatar(name, **options)
    if colon and prefix in ("alias", "bank"):
        return _wrapped(prefix, name, options)
    if colon and prefix in ("brax", "navix"):
        module, cls, fixed = "adapters", prefix.capitalize(), {"name": name}
    elif colon and prefix in ("ale", "jaxtari"):
        module, cls, fixed = "atari", prefix.capitalize(), {"name": name}
    elif colon and prefix == "brax-worlds":
        module, cls, fixed = "brax_worlds", "BraxWorlds", {"name": name}
    elif id in ENVS:
        module, cls, fixed = ENVS[id]
    else:
        for family, members in FAMILIES.items():
            if id.startswith(family):
                raise UserError(f"env = {id!r}: must be {members}")
        others = [name for name in ENVS if not name.startswith(tuple(FAMILIES))]
        raise UserError(
            f"env = {id!r}: {suggest(id, ['maze-n{1..10}', 'hard-move-{4,6..16}', *others, *(f'{p}:<name>' for p in ADAPTERS)])}"
        )
    kind = getattr(_module(module), cls)
    known = [f.name for f in dataclasses.fields(kind) if f.name not in fixed]
    for option, value in options.items():
        if option not in known:
            raise UserError(f"{id}: {option} = {value!r}: unknown option, {id} has {', '.join(known) or 'none'}")
    env = kind(**fixed, **options)
    validate(env, f"{id}: ")
    env.observation_space(env.default_params)  # what only shows when it is built (a brax name, a backend) shows here
    return env, env.default_params


def _wrapped(prefix: str, id: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """`alias:<id>`, `bank:<id>`: the wrapper's options are its own fields, the others go to the environment inside."""
    kind = getattr(_module("wrappers"), prefix.capitalize())
    own = {f.name for f in dataclasses.fields(kind)} - {"inner"}
    inner, params = make(id, **{name: value for name, value in options.items() if name not in own})
    env = kind(inner, **{name: value for name, value in options.items() if name in own})
    validate(env, f"{prefix}:{id}: ")
    return env, params


def _module(name: str) -> Any:
    return importlib.import_module(f"causal_jax.envs.{name}")
