"""The worlds and learners of AD-RL against other people's packages, each in a virtual environment of its own (benchmarks/peers.py).

    python -m experiments.crosschecks [point-mass] [icu-sepsis] [bcq]     # results/crosschecks.json
    python -m experiments.crosschecks point-mass --record tests/data/point_mass.npz   # the recording that the tests compare with

point-mass: every step of dm_control's easy and hard task, and whole free trajectories, against the closed form.
icu-sepsis: transition frequencies, rewards and returns of the package's environment under uniform actions, against our tables.
bcq: d3rlpy's discrete BCQ on episodes of sepsis-sim, scored by the exact value of its greedy policy; the behaviour's beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax.algorithms.tabular import policy_value, value_iteration
from causal_jax.envs.point_mass import PointMass, PointMassState
from causal_jax.envs.sepsis import SepsisSim, icu_sepsis_mdp, sepsis_sim_mdp
from causal_jax.fields import suggest
from causal_jax.mdp import sample_log, uniform_policy
from causal_jax.types import UserError
from experiments.benchmarks import measure, peers
from experiments.records import command

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "crosschecks.json"
NEAR_WALL = 0.287  # m: MuJoCo's soft limits are felt from here on
HORIZON = 20


def ask(name: str, child: str, size: dict[str, Any], given: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a child says and the arrays that it writes. Raises: UserError, with its last line, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out, into = Path(folder) / "out.npz", Path(folder) / "in.npz"
        command = [str(peers.environment(name, peers.PEERS[name])), str(HERE / child), json.dumps(size), str(out)]
        if given is not None:
            np.savez(into, **given)
            command.append(str(into))
        surroundings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings, cwd=folder)
        if run.returncode:
            raise UserError(f"peer = {name!r}: {child} failed ({(run.stderr.strip().splitlines() or ['no message'])[-1]})")
        with np.load(out) as file:
            return json.loads(run.stdout.strip().splitlines()[-1]), {key: file[key] for key in file.files}


def point_mass(options: Options) -> dict[str, Any]:
    """dm_control's point mass, easy and hard: 10 episodes of 1,000 steps each, torques in multiples of 1/4."""
    size = {"episodes": 3, "steps": 200, "seed": 0} if options.record else {"episodes": 10, "steps": 1000, "seed": 1}
    told, seen = ask("dm-control", "point_mass_child.py", size)
    if options.record:
        np.savez_compressed(options.record, **seen)
    env = PointMass(levels=9)
    params, found = env.default_params, {}

    def begin(rows: jax.Array, gains: jax.Array) -> PointMassState:
        return PointMassState(rows[:2], rows[2:], jnp.zeros((), jnp.int32), gains)

    @jax.jit
    @jax.vmap
    def steps(states: jax.Array, actions: jax.Array, gains: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(lambda s, a: env.step_env(jax.random.key(0), begin(s, gains), a, params)[0:3:2])(states, actions)

    @jax.jit
    @jax.vmap
    def whole(start: jax.Array, actions: jax.Array, gains: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(state: PointMassState, action: jax.Array) -> tuple[PointMassState, tuple[jax.Array, jax.Array]]:
            obs, state, reward, _, _ = env.step_env(jax.random.key(0), state, action, params)
            return state, (obs, reward)

        return jax.lax.scan(one, begin(start, gains), actions)[1]

    for task in ("easy", "hard"):
        states, gains = (jnp.asarray(seen[f"{task}_{name}"], jnp.float32) for name in ("states", "gains"))
        actions = jnp.asarray(np.round((seen[f"{task}_torques"] + 1) * 4), jnp.int32)
        inside = (np.abs(seen[f"{task}_states"][..., :2]) < NEAR_WALL).all(-1)
        free = inside[:, 1:] & inside[:, :-1]
        before_wall = np.logical_and.accumulate(inside, axis=1)[:, 1:]
        obs, reward = jax.device_get(steps(states[:, :-1], actions, gains))
        far, total = jax.device_get(whole(states[:, 0], actions, gains))
        after, rewards = seen[f"{task}_states"][:, 1:], seen[f"{task}_rewards"]
        found[task] = {
            "steps": int(free.size),
            "steps away from walls": int(free.sum()),
            "largest error of a step, away from walls": float(np.abs(obs - after)[free].max()),
            "largest error of a step's position, at walls": float(np.abs(obs - after)[..., :2].max()),
            "largest error of a step's reward": float(np.abs(reward - rewards).max()),
            "longest trajectory before a wall": int(before_wall.sum(1).max()),
            "largest error of trajectories before a wall": float(np.abs(far - after)[before_wall].max()),
            "largest error of trajectories' positions, with walls": float(np.abs(far - after)[..., :2].max()),
            "largest error of an episode's return": float(np.abs(total.sum(1) - rewards.sum(1)).max()),
        }
    return {"versions of the peer": told["versions"], **found}


def icu_sepsis(options: Options) -> dict[str, Any]:
    """The package icu-sepsis: 4,000,000 steps of its environment under uniform actions."""
    told, seen = ask("icu-sepsis", "icu_sepsis_child.py", {"steps": 4_000_000, "seed": 2})
    return {"versions of the peer": told["versions"], **compare_icu(seen)}


def compare_icu(seen: dict[str, Any]) -> dict[str, float]:
    """Frequencies against the tables: chi-squared of next states by state over cells that expect at least 5, in standard deviations."""
    mdp = icu_sepsis_mdp()
    uniform = np.asarray(mdp.kernel.toarray().reshape(mdp.num_states, mdp.num_actions, -1)).mean(1)  # P(s' | s) under uniform actions
    counts = np.zeros(uniform.shape)
    np.add.at(counts, (seen["before"], seen["after"]), 1)
    expected = counts.sum(1, keepdims=True) * uniform
    large = expected >= 5
    chi, cells = ((counts - expected)[large] ** 2 / expected[large]).sum(), ((1 - uniform)[large]).sum()
    known = mdp.kernel[seen["before"] * mdp.num_actions + seen["action"], seen["after"]]

    def off(values: np.ndarray, truth: float) -> float:
        return float((values.mean() - truth) / (values.std() / np.sqrt(len(values))))

    clock = dataclasses.replace(mdp, reward=np.repeat((np.arange(716) < 713).astype(float)[:, None], 25, 1))
    return {
        "steps": len(seen["before"]),
        "episodes": len(seen["total"]),
        "transitions that the tables exclude": int((np.asarray(known) == 0).sum()),
        "rewards that differ": int((seen["reward"] != (seen["after"] == 714)).sum()),
        "ends that differ": int((seen["terminated"] != (seen["after"] >= 713)).sum()),
        "cells compared": int(large.sum()),
        "chi-squared, standard deviations from its mean": float((chi - cells) / np.sqrt(2 * cells)),
        "mean return": float(seen["total"].mean()),
        "mean return, standard errors from the exact value": off(seen["total"], policy_value(mdp, uniform_policy(mdp), 1.0)),
        "mean length, standard errors from the exact value": off(seen["length"], policy_value(clock, uniform_policy(mdp), 1.0)),
    }


def bcq(options: Options) -> dict[str, Any]:
    """d3rlpy's discrete BCQ on 2,000 episodes of sepsis-sim (optimal actions, half of them replaced by random ones)."""
    mdp = sepsis_sim_mdp()
    best = value_iteration(mdp, 0.99)
    behaviour = 0.5 * np.eye(8)[best.policy] + 0.5 / 8
    log = sample_log(0, mdp, behaviour, 2000, HORIZON)
    every = np.asarray(jax.vmap(SepsisSim().observe)(jnp.asarray(mdp.variables[:1440])))  # the absorbing states are never observed
    every = np.concatenate([every, np.zeros((2, every.shape[1]))])
    states, actions, rewards, after = log.steps
    terminated = mdp.absorbing[after]
    last = np.append(~log.taken[:, 1:], np.ones((2000, 1), bool), 1)[log.taken]
    size = {
        "updates": options.updates, "threshold": 0.3, "batch_size": 100, "lr": 3e-4, "gamma": 0.99, "beta": 0.01, "target_every": 200,
        "hidden": [256, 256], "num_actions": 8, "seed": 0,
    }  # fmt: skip
    given = {
        "obs": every[states],
        "action": actions,
        "reward": rewards,
        "terminated": terminated,
        "timeout": last & ~terminated,
        "every": every,
    }
    told, seen = ask("d3rlpy", "d3rlpy_child.py", size, given)
    return {
        "versions of the peer": told["versions"],
        "settings": size,
        "updates/s": told["updates_per_second"],
        "exact value": policy_value(mdp, seen["greedy"].astype(int), 0.99),
        "behaviour": policy_value(mdp, behaviour, 0.99),
        "optimum": best.value,
    }


CHECKS: dict[str, Callable[[Options], dict[str, Any]]] = {"point-mass": point_mass, "icu-sepsis": icu_sepsis, "bcq": bcq}


@dataclasses.dataclass(frozen=True)
class Options:
    """Cross-checks; their names stand in CHECKS."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which to run; none: all."""
    record: Path | None = None
    """Of point-mass: write a short recording here instead."""
    updates: int = 10_000
    """Of bcq."""
    out: Path = RESULTS
    """Results file."""


def main(options: Options) -> None:
    """Run the named checks and print what they found. Raises: UserError for an unknown name or a peer that cannot be run."""
    for name in options.names or tuple(CHECKS):
        if name not in CHECKS:
            raise UserError(f"names = {name!r}: {suggest(name, list(CHECKS))}")
        found = CHECKS[name](options)
        print(name, json.dumps(found, indent=1))
        if options.record is None:
            told = measure.context() | {"command": command("crosschecks")}
            measure.record(options.out, name, {"about": (CHECKS[name].__doc__ or "").rstrip("."), **told, **found})


if __name__ == "__main__":
    try:
        main(tyro.cli(Options))
    except UserError as error:
        raise SystemExit(str(error)) from None
