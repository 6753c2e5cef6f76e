"""CEE and NPM where actions are copies of each other: MinAtar with m aliases per action, the true classes known (envs/wrappers.py).

    python -m experiments.cee_minatar study    # 3 games x m = 1, 4, 16 x PPO, NPM, CEE: experiments/results/cee_minatar.json, figure
    python -m experiments.cee_minatar table    # the results as markdown

The question that the CEE paper (arXiv 2501.14543) leaves open: how much of the return with m = 1 is left when every action has m copies. An
action with a twin has a share of 1/m of its group's causal effect at most, so with tau = 0.8 CEE drops every copied action, all of them,
and the state is left unmasked: CEE is then PPO. NPM (arXiv 2312.06258) keeps one action of a group, and plays the game as it was.
`copies together` is the share of pairs of copies that the learned model puts in one group, `others merged` that of other pairs, some of
which do act alike in the state (against a wall), on states of random play.
Sizes are ours, chosen so that the whole study takes half an hour of one core: see Options.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from causal_jax import history, plots, rollout
from causal_jax.algorithms import ALGORITHMS, effect_model, ppo
from causal_jax.causal import effects, inverse
from causal_jax.cli import configure
from causal_jax.runs import load_run, train_run
from causal_jax.settings import Settings, resolve
from experiments.cee import slug, summary
from experiments.records import RESULTS, command

GAMES = ("breakout", "asterix", "spaceinvaders")
COPIES = (1, 4, 16)
METHODS: dict[str, str] = {"PPO": "ppo", "NPM": "npm", "CEE": "cee"}
SIZES = {"num_envs": 16, "num_steps": 128, "num_epochs": 4, "num_minibatches": 8}
PHASE_1 = effect_model.Config(num_frequencies=0, warmup_steps=128, capacity=32_768)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["study", "table"]]
    """study: train; table: its results as markdown."""
    games: tuple[str, ...] = GAMES
    """MinAtar games."""
    copies: tuple[int, ...] = COPIES
    """Copies m of each action."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Labels of the methods."""
    members: int = 5
    """Seeds."""
    steps: int = 100_000
    """Environment steps of a member, the same for every method."""
    effect_steps: int = 100_000
    """Environment steps of phase 1, which NPM and CEE share; they pay nothing for it in `steps`."""
    folder: str = "runs"
    """Where the run folders go."""


def run_name(game: str, m: int, label: str) -> str:
    """The name of a run folder."""
    return f"minatar-{game}-m{m}-{slug(label)}"


def fit_effects(options: Options, game: str, m: int) -> Path:
    """Phase 1 of one aliased game; returns its run folder."""
    updates = -(-options.effect_steps // effect_model.steps_per_update(PHASE_1))
    settings = Settings(
        algorithm="effects", env=f"alias:minatar:{game}", env_options=(f"m={m}",), members=options.members, steps=options.effect_steps,
        name=run_name(game, m, "effects"), folder=options.folder, evaluations=2,
    )  # fmt: skip
    return train_run(resolve(settings, dataclasses.replace(PHASE_1, decay_steps=updates)), resume=True)


def train(options: Options, game: str, m: int, label: str) -> Path:
    """One method on one aliased game; returns its run folder."""
    name = METHODS[label]
    config = ppo.Config(**{**SIZES, **ALGORITHMS[name].preset})
    settings = Settings(
        algorithm=name, env=f"alias:minatar:{game}", env_options=(f"m={m}",), members=options.members, steps=options.steps, evaluations=8,
        eval_episodes=16, effects=str(fit_effects(options, game, m)) if name != "ppo" else "", name=run_name(game, m, label),
        folder=options.folder, checkpoint_every=8,
    )  # fmt: skip
    return train_run(resolve(settings, config, ppo.Hyper(ent_coef=0.01)), resume=True)


def grouping(folder: Path, num_states: int = 256) -> dict[str, list[float]]:
    """How the groups of a phase 1 meet the true classes on states of random play, per member; see the module."""
    loaded = load_run(folder)
    run, models = loaded.resolved, effect_model.model(loaded.run.state)
    space = run.env.action_space(run.env_params)
    pairs = ~np.eye(space.n, dtype=bool)
    same = (run.env.classes[:, None] == run.env.classes) & pairs

    def visit(key: Any) -> Any:
        key_start, key = jax.random.split(key)
        cursor = rollout.start(key_start, run.env, run.env_params)
        return rollout.unroll(key, run.env, run.env_params, lambda key, obs: (space.sample(key), {}), cursor, num_states // 16)[1].obs

    states = jax.vmap(visit)(jax.random.split(jax.random.key(1), 16)).reshape(num_states, -1)

    def one(model: Any, obs: Any) -> Any:
        n_matrix = inverse.n_matrix(model, obs)
        group = effects.group(effects.similarity(n_matrix), 0.5)
        together = (group[:, None] == group) & pairs
        counts = [jnp.sum(together & which) / max(int(which.sum()), 1) for which in (same, pairs & ~same)]
        return (*counts, *(effects.select(name, jax.random.key(0), n_matrix).sum() for name in ("npm", "cee")))

    def member(model: Any) -> Any:
        return jax.tree.map(jnp.mean, jax.lax.map(lambda obs: one(model, obs), states, batch_size=32))

    scores = jax.device_get(jax.jit(lambda models: jax.lax.map(member, models))(models))
    names = ("copies together", "others merged", "kept by NPM", "kept by CEE")
    return {name: np.round(x.astype(float), 3).tolist() for name, x in zip(names, scores, strict=True)}


def study(options: Options) -> None:
    """Every method on every game with every m; the results file is written after each run."""
    path = RESULTS / "cee_minatar.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for game in options.games:
        for m in options.copies:
            rows = results.setdefault(game, {}).setdefault(str(m), {})
            rows["phase 1"] = grouping(fit_effects(options, game, m))
            for label in options.methods:
                folder = train(options, game, m, label)
                rows[label] = summary(folder)
                run = history.load_run(folder)
                for name in ("num_allowed", "all_masked"):
                    if f"metrics.{name}" in run.quantities():
                        rows[label][name] = round(float(run.curve(f"metrics.{name}")[1].mean()), 3)
                print(f"{game}, m = {m}, {label}: {rows[label]['final_return']}", flush=True)
                results["budget"] = {"members": options.members, "steps": options.steps, "effect_steps": options.effect_steps}
                results["command"] = command("cee_minatar")
                path.write_text(json.dumps(results, indent=1) + "\n")
    figure(results, RESULTS / "cee_minatar.png")


def by_copies(rows: dict[str, Any]) -> list[tuple[str, Any]]:
    """(m, its rows) in the order of m; the file has them as they were run."""
    return sorted(rows.items(), key=lambda item: int(item[0]))


def figure(results: dict[str, Any], path: Path) -> None:
    """A panel a game: the return at the end against the number of copies."""
    with plots.figure_file(path, 12, 3.6) as drawing:
        games = [game for game in GAMES if game in results]
        for axes, game in zip(np.atleast_1d(drawing.subplots(1, len(games))), games, strict=True):
            for k, label in enumerate(METHODS):
                found = [(int(m), row[label]["final_return"]) for m, row in by_copies(results[game]) if label in row]
                x, estimates = np.asarray([m for m, _ in found]), np.asarray([e for _, e in found])
                x = x * (1 + 0.04 * (k - 1))
                bars = np.abs(estimates[:, 1:].T - estimates[:, 0])
                axes.errorbar(x, estimates[:, 0], bars, color=plots.PALETTE[k], marker="o", capsize=3, label=label)
            reference = results[game].get("1", {}).get("PPO")
            if reference is not None:
                axes.axhline(0.9 * reference["final_return"][0], color="#4D4D4D", linestyle=":", label="90% of PPO, m = 1")
            axes.set(title=game, xscale="log", xlabel="copies of each action, m")
            axes.set_xticks(COPIES, [str(m) for m in COPIES], minor=False)
            axes.minorticks_off()
        drawing.axes[0].set_ylabel("return at the end")
        drawing.axes[-1].legend(frameon=False, fontsize=8)


def table() -> str:
    """The study's results as markdown, interquartile mean [95% interval] over members; the last column is over PPO's at m = 1."""
    results = json.loads((RESULTS / "cee_minatar.json").read_text())
    lines = ["| game | m | method | return at the end | actions allowed | all masked | of PPO at m = 1 |", "|" + "---|" * 7]
    for game in (game for game in GAMES if game in results):
        reference = results[game]["1"]["PPO"]["final_return"][0]
        for m, rows in by_copies(results[game]):
            for label in (label for label in METHODS if label in rows):
                row = rows[label]
                told = [f"{row[name]:.2f}" if name in row else "" for name in ("num_allowed", "all_masked")]
                value = "{:.2f} [{:.2f}, {:.2f}]".format(*row["final_return"])
                lines.append(f"| {game} | {m} | {label} | {value} | {told[0]} | {told[1]} | {row['final_return'][0] / reference:.2f} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Train, or tell."""
    if options.what == "table":
        print(table())
    else:
        study(options)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
