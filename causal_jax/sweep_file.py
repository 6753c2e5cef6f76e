"""A W&B sweep file, read without a server: its schema checked in one line, its points drawn or walked, its trials turned into settings.

    method: grid | random | bayes
    metric: {name: eval/sampled/return, goal: maximize}            # as the command's run logs it to W&B
    parameters: {hyper.lr: {values: [0.001, 0.0003]}, ...}         # names are the command line's options
    run_cap: 24                                                    # trials; random and bayes need it here
    command: [causal-jax, train, ppo, --env, maze-n4, --log, wandb-grouped, "${args}"]

Of W&B's schema (https://docs.wandb.ai/models/sweeps/sweep-config-keys) nested parameters, distributions not in DISTRIBUTIONS and macros
other than ${args} are refused; early_terminate is left to W&B, a local sweep trains every trial to the end.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from causal_jax.fields import suggest, validate
from causal_jax.types import UserError

KEYS = {"method", "metric", "parameters", "run_cap", "command", "name", "description", "program", "project", "entity", "early_terminate"}
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values")
Point = dict[str, Any]  # a trial's value of every parameter


class Parameter(NamedTuple):
    """One parameter: its choices (constant, categorical), or its range; q is the width of a step, 0 where there is none."""

    name: str
    distribution: str
    values: tuple[Any, ...] = ()
    probabilities: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    q: float = 0.0

    @property
    def is_log(self) -> bool:
        """Whether it is uniform in its logarithm."""
        return "log" in self.distribution


class Sweep(NamedTuple):
    """A checked sweep file. command: the words after `train`, without ${args}; metric: dotted, as history.Run names it."""

    method: str
    metric: str
    goal: str
    parameters: tuple[Parameter, ...]
    run_cap: int
    command: tuple[str, ...]
    early_terminate: bool
    content: dict[str, Any]


def _known(value: Any, field: str, allowed: Sequence[str]) -> Any:
    if value not in allowed:
        raise UserError(f"{field} = {value!r}: {suggest(str(value), allowed)}")
    return value


def _mapping(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{field} = {value!r}: must be a mapping of names to values")
    return {str(name): inner for name, inner in value.items()}


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if isinstance(value, str) else ""
        raise UserError(f"{field} = {value!r}: must be a finite number{hint}")
    return value


def read(path: Path | str) -> Sweep:
    """Read and check a sweep file. Raises: UserError, one line: the field, its value, what is allowed."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"file = {str(path)!r}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"file = {str(path)!r}: is not YAML ({' '.join(str(error).split())})") from None
    return check(content, str(path))


def check(content: Any, path: str = "sweep") -> Sweep:
    """A sweep from the content of its file. Raises: UserError as `read`."""
    content = _mapping(content, path)
    for name in content:
        _known(name, f"{path}: key", sorted(KEYS))
    for name in ("method", "metric", "parameters", "command"):
        if name not in content:
            raise UserError(f"{name}: missing in {path}")
    method = _known(content["method"], "method", METHODS)
    metric = _mapping(content["metric"], "metric")
    if not isinstance(metric.get("name"), str):
        raise UserError(f"metric.name = {metric.get('name')!r}: must be a name such as eval/sampled/return")
    goal = _known(metric.get("goal", "minimize"), "metric.goal", GOALS)
    parameters = tuple(parameter(name, spec) for name, spec in _mapping(content["parameters"], "parameters").items())
    cap = content.get("run_cap", 0)
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 0 or (cap == 0 and "run_cap" in content):
        raise UserError(f"run_cap = {cap!r}: must be an integer 1 <= x")
    if method != "grid" and not cap:
        raise UserError(f"run_cap: missing in {path}, method {method} needs the number of trials")
    for p in parameters:
        if method == "grid" and p.distribution not in ("constant", "categorical", "int_uniform", "q_uniform"):
            raise UserError(f"parameters.{p.name} = {p.distribution}: must have values (or int_uniform, q_uniform) in a grid")
        if method != "random" and p.probabilities:
            raise UserError(f"parameters.{p.name}.probabilities: must be left out, only method random draws by them")
    stop = bool(content.get("early_terminate"))
    return Sweep(method, metric["name"].replace("/", "."), goal, parameters, cap, _words(content["command"]), stop, content)


def _words(command: Any) -> tuple[str, ...]:
    words = [str(word) for word in command] if isinstance(command, list) else None
    if words is None or "train" not in words:
        raise UserError(f"command = {command!r}: must be a list such as [causal-jax, train, ppo, --env, maze-n4, '${{args}}']")
    rest = words[words.index("train") + 1 :]
    if rest.count("${args}") != 1 or any(word.startswith("${") and word != "${args}" for word in rest):
        raise UserError("command: must hold ${args} once after train, and no other macro of W&B")
    return tuple(word for word in rest if word != "${args}")


def parameter(name: str, spec: Any) -> Parameter:
    """One entry of `parameters`. Raises: UserError naming what is wrong in it."""
    values: tuple[Any, ...]
    where, spec = f"parameters.{name}", _mapping(spec, f"parameters.{name}")
    for key in spec:
        if key == "parameters":
            raise UserError(f"{where}: is nested; write each name with its dot, e.g. {name}.lr")
        _known(key, f"{where}: key", ("value", "values", "probabilities", "min", "max", "q", "distribution"))
    name = name.replace("-", "_")
    if "value" in spec:
        told, values = "constant", (spec["value"],)
    elif "values" in spec:
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise UserError(f"{where}.values = {spec['values']!r}: must be a list of at least one value")
        told, values = "categorical", tuple(spec["values"])
    elif {"min", "max"} <= spec.keys():
        whole = all(isinstance(spec[key], int) for key in ("min", "max"))
        told, values = "int_uniform" if whole else "uniform", ()
    else:
        raise UserError(f"{where}: must have value, values, or min and max")
    distribution = _known(spec.get("distribution", told), f"{where}.distribution", DISTRIBUTIONS)
    if (distribution in ("constant", "categorical")) != bool(values) or (distribution == "constant") != ("value" in spec):
        raise UserError(f"{where}.distribution = {distribution}: does not go with {', '.join(sorted(set(spec) - {'distribution'}))}")
    if values:
        chances = tuple(_number(x, f"{where}.probabilities") for x in spec.get("probabilities", ()))
        if chances and (len(chances) != len(values) or min(chances) < 0 or abs(sum(chances) - 1) > 1e-6):
            raise UserError(f"{where}.probabilities = {list(chances)}: must be {len(values)} numbers x >= 0 that sum to 1")
        return Parameter(name, distribution, tuple(tuple(v) if isinstance(v, list) else v for v in values), chances)
    low, high = (_number(spec[key], f"{where}.{key}") for key in ("min", "max"))
    if low >= high:
        raise UserError(f"{where}.min = {low}: must be less than max = {high}")
    if "log" in distribution and low <= 0:
        raise UserError(f"{where}.min = {low}: must be 0 < x for {distribution}")
    if distribution == "int_uniform" and not (low == int(low) and high == int(high)):
        raise UserError(f"{where}.min = {low}: must be an integer, as max, for int_uniform")
    q = _number(spec.get("q", 1), f"{where}.q") if distribution.startswith("q_") else 0.0
    if q < 0 or (q == 0 and distribution.startswith("q_")):
        raise UserError(f"{where}.q = {q}: must be 0 < x")
    if q and math.floor(high / q + 1e-9) < math.ceil(low / q - 1e-9):
        raise UserError(f"{where}.q = {q}: has no multiple between min = {low} and max = {high}")
    return Parameter(name, distribution, low=low, high=high, q=q)


def tidy(p: Parameter, x: float) -> Any:
    """A drawn number as it is used and shown: inside its range, on its step, whole where it must be, else 6 significant digits."""
    if p.distribution == "int_uniform":
        return int(x)
    if p.q:
        steps = math.floor(p.high / p.q + 1e-9), math.ceil(p.low / p.q - 1e-9)
        whole = max(steps[1], min(steps[0], round(x / p.q)))
        return whole * int(p.q) if p.q == int(p.q) else float(f"{whole * p.q:.12g}")
    return min(p.high, max(p.low, float(f"{x:.6g}")))


def draw(p: Parameter, rng: np.random.Generator) -> Any:
    """One value of a parameter, at random."""
    if p.values:
        return p.values[rng.choice(len(p.values), p=p.probabilities or None)]
    if p.distribution == "int_uniform":
        return int(rng.integers(int(p.low), int(p.high) + 1))
    low, high = (math.log(p.low), math.log(p.high)) if p.is_log else (p.low, p.high)
    x = rng.uniform(low, high)
    return tidy(p, math.exp(x) if p.is_log else x)


def _walk(p: Parameter) -> Sequence[Any]:
    if p.values:
        return p.values
    step = p.q or 1
    return [tidy(p, k * step) for k in range(math.ceil(p.low / step - 1e-9), math.floor(p.high / step + 1e-9) + 1)]


def points(sweep: Sweep, seed: int = 0) -> list[Point]:
    """All points of a grid (the last parameter varies fastest; the first run_cap of them) or of a random search (run_cap draws)."""
    names = [p.name for p in sweep.parameters]
    if sweep.method == "grid":
        product: Iterator[tuple[Any, ...]] = itertools.product(*map(_walk, sweep.parameters))
        return [dict(zip(names, point, strict=True)) for point in itertools.islice(product, sweep.run_cap or None)]
    rng = np.random.default_rng(seed)
    return [{p.name: draw(p, rng) for p in sweep.parameters} for _ in range(sweep.run_cap)]


FIXED = ("algorithm", "seeds", "combine", "name", "folder", "log", "devices", "mesh")  # settings that no trial may change


def check_names(sweep: Sweep, settings: Any, config: Any, hyper: Any) -> None:
    """Every parameter is an option, and every end of its range is allowed. settings, config, hyper: dataclasses that the command makes.

    Raises: UserError: `parameters.hyper.lrr: unknown, did you mean hyper.lr?`, `hyper.gamma = 1.5: must be 0.0 <= x <= 1.0`.
    """
    hypers = [f"hyper.{f.name}" for f in dataclasses.fields(hyper)]
    options = [f.name for part in (settings, config) for f in dataclasses.fields(part) if f.name not in FIXED]
    for p in sweep.parameters:
        if p.name not in (*hypers, *options):
            raise UserError(f"parameters.{p.name}: {suggest(p.name, [*hypers, *options])}")
        for value in p.values or (tidy(p, p.low), tidy(p, p.high)):
            if p.name in hypers:
                value = _number(value, f"parameters.{p.name}")
            parts = settings, config, type(hyper)()
            for part, prefix in zip(apply({p.name: value}, *parts), ("", "", "hyper."), strict=True):
                validate(part, prefix)


def apply(point: Point, settings: Any, config: Any, hyper: Any) -> tuple[Any, Any, Any]:
    """(settings, config, hyper) with a point's values; a name is a setting's, else a Config's, or hyper.<name>."""
    parts: dict[str, dict[str, Any]] = {"settings": {}, "config": {}, "hyper": {}}
    own = {f.name for f in dataclasses.fields(settings)}
    for name, value in point.items():
        kind = "hyper" if name.startswith("hyper.") else "settings" if name in own else "config"
        parts[kind][name.removeprefix("hyper.")] = value
    return tuple(dataclasses.replace(part, **parts[kind]) for kind, part in (("settings", settings), ("config", config), ("hyper", hyper)))
