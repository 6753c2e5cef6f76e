"""A sweep without a server: the trials of a W&B sweep file (sweep_file.py) as members of as few programs as their shapes allow.

Trials that differ in Hyper (and seed) only are members of one program; whatever else differs makes another. A sweep folder is
<folder>/<name>/{sweep.json, program-000/, program-001/, ..., trials.json, trials.csv, report.html, *.png}; a program is an ordinary run
folder. Bayesian search asks optuna's TPE sampler for a batch of points, trains them as one round and tells it the scores.
Nothing else is stored: a resumed sweep walks the same path from its seed, reads the programs that are complete, and continues the one that
is not from its checkpoint. A trial equals its lone run (the command with that point) up to float32 rounding, about 1e-6, until rounding
decides a discontinuity (which side of PPO's clip a ratio is on, which action a draw falls on): from there the two are other runs.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from causal_jax import history, sweep_file, sweep_plots
from causal_jax.algorithms import algorithm_module
from causal_jax.envs import make
from causal_jax.fields import suggest
from causal_jax.page import Section, write_report
from causal_jax.runs import Say, locked, train_run
from causal_jax.settings import Resolved, Settings, check_resumable, parse_options, read_about, resolve, write_json
from causal_jax.statistics import bootstrap_interval, mean
from causal_jax.sweep_file import Point, Sweep
from causal_jax.types import UserError

BAYES_BATCH = 8
Base = tuple[Settings, Any, Any]  # settings, config, hyper of the file's command


def run_sweep(
    file: Path | str, parse: Callable[[list[str]], Base], *, name: str = "", folder: str = "runs", batch: int = 0, seed: int = 0,
    resume: bool = False, say: Say = print,
) -> Path:  # fmt: skip
    """Train every trial of a sweep file and write the table and plots; returns the sweep folder.

    Args: parse: the words after `train` -> (settings, config, hyper), as the command line does it. name: of the sweep folder, default
      the file's. batch: most trials in one program; 0: all of a shape, and rounds of 8 in a Bayesian search. seed: of the search.
    Raises: UserError, one line, for a bad file (before anything is written), a folder that holds another sweep or is in use.
    """
    sweep = sweep_file.read(file)
    if batch < 0 or seed < 0:
        raise UserError(f"{'batch' if batch < 0 else 'seed'} = {min(batch, seed)}: must be 0 <= x")
    base = parse(list(sweep.command))
    place = Path(folder) / (name or Path(file).stem)
    base = dataclasses.replace(base[0], name="", folder=str(place), log=()), *base[1:]
    _check(sweep, base)
    if sweep.method != "bayes":
        programs(sweep, base, sweep_file.points(sweep, seed), place, batch, 0, {})  # bad points are told before the first is trained
    command_line = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    about = {"file": str(file), "seed": seed, "batch": batch, **sweep.content, "command_line": command_line}
    if (place / "sweep.json").exists():
        _check_same(place, about, sweep, resume)
    elif place.exists() and any(p.name != "lock" for p in place.iterdir()):
        raise UserError(f"name = {place.name!r}: {place} exists and holds no sweep; choose another --name")
    if sweep.early_terminate:
        say("early_terminate: only W&B stops trials early; here every trial is trained to the end")
    with locked(place):
        write_json(place / "sweep.json", json.loads(json.dumps(about, default=str)))
        _train_all(sweep, base, place, batch, seed, say)
    return place


def _check(sweep: Sweep, base: Base) -> None:
    settings, config, hyper = base
    sweep_file.check_names(sweep, *base)
    for name, values in vars(hyper).items():
        if np.size(values) > 1:
            raise UserError(f"command: --hyper.{name} has {np.size(values)} values; make it a parameter of the sweep")
    module = algorithm_module(settings.algorithm)
    suffixes = module.evaluations(config) if hasattr(module, "evaluations") else {"": config}
    modes = getattr(module, "EVALUATION_MODES", ("greedy", "sampled"))
    env, env_params = make(settings.env, **parse_options(settings.env_options))
    worlds = module.worlds(env, env_params) if hasattr(module, "worlds") else {"": env_params}
    names = [f"{mode}{suffix}{world}" for suffix in suffixes for mode in modes for world in worlds]
    kinds = [f"eval.{name}.{kind}" for name in names for kind in ("return", "length", "success")]
    open_ended = ("metrics.", *(("eval.model.",) if hasattr(module, "measure") else ()))
    if not sweep.metric.startswith(open_ended) and sweep.metric not in kinds:
        known = [kind.replace(".", "/") for kind in (*kinds, "metrics.<name>")]
        raise UserError(f"metric.name = {sweep.content['metric']['name']!r}: {suggest(sweep.metric.replace('.', '/'), known)}")


def _check_same(place: Path, about: dict[str, Any], sweep: Sweep, resume: bool) -> None:
    if not resume:
        raise UserError(f"name = {place.name!r}: {place} exists; continue it with --resume, or choose another --name")
    before, now = read_about(place, "sweep.json"), json.loads(json.dumps(about, default=str))
    kept = ("method", "parameters", "run_cap", "command", "seed", "batch", *(("metric",) if sweep.method == "bayes" else ()))
    for field in kept:
        is_, was = now.get(field), before.get(field)
        if is_ != was:
            raise UserError(f"{field} = {is_}: the sweep in {place} has {was}; resume with the same, or choose another --name")


def programs(
    sweep: Sweep, base: Base, points: Sequence[Point], place: Path, batch: int, first: int, shared: dict[Any, str]
) -> list[tuple[list[int], Resolved]]:
    """The programs of some points: one for every combination of the parameters that are no Hyper, in the order of their first trials.

    The seed is a member's own too, unless phase 1 must be fitted for it. Each has at most `batch` trials (0: any number) and is named
    program-<first>, counting up. shared: phase 1 setup -> folder of its effect model, filled here: later programs use the first's.
    Raises: UserError for the first point that cannot be.
    """
    groups: dict[str, list[int]] = {}
    made: dict[str, Base] = {}
    for i, point in enumerate(points):
        static = {name: value for name, value in point.items() if not name.startswith("hyper.")}
        parts = sweep_file.apply(static, *base)
        if not _fits_effects(*parts[:2]):
            static.pop("seed", None)
        key = json.dumps(static, sort_keys=True, default=str)
        groups.setdefault(key, []).append(i)
        made.setdefault(key, parts)
    found: list[tuple[list[int], Resolved]] = []
    for key, trials in groups.items():
        size = batch or len(trials)
        for part in (trials[k : k + size] for k in range(0, len(trials), size)):
            settings, config, hyper = made[key]
            name = f"program-{first + len(found):03d}"
            run = _population([points[i] for i in part], dataclasses.replace(settings, name=name), config, hyper)
            if _fits_effects(settings, config):
                setup = settings.env, settings.env_options, settings.members, settings.seed, settings.effect_steps
                known = shared.setdefault(setup, str(run.folder / "effects"))
                if known != str(run.folder / "effects"):  # set after the checks: it may still have to be fitted
                    run = run._replace(settings=dataclasses.replace(run.settings, effects=known))
            found.append((part, run))
    return found


def _fits_effects(settings: Settings, config: Any) -> bool:
    module = algorithm_module(settings.algorithm)
    return hasattr(module, "needs_effects") and module.needs_effects(config) and not settings.effects


def _population(points: list[Point], settings: Settings, config: Any, hyper: Any) -> Resolved:
    names = [name for name in points[0] if name.startswith("hyper.")]
    columns = {name.removeprefix("hyper."): tuple(float(point[name]) for point in points) for name in names}
    if not columns and len(points) > 1:  # only seeds differ: any field will do to say how many points there are
        name, value = next(iter(vars(hyper).items()))
        columns = {name: (float(np.ravel(value)[0]),) * len(points)}
    firsts = [point.get("seed", settings.seed) for point in points]
    seeds = tuple(s + m for s in firsts for m in range(settings.members)) if len(set(firsts)) > 1 else ()
    settings = dataclasses.replace(settings, combine="zip", seed=firsts[0], seeds=seeds)
    try:
        return resolve(settings, config, hyper.replace(**columns))
    except UserError as error:
        raise UserError(f"{error} (in {_told(points[0])})" if len(points) == 1 else str(error)) from None


def _told(point: Point) -> str:
    return ", ".join(f"{name} {history.plain(value)}" for name, value in point.items())


def _train_all(sweep: Sweep, base: Base, place: Path, batch: int, seed: int, say: Say) -> None:
    rows: list[dict[str, Any]] = []
    count, shared, began = 0, dict[Any, str](), time.perf_counter()
    rounds = _bayes(sweep, batch or BAYES_BATCH, seed, rows) if sweep.method == "bayes" else iter([sweep_file.points(sweep, seed)])
    for points in rounds:
        todo = programs(sweep, base, points, place, batch, count, shared)
        count += len(todo)
        last = len(rows) + len(points)
        numbers = f"trials {len(rows)} to {last - 1} of {sweep.run_cap}" if sweep.method == "bayes" else f"{last} trials"
        say(f"{place.name}: {numbers} in {len(todo)} program{'s' * (len(todo) > 1)}")
        found: dict[int, dict[str, Any]] = {}
        for trials, run in todo:
            _train(run, say)
            for i, row in zip(trials, _scores(run, sweep, len(trials)), strict=True):
                found[i] = {"trial": len(rows) + i, "program": run.folder.name, "point": points[i], **row}
            write_json(place / "trials.json", rows + [found[i] for i in sorted(found)])
        rows += [found[i] for i in sorted(found)]
    write_table(place, sweep, rows)
    report(place, sweep, rows)
    best = ranked(rows, sweep.goal)
    say(table(best[:10], sweep)[1])
    more = f", {len(best) - 10} more in trials.csv" if len(best) > 10 else ""
    seconds = time.perf_counter() - began
    say(f"{place}: {len(rows)} trials in {count} program{'s' * (count > 1)}, {seconds:.0f} s{more}; {place / 'report.html'}")


def _train(run: Resolved, say: Say) -> None:
    """Train a program to its end, unless it is there."""
    if (run.folder / "run.json").exists():
        about = read_about(run.folder)
        if "seconds" in about and (run.folder / "results.jsonl").exists():
            check_resumable(run, about)
            lines = history.load_run(run.folder).lines
            if lines and lines[-1]["steps"] >= run.num_updates * run.module.steps_per_update(run.config):
                return say(f"{run.folder}: complete")
    train_run(run, resume=True, say=say)


def _scores(run: Resolved, sweep: Sweep, num_trials: int) -> Iterator[dict[str, Any]]:
    """The score of each trial: the mean over its members of the last value of the metric, None where a member's is not finite."""
    found = history.load_run(run.folder)
    try:
        values = found.curve(sweep.metric)[1][:, -1].reshape(num_trials, -1)
    except UserError:
        names = [name.replace(".", "/") for name in found.quantities()]
        raise UserError(f"metric.name = {sweep.content['metric']['name']!r}: {suggest(sweep.metric.replace('.', '/'), names)}") from None
    for trial in values:
        if np.all(np.isfinite(trial)):
            score, low, high = bootstrap_interval(trial, mean)
            yield {"score": score, "low": low, "high": high, "members": trial.tolist()}
        else:
            yield {"score": None, "low": None, "high": None, "members": [x if math.isfinite(x) else None for x in trial.tolist()]}


def _bayes(sweep: Sweep, batch: int, seed: int, rows: list[dict[str, Any]]) -> Iterator[list[Point]]:
    """Rounds of points; the scores of a round are read from `rows` when the next one is asked for."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(batch, 10))
    study = optuna.create_study(direction="maximize" if sweep.goal == "maximize" else "minimize", sampler=sampler)
    space: dict[str, Any] = {}
    for p in sweep.parameters:
        if p.values:  # by their numbers: optuna takes no lists
            space[p.name] = optuna.distributions.CategoricalDistribution(range(len(p.values)))
        elif p.distribution == "int_uniform":
            space[p.name] = optuna.distributions.IntDistribution(int(p.low), int(p.high))
        elif p.q and not p.is_log:
            low, high = sweep_file.tidy(p, p.low), sweep_file.tidy(p, p.high)
            space[p.name] = optuna.distributions.FloatDistribution(low, high, step=p.q)
        else:
            space[p.name] = optuna.distributions.FloatDistribution(p.low, p.high, log=p.is_log)
    while len(rows) < sweep.run_cap:
        trials = [study.ask(space) for _ in range(min(batch, sweep.run_cap - len(rows)))]
        asked = [
            {p.name: p.values[trial.params[p.name]] if p.values else sweep_file.tidy(p, trial.params[p.name]) for p in sweep.parameters}
            for trial in trials
        ]
        yield asked
        for trial, row in zip(trials, rows[-len(trials) :], strict=True):
            failed = row["score"] is None
            study.tell(trial, row["score"], state=optuna.trial.TrialState.FAIL if failed else None)


def ranked(rows: list[dict[str, Any]], goal: str) -> list[dict[str, Any]]:
    """Trials from the best to the worst; those without a score last."""
    sign = -1.0 if goal == "maximize" else 1.0
    return sorted(rows, key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0), row["trial"]))


def varied(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the parameters of which the trials have more than one value."""
    return [name for name in rows[0]["point"] if len({json.dumps(row["point"][name], default=str) for row in rows}) > 1]


def table(rows: list[dict[str, Any]], sweep: Sweep) -> tuple[str, str]:
    """The table of ranked trials as (HTML, markdown)."""
    import html

    names = varied(rows) or list(rows[0]["point"])
    heads = ["Trial", *names, sweep.content["metric"]["name"], "Members", "Program"]
    lines = []
    for row in rows:
        interval = f" [{row['low']:.4g}, {row['high']:.4g}]" if row["score"] is not None and len(row["members"]) > 1 else ""
        score = "not finite" if row["score"] is None else f"{row['score']:.4g}{interval}"
        values = [history.plain(row["point"][name]) for name in names]
        lines.append([str(row["trial"]), *values, score, str(len(row["members"])), row["program"]])
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    page = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    widths = [max(len(line[k]) for line in [heads, *lines]) for k in range(len(heads))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in [heads, *lines]]
    return page, "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def write_table(place: Path, sweep: Sweep, rows: list[dict[str, Any]]) -> None:
    """trials.json (by trial, with every member's score) and trials.csv (ranked)."""
    write_json(place / "trials.json", rows)
    with (place / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = list(rows[0]["point"])
        writer.writerow(["trial", *names, sweep.content["metric"]["name"], "low", "high", "members", "program"])
        for row in ranked(rows, sweep.goal):
            values = [row["point"][name] for name in names]
            writer.writerow([row["trial"], *values, row["score"], row["low"], row["high"], len(row["members"]), row["program"]])


def report(place: Path, sweep: Sweep, rows: list[dict[str, Any]]) -> Path:
    """report.html with the table, and parallel.png and importance.png where enough varies. Returns its path."""
    best = ranked(rows, sweep.goal)
    known = [row for row in best if row["score"] is not None]
    columns = {name: [row["point"][name] for row in known] for name in (varied(known) if known else [])}
    scores, metric = [row["score"] for row in known], sweep.content["metric"]["name"]
    logs = {p.name for p in sweep.parameters if p.is_log}
    sections = []
    if columns:
        image = sweep_plots.parallel(columns, scores, place / "parallel.png", metric, logs, sweep.goal == "maximize")
        sections.append(Section("Every trial", f"One line a trial, coloured by {metric}; the best is black.", [image]))
    if columns and len(known) >= 4:
        image = sweep_plots.importance_bars(sweep_plots.importance(columns, scores), place / "importance.png")
        sections.append(Section("What mattered", sweep_plots.ABOUT, [image]))
    text = f"{metric} of the last evaluation, mean over a trial's members" + (
        " with its 95% bootstrap interval. " if len(rows[0]["members"]) > 1 else ", one member each. "
    )
    text += f"The best of {len(rows)} is chosen by the same episodes that score it, so it is flattered: train it again with other seeds."
    sections.insert(0, Section("Trials", text, table=table(best, sweep)[0]))
    told = json.loads((place / "sweep.json").read_text())
    facts = {name: told[name] for name in ("file", "method", "seed", "batch") if name in told}
    sections.append(Section("How it was made", command=told["command_line"], facts=facts))
    return write_report(place, f"Sweep {place.name}", sections, f"{len(rows)} trials, {sweep.goal} {metric}.")
