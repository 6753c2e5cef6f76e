"""FCDL beyond its paper (arXiv 2406.03234), on chemical-full-fork: codebook sizes, sparsity, other contexts, spoilt observations.

    python -m experiments.fcdl_studies codes      # K = 1 to 64, beside the published table 3: results/fcdl_study_codes.json, .png
    python -m experiments.fcdl_studies sparsity   # weights tuned by hand, the paper's sum, and a weight that finds a target on the edges
    python -m experiments.fcdl_studies contexts   # nearest code, k-means or a decision tree
    python -m experiments.fcdl_studies transfer   # trained on clean observations, tested on noisy and incomplete ones: .json, .png
    python -m experiments.fcdl_studies table      # the results as markdown

All runs are those of `experiments.fcdl`, preset fast (offline, 1,000 random episodes, 1,000 updates at width 64), the first 4 seeds, each
with its own mechanisms. The run with nothing changed is the FCDL run of `experiments.fcdl chemical`: it is read if it is there. transfer
trains nothing: FCDL, NCD and MLP must have been trained by `experiments.fcdl chemical`, in the same --folder.
The results file is written after each run; what it holds is not done again. --small: see that it runs, in a minute, in --folder.
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

from causal_jax import history, plots, rollout, statistics
from causal_jax.algorithms import fcdl
from causal_jax.causal import fitting, graphs, measures
from causal_jax.cli import configure
from causal_jax.envs.chemical import Chemical
from causal_jax.runs import Loaded, load_run, train_run
from causal_jax.settings import resolve
from causal_jax.types import UserError
from experiments import fcdl as chemical
from experiments.records import RESULTS, command

ENV, BASE = "chemical-full-fork", "FCDL"
Change = tuple[dict[str, Any], dict[str, float]]  # Config fields, Hyper fields
DUAL_LR = 0.05  # five times the default: a run is short
STUDIES: dict[str, dict[str, Change]] = {
    "contexts": {"vq": ({}, {}), "kmeans": ({"contexts": "kmeans"}, {}), "tree": ({"contexts": "tree"}, {})},
    "sparsity": {
        **{f"target {x:g}": ({"sparsity": "target"}, {"edge_target": x, "dual_lr": DUAL_LR}) for x in (0.6, 0.4, 0.8)},
        "mean 0.001": ({}, {}), "sum 0.001": ({"sparsity": "sum"}, {}),
        **{f"mean {x:g}": ({}, {"reg": x}) for x in (1e-2, 1e-4)},
    },
    "codes": {f"K={k}": ({"num_codes": k} if k != 16 else {}, {}) for k in (16, 4, 1, 64, 2, 8, 32)},
}  # fmt: skip
PUBLISHED = {  # V1 table 3, returns at n = 2, 4, 6, means of 8 seeds; with standard deviations (2.53, 1.68, 2.56) at K = 16
    2: (13.44, 12.86, 12.99), 4: (15.73, 16.50, 12.40), 8: (14.95, 15.03, 13.42), 16: (15.27, 14.73, 13.62), 32: (16.12, 14.35, 14.79),
}  # fmt: skip
METHODS = ("FCDL", "NCD", "MLP")  # of transfer
SCALES = {"clean": -1.0, "hidden": 0.0, "noise 1": 1.0, "noise 10": 10.0, "noise 100": 100.0}
SMALL = {"width": 8, "hidden": (16,), "batch_size": 32, "init_steps": 250, "capacity": 100, "num_candidates": 8, "num_elites": 4}
ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Options:
    """What to study, and how much."""

    what: tyro.conf.Positional[Literal["codes", "sparsity", "contexts", "transfer", "table"]]
    """The study; table: their results as markdown."""
    variants: tuple[str, ...] = ()
    """Of codes, sparsity, contexts: the variants to run (such as K=4); of transfer: the methods. Default all."""
    members: int = 4
    """Seeds, each with its own mechanisms."""
    iterations: int = 1000
    """Updates."""
    episodes: int = 10
    """Episodes per evaluation and world."""
    folder: str = "runs"
    """Where the run folders are."""
    small: bool = False
    """4 objects, width 8, 2 members, 25 updates; the results go to --folder."""


def train(options: Options, label: str, change: Change) -> Path:
    """One variant, or the finished run with nothing changed that is there already; returns the run folder."""
    fields, rates = change
    changed = bool(fields or rates)
    fill = chemical.Options("chemical", members=options.members, iterations=options.iterations, episodes=options.episodes)
    fill = dataclasses.replace(fill, folder=options.folder, evaluations=10 if changed else 2)
    name = f"study-{label.replace(' ', '-').replace('=', '')}" if changed else BASE
    fields = {**fields, **(SMALL if options.small else {})}
    settings, config, hyper = chemical.settings_of(fill, ENV, name, rates, **fields)
    folder = Path(options.folder) / settings.name
    if not changed and (folder / "results.jsonl").exists() and (run := history.load_run(folder)).info.get("seconds"):
        if run.info["members"] < options.members:
            raise UserError(f"members = {options.members}: {folder} has {run.info['members']}")
        if (steps := run.info["settings"]["steps"]) != settings.steps:
            raise UserError(f"iterations = {options.iterations}: {folder} has {steps // config.num_envs}")
        return folder
    small = {"env_options": ("num_objects=4", "num_colours=3")} if options.small else {}
    settings = dataclasses.replace(settings, evaluate_every=settings.evaluations if changed else 1, **small)
    return train_run(resolve(settings, config, hyper), resume=True)


def first_members(loaded: Loaded, num: int) -> tuple[Any, Any]:
    """(state, task) of the first members of a run in which every member has its own world, leaves [num, ...]."""
    if loaded.resolved.num_members < num:
        raise UserError(f"members = {num}: {loaded.resolved.folder} has {loaded.resolved.num_members}")
    return jax.tree.map(lambda x: x[:num], (loaded.run.state, loaded.task))


def probe(model: Any, state: fcdl.State, hyper: fcdl.Hyper) -> dict[str, jax.Array]:
    """On held-out states of one member, scalars: codes in use, share and probability of the learned edges, the sparsity weight."""
    spec, fit = model.spec, state.fit
    batch = fitting.windows(jax.random.key(0), spec, state.buffer, ROWS, 1, held_out=True)
    step, _ = model.step(fit.params, model.prepare(fit.params), fit.model, batch.obs, batch.actions[:, 0], None)
    free = graphs.free_edges(spec.num_variables, spec.num_actions, spec.learn_upper, spec.learn_action)
    return {
        "codes_used": jnp.sum(jnp.any(jax.nn.one_hot(step.code, spec.num_codes) > 0, axis=0)),
        "edge_share": jnp.mean(step.edges[:, free]),
        "edge_probability": jnp.mean(jax.nn.sigmoid(step.logits)[:, free]),
        "weight": hyper.reg * jnp.exp(fit.log_reg),
    }


def estimates(values: dict[str, Any]) -> dict[str, Any]:
    """name -> {"estimate": IQM and 95% interval, "members"} of values [members]; names of which a value is not finite are left out."""
    known = {name: np.asarray(x, np.float64) for name, x in values.items()}
    return {
        name: {"estimate": [round(float(v), 5) for v in statistics.bootstrap_interval(x)], "members": np.round(x, 5).tolist()}
        for name, x in known.items()
        if np.all(np.isfinite(x))
    }


def measured(options: Options, folder: Path) -> dict[str, Any]:
    """Every evaluated quantity of a run at its end, and what `probe` finds, of the first members."""
    final = chemical.summary(folder)["final"]
    loaded = load_run(folder)
    run = loaded.resolved
    model = fcdl.dynamics_model(run.env, run.config)
    state, _ = first_members(loaded, options.members)
    hyper = jax.tree.map(lambda x: x[: options.members], loaded.run.hyper)
    found = jax.jit(jax.vmap(lambda state, hyper: probe(model, state, hyper)))(state, hyper)
    return estimates({name: row["members"][: options.members] for name, row in final.items()} | jax.device_get(found))


def results_file(options: Options, study: str) -> Path:
    """Where the results of a study are."""
    return (Path(options.folder) if options.small else RESULTS) / f"fcdl_study_{study}.json"


def read(path: Path) -> dict[str, Any]:
    """A results file; empty where there is none yet."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def study(options: Options) -> None:
    """Every variant; the results file is written after each run."""
    path, change_of = results_file(options, options.what), STUDIES[options.what]
    budget = {"members": options.members, "iterations": options.iterations, "episodes": options.episodes}
    for label in chosen(options, tuple(change_of)):
        results = read(path)
        if results.get(label, {}).get("budget") == budget:
            continue
        folder = train(options, label, change_of[label])
        seconds = history.load_run(folder).info.get("seconds")
        row = {"final": measured(options, folder), "budget": budget, "seconds": seconds, "command": command("fcdl_studies")}
        write(path, {**read(path), label: row}, change_of)
    if options.what == "codes":
        codes_picture(read(path), path.with_suffix(".png"))


def chosen(options: Options, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The variants asked for. Raises: UserError for one that is not among the labels."""
    for label in options.variants:
        if label not in labels:
            raise UserError(f"variants = {label!r}: must be one of {', '.join(labels)}")
    return options.variants or labels


def write(path: Path, results: dict[str, Any], order: Any) -> None:
    """The results file, its rows in the order of the labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({label: results[label] for label in order if label in results}, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Spoilt(Chemical):
    """Chemical in which a negative noise scale means that everything is seen as it is (and 0, as ever, that noisy objects are not seen)."""

    def disturb(self, key: jax.Array, values: jax.Array, params: Any) -> jax.Array:
        """As in Chemical. The key is consumed."""
        return jnp.where(params.noise_scale < 0, values, super().disturb(key, values, params))


def transfer(options: Options) -> None:
    """Trained runs in test worlds of every noise scale, on the same recorded rows and the same episodes; the file is written after each."""
    path = results_file(options, "transfer")
    budget = {"members": options.members, "episodes": options.episodes}
    for label in chosen(options, METHODS):
        if read(path).get(label, {}).get("budget") == budget:
            continue
        loaded = load_run(Path(options.folder) / f"{ENV}-fast-{label.lower()}")
        row = {
            "worlds": spoilt_worlds(options, loaded),
            "budget": budget,
            "updates": loaded.resolved.num_updates * loaded.resolved.config.num_steps,
            "command": command("fcdl_studies"),
        }
        write(path, {**read(path), label: row}, METHODS)
    transfer_picture(read(path), path.with_suffix(".png"))


def spoilt_worlds(options: Options, loaded: Loaded) -> dict[str, Any]:
    """{"n2": {"clean": {"return", "accuracy", ...: estimates}, ...}, ...} of the first members of a run."""
    run = loaded.resolved
    env = Spoilt(**dataclasses.asdict(run.env))
    model = fcdl.dynamics_model(env, run.config)
    act = fcdl.build(env, run.env_params, run.config).act
    state, task = first_members(loaded, options.members)

    @jax.jit
    def member(state: fcdl.State, params: Any) -> dict[str, jax.Array]:
        key_rows, key_play = jax.random.split(jax.random.key(0))
        found = measures.in_worlds(key_rows, env, model, state.fit, state.buffer, {"": params})

        def play(key: jax.Array) -> rollout.Episode:
            return rollout.evaluate(key, env, params, lambda key, obs: act(key, state, obs, True), run.config.num_steps)

        episodes = jax.vmap(play)(jax.random.split(key_play, options.episodes))
        means = {"return": jnp.mean(episodes.total), "success": jnp.mean(episodes.success.astype(jnp.float32))}
        return means | {name.removesuffix("_"): x for name, x in found.items()}

    everyone = jax.jit(jax.vmap(member))
    worlds: dict[str, Any] = {}
    for n in [n for n in (2, 4, 6) if n <= env.num_objects - 2]:
        for name, scale in SCALES.items():
            params = task.env_params
            params = params.replace(level=jnp.full_like(params.level, n), noise_scale=jnp.full_like(params.noise_scale, scale))
            worlds.setdefault(f"n{n}", {})[name] = estimates(jax.device_get(everyone(state, params)))
    return worlds


def codes_picture(results: dict[str, Any], path: Path) -> Path:
    """Returns beside the published ones, accuracy and F1 of the local graph, over K."""
    sizes = sorted(int(label.removeprefix("K=")) for label in results)
    panels = {
        "return": ["return-n2", "return-n4", "return-n6"], "accuracy": ["accuracy_id", "accuracy_n2", "accuracy_n4", "accuracy_n6"],
        "F1 of the graph": ["f1_local", "f1_n2", "f1_n4", "f1_n6"],
    }  # fmt: skip
    names = ("ID", "n = 2", "n = 4", "n = 6")
    with plots.figure_file(path, 9, 3.4) as figure:
        handles = {}
        for index, (title, quantities) in enumerate(panels.items()):
            axes = figure.add_subplot(1, 3, index + 1, title=title, xlabel="codes K")
            for quantity, k in zip(quantities, range(4 - len(quantities), 4), strict=True):
                rows = [(size, *results[f"K={size}"]["final"][quantity]["estimate"]) for size in sizes if quantity in _final(results, size)]
                if not rows:
                    continue
                x, value, low, high = np.asarray(rows).T
                bars = np.abs([value - low, high - value])
                look: Any = {"color": plots.PALETTE[k], "marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 1.0}
                handles[names[k]] = axes.errorbar(x * 1.04 ** (k - 1.5), value, bars, **look)
                if title == "return":
                    known = np.asarray([(size, row[k - 1]) for size, row in PUBLISHED.items()])
                    (handles["published"],) = axes.plot(*known.T, color=plots.PALETTE[k], marker="x", linestyle=":", linewidth=1.0)
            axes.set_xscale("log", base=2)
            ticks = sorted({*sizes, *PUBLISHED}) if title == "return" else sizes
            axes.set_xticks(ticks, labels=map(str, ticks))
        shown = {name: handles[name] for name in (*names, "published") if name in handles}
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=5)
    return path


def _final(results: dict[str, Any], size: int) -> dict[str, Any]:
    found: dict[str, Any] = results[f"K={size}"]["final"]
    return found


def transfer_picture(results: dict[str, Any], path: Path) -> Path:
    """Accuracy and return of every method (colours) in the worlds of every noise scale, a column for each number of spoilt objects."""
    levels = list(next(iter(results.values()))["worlds"])
    with plots.figure_file(path, 9, 5) as figure:
        handles = {}
        grid = figure.subplots(2, len(levels), squeeze=False, sharey="row", sharex=True)
        for axes, (quantity, n) in zip(grid.ravel(), [(q, n) for q in ("accuracy", "return") for n in levels], strict=True):
            for k, label in enumerate(label for label in METHODS if label in results):
                worlds = results[label]["worlds"][n]
                value, low, high = np.asarray([worlds[name][quantity]["estimate"] for name in SCALES]).T
                look: Any = {
                    "color": plots.PALETTE[k],
                    "marker": "o",
                    "markersize": 4,
                    "capsize": 2,
                    "elinewidth": 1.0,
                    "linestyle": plots.LINES[k],
                }
                at = np.arange(len(SCALES)) + 0.08 * (k - 1)
                handles[label] = axes.errorbar(at, value, np.abs([value - low, high - value]), **look)
            axes.set_xticks(range(len(SCALES)), labels=list(SCALES), rotation=30)
            if quantity == "accuracy":
                axes.set_title(f"{n.removeprefix('n')} objects spoilt")
            if n == levels[0]:
                axes.set_ylabel(quantity)
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return path


COLUMNS = {
    "return": ("train", 1), "return-n2": ("n=2", 1), "return-n4": ("n=4", 1), "return-n6": ("n=6", 1), "accuracy_id": ("ID acc. %", 100),
    "accuracy_n2": ("n=2 %", 100), "accuracy_n4": ("n=4 %", 100), "accuracy_n6": ("n=6 %", 100), "f1_local": ("F1 ID", 1),
    "f1_n2": ("F1 n=2", 1), "codes_used": ("codes", 1), "edge_share": ("edges %", 100), "weight": ("weight", 1),
}  # fmt: skip


def cell(row: dict[str, Any], name: str, scale: float = 1.0) -> str:
    """IQM [95% interval]; empty where it is not known."""
    if name not in row:
        return ""
    digits = {"weight": 5, "codes_used": 0}.get(name, 0 if scale == 100 else 2 if name.startswith("f1") else 1)
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*np.multiply(row[name]["estimate"], scale), d=digits)


def table(options: Options) -> str:
    """The results of all studies as markdown."""
    lines = []
    for name, change_of in STUDIES.items():
        results = read(results_file(options, name))
        if results:
            lines += [
                f"\n**{name}**\n",
                "| | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
                "|" + "---|" * (len(COLUMNS) + 1),
            ]
        for label in [label for label in sorted(change_of, key=_size) if label in results]:
            cells = [cell(results[label]["final"], column, scale) for column, (_, scale) in COLUMNS.items()]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
            if name == "codes" and _size(label) in PUBLISHED:
                known = [f"{x:.1f}" for x in PUBLISHED[_size(label)]]
                lines.append(f"| {label}, published | | " + " | ".join(known) + " |" * (len(COLUMNS) - 3))
    results = read(results_file(options, "transfer"))
    for quantity, scale in (("accuracy", 100), ("return", 1)) if results else ():
        lines += [f"\n**transfer, {quantity}**\n", "| | | " + " | ".join(SCALES) + " |", "|" + "---|" * (len(SCALES) + 2)]
        for label, row in results.items():
            for n, worlds in row["worlds"].items():
                lines.append(f"| {label} | {n} | " + " | ".join(cell(worlds[name], quantity, scale) for name in SCALES) + " |")
    return "\n".join(lines)


def _size(label: str) -> int:
    return int(label.removeprefix("K=")) if label.startswith("K=") else 0


def main(options: Options) -> None:
    """Fill in what --small stands for, and run."""
    if options.small:
        options = dataclasses.replace(options, members=2, iterations=25, episodes=2)
    if options.what == "table":
        print(table(options))
    else:
        (transfer if options.what == "transfer" else study)(options)


if __name__ == "__main__":
    configure()
    main(tyro.cli(Annotated[Options, tyro.conf.arg(name="")]))
