"""DLPA's planner by itself: many discrete actions, and how far ahead a learned model should be asked.

    python -m experiments.dlpa_planner actions                          # experiments/results/dlpa_actions.json, .png
    python -m experiments.dlpa_planner horizon --run runs/platform-dlpa-explored-cpu   # experiments/results/dlpa_horizon.json, .png

actions: Hard Move with 2^4 to 2^16 discrete actions, planned in the environment's own equations, so that nothing but the planner differs:
proposals with a table of all actions (the paper's), sampled ones (no axis of K), and random shooting; return and milliseconds of a plan.
horizon: a trained run of Platform. The model's error h steps ahead, along episodes of the trained policy and of random play, and the
return of planning 1 to 10 steps ahead with the same networks.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import hybrid_planning, make, plots, rollout, runs, spaces, world_models
from causal_jax.algorithms import dlpa
from causal_jax.cli import configure
from causal_jax.evaluation import member_of
from causal_jax.types import UserError
from experiments.dlpa import BENCHMARKS
from experiments.records import RESULTS, command

PROPOSALS = ("table", "sampled", "uniform")
LEAST_STEPS = 50  # fewer errors have no quantile worth a point


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how much."""

    what: tyro.conf.Positional[Literal["actions", "horizon"]]
    """Which study."""
    run: str = "runs/platform-dlpa-explored-cpu"
    """horizon: the run folder whose model is asked."""
    actuators: tuple[int, ...] = (4, 8, 10, 12, 14, 16)
    """actions: Hard Move's n, with 2^n discrete actions."""
    horizons: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10)
    """horizon: steps planned ahead."""
    episodes: int = 64
    """Episodes of every row."""


def in_truth(env: Any, env_params: Any) -> Any:
    """What plans are worth in the environment itself, for dlpa.planner: `obs` is the environment's state."""

    def one(state: Any, k: jax.Array, z: jax.Array, gamma: jax.Array) -> jax.Array:
        def body(carry: Any, action: Any) -> tuple[Any, None]:
            state, alive, total, discount = carry
            _, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action, env_params)  # no noise: the key is not read
            return (state, alive * (1.0 - terminated), total + discount * alive * reward, discount * gamma), None

        (_, _, total, _), _ = jax.lax.scan(body, (state, jnp.ones(()), jnp.zeros(()), jnp.ones(())), (k, z))
        return total

    return lambda params, key, state, plans, gamma: jax.vmap(one, (None, 0, 0, None))(state, *plans, gamma)


def planned(env_id: str, proposal: str, episodes: int) -> dict[str, Any]:
    """Mean return (with its standard error), success, and seconds of one plan, planning in the environment's own equations."""
    env, env_params = make(env_id)
    config = dlpa.Config(**BENCHMARKS["hard-move-4"][0], proposal=proposal)
    space: Any = spaces.from_gymnax(env.action_space(env_params))
    plan, hyper = dlpa.planner(in_truth(env, env_params), space, config), dlpa.Hyper()
    start = hybrid_planning.proposal_of(space, config, hyper.momentum).start

    def episode(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_reset, key_steps = jax.random.split(key)
        _, state = env.reset_env(key_reset, env_params)

        def body(carry: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
            state, theta, alive = carry
            action, theta, _ = plan(keys[0], None, hyper, state, theta, True)
            _, state, reward, terminated, _ = env.step_env(keys[1], state, action, env_params)
            return (state, theta, alive & ~terminated), jnp.where(alive, reward, 0.0)

        keys = jax.random.split(key_steps, (runs.time_limit(env_params), 2))
        (_, _, alive), rewards = jax.lax.scan(body, (state, start, jnp.ones((), bool)), keys)
        return jnp.sum(rewards), ~alive

    total, success = jax.jit(lambda keys: jax.lax.map(episode, keys))(jax.random.split(jax.random.key(0), episodes))
    once = jax.jit(lambda key, state: plan(key, None, hyper, state, start, True)[0])
    state, seconds = env.reset_env(jax.random.key(1), env_params)[1], []
    jax.block_until_ready(once(jax.random.key(2), state))
    for i in range(11):
        began = time.perf_counter()
        jax.block_until_ready(once(jax.random.key(i), state))
        seconds.append(time.perf_counter() - began)
    return {
        "return": round(float(total.mean()), 2), "error": round(float(total.std() / episodes**0.5), 2),
        "success": round(float(success.mean()), 3), "ms": round(1000 * float(np.median(seconds)), 1),
    }  # fmt: skip


def actions(options: Options) -> None:
    """Return and time of a plan over the number of discrete actions; the file is written after every row."""
    rows: dict[str, dict[str, Any]] = {proposal: {} for proposal in PROPOSALS}
    for n in options.actuators:
        for proposal in PROPOSALS:
            rows[proposal][str(2**n)] = planned(f"hard-move-{n}", proposal, options.episodes)
            print(2**n, proposal, rows[proposal][str(2**n)], flush=True)
            found = {"episodes": options.episodes, "rows": rows, "command": command("dlpa_planner")}
            (RESULTS / "dlpa_actions.json").write_text(json.dumps(found) + "\n")
    panels = [
        (f"Hard Move: {title}", {p: (list(map(int, row)), [x[key] for x in row.values()]) for p, row in rows.items()}, key)
        for title, key in (("return", "return"), ("milliseconds of one plan", "ms"))
    ]
    with plots.figure_file(RESULTS / "dlpa_actions.png", 9.0, 3.4) as figure:
        for axes, (title, lines, _) in zip(figure.subplots(1, 2), panels, strict=True):
            for label, (x, y) in lines.items():
                axes.plot(x, y, marker="o", label=label)
            axes.set(title=title, xlabel="discrete actions", xscale="log")
            plots.log_axis(axes.xaxis)
            axes.legend()
        figure.axes[1].set_yscale("log")
        plots.log_axis(figure.axes[1].yaxis)


def errors(loaded: runs.Loaded, member: int, episodes: int, greedy: bool) -> np.ndarray:
    """[W, H]: error of the observation h = 1 ... H steps ahead of every step that was played, H the planner's horizon.

    An error is the root mean square over components, which are in [-1, 1]; NaN behind the end of an episode. Along episodes of the trained
    policy (greedy) or of random play.
    """
    run, config = loaded.resolved, loaded.resolved.config
    env, (state, task) = run.env, member_of(loaded, member)
    spec = world_models.model_spec(env, task.env_params, config)
    space: Any = spaces.from_gymnax(env.action_space(task.env_params))
    player = rollout.actor(run.algorithm, state, True)
    horizon = config.horizon

    def episode(key: jax.Array) -> tuple[Any, ...]:
        key_reset, key_steps = jax.random.split(key)
        obs, env_state = env.reset_env(key_reset, task.env_params)

        def body(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            obs, env_state, alive, memory = carry
            key_act, key_step = jax.random.split(key)
            action, memory = player.act(key_act, obs, memory) if greedy else (space.sample(key_act), memory)
            then, env_state, _, terminated, _ = env.step_env(key_step, env_state, action, task.env_params)
            return (then, env_state, alive & ~terminated, memory), (obs, *action, then, alive)

        keys = jax.random.split(key_steps, config.episode_steps)
        _, steps = jax.lax.scan(body, (obs, env_state, jnp.ones((), bool), player.memory), keys)
        return steps

    def ahead(first: jax.Array, k: jax.Array, z: jax.Array, then: jax.Array, alive: jax.Array) -> jax.Array:
        def body(obs: jax.Array, action: Any) -> tuple[jax.Array, jax.Array]:
            obs = world_models.next_state(state.params, spec, obs, action[0], action[1], None)
            return obs, obs

        _, predicted = jax.lax.scan(body, first, (k, z))
        return jnp.where(alive, jnp.sqrt(jnp.mean(jnp.square(predicted - then), axis=-1)), jnp.nan)

    def measure(key: jax.Array) -> jax.Array:
        obs, k, z, then, alive = episode(key)
        at = jnp.arange(config.episode_steps)[:, None] + jnp.arange(horizon)
        inside, at = at < config.episode_steps, jnp.minimum(at, config.episode_steps - 1)
        return jax.vmap(ahead)(obs, k[at], z[at], then[at], alive[at] & inside)

    found = jax.jit(lambda keys: jax.lax.map(measure, keys))(jax.random.split(jax.random.key(3), episodes))
    return np.asarray(found).reshape(-1, horizon)


def quantiles(found: np.ndarray) -> dict[str, list[Any]]:
    """Median and 90% quantile of errors [W, H] at every h, None where fewer than LEAST_STEPS are left; and how many are."""
    left = np.sum(~np.isnan(found), axis=0)

    def of(share: float) -> list[float | None]:
        return [
            round(float(np.nanquantile(column, share)), 4) if n >= LEAST_STEPS else None for column, n in zip(found.T, left, strict=True)
        ]

    return {"median": of(0.5), "upper": of(0.9), "steps": left.tolist()}


def returns_of(loaded: runs.Loaded, horizon: int, episodes: int) -> list[float]:
    """Mean return of every member, its model asked `horizon` steps ahead."""
    run = loaded.resolved
    config = dataclasses.replace(run.config, horizon=horizon, loss_horizon=run.config.horizon)
    found = []
    for member in range(run.settings.members):
        state, task = member_of(loaded, member)
        algorithm = dlpa.build(run.env, task.env_params, config)
        player, limit = rollout.actor(algorithm, state, True), runs.time_limit(task.env_params)

        def play(key: jax.Array, task: Any = task, player: Any = player, limit: int = limit) -> jax.Array:
            return rollout.evaluate(key, run.env, task.env_params, player, limit).total

        found.append(
            float(jnp.mean(jax.jit(lambda keys, play=play: jax.lax.map(play, keys))(jax.random.split(jax.random.key(4), episodes))))
        )
    return found


def horizon(options: Options) -> None:
    """The model's error by steps ahead, and the return by the planner's horizon."""
    loaded = runs.load_run(Path(options.run))
    if (algorithm := loaded.resolved.settings.algorithm) != "dlpa":
        raise UserError(f"run = {options.run!r}: must be a run of dlpa, not of {algorithm}")
    members = range(loaded.resolved.settings.members)
    error = {
        label: quantiles(np.concatenate([errors(loaded, member, options.episodes, greedy) for member in members]))
        for label, greedy in (("trained policy", True), ("random play", False))
    }
    rows = {}
    for steps in options.horizons:
        rows[str(steps)] = np.round(returns_of(loaded, steps, options.episodes), 3).tolist()
        print(steps, rows[str(steps)], flush=True)
        found = {"error": error, "returns": rows, "episodes": options.episodes, "command": command("dlpa_planner")}
        (RESULTS / "dlpa_horizon.json").write_text(json.dumps(found) + "\n")
    with plots.figure_file(RESULTS / "dlpa_horizon.png", 9.0, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        for label, values in error.items():
            known = [h for h, value in enumerate(values["median"]) if value is not None]
            for quantity, style in (("median", "-"), ("upper", ":")):
                told = f"{label}, median" if quantity == "median" else f"{label}, 90% quantile"
                left.plot([h + 1 for h in known], [values[quantity][h] for h in known], marker="o", linestyle=style, label=told)
        left.set(title="Platform: error of the model", xlabel="steps ahead", ylabel="error of observations in [-1, 1]")
        left.legend()
        x = list(map(int, rows))
        right.plot(x, [np.mean(y) for y in rows.values()], marker="o", label="mean")
        for member in members:
            right.plot(x, [y[member] for y in rows.values()], alpha=0.3, color="grey")
        right.set(title="return of the same models", xlabel="steps planned ahead", ylabel="return")


def main(options: Options) -> None:
    """Run one study. Raises: UserError for a run that is not there or not dlpa's, or for a number of actuators there is no task of."""
    {"actions": actions, "horizon": horizon}[options.what](options)


if __name__ == "__main__":
    configure()
    try:
        main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
    except UserError as error:
        raise SystemExit(str(error)) from None
