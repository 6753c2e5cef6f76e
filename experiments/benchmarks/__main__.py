"""python -m experiments.benchmarks [--out FILE] [NAMES...]: run them, print a table each, write each result as it comes."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from causal_jax.fields import suggest
from causal_jax.mesh import use_all_cores
from causal_jax.types import UserError
from experiments.benchmarks import causes, dynamics, host, hybrid, learners, masks, measure, offline, scaling, speed
from experiments.benchmarks.speed import Sizes
from experiments.records import RESULTS

BENCHMARKS: dict[str, Callable[[Sizes], dict[str, Any]]] = {
    "env": speed.env,
    "minigrid": speed.minigrid,
    "minigrid-shared": speed.minigrid_shared,
    "ppo": speed.cartpole,
    "minatar": speed.minatar,
    "members": speed.members,
    "compile": speed.compilation,
    "mask": speed.mask,
    "mask-cache": masks.cached,
    "mask-scale": masks.scaled,
    "fcdl": dynamics.learning,
    "chemical": dynamics.environments,
    "factored": dynamics.factored,
    "dlpa": hybrid.planning,
    "hybrid": hybrid.environments,
    "ddpg": learners.ddpg,
    "anm-mm": causes.fits,
    "scores": dynamics.scores,
    "offline": offline.learning,
    "scale-members": scaling.members_curve,
    "scale-envs": scaling.envs_curve,
    "scale-devices": scaling.devices_curve,
    "population": scaling.population,
    "sweep": speed.sweep,
    "overhead": host.overhead,
    "long": host.long,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Benchmarks of speed; their names stand in BENCHMARKS."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which to run; none: all."""
    out: Path | None = None
    """Results file; default: experiments/results/benchmarks.json, or benchmarks-<device>.json on a GPU."""
    sizes: Annotated[Sizes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Sizes)


def run(options: Options) -> Path:
    """Run the named benchmarks; returns the results file. Raises: UserError for an unknown name."""
    names = options.names or tuple(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"names = {name!r}: {suggest(name, list(BENCHMARKS))}")
    out = options.out or measure.default_path(RESULTS)
    for name in names:
        result = {"about": (BENCHMARKS[name].__doc__ or "").rstrip("."), **measure.context(), "sizes": dataclasses.asdict(options.sizes)}
        began = time.perf_counter()
        result.update(BENCHMARKS[name](options.sizes))
        result["seconds"] = time.perf_counter() - began
        measure.record(out, name, result)
        print(measure.table(name, result), flush=True)
    return out


def main() -> None:
    """The command."""
    try:
        use_all_cores()
        run(tyro.cli(Options, prog="python -m experiments.benchmarks"))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
