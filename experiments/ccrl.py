"""CCRL (arXiv 2401.18012): what is recovered of worlds that differ, and what sharing by it is worth.

    python -m experiments.ccrl demo      # what `make train-ccrl` does: alone, everyone, and CCRL on autoregressive-hard, one report
    python -m experiments.ccrl study     # the same and the controls, paired seeds: results/ccrl_<environment>.json
    python -m experiments.ccrl recovery  # how well theta orders the worlds from 6 transitions each: results/ccrl_recovery.json

No number of the paper could be reached, its claims are in words: sharing by similarity learns faster than everyone alone and than everyone
together. Members are paired: the same seed draws the same worlds in every method. All sizes are ours.
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

from causal_jax import gallery, history, make, plots, statistics
from causal_jax.algorithms import ALGORITHMS, concurrent_ddpg
from causal_jax.causal import hsic, mixtures, noise_models, sharing
from causal_jax.cli import configure
from causal_jax.runs import load_run, train_run
from causal_jax.settings import Settings, parse_options, resolve
from experiments.records import RESULTS, command

METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # label -> algorithm, Config fields beside its preset
    "individual": ("ddpg-individual", {}),
    "naive": ("ddpg-naive", {}),
    "oracle": ("ddpg-oracle", {}),
    "CCRL": ("ccrl", {}),
    "shuffled": ("ddpg-shuffled", {}),
    "seed sampling": ("seed-sampling", {}),
    "CCRL, ou": ("ccrl", {"exploration": "ou"}),
    "CCRL, matched": ("ccrl", {"exploration": "matched"}),
    "individual, coordinated": ("ddpg-individual", {"exploration": "coordinated"}),
    "naive, coordinated": ("ddpg-naive", {"exploration": "coordinated"}),
    "oracle, coordinated": ("ddpg-oracle", {"exploration": "coordinated"}),
}
PAIRS = (  # what is subtracted: the hypotheses, then sharing and exploration apart
    ("CCRL", "individual"), ("CCRL", "naive"), ("oracle", "CCRL"), ("oracle", "individual"), ("CCRL", "shuffled"),
    ("shuffled", "individual"),
    ("CCRL", "CCRL, ou"), ("CCRL", "CCRL, matched"), ("CCRL, ou", "individual"), ("CCRL, ou", "naive"), ("CCRL, ou", "oracle"),
    ("CCRL", "oracle, coordinated"), ("CCRL", "individual, coordinated"), ("CCRL", "naive, coordinated"),
    ("individual, coordinated", "individual"), ("naive, coordinated", "naive"), ("oracle, coordinated", "oracle"),
)  # fmt: skip
SIZES: dict[str, tuple[dict[str, Any], dict[str, float]]] = {  # beginning of an environment's name -> Config and Hyper fields
    "pendulum-wind": (
        {"hidden": (64, 64), "batch_size": 64, "num_steps": 100, "warmup_steps": 200, "capacity": 4000, "anneal_steps": 1200},
        {"gamma": 0.98, "tau": 0.02},
    ),
}
DEMO = ("individual", "naive", "CCRL")
AGENTS, TRANSITIONS = 20, 6  # of the recovery


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run, and how much."""

    what: tyro.conf.Positional[Literal["demo", "study", "recovery"]]
    """demo: three methods and a report; study: every method and the results file; recovery: the estimate alone."""
    env: str = "autoregressive-hard"
    """Where they learn."""
    env_options: tuple[str, ...] = ()
    """Options of the environment, as name=value; spread=0 jitter=0: identical worlds."""
    rates: tuple[str, ...] = ()
    """Hyper fields that are not the default, as name=value, e.g. tau=0.002."""
    suffix: str = ""
    """Of the results file's and the run folders' names."""
    methods: tuple[str, ...] = ()
    """Of METHODS; default three for the demo, else all."""
    members: int = 0
    """Seeds; 0: 4 for the demo, 10 else."""
    steps: int = 1500
    """Steps of each learner."""
    folder: str = "runs"
    """Where the run folders go."""


def train(options: Options, label: str) -> Path:
    """One method; returns its run folder."""
    name, fields = METHODS[label]
    sizes, rates = next((found for start, found in SIZES.items() if options.env.startswith(start)), ({}, {}))
    rates = {**rates, **parse_options(options.rates)}
    config = concurrent_ddpg.Config(**{**ALGORITHMS[name].preset, **fields, **sizes})
    settings = Settings(
        algorithm=name, env=options.env, env_options=options.env_options, members=options.members,
        steps=options.steps * config.num_learners, evaluations=10, eval_episodes=5, folder=options.folder,
        name="-".join([options.env + options.suffix, name, *(str(value) for value in fields.values())]),
    )  # fmt: skip
    return train_run(resolve(settings, config, concurrent_ddpg.Hyper(**rates)), resume=True)


def curves(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(steps [points], return [members, points]) of the evaluations, means over the learners."""
    run = history.load_run(folder)
    steps, values = run.curve("eval.greedy.return")
    return np.asarray(steps), np.asarray(values)


def study(options: Options) -> None:
    """Areas under the mean learning curve and last returns, and their paired differences between methods; written after each run.

    Methods that the file already holds stay, if seeds and steps are the same.
    """
    path = RESULTS / f"ccrl_{options.env}{options.suffix}.json"
    about = {"members": options.members, "steps": options.steps, "env_options": list(options.env_options), "rates": list(options.rates)}
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if any(rows.get(name) != value for name, value in about.items()):
        rows = {}
    rows = {"command": command("ccrl"), **about, "methods": rows.get("methods", {})}
    for label in options.methods:
        began = time.monotonic()
        folder = train(options, label)
        steps, values = curves(folder)
        measured = {"area": statistics.area_under_curve(steps, values), "final": values[:, -1], "curve": values.mean(0)}
        measured |= {"seen": seen(folder)} if options.env.endswith("sparse") else {}
        rows["methods"][label] = {name: np.round(x, 4).tolist() for name, x in measured.items()} | {
            "seconds": round(time.monotonic() - began)
        }
        rows["differences"] = differences(rows["methods"])
        path.write_text(json.dumps(rows, indent=1) + "\n")
        draw(rows, path.with_suffix(".png"))
        print(label, {name: float(np.round(np.mean(measured[name]), 3)) for name in ("area", "final")}, flush=True)


def draw(rows: dict[str, Any], path: Path) -> None:
    """Mean return of every method against the steps of each learner."""
    lines: dict[str, plots.Curve] = {}
    for label, row in rows["methods"].items():
        values = np.asarray(row["curve"])
        steps = np.linspace(0, rows["steps"], len(values))
        lines[label] = {"steps": steps, "estimate": statistics.Estimate(values, values, values), "band": False}
    plots.curves([(f"{path.stem.removeprefix('ccrl_')}: mean return", lines, {})], path, x_label="steps of each learner")


def seen(folder: Path) -> np.ndarray:
    """Share of each member's learners that met a reward above 0.5 in the first half of their steps, [members]; rings not yet full."""
    buffers = load_run(folder, say=lambda line: None).run.state.buffers
    half = int(buffers.size.min()) // 2
    best = np.asarray(buffers.rows.reward)[:, :, :half].max(axis=2)
    return (best > 0.5).mean(axis=1)


def differences(methods: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """{"a - b": {"area" | "final" | "seen": mean and 95% bootstrap interval of the paired difference}} of the PAIRS that are there."""
    return {
        f"{a} - {b}": {
            name: np.round(statistics.bootstrap_interval(np.subtract(methods[a][name], methods[b][name]), statistics.mean), 4).tolist()
            for name in ("area", "final", "seen")
            if name in methods[a] and name in methods[b]
        }
        for a, b in PAIRS
        if {a, b} <= set(methods)
    }


def sample(key: jax.Array, env: Any, params: Any) -> tuple[Any, jax.Array, jax.Array]:
    """(worlds of AGENTS, x [A, S, D], y [A, S, E]) of TRANSITIONS steps from independent starts under random actions."""
    key_worlds, key_rows = jax.random.split(key)
    worlds = env.draw_worlds(key_worlds, params, AGENTS)

    def one(key: jax.Array, world: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        obs, state = env.reset_env(keys[0], world)
        action = env.action_space(world).sample(keys[1])
        return env.evidence(obs, action, env.step_env(keys[2], state, action, world)[0])

    def agent(key: jax.Array, world: Any) -> tuple[jax.Array, jax.Array]:
        x, y, usable = jax.vmap(one, (0, None))(jax.random.split(key, 8 * TRANSITIONS), world)
        index = jax.lax.top_k(usable.astype(jnp.float32), TRANSITIONS)[1]
        return x[index], y[index]

    return worlds, *jax.vmap(agent)(jax.random.split(key_rows, AGENTS), worlds.params)


def recovery(options: Options) -> None:
    """|Spearman| of theta and the true parameter, ARI of the clusters and the groups, share of collapsed fits, per penalty and weight."""
    rows: dict[str, Any] = {
        "command": command("ccrl"),
        "seeds": options.members,
        "agents": AGENTS,
        "transitions": TRANSITIONS,
        "results": {},
    }
    for env_id in ("autoregressive-easy", "autoregressive-hard"):
        env, params = make(env_id)
        for penalty in noise_models.PENALTIES:
            for lam in (0.0, 1.0) if penalty == "cka" else (1.0,):
                spec = noise_models.Spec(penalty=penalty)

                def fit(key: jax.Array, spec: Any = spec, lam: float = lam, env: Any = env, params: Any = params) -> dict[str, jax.Array]:
                    key_data, key_fit, key_mixture = jax.random.split(key, 3)
                    worlds, x, y = sample(key_data, env, params)
                    found = noise_models.fit(key_fit, x, y, lam, spec)
                    theta = hsic.standardise(sharing.winsorise(found.theta))
                    memberships, _ = mixtures.assign(key_mixture, theta, 0)
                    return {
                        "spearman": jnp.abs(mixtures.rank_correlation(found.theta[:, 0], worlds.value)),
                        "ari": mixtures.adjusted_rand(jnp.argmax(memberships, axis=1), worlds.group),
                        "collapsed": (jnp.std(found.theta) < 1e-3).astype(jnp.float32),
                    }

                found = jax.device_get(
                    jax.jit(lambda keys, fit=fit: jax.lax.map(fit, keys))(jax.random.split(jax.random.key(0), options.members))
                )
                rows["results"][f"{env_id}, {penalty}, lambda {lam:g}"] = {name: np.round(x, 4).tolist() for name, x in found.items()}
                print(env_id, penalty, lam, {name: (float(x.mean()), float(x.min())) for name, x in found.items()}, flush=True)
                (RESULTS / "ccrl_recovery.json").write_text(json.dumps(rows, indent=1) + "\n")


def demo(options: Options) -> None:
    """Three methods and the report that compares them."""
    folders = [train(options, label) for label in options.methods]
    print(f"report: {gallery.report(folders, Path(options.folder) / f'{options.env}-learners')}")


def main(options: Options) -> None:
    """Fill in the defaults and run."""
    small = options.what == "demo"
    methods = options.methods or (DEMO if small else tuple(METHODS))
    filled = dataclasses.replace(options, methods=methods, members=options.members or (4 if small else 10))
    {"demo": demo, "study": study, "recovery": recovery}[options.what](filled)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
