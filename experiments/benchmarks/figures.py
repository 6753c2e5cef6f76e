"""The benchmarks' curves as one picture: steps/s against members, environments and devices, a line for every results file that has them.

python -m experiments.benchmarks.figures    # experiments/results/benchmarks.json and benchmarks-<device>.json -> benchmarks.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from causal_jax import plots
from experiments.records import RESULTS

PANELS = {"scale-members": "members", "scale-envs": "environments", "scale-devices": "virtual devices"}


def machine(result: dict[str, Any]) -> str:
    """What measured a result: its GPU, or how many cores of a CPU."""
    about = result["machine"]
    return f"{about['cores']} CPU cores" if "cpu" in about["devices"].lower() else about["devices"].removeprefix("1 x ")


def draw(files: list[Path], path: Path) -> Path:
    """Medians with the range over the rounds, both axes logarithmic; returns `path`."""
    from matplotlib.ticker import NullLocator

    results = [json.loads(file.read_text()) for file in files]
    panels = {name: title for name, title in PANELS.items() if any(name in result for result in results)}
    with plots.figure_file(path, 9.0, 3.4) as figure:
        for axes, (name, title) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True):
            known = [result[name] for result in results if name in result]
            for colour, line, result in zip(plots.PALETTE, plots.LINES, known, strict=False):
                counts = [int(row["label"].split()[0]) for row in result["rows"]]
                median, least, most = ([row[what] for row in result["rows"]] for what in ("median", "min", "max"))
                axes.plot(counts, median, color=colour, linestyle=line, marker="o", label=machine(result))
                axes.fill_between(counts, least, most, color=colour, alpha=0.2, linewidth=0)
            axes.set(xscale="log", yscale="log", title=title)
            ticks = sorted({int(x) for line in axes.lines for x in line.get_xdata()})
            axes.set_xticks(ticks, [plots.short(float(f"{x:.2g}")) for x in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            plots.log_axis(axes.yaxis)
        figure.axes[0].set_ylabel("PPO on CartPole, steps/s")
        figure.axes[0].legend()
    return path


if __name__ == "__main__":
    print(draw(sorted(RESULTS.glob("benchmarks*.json"), key=lambda file: len(file.name)), RESULTS / "benchmarks.png"))
