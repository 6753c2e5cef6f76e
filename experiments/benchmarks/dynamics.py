"""Dynamics models and their environments: an update, a plan, the compilation of what learns while it acts; Chemical and Magnetic alone.

Every figure stands beside the CPU time that it took, of all threads: on a shared machine the clock also counts the waiting. CPU time over
clock time is the number of cores that were busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import spaces
from causal_jax.algorithms import fcdl
from causal_jax.causal import estimators
from causal_jax.envs import make
from causal_jax.types import Algorithm
from experiments.benchmarks.measure import Ratio, Row, alternate, summary, with_cpu_time
from experiments.benchmarks.speed import Sizes, env_rate

ENV = "chemical-full-fork"
UPDATE, CEM, COMPILE = 15e-3, 40e-3, 30.0  # seconds: the targets
COMPILATIONS = 2  # at most so many are measured
MAGNETIC = 256  # environments in parallel
PRODUCT = 2048  # rows of the matrices whose product tells what the machine can do; the targets count on 390 GFLOP/s


def config_of(sizes: Sizes, **fields: Any) -> fcdl.Config:
    """The authors' settings at these sizes, with a data set of no more than an episode of each environment."""
    common = {"model": sizes.model, "width": sizes.width, "batch_size": sizes.batch_size}
    return fcdl.Config(**{**common, "init_steps": 1, "capacity": fcdl.Config.num_envs, **fields})


def seconds_of(program: Callable[..., Any], arguments: tuple[Any, ...], calls: int, parts: int = 1) -> Callable[[], float]:
    """A measurement: seconds of a part of a call, over `calls` calls. program(key, *arguments) is compiled and called once before."""
    compiled = jax.jit(program).lower(jax.random.key(0), *arguments).compile()
    keys = list(jax.random.split(jax.random.key(1), calls))
    jax.block_until_ready(compiled(keys[0], *arguments))

    def measure() -> float:
        began = time.perf_counter()
        for key in keys:
            jax.block_until_ready(compiled(key, *arguments))
        return (time.perf_counter() - began) / (calls * parts)

    return measure


def stand_in(algorithm: Algorithm, hyper: fcdl.Hyper, task: fcdl.Task) -> fcdl.State:
    """A state of random numbers with a full ring of episodes: speed does not ask for more, and no start needs to be compiled."""
    rng = np.random.default_rng(0)

    def numbers(x: Any) -> jax.Array:
        return jnp.asarray(rng.uniform(0.0, 0.1, x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape), x.dtype)

    state = jax.tree.map(numbers, jax.eval_shape(algorithm.init, jax.random.key(0), hyper, task))
    return state._replace(buffer=state.buffer._replace(size=jnp.asarray(fcdl.Config.num_envs)))


def contestants_of(sizes: Sizes, table_rows: bool) -> dict[str, Callable[[], float]]:
    """An update, in a program of a whole episode's updates as training has it, and a plan for every environment."""
    env, params = make(ENV)
    config = config_of(sizes, schedule="offline", table_rows=table_rows)
    algorithm, hyper, task = fcdl.build(env, params, config), fcdl.Hyper(), fcdl.Task(params)
    state = stand_in(algorithm, hyper, task)
    model = fcdl.dynamics_model(env, config)
    plan = fcdl.planner(env, model, config, spaces.from_gymnax(env.action_space(params)))
    obs = jax.jit(jax.vmap(env.reset_env, (0, None)))(jax.random.split(jax.random.key(2), config.num_envs), params)[0]

    def plans(key: jax.Array, fit: Any, obs: Any) -> jax.Array:
        rows = model.prepare(fit.params)
        return jax.vmap(plan, (0, None, None, 0))(jax.random.split(key, config.num_envs), fit, rows, obs)

    rows = "table rows" if table_rows else "plain"
    return {
        f"an update, {rows}": seconds_of(algorithm.step, (state, hyper, task), max(1, sizes.updates // 4), config.num_steps),
        f"a CEM call, {rows}": seconds_of(plans, (state.fit, obs), sizes.updates),
    }


def compile_seconds(sizes: Sizes) -> tuple[float, float]:
    """Seconds to lower and compile the step of the online schedule, and their CPU time. Nothing is read from a cache."""
    env, params = make(ENV)
    config = config_of(sizes)
    algorithm, hyper, task = fcdl.build(env, params, config), fcdl.Hyper(), fcdl.Task(params)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), hyper, task)
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    began, cpu = time.perf_counter(), time.process_time()
    try:
        jax.jit(algorithm.step).lower(jax.random.key(0), shapes, hyper, task).compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    return time.perf_counter() - began, time.process_time() - cpu


def product_seconds(sizes: Sizes) -> Callable[[], float]:
    """A measurement: seconds of a product of two square matrices."""
    ones = jnp.ones((PRODUCT, PRODUCT))
    return seconds_of(lambda key, x: x @ x, (ones,), sizes.updates)


def learning(sizes: Sizes) -> dict[str, Any]:
    """FCDL on Chemical: one update (B 256, H 3), one CEM call for 10 environments, the compilation of the whole online step."""
    contestants = {label: f for table_rows in (True, False) for label, f in contestants_of(sizes, table_rows).items()}
    updates, plans = max(1, sizes.updates // 4) * fcdl.Config.num_steps, sizes.updates
    contestants, cpu = with_cpu_time(contestants)
    measured = alternate({**contestants, "product": product_seconds(sizes)}, sizes.rounds)
    rates = [2e-9 * PRODUCT**3 / seconds for seconds in measured.pop("product")]
    rows = [Row(label, "s", values) for label, values in measured.items()]
    rows.append(Row("a product of two matrices", "GFLOP/s", rates))
    for label, seconds in cpu.items():
        rows.append(Row(f"{label}, CPU time", "s", [x / (updates if "update" in label else plans) for x in seconds]))
    compiled = [compile_seconds(sizes) for _ in range(min(sizes.rounds, COMPILATIONS))]
    rows += [Row(f"compile the online step{what}", "s", [both[i] for both in compiled]) for i, what in enumerate(("", ", CPU time"))]
    targets = (("an update, table rows", UPDATE), ("a CEM call, table rows", CEM), ("compile the online step", COMPILE))
    ratios = [Ratio(f"{label} / {seconds:g} s", label, seconds, "<= 1") for label, seconds in targets]
    ratios += [
        Ratio(f"{what}, plain / table rows, CPU time", f"{what}, plain, CPU time", f"{what}, table rows, CPU time")
        for what in ("an update", "a CEM call")
    ]
    return summary(rows, ratios)


def environments(sizes: Sizes) -> dict[str, Any]:
    """Chemical (1024 in parallel) and Magnetic (256) alone, random actions and auto-reset: steps/s."""
    contestants = {name: env_rate(name, sizes) for name in (ENV, "chemical-full-chain")}
    few = min(MAGNETIC, sizes.parallel)
    contestants |= {f"magnetic, {physics}": env_rate("magnetic", sizes, few, physics=physics) for physics in ("mjx", "closed")}
    contestants, cpu = with_cpu_time(contestants)
    rows = [Row(label, "steps/s", values) for label, values in alternate(contestants, sizes.rounds).items()]
    for label, seconds in cpu.items():
        steps = sizes.env_steps * (few if label.startswith("magnetic") else sizes.parallel)
        rows.append(Row(f"{label}, by CPU time", "steps/s", [steps / x for x in seconds]))
    ratios = [Ratio(f"{name} / 1 million steps/s", name, 1e6, ">= 1") for name in (ENV, "chemical-full-chain")]
    return summary(rows, [*ratios, Ratio("magnetic, mjx / 20k steps/s", "magnetic, mjx", 2e4, ">= 1")])


def factored(sizes: Sizes) -> dict[str, Any]:
    """Point mass, easy and hard, and the sepsis simulators alone (1024 in parallel), random actions and auto-reset: steps/s."""
    names = ("point-mass-9", "point-mass-hard-9", "sepsis-sim", "icu-sepsis")
    contestants, cpu = with_cpu_time({name: env_rate(name, sizes) for name in names})
    rows = [Row(label, "steps/s", values) for label, values in alternate(contestants, sizes.rounds).items()]
    rows += [Row(f"{label}, by CPU time", "steps/s", [sizes.env_steps * sizes.parallel / x for x in cpu[label]]) for label in cpu]
    return summary(rows, [Ratio(f"{names[0]} / 10 million steps/s", names[0], 1e7, ">= 1")])


def scores(sizes: Sizes) -> dict[str, Any]:
    """WIS and ESS of 100 checkpoints' greedy actions over 3,000 trajectories of 20 decisions among 25 actions: seconds."""
    trajectories, decisions, num_actions, checkpoints = 3000, 20, 25, 100
    keys = jax.random.split(jax.random.key(0), 4)
    behaviour = jax.random.dirichlet(keys[0], jnp.ones(num_actions), (trajectories, decisions))
    action = jax.random.categorical(keys[1], jnp.log(behaviour))
    greedy = jax.random.randint(keys[2], (checkpoints, trajectories, decisions), 0, num_actions)
    reward = 100.0 * jax.random.bernoulli(keys[3], 0.9, action.shape)
    program = jax.jit(jax.vmap(estimators.wis_ess, (None, 0, None, None, None, None)))
    compiled = program.lower(action, greedy, behaviour, behaviour, reward, jnp.ones(action.shape, bool)).compile()

    def measure() -> float:
        began = time.perf_counter()
        jax.block_until_ready(compiled(action, greedy, behaviour, behaviour, reward, jnp.ones(action.shape, bool)))
        return time.perf_counter() - began

    measure()
    label = "WIS and ESS of 100 checkpoints"
    rows = [Row(label, "s", values) for values in alternate({label: measure}, sizes.rounds).values()]
    return summary(rows, [Ratio(f"{label} / 20 s", label, 20.0, "<= 1")])
