"""Atari 2600 with PPO in one compiled program: the CEE paper's games and hyperparameters (arXiv 2501.14543), ale-py's real emulators.

    python -m experiments.cee_atari train --games breakout --frames 1000000    # one game: experiments/results/cee_atari.json and a curve
    python -m experiments.cee_atari train --frames 40000000                    # all ten, the authors' 10 million steps each: needs a GPU
    python -m experiments.cee_atari table                                      # the results as markdown

Needs the extra `atari`. Hyperparameters are those of the authors' PPO_Atari.yaml without its bonus for novelty; a step is 4 frames (see
envs/atari.py). The five games that their code names, and five more. Only PPO can be trained: the effect model of phase 1
(algorithms/effect_model.py) reads vectors, not pictures, and CEE and NPM say so; aliased MinAtar stands in (experiments/cee_minatar.py).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from causal_jax import history, plots, statistics
from causal_jax.algorithms import ppo
from causal_jax.cli import configure
from causal_jax.runs import train_run
from causal_jax.settings import Settings, resolve
from experiments.records import RESULTS, command

GAMES = ("breakout", "beam_rider", "demon_attack", "ms_pacman", "qbert", "asterix", "assault", "freeway", "pong", "space_invaders")
CONFIG = ppo.Config(num_envs=8, num_steps=128, num_epochs=4, num_minibatches=4, hidden=(512,))
HYPER = ppo.Hyper(lr=2.5e-4, clip=0.1, ent_coef=0.01)
FRAME_SKIP = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train, and how much."""

    what: tyro.conf.Positional[Literal["train", "table"]]
    """train: one run a game; table: the results as markdown."""
    games: tuple[str, ...] = GAMES
    """Names as ale-py has them."""
    frames: int = 1_000_000
    """Frames of a game, four a step; a run that was shorter goes on."""
    seed: int = 0
    """Seed of the run."""
    folder: str = "runs"
    """Where the run folders go."""


def train(options: Options, game: str) -> Path:
    """PPO on one game; returns its run folder."""
    steps = -(-options.frames // FRAME_SKIP)
    settings = Settings(
        algorithm="ppo", env=f"ale:{game}", env_options=(f"frame_skip={FRAME_SKIP}",), members=1, seed=options.seed, steps=steps,
        evaluations=max(steps // 12_288, 1), evaluate_every=10, eval_episodes=4, eval_steps=2000, name=f"atari-{game}-ppo-{options.seed}",
        folder=options.folder,
    )  # fmt: skip
    return train_run(resolve(settings, CONFIG, HYPER), resume=True)


def summary(folder: Path) -> dict[str, Any]:
    """What a run has come to: points of whole games by sampled actions, and the curve of training (signs of points, a life an episode)."""
    run = history.load_run(folder)
    steps, points = run.curve("eval.sampled.return")
    trained, lives = run.curve("metrics.episode_return")
    rate = [b / (t1 - t0) for b, t0, t1 in zip(np.diff(trained), run_seconds(run)[:-1], run_seconds(run)[1:], strict=False)]
    return {
        "frames": int(FRAME_SKIP * max(trained[-1], steps[-1])),
        "points": {"frames": (FRAME_SKIP * steps).astype(int).tolist(), "values": np.round(points[0], 2).tolist()},
        "a life": {"frames": (FRAME_SKIP * trained).astype(int).tolist(), "values": np.round(lives[0], 3).tolist()},
        "steps_per_second": round(float(np.median(rate)), 1) if rate else None,
    }


def run_seconds(run: history.Run) -> list[float]:
    """Seconds of training at every row that has metrics."""
    return [float(line["seconds"]) for line in run.lines if line.get("metrics")]


def save(results: dict[str, Any], path: Path) -> None:
    """The results file and its figure."""
    path.write_text(json.dumps(results, indent=1) + "\n")
    panels = []
    for title, name in (("a life in training, sign of the points", "a life"), ("a game, sampled actions, at most 2,000 steps", "points")):
        curves: dict[str, plots.Curve] = {}
        for game, row in results.items():
            values = np.asarray(row[name]["values"], float)
            estimate = statistics.Estimate(values, values, values)
            curves[game] = {"steps": np.asarray(row[name]["frames"], float), "estimate": estimate, "band": False}
        panels.append((title, curves, {}))
    plots.curves(panels, path.with_suffix(".png"), x_label="frames")


def main(options: Options) -> None:
    """Train, or tell."""
    path = RESULTS / "cee_atari.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if options.what == "table":
        print("| game | frames | points at the start | points at the end | steps/s |\n|---|---|---|---|---|")
        for game, row in results.items():
            points = row["points"]["values"]
            print(f"| {game} | {row['frames']:,} | {points[0]:.1f} | {points[-1]:.1f} | {row['steps_per_second']} |")
        return
    for game in options.games:
        results[game] = summary(train(options, game))
        results[game]["command"] = command("cee_atari")
        save(results, path)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
