"""The benchmarks: environments alone, PPO against stable-baselines3, members, compilation, the cost of the mask.

Each is a function of `Sizes` that returns {"about", "rows", "ratios", ...} (see measure.summary) and is registered in BENCHMARKS.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax import mesh, training
from causal_jax.algorithms import algorithm_module, ppo
from causal_jax.envs import make
from experiments.benchmarks.measure import Ratio, Row, alternate, summary

CARTPOLE = "gymnax:CartPole-v1"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured. The tests shrink it; the published figures are at the defaults."""

    rounds: int = 5
    """Measurements of each contestant."""
    parallel: int = 1024
    """Environments in parallel where environments are measured alone."""
    env_steps: int = 1000
    """Steps of each of them in a measurement."""
    members: int = 8
    """Members of a population."""
    num_envs: int = 64
    """PPO: environments of a member."""
    num_steps: int = 128
    """PPO: steps of each between two updates."""
    num_epochs: int = 4
    """PPO: passes over a batch."""
    num_minibatches: int = 4
    """PPO: minibatches of a pass."""
    hidden: tuple[int, ...] = (64, 64)
    """PPO: hidden layers of actor and critic (tanh)."""
    updates: int = 8
    """PPO: updates in a measurement."""
    peer_updates: int = 2
    """Updates in a measurement of stable-baselines3."""
    actuators: tuple[int, ...] = (4, 6, 8)
    """Mazes on which the mask's cost is measured."""

    @property
    def config(self) -> ppo.Config:
        """The PPO of these sizes."""
        return ppo.Config(
            num_envs=self.num_envs,
            num_steps=self.num_steps,
            num_epochs=self.num_epochs,
            num_minibatches=self.num_minibatches,
            hidden=self.hidden,
        )


def env_rate(env: str, sizes: Sizes) -> Callable[[], float]:
    """A measurement of an environment alone: steps/s of jit(vmap(scan)) with uniformly random actions and auto-reset."""
    world, params = make(env)
    num_actions = world.action_space(params).n

    def one(key: jax.Array) -> jax.Array:
        key_reset, key_action, key_step = jax.random.split(key, 3)

        def body(state: Any, inputs: Any) -> tuple[Any, jax.Array]:
            action, key = inputs
            _, state, reward, terminated, truncated, _ = world.step(key, state, action, params)
            return state, reward + (terminated | truncated)

        actions = jax.random.randint(key_action, (sizes.env_steps,), 0, num_actions)
        state = world.reset(key_reset, params)[1]
        return jnp.sum(jax.lax.scan(body, state, (actions, jax.random.split(key_step, sizes.env_steps)))[1])

    def all_of_them(key: jax.Array) -> jax.Array:
        return jax.vmap(one)(jax.random.split(key, sizes.parallel))

    program = jax.jit(all_of_them).lower(jax.random.key(0)).compile()
    jax.block_until_ready(program(jax.random.key(0)))
    seeds = iter(range(1, 1 << 30))

    def measure() -> float:
        key = jax.block_until_ready(jax.random.key(next(seeds)))
        began = time.perf_counter()
        jax.block_until_ready(program(key))
        return sizes.parallel * sizes.env_steps / (time.perf_counter() - began)

    return measure


def train_rate(env: str, config: ppo.Config, members: int, updates: int, random_effects: bool = False) -> Callable[[], float]:
    """A measurement of training: environment steps/s, summed over the members, of one compiled chunk placed as runs place it.

    random_effects: the mask reads an effect model with random weights instead of a fitted one.
    """
    world, params = make(env)
    algorithm, task, axes = ppo.build(world, params, config), ppo.Task(params), None
    if random_effects:
        module = algorithm_module("effects")
        hyper, seeds, _ = training.grid(module.Hyper(), range(members))
        phase1 = training.start(module.build(world, params), seeds, hyper, module.Task(params))
        task, axes = ppo.Task(params, module.model(phase1.state)), ppo.Task(None, 0)
    hyper, seeds, _ = training.grid(ppo.Hyper(), range(members))
    run = mesh.shard_run(training.start(algorithm, seeds, hyper, task, axes), mesh.make_mesh(members))
    compiled = training.compile_run(algorithm, run, task, updates, task_axes=axes)
    num = jnp.asarray(updates, jnp.int32)

    def measure() -> float:
        nonlocal run
        began = time.perf_counter()
        run, metrics = compiled.chunk(run, task, num)
        jax.device_get(metrics)
        jax.block_until_ready(run)
        return members * updates * ppo.steps_per_update(config) / (time.perf_counter() - began)

    measure()
    return measure


def rates(contestants: dict[str, Callable[[], float]], sizes: Sizes) -> list[Row]:
    """Rows of alternating measurements in steps/s."""
    return [Row(label, "steps/s", values) for label, values in alternate(contestants, sizes.rounds).items()]


def env(sizes: Sizes) -> dict[str, Any]:
    """Environments alone."""
    names = ("maze-n6", "maze-n4", CARTPOLE)
    rows = rates({name: env_rate(name, sizes) for name in names}, sizes)
    return summary(
        rows,
        [Ratio(f"{name} / 5 million steps/s", name, 5e6, ">= 1") for name in names[:2]]
        + [Ratio(f"{name} / CartPole", name, CARTPOLE) for name in names[:2]],
    )


def members(sizes: Sizes) -> dict[str, Any]:
    """What 8 members cost beside 1: seconds per update over seconds per update."""
    many = f"{sizes.members} members"
    contestants = {"1 member": train_rate(CARTPOLE, sizes.config, 1, sizes.updates)}
    contestants[many] = train_rate(CARTPOLE, sizes.config, sizes.members, sizes.updates)
    rows = rates(contestants, sizes)
    for row, num in zip(rows[:2], (1, sizes.members), strict=True):
        steps = num * ppo.steps_per_update(sizes.config)
        rows.append(Row(f"{row.label}, time of an update", "s", [steps / rate for rate in row.values]))
    return summary(rows, [Ratio(f"cost of {many} / 1 member", rows[3].label, rows[2].label, "< 4")])


def against_sb3(sizes: Sizes) -> dict[str, Any]:
    """PPO on CartPole against stable-baselines3 with the same hyperparameters."""
    from experiments.benchmarks import peers

    batch_size = sizes.num_envs * sizes.num_steps // sizes.num_minibatches
    size = {
        "num_envs": sizes.num_envs, "num_steps": sizes.num_steps, "num_epochs": sizes.num_epochs, "batch_size": batch_size,
        "hidden": list(sizes.hidden), "updates": sizes.peer_updates,
    }  # fmt: skip
    ours = [f"ours, {num} member{'s' * (num > 1)}" for num in (1, sizes.members)]
    contestants = {
        label: train_rate(CARTPOLE, sizes.config, num, sizes.updates) for label, num in zip(ours, (1, sizes.members), strict=True)
    }
    with peers.sb3(size) as peer:
        theirs = {f"stable-baselines3, {num} thread{'s' * (num > 1)}": num for num in sorted({1, peer.threads})}
        contestants.update({label: functools.partial(peer.steps_per_second, num) for label, num in theirs.items()})
        rows = rates(contestants, sizes)
        told = {"peer": peer.versions}
    targets = ("", ">= 50")
    ratios = [Ratio(f"{a} / {b}", a, b, target) for a, target in zip(ours, targets, strict=True) for b in theirs]
    return {**summary(rows, ratios), **told}


def compilation(sizes: Sizes) -> dict[str, Any]:
    """Seconds to compile the PPO CartPole chunk in a fresh process, without (cold) and with (warm) what an earlier process cached."""
    values: dict[str, list[float]] = {}
    for _ in range(sizes.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("cold", "warm"):
                for part, seconds in _compile_in_a_process(sizes, cache).items():
                    values.setdefault(f"{kind}, {part}", []).append(seconds)
    rows = [Row(label, "s", seconds) for label, seconds in values.items()]
    return summary(
        rows,
        [Ratio("cold, compile / 1 s", "cold, compile", 1.0, "<= 5"), Ratio("warm / cold", "warm, compile", "cold, compile")],
    )


def _compile_in_a_process(sizes: Sizes, cache: str) -> dict[str, float]:
    """{"import", "start", "lower", "compile"}: seconds, from a process of its own whose persistent cache is the folder `cache`."""
    command = [sys.executable, "-m", "experiments.benchmarks.compile_child", json.dumps(dataclasses.asdict(sizes))]
    surroundings = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, env=surroundings, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:3])}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def mask(sizes: Sizes) -> dict[str, Any]:
    """What CEE's mask costs on the maze: steps/s of PPO over steps/s of CEE, learned (random weights) and oracle N-matrices."""
    rows: list[Row] = []
    ratios: list[Ratio] = []
    cee = dataclasses.replace(sizes.config, selection="cee")
    for n in sizes.actuators:
        name = f"maze-n{n}"
        contestants = {
            f"{name} ppo": train_rate(name, sizes.config, 1, sizes.updates),
            f"{name} cee": train_rate(name, cee, 1, sizes.updates, random_effects=True),
            f"{name} cee, oracle N": train_rate(name, dataclasses.replace(cee, n_values="oracle"), 1, sizes.updates),
        }
        rows += rates(contestants, sizes)
        first, *others = contestants
        ratios += [Ratio(f"{first} / {label.removeprefix(name)[1:]}", first, label) for label in others]
    return summary(rows, ratios)


BENCHMARKS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "env": env,
    "ppo": against_sb3,
    "members": members,
    "compile": compilation,
    "mask": mask,
}
