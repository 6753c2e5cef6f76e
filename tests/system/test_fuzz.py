"""Fuzzed command lines and config files: never a traceback, never a half-written run folder; training itself is left out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causal_jax import cli, runs
from causal_jax.algorithms import ALGORITHMS, algorithm_module
from causal_jax.envs import list_envs
from causal_jax.settings import Settings

ALGORITHM_NAMES = [*ALGORITHMS, "poo", "", "PPO", "../ppo"]
ENVS = [name for name in list_envs() if name not in ("maze-n9", "maze-n10")] + [
    "gymnax:CartPole-v1",
    "gymnax:Nope-v0",
    "brax:nope",
    "maze-n11",
    "maze",
    ":",
    "",
]
ODD = [
    "", " ", "nan", "inf", "-inf", "-1", "0", "1", "2", "3", "1e3", "1e400", "-0.0", "0.5", "1_000", "0x10", "99999999999999999999",
    "2147483648", "true", "None", "[]", "{}", "()", "x=1", "max_steps=5", "max_steps=x", "=", "=1", "a=b=c", "n=3", "..", "/", "\\", "é",
    "\x00", "\n", "-", "--", "--help=1", "*", "tanh", "cee", "oracle", "wandb", "runs", "8 8", "a/b",
]  # fmt: skip
MODULES = {name: algorithm_module(name if name in ALGORITHMS else "ppo") for name in ALGORITHM_NAMES}


def options(name: str) -> list[str]:
    """The options of an algorithm's train command."""
    module = MODULES[name]
    fields = [*Settings.__dataclass_fields__, *module.Config.__dataclass_fields__]
    hyper = [f"hyper.{field}" for field in module.Hyper.__dataclass_fields__]
    return [f"--{field.replace('_', '-')}" for field in [*fields, *hyper]]


VALUES = st.one_of(st.sampled_from(ODD), st.integers(-5, 300).map(str), st.floats().map(str), st.text(max_size=8), st.integers().map(str))


@st.composite
def command_lines(draw: Any) -> list[str]:
    """Mostly train commands with a few options, good, bad and mad; now and then the other commands, or noise."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.lists(VALUES, max_size=4))
    if kind == 1:
        command = draw(st.sampled_from([*cli.COMMANDS, "trian"]))
        return [command, *draw(st.lists(st.one_of(VALUES, st.sampled_from(["--member", "--seed", "--out", "--checkpoint"])), max_size=4))]
    name = draw(st.sampled_from(ALGORITHM_NAMES))
    args = ["train", name] if name else ["train"]
    if draw(st.booleans()):
        args += ["--env", draw(st.sampled_from(ENVS))]
    for option in draw(st.lists(st.sampled_from(options(name)), max_size=4)):
        args += [option, *draw(st.lists(VALUES, max_size=2))]
    args += draw(
        st.sampled_from([[], ["--resume"], ["--preset", "maze-cee"], ["--preset"], ["--config", "config.json"], ["--config", "."]])
    )
    return args


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def config_files(draw: Any) -> str:
    """A run.json with some of its values replaced or taken away, or any JSON, or text."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return str(draw(st.text(max_size=30)))
    if kind == 1:
        return json.dumps(draw(JSON))
    name = draw(st.sampled_from([*ALGORITHMS, "poo"]))
    module = MODULES[name]
    content: dict[str, Any] = {
        "settings": {field: value.default for field, value in Settings.__dataclass_fields__.items()} | {"algorithm": name},
        "config": dict(vars(module.Config())),
        "hyper": {field: [value] for field, value in vars(module.Hyper()).items()},
    }
    for _ in range(draw(st.integers(0, 3))):
        part = draw(st.sampled_from(list(content)))
        if draw(st.integers(0, 5)) == 0:
            content[part] = draw(JSON)
        elif isinstance(content[part], dict) and content[part]:
            field = draw(st.sampled_from([*content[part], "stranger"]))
            if draw(st.booleans()):
                content[part].pop(field, None)
            else:
                content[part][field] = draw(JSON)
    return json.dumps(content)


@pytest.fixture(scope="module")
def stubbed() -> Iterator[None]:
    """Everything up to the first update: names, types, ranges, sizes, folders, locks, run.json."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "make_task", lambda run, say=print: (None, None))
        patch.setattr(runs, "_train", lambda run, folder, *rest: (runs.write_json(folder / "run.json", runs.describe(run)), folder)[1])
        yield


def check(args: list[str], files: dict[str, str]) -> None:
    """Run one command line in a folder of its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for name, content in files.items():
                Path(name).write_text(content, errors="replace")
            out, err, code = io.StringIO(), io.StringIO(), 0
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    cli.main(
                        ["--no-report" if arg == "--report" else arg for arg in args] + (["--no-report"] if args[:1] == ["train"] else [])
                    )
                except SystemExit as stop:
                    code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
            assert code in (0, 2), (code, err.getvalue())
            if code == 2:
                assert err.getvalue().count("\n") == 1, err.getvalue()
                assert err.getvalue().startswith("causal-jax: ")
            for path in Path(folder).rglob("*"):
                if code == 2:
                    assert path.name in files, f"{path} was left behind"
                elif path.name == "lock":
                    about = json.loads((path.parent / "run.json").read_text())
                    assert {"settings", "config", "hyper", "seeds"} <= set(about)
        finally:
            os.chdir(before)


SLOWLY = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}


@pytest.mark.usefixtures("stubbed")
@settings(max_examples=60, **SLOWLY)
@given(command_lines())
def test_fuzzed_command_lines(args: list[str]) -> None:
    check(args, {})


@pytest.mark.usefixtures("stubbed")
@settings(max_examples=40, **SLOWLY)
@given(config_files())
def test_fuzzed_config_files(content: str) -> None:
    check(["train", "--config", "config.json"], {"config.json": content})


@pytest.mark.slow
@pytest.mark.usefixtures("stubbed")
@pytest.mark.parametrize("option", ["--name", "--folder", "--effects", "--env", "--env-options", "--preset", "--config", "--log"])
def test_every_odd_value(option: str) -> None:
    for value in ODD:
        for args in ([option, value], [f"{option}={value}"]):
            check(["train", "cee", "--steps", "10", *args], {})


@pytest.mark.slow
@pytest.mark.usefixtures("stubbed")
@settings(max_examples=600, **SLOWLY)
@given(command_lines())
def test_many_fuzzed_command_lines(args: list[str]) -> None:
    check(args, {})


@pytest.mark.slow
@pytest.mark.usefixtures("stubbed")
@settings(max_examples=400, **SLOWLY)
@given(config_files())
def test_many_fuzzed_config_files(content: str) -> None:
    check(["train", "--config", "config.json"], {"config.json": content})
