"""CCRL with more learners than the paper's twenty: what an agent-step costs and what is learned, against the number of learners.

    python -m experiments.ccrl_scale    # results/ccrl_scale.json and .png

autoregressive-hard, sharing by similarity, one update per agent-step; the regression extractor, because an exact Gaussian process over
8 L points is cubic in L. CPU seconds are those of the whole process, so that they mean something on a shared machine.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from causal_jax import make, memory, rollout, training
from causal_jax.algorithms import concurrent_ddpg
from causal_jax.plots import figure_file
from experiments.records import RESULTS, command


@dataclasses.dataclass(frozen=True)
class Options:
    """How much."""

    learners: tuple[int, ...] = (20, 100, 500, 1000)
    """Values of L."""
    steps: int = 300
    """Steps of each learner."""
    env: str = "autoregressive-hard"
    """Where they learn."""


def measure(options: Options, num: int) -> dict[str, Any]:
    """One member of `num` learners: seconds and CPU seconds to compile, to begin (worlds, warm-up, estimate) and per agent-step; return."""
    env, params = make(options.env)
    config = concurrent_ddpg.Config(extractor="regression", num_learners=num, capacity=512, anneal_steps=options.steps)
    algorithm, hyper, task = concurrent_ddpg.build(env, params, config), concurrent_ddpg.Hyper(), concurrent_ddpg.Task(params)
    key_init, key_train, key_eval = training.streams(jax.random.key(0))
    began = time.perf_counter()
    init = jax.jit(algorithm.init).lower(key_init, hyper, task).compile()
    state = jax.eval_shape(algorithm.init, key_init, hyper, task)
    step = jax.jit(algorithm.step, donate_argnums=1).lower(key_train, state, hyper, task).compile()
    compiled = time.perf_counter() - began
    began, cpu = time.perf_counter(), time.process_time()
    state = jax.block_until_ready(init(key_init, hyper, task))
    started, started_cpu = time.perf_counter() - began, time.process_time() - cpu
    began, cpu = time.perf_counter(), time.process_time()
    updates = -(-options.steps // config.num_steps)
    for t in range(updates):
        state, _ = step(jax.random.fold_in(key_train, t), state, hyper, task)
    jax.block_until_ready(state)
    agent_steps = updates * concurrent_ddpg.steps_per_update(config)
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu

    def play(key: jax.Array, i: jax.Array) -> jax.Array:
        """Mean return of five greedy episodes of learner i."""
        seat, world = concurrent_ddpg.seat(state, i)

        def episode(key: jax.Array) -> jax.Array:
            return rollout.evaluate(key, env, world, lambda key, obs: algorithm.act(key, seat, obs, True), 50).total

        return jax.vmap(episode)(jax.random.split(key, 5)).mean()

    returns = np.asarray(jax.jit(jax.vmap(play))(jax.random.split(key_eval, num), np.arange(num)))
    weights, group = np.asarray(state.sharing.weights), np.asarray(state.worlds.group)
    return {
        "compile_s": compiled, "begin_s": started, "begin_cpu_s": started_cpu, "agent_steps": agent_steps,
        "agent_steps_per_s": agent_steps / seconds, "cpu_us_per_agent_step": 1e6 * spent / agent_steps,
        "return_mean": float(returns.mean()), "return_median": float(np.median(returns)), "return_worst": float(returns.min()),
        "share_group": float((weights * (group[:, None] == group)).sum(1).mean()), "memory_mb": memory.size_of(state) / 1e6,
    }  # fmt: skip


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """CPU time per agent-step and mean return against L."""
    num = [int(name) for name in rows]
    with figure_file(path, 8.4, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(num, [row["cpu_us_per_agent_step"] for row in rows.values()], marker="o")
        left.set(xscale="log", xlabel="learners", ylabel="CPU microseconds", ylim=(0, None))
        left.set_title("Cost of an agent-step", loc="left")
        right.plot(num, [row["return_mean"] for row in rows.values()], marker="o", label="mean")
        right.plot(num, [row["return_median"] for row in rows.values()], marker="o", label="median")
        right.set(xscale="log", xlabel="learners", ylabel="return")
        right.set_title("What is learned", loc="left")
        for axes in (left, right):
            axes.set_xticks(num, list(map(str, num)))
            axes.minorticks_off()
        right.legend()


def main(options: Options) -> None:
    """Every L; the file is written after each."""
    rows: dict[str, Any] = {}
    for num in options.learners:
        rows[str(num)] = {name: round(value, 3) for name, value in measure(options, num).items()}
        print(num, rows[str(num)], flush=True)
        about = {"command": command("ccrl_scale"), "steps": options.steps, "env": options.env, "learners": rows}
        (RESULTS / "ccrl_scale.json").write_text(json.dumps(about, indent=1) + "\n")
    draw(rows, RESULTS / "ccrl_scale.png")


if __name__ == "__main__":
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
