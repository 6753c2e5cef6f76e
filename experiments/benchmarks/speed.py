"""The benchmarks: environments alone, PPO against its peers, members, compilation, the cost of the mask.

Each is a function of `Sizes` that returns {"about", "rows", "ratios", ...} (see measure.summary) and is registered in BENCHMARKS.
"""

from __future__ import annotations

import dataclasses
import json
import math
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

from causal_jax import mesh, spaces, training
from causal_jax.algorithms import algorithm_module, ppo
from causal_jax.envs import make
from causal_jax.envs.base import Environment
from experiments.benchmarks import peers
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
    population: tuple[int, ...] = (1, 8, 64, 512)
    """Members of the scaling curve; the third is also compared with single runs."""
    environments: tuple[int, ...] = (1, 16, 256, 4096, 16384)
    """Environments of the scaling curve."""
    actuators: tuple[int, ...] = (4, 6, 8)
    """Mazes on which the mask's cost is measured."""
    mask_batch: int = 256
    """States whose masks are wanted at once."""
    sweep_trials: int = 24
    """Trials of the sweep, and as many command line runs beside it; each contestant is measured once."""
    sweep_steps: int = 20_000
    """Environment steps of each."""
    chunks: int = 10_000
    """Chunks of the run over which the memory of the host is measured."""
    model: str = "fcdl"
    """Dynamics model: which one (see algorithms/fcdl.py)."""
    width: int = 128
    """Dynamics model: hidden layers."""
    batch_size: int = 256
    """Dynamics model: windows of an update."""
    plans: int = 1000
    """DLPA: plans of an iteration."""
    toy_points: int = 100
    """ANM-MM: points of the toy."""
    agent_points: int = 16
    """ANM-MM: points of each of 20 agents."""

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


@dataclasses.dataclass(frozen=True)
class Flat(Environment):
    """An environment whose observation is one flat vector: what the peers' MLPs see of an image."""

    inner: Any

    default_params = property(lambda self: self.inner.default_params)

    def reset_env(self, key: Any, params: Any) -> Any:
        """Flattened."""
        obs, state = self.inner.reset_env(key, params)
        return obs.reshape(-1).astype(float), state

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        """Flattened."""
        obs, *rest = self.inner.step_env(key, state, action, params)
        return (obs.reshape(-1).astype(float), *rest)

    def is_truncated(self, state: Any, params: Any) -> Any:
        """As it was."""
        return self.inner.is_truncated(state, params)

    def action_space(self, params: Any) -> Any:
        """As it was."""
        return self.inner.action_space(params)

    def observation_space(self, params: Any) -> Any:
        """One vector."""
        return spaces.Box(0.0, 1.0, (math.prod(self.inner.observation_space(params).shape),))


def make_flat(env: str) -> tuple[Any, Any]:
    """`make`, with observations of more than one dimension flattened."""
    world, params = make(env)
    return (world, params) if len(world.observation_space(params).shape) == 1 else (Flat(world), params)


def env_rate(
    env: str, sizes: Sizes, parallel: int = 0, env_steps: int = 0, observe: bool = False, cpu: bool = False, **options: Any
) -> Callable[[], float]:
    """A measurement of an environment alone: steps/s of jit(vmap(scan)) with uniformly random actions and auto-reset.

    observe: keep the last observation, so that it must be computed in every step (navix and xminigrid do). cpu: per CPU second.
    """
    clock = time.process_time if cpu else time.perf_counter
    world, params = make(env, **options)
    space = world.action_space(params)
    parallel, env_steps = parallel or sizes.parallel, env_steps or sizes.env_steps

    def one(key: jax.Array) -> jax.Array:
        key_reset, key_action, key_step = jax.random.split(key, 3)

        def body(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
            action, key = inputs
            obs, state, reward, terminated, truncated, _ = world.step(key, carry[0], action, params)
            return (state, obs if observe else None), reward + (terminated | truncated)

        if isinstance(space, spaces.Discrete):
            actions = jax.random.randint(key_action, (env_steps,), 0, space.n)
        elif isinstance(space, spaces.Factored):
            actions = jax.random.randint(key_action, (env_steps, *space.shape), 0, jnp.asarray(space.sizes))
        elif isinstance(space, spaces.Hybrid):
            key_k, key_z = jax.random.split(key_action)
            k = jax.random.randint(key_k, (env_steps,), 0, space.n)
            actions = k, jax.random.uniform(key_z, (env_steps, space.num_parameters), minval=-1.0)
        else:
            actions = jax.vmap(space.sample)(jax.random.split(key_action, env_steps))
        obs, state = world.reset(key_reset, params)
        (_, last), reward = jax.lax.scan(body, (state, obs if observe else None), (actions, jax.random.split(key_step, env_steps)))
        return jnp.sum(reward) + (jnp.sum(last.astype(float)) if observe else 0.0)

    def all_of_them(key: jax.Array) -> jax.Array:
        return jax.vmap(one)(jax.random.split(key, parallel))

    program = jax.jit(all_of_them).lower(jax.random.key(0)).compile()
    jax.block_until_ready(program(jax.random.key(0)))
    seeds = iter(range(1, 1 << 30))

    def measure() -> float:
        key = jax.block_until_ready(jax.random.key(next(seeds)))
        began = clock()
        jax.block_until_ready(program(key))
        return parallel * env_steps / (clock() - began)

    return measure


def train_rate(env: str, config: ppo.Config, members: int, updates: int, random_effects: bool = False) -> Callable[[], float]:
    """A measurement of training: environment steps/s, summed over the members, of one compiled chunk placed as runs place it.

    random_effects: the mask reads an effect model with random weights instead of a fitted one.
    """
    world, params = make_flat(env)
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
    """Environments alone, ours, gymnax's and brax's in this process, navix's and xminigrid's in their own."""
    ours = ("maze-n6", "maze-n4", CARTPOLE, "gymnax:Pendulum-v1", "gymnax:Breakout-MinAtar")
    grids = ("navix:Navix-Empty-8x8-v0", "navix:Navix-DoorKey-8x8-v0", "xminigrid:MiniGrid-Empty-8x8", "xminigrid:MiniGrid-DoorKey-8x8")
    contestants = {name: env_rate(name, sizes) for name in ours}
    few = min(sizes.env_steps, 50)  # of brax, which is a thousand times dearer
    contestants |= {name: env_rate(name, sizes, env_steps=few) for name in ("brax:inverted_pendulum",)}
    size = {"envs": grids, "parallel": sizes.parallel, "env_steps": sizes.env_steps}
    with peers.peer("grids", size) as peer:
        contestants |= {name: peer.contestant(env=name) for name in grids}
        rows = rates(contestants, sizes)
    return {
        **summary(
            rows,
            [Ratio(f"{name} / 5 million steps/s", name, 5e6, ">= 1") for name in ours[:2]]
            + [Ratio(f"{ours[0]} / {name}", ours[0], name) for name in list(contestants)[2:]],
        ),
        "peer": peer.told["versions"],
    }


def minigrid(sizes: Sizes) -> dict[str, Any]:
    """MiniGrid alone, every observation computed, beside xminigrid's task of the same name and navix's nearest, DoorKey-8x8."""
    name, few = "minigrid-unlockpickup", min(sizes.env_steps, 100)
    contestants = {
        "symbolic": env_rate(name, sizes, observe=True),
        "symbolic, not observed": env_rate(name, sizes),
        "symbolic, random layouts": env_rate(name, sizes, observe=True, layout="random"),
        "view": env_rate(name, sizes, observe=True, observation="view"),
        "rgb": env_rate(name, sizes, env_steps=few, observe=True, observation="rgb"),
        "gotor3, symbolic": env_rate("minigrid-gotor3-redbox", sizes, env_steps=few, observe=True),
    }
    grids = ("xminigrid:MiniGrid-UnlockPickUp", "navix:Navix-DoorKey-8x8-v0")
    size = {"envs": grids, "parallel": sizes.parallel, "env_steps": sizes.env_steps}
    with peers.peer("grids", size) as peer:
        contestants |= {grid: peer.contestant(env=grid) for grid in grids}
        rows = rates(contestants, sizes)
    ratios = [
        Ratio("symbolic / 2 million steps/s", "symbolic", 2e6, ">= 1"),
        *(Ratio(f"symbolic / {grid}", "symbolic", grid) for grid in grids),
    ]
    return {**summary(rows, ratios), "peer": peer.told["versions"]}


def minigrid_shared(sizes: Sizes) -> dict[str, Any]:
    """KeyCorridorS3R3, which navix has too, every observation computed, by CPU seconds: its "symbolic" is what is called cells here."""
    task, navix = "minigrid-keycorridors3r3", "navix:Navix-KeyCorridorS3R3-v0"
    seen = {f"{task}, {name}": name for name in ("cells", "symbolic")}
    contestants = {label: env_rate(task, sizes, observe=True, cpu=True, layout="random", observation=name) for label, name in seen.items()}
    with peers.peer("grids", {"envs": (navix,), "parallel": sizes.parallel, "env_steps": sizes.env_steps}) as peer:
        contestants[navix] = peer.contestant(env=navix, cpu=True)
        rows = [row._replace(unit="steps/CPU-s") for row in rates(contestants, sizes)]
    ratios = [Ratio(f"{label} / {navix}", label, navix, ">= 2" if name == "cells" else "") for label, name in seen.items()]
    return {**summary(rows, ratios), "peer": peer.told["versions"]}


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


def against_peers(env: str, sb3_env: str, rejax_env: str, sizes: Sizes, targets: tuple[str, str]) -> dict[str, Any]:
    """PPO on one environment, ours against stable-baselines3 and rejax with the same hyperparameters, alternated in one run."""
    shared: dict[str, Any] = {
        "num_envs": sizes.num_envs, "num_steps": sizes.num_steps, "num_epochs": sizes.num_epochs, "hidden": list(sizes.hidden),
    }  # fmt: skip
    batch_size = sizes.num_envs * sizes.num_steps // sizes.num_minibatches
    counts = (1, sizes.members)

    def label(who: str, num: int) -> str:
        return f"{who}, {num} member{'s' * (num > 1)}"

    contestants = {label("ours", num): train_rate(env, sizes.config, num, sizes.updates) for num in counts}
    sb3 = peers.peer("sb3", {**shared, "env": sb3_env, "batch_size": batch_size, "updates": sizes.peer_updates})
    rejax = peers.peer(
        "rejax",
        {**shared, "env": rejax_env, "num_minibatches": sizes.num_minibatches, "updates": sizes.updates, "members": counts},
    )
    with sb3 as slow, rejax as fast:
        threads = sorted({1, slow.told["threads"]})
        theirs = {f"stable-baselines3, {num} thread{'s' * (num > 1)}": slow.contestant(threads=num) for num in threads}
        others = {label("rejax", num): fast.contestant(members=num) for num in counts}
        rows = rates({**contestants, **theirs, **others}, sizes)
        told = {"peer": {**slow.told["versions"], **fast.told["versions"]}}
    many = label("ours", sizes.members)
    ratios = [Ratio(f"{many} / {b}", many, b, targets[0]) for b in theirs]
    ratios += [
        Ratio(f"{label('ours', num)} / {label('rejax', num)}", label("ours", num), label("rejax", num), targets[1]) for num in counts
    ]
    return {**summary(rows, ratios), **told}


def cartpole(sizes: Sizes) -> dict[str, Any]:
    """PPO on CartPole against stable-baselines3 and rejax with the same hyperparameters."""
    return against_peers(CARTPOLE, "CartPole-v1", "CartPole-v1", sizes, (">= 50", ">= 1"))


def minatar(sizes: Sizes) -> dict[str, Any]:
    """PPO on MinAtar's Breakout (flat observation, MLP) against stable-baselines3 and rejax with the same hyperparameters."""
    return against_peers("gymnax:Breakout-MinAtar", "MinAtar/Breakout-v1", "Breakout-MinAtar", sizes, ("", ""))


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


def sweep(sizes: Sizes) -> dict[str, Any]:
    """A sweep of PPO on the maze as one program against the same trials as command line runs one after the other."""
    from experiments.benchmarks import sweeps

    return sweeps.against_runs(sizes.sweep_trials, sizes.sweep_steps)
