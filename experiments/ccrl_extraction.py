"""CCRL (arXiv 2401.18012): how well the ways of finding what differs between worlds find it, without any learning.

    python -m experiments.ccrl_extraction table     # every extractor, 6 transitions of 20 agents: results/ccrl_extraction.json
    python -m experiments.ccrl_extraction rollouts  # the same from rollouts, 6 to 200 transitions: results/ccrl_rollouts.json
    python -m experiments.ccrl_extraction picture   # of rollouts: results/ccrl_rollouts.png
    python -m experiments.ccrl_extraction collapse  # how often a single start ends at a constant theta: results/ccrl_collapse.json

The paper prefers ANM-MM to LiNGAM, IGCI and the like without a comparison. Scores: |Spearman| of theta with the true parameter, adjusted
Rand index (ARI) of a Gaussian mixture's clusters with the true groups, their number given or found by BIC. All sizes are ours.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import exploration, make, plots
from causal_jax.algorithms import concurrent_ddpg
from causal_jax.causal import extraction, hsic, mixtures, noise_models, sharing
from causal_jax.cli import configure
from experiments.benchmarks.causes import toy
from experiments.records import RESULTS, command

AGENTS, GROUPS = 20, 3
ENVS = ("autoregressive-easy", "autoregressive-hard", "pendulum-wind")
ROWS: dict[str, tuple[str, noise_models.Spec, float]] = {
    "ANM-MM, a theta per agent": ("anm-mm", noise_models.Spec("agent"), 1.0),
    "ANM-MM, a theta per sample": ("anm-mm", noise_models.Spec("sample_free"), 10.0),
    "ANM-MM, theta a network": ("anm-mm", noise_models.Spec("sample_mlp"), 10.0),
    "regression": ("regression", noise_models.Spec(), 0.0),
    "LiNGAM-style": ("lingam", noise_models.Spec(), 0.0),
    "IGCI-style": ("igci", noise_models.Spec(), 0.0),
    "context encoder": ("context", noise_models.Spec(), 0.0),
}
LENGTHS = (6, 20, 50, 200)
EXACT, INDUCING, FEW = 320, 64, 3  # samples of an exact likelihood; inducing points and random starts where there are more
Draw = Callable[[jax.Array, Any, Any, int], tuple[Any, jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure, and how much."""

    what: tyro.conf.Positional[Literal["table", "rollouts", "picture", "collapse"]]
    """table: transitions from the starts; rollouts: those of a random walk's actions; picture: of these; collapse: fits of the toy."""
    seeds: int = 0
    """Seeds; 0: 5, for collapse 50."""
    envs: tuple[str, ...] = ENVS
    """Families of worlds."""
    rows: tuple[str, ...] = ()
    """Extractors, of ROWS; none: all, for rollouts those with a theta per agent (a theta per sample needs O(N^2) whatever is done)."""
    lengths: tuple[int, ...] = LENGTHS
    """rollouts: transitions of each agent."""


def from_starts(key: jax.Array, env: Any, params: Any, num: int) -> tuple[Any, jax.Array, jax.Array]:
    """(AGENTS worlds, x [A, S, D], y [A, S, E]) of `num` usable steps from independent starts under uniform actions. key: consumed."""
    key_worlds, key_rows = jax.random.split(key)
    worlds = env.draw_worlds(key_worlds, params, AGENTS)

    def one(key: jax.Array, world: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        obs, state = env.reset_env(keys[0], world)
        action = env.action_space(world).sample(keys[1])
        return concurrent_ddpg.evidence(env, obs, action, env.step_env(keys[2], state, action, world)[0])

    def agent(key: jax.Array, world: Any) -> tuple[jax.Array, jax.Array]:
        x, y, usable = jax.vmap(one, (0, None))(jax.random.split(key, 8 * num), world)
        index = jax.lax.top_k(usable.astype(jnp.float32), num)[1]
        return x[index], y[index]

    return worlds, *jax.vmap(agent)(jax.random.split(key_rows, AGENTS), worlds.params)


def from_rollouts(key: jax.Array, env: Any, params: Any, num: int) -> tuple[Any, jax.Array, jax.Array]:
    """The same of `num` usable transitions, uniform over 1,000 steps of episodes under Ornstein-Uhlenbeck actions. key: consumed."""
    key_worlds, key_rows = jax.random.split(key)
    worlds = env.draw_worlds(key_worlds, params, AGENTS)
    high = env.action_space(params).high

    def agent(key: jax.Array, world: Any) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 4)
        obs, state = env.reset(keys[0], world)
        noise = exploration.start(keys[1], "ou", 1, 0.0)

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            obs, state, noise = carry
            key_noise, key_step = jax.random.split(key)
            noise = exploration.advance(key_noise, "ou", noise, 0.0, 0.15, 0.2)
            action = jnp.clip(high * noise.u, -high, high)
            after, state, _, _, _, info = env.step(key_step, state, action, world)
            return (after, state, noise), concurrent_ddpg.evidence(env, obs, action, info["final_observation"])

        _, (x, y, usable) = jax.lax.scan(step, (obs, state, noise), jax.random.split(keys[2], 1000))
        index = jax.lax.top_k(usable + jax.random.uniform(keys[3], usable.shape), num)[1]
        return x[index], y[index]

    return worlds, *jax.vmap(agent)(jax.random.split(key_rows, AGENTS), worlds.params)


@jax.jit
def agreement(keys: jax.Array, theta: jax.Array, value: jax.Array, group: jax.Array) -> dict[str, jax.Array]:
    """Scores [seeds] of theta [seeds, A, Q] beside the worlds' parameter and group, both [seeds, A]. keys: consumed."""

    def one(key: jax.Array, theta: jax.Array, value: jax.Array, group: jax.Array) -> dict[str, jax.Array]:
        key_given, key_bic = jax.random.split(key)
        cut = hsic.standardise(sharing.winsorise(theta))
        given, _ = mixtures.assign(key_given, cut, GROUPS)
        free, components = mixtures.assign(key_bic, cut, 0)
        return {
            "spearman": jnp.abs(mixtures.rank_correlation(theta[:, 0], value)),
            "ari": mixtures.adjusted_rand(jnp.argmax(given, axis=1), group),
            "ari_bic": mixtures.adjusted_rand(jnp.argmax(free, axis=1), group),
            "components": components,
        }

    return jax.lax.map(lambda row: one(*row), (keys, theta, value, group))


@functools.cache
def data(draw: Draw, env_id: str, num: int, seeds: int) -> Any:
    """`draw` for every seed: (worlds, x [seeds, A, S, D], y [seeds, A, S, E])."""
    env, params = make(env_id)
    return jax.jit(lambda keys: jax.lax.map(lambda key: draw(key, env, params, num), keys))(jax.random.split(jax.random.key(0), seeds))


def scores(label: str, draw: Draw, env_id: str, num: int, seeds: int) -> dict[str, Any]:
    """Every score of one extractor in one family of worlds, a value per seed; and the seconds of all of it, with compilation."""
    name, spec, lam = ROWS[label]
    if AGENTS * num > EXACT:
        spec = dataclasses.replace(spec, inducing=INDUCING, restarts=FEW)
    began = time.perf_counter()
    worlds, x, y = data(draw, env_id, num, seeds)
    fits = jax.jit(lambda rows: jax.lax.map(lambda row: extraction.extract(name, row[0], row[1], row[2], spec, lam), rows))
    found = fits((jax.random.split(jax.random.key(1), seeds), x, y))
    told = agreement(jax.random.split(jax.random.key(2), seeds), found.theta, worlds.value, worlds.group)
    told = jax.device_get({**told, "differ": found.differ.astype(jnp.float32)})
    return {**{k: np.round(v, 4).tolist() for k, v in told.items()}, "seconds": round(time.perf_counter() - began, 1)}


def measure(options: Options, file: str, draw: Draw, lengths: tuple[int, ...]) -> None:
    """Fill the table of `file`, row by row; other rows that it holds stay."""
    path = RESULTS / file
    table: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"results": {}}
    table |= {"command": command("ccrl_extraction"), "agents": AGENTS, "seeds": options.seeds}
    for env_id in options.envs:
        for num in lengths:
            for label in options.rows:
                row = scores(label, draw, env_id, num, options.seeds)
                table["results"][f"{env_id}, {num} transitions, {label}"] = row
                path.write_text(json.dumps(table, indent=1) + "\n")
                means = {k: round(float(np.mean(v)), 3) for k, v in row.items()}
                print(env_id, num, label, means, flush=True)


def picture() -> Path:
    """ARI (number of groups given) beside the number of transitions, a panel per family of worlds; returns the file."""
    results = json.loads((RESULTS / "ccrl_rollouts.json").read_text())["results"]
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, row in results.items():
        env_id, num, label = name.split(", ", 2)
        found.setdefault(env_id, {}).setdefault(label, []).append((int(num.split()[0]), float(np.mean(row["ari"]))))
    with plots.figure_file(RESULTS / "ccrl_rollouts.png", 9.0, 3.4) as figure:
        axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axis, (env_id, rows) in zip(axes, found.items(), strict=True):
            for i, (label, points) in enumerate(rows.items()):
                axis.plot(*zip(*sorted(points), strict=True), color=plots.PALETTE[i], linestyle=plots.LINES[i], marker="o", label=label)
            axis.set(xscale="log", title=env_id, xlabel="transitions of each of 20 agents")
            axis.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
            axis.minorticks_off()
        axes[0].set_ylabel("adjusted Rand index")
        axes[-1].legend(fontsize=8)
    return RESULTS / "ccrl_rollouts.png"


def collapse(options: Options) -> None:
    """Share of single random starts on the toy that end at a constant theta (standard deviation < 1e-3), and ARI of two clusters."""
    rows: dict[str, Any] = {"command": command("ccrl_extraction"), "seeds": options.seeds, "points": 100, "results": {}}
    cases = [(latent, penalty, 10.0) for latent in ("sample_free", "sample_mlp") for penalty in noise_models.PENALTIES[::-1]]
    for latent, penalty, beta in [*cases, ("sample_mlp", "raw", 0.1), ("sample_mlp", "cka", 0.1)]:
        spec = noise_models.Spec(latent, penalty=penalty, beta=beta)

        def one(key: jax.Array, lam: jax.Array, spec: Any = spec) -> tuple[jax.Array, jax.Array]:
            key_data, key_start, key_fit, key_mixture = jax.random.split(key, 4)
            x, y, mechanism = toy(key_data)
            starts = 0.5 * jax.random.normal(key_start, (1, len(x), 1))
            theta = noise_models.fit(key_fit, x[:, None], y[:, None], lam, spec, starts).theta
            groups = jnp.argmax(mixtures.assign(key_mixture, hsic.standardise(theta), 2)[0], axis=1)
            return jnp.std(theta), mixtures.adjusted_rand(groups, mechanism)

        program = jax.jit(lambda keys, lam, one=one: jax.lax.map(lambda key: one(key, lam), keys))
        for lam in (0.0, 1.0, 10.0) if (penalty, beta) == ("cka", 10.0) else (1.0, 10.0):
            deviation, ari = (np.asarray(v) for v in program(jax.random.split(jax.random.key(0), options.seeds), lam))
            row = {"collapsed": float(np.mean(deviation < 1e-3)), "ari": round(float(np.mean(ari)), 3)}
            label = f"{latent}, {penalty}, lambda {lam:g}, beta starts at {beta:g}"
            rows["results"][label] = {**row, "deviation": np.round(deviation, 5).tolist()}
            print(label, row, flush=True)
            (RESULTS / "ccrl_collapse.json").write_text(json.dumps(rows, indent=1) + "\n")


def main(options: Options) -> None:
    """Fill in the defaults and run."""
    per_agent = [label for label in ROWS if ROWS[label][1].latent == "agent"]
    rows = options.rows or tuple(per_agent if options.what == "rollouts" else ROWS)
    options = dataclasses.replace(options, rows=rows, seeds=options.seeds or (50 if options.what == "collapse" else 5))
    if options.what == "collapse":
        collapse(options)
    elif options.what == "picture":
        print(picture())
    elif options.what == "table":
        measure(options, "ccrl_extraction.json", from_starts, (6,))
    else:
        measure(options, "ccrl_rollouts.json", from_rollouts, options.lengths)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
