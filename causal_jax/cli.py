"""The command line: causal-jax train | sweep | evaluate | report | play | export | list. Bad input is one line on stderr and exit code 2.

`train` takes Settings' fields and the algorithm's Config as options, its Hyper as --hyper.<name>; a list sweeps. Help texts are the
dataclasses' docstrings. --preset and --config give other defaults (a file of experiments/presets, any run.json); options override them.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before jax is imported: XLA tells of every program it reads from the cache

import contextlib
import dataclasses
import io
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from causal_jax.fields import suggest
from causal_jax.types import Diverged, Terminated, UserError

COMMANDS = ("train", "sweep", "evaluate", "report", "play", "export", "list")
PRESETS = Path("experiments/presets")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play the evaluated policies of a run and print their returns."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    episodes: int = 100
    """Episodes per member."""
    seed: int = 0
    """Seed of the episodes."""
    checkpoint: str = "last"
    """Which checkpoint: last or best."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write report.html and PNGs for a run, or one comparison of several."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """Folder of the report; default: the run folder, or the first run's parent for several."""


@dataclasses.dataclass(frozen=True)
class Play:
    """Write a GIF of a run's policy into its folder."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    member: int = 0
    """Which member acts."""
    seed: int = 0
    """Seed of the episode."""
    sampled: bool = False
    """Sample actions instead of taking the greedy ones."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Export a member's policy to files that load without the training code (causal_jax.load_policy)."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    member: int = 0
    """Which member."""
    checkpoint: str = "last"
    """Which checkpoint: last or best."""
    out: Path | None = None
    """Folder of the policy; default: policy/member-<member> in the run folder."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train every trial of a W&B sweep file here, without a server: trials that differ in Hyper or seed only are one program."""

    file: tyro.conf.Positional[Path]
    """The sweep file (YAML), see experiments/sweeps."""
    name: str = ""
    """Name of the sweep folder; empty: the file's."""
    folder: str = "runs"
    """Where sweep folders live."""
    batch: int = 0
    """Most trials in one program; 0: all of a shape, and rounds of 8 in a Bayesian search."""
    seed: int = 0
    """Seed of the search (random, bayes); the trials' own seeds are in the file."""
    resume: bool = False
    """Continue the sweep in the folder; start it where there is none."""


@dataclasses.dataclass(frozen=True)
class List:
    """List the names that the other commands take."""

    what: tyro.conf.Positional[str]
    """algorithms, envs or presets."""


def _parse(cls: Any, args: Sequence[str], prog: str, default: Any = None) -> Any:
    """tyro's parser; its boxed errors become one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            options = {} if default is None else {"default": default}
            return tyro.cli(cls, args=list(args), prog=prog, config=(tyro.conf.OmitSubcommandPrefixes,), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{prog.removeprefix('causal-jax ')}: {_one_line(errors.getvalue())} (see --help)") from None


def _one_line(box: str) -> str:
    """The message inside tyro's box of errors, without its title, help texts and frame (which is drawn in ASCII on plain terminals)."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" │|") for line in box.splitlines()]
    inside = [line for line in lines if line.strip("─-╭╮╰╯ ")][1:]
    return re.split(r" ?(?:Argument helptext|For full helptext)", " ".join(" ".join(inside).split()))[0]


def _grid(hyper: type) -> type:
    """A dataclass of the Hyper's fields in which each takes one value or several."""
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(hyper))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {
        field.target.id: str(doc.value.value)
        for field, doc in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    }
    fields: list[Any] = [
        (f.name, Annotated[tuple[float, ...], tyro.conf.arg(help=docs.get(f.name, ""))], dataclasses.field(default=(f.default,)))
        for f in dataclasses.fields(hyper)
    ]
    return dataclasses.make_dataclass("Hyper", fields, frozen=True)


def _take(args: list[str], flag: str) -> str | None:
    """Remove `flag VALUE` or `flag=VALUE` from args and return the value."""
    for i, arg in enumerate(args):
        if arg.startswith(flag + "="):
            del args[i]
            return arg.partition("=")[2]
        if arg == flag:
            if i + 1 == len(args):
                raise UserError(f"{flag}: needs a value")
            value = args[i + 1]
            del args[i : i + 2]
            return value
    return None


def _defaults(args: list[str]) -> tuple[Any, Any, Any] | None:
    """(settings, config, hyper) of --preset or --config, taken out of args."""
    from causal_jax.settings import load_settings, read_about

    preset, path = _take(args, "--preset"), _take(args, "--config")
    if preset is not None:
        known = [p.stem for p in sorted(PRESETS.glob("*.json"))]
        if preset not in known:
            raise UserError(f"preset = {preset!r}: {suggest(preset, known)}")
        path = str(PRESETS / f"{preset}.json")
    if path is None:
        return None
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return load_settings(read_about(folder, Path(path).name if Path(path).suffix else "run.json"))


def _spread(args: Sequence[str]) -> list[str]:
    """`--hidden=[64, 64]` as --hidden 64 64 and `--flag=True` as --flag: the way W&B's agent writes lists and switches."""
    words: list[str] = []
    for arg in args:
        flag, _, value = arg.partition("=")
        if flag.startswith("--") and value in ("True", "False"):
            words.append(flag if value == "True" else f"--no-{flag[2:]}")
        elif flag.startswith("--") and value.startswith("[") and value.endswith("]"):
            words += [flag, *(word.strip().strip("'\"") for word in value[1:-1].split(",") if word.strip())]
        else:
            words.append(arg)
    return words


def parse_train(args: list[str]) -> Any:
    """The words after `train`: an object with settings, config, hyper (the algorithm's own), resume, report. Raises: UserError."""
    from causal_jax import hosts
    from causal_jax.algorithms import ALGORITHMS, algorithm_module
    from causal_jax.settings import Settings

    args = _spread(args)
    defaults = _defaults(args)
    if args and not args[0].startswith("-"):
        name = args.pop(0)
    elif defaults is not None:
        name = defaults[0].algorithm
    elif args and args[0] in ("-h", "--help"):
        print("usage: causal-jax train ALGORITHM [options]; causal-jax train ALGORITHM --help lists them\n")
        _list(List("algorithms"))
        sys.exit(0)
    else:
        raise UserError(f"algorithm: missing, must be one of {', '.join(ALGORITHMS)}")
    module = algorithm_module(name)
    preset = ALGORITHMS[name].preset
    settings, config, hyper = Settings(algorithm=name), module.Config(**preset), module.Hyper()
    if defaults is not None:
        if defaults[0].algorithm != name:
            raise UserError(f"algorithm = {name!r}: the preset or config is for {defaults[0].algorithm!r}")
        settings, config, hyper = defaults
    grid = _grid(module.Hyper)
    sequences = {k: tuple(v) if isinstance(v, tuple | list) else (v,) for k, v in vars(hyper).items()}
    command: Any = dataclasses.make_dataclass(
        "Train",
        [
            ("settings", Annotated[Settings, tyro.conf.arg(name="")], settings),
            ("config", Annotated[module.Config, tyro.conf.arg(name="")], config),
            ("hyper", grid, grid(**sequences)),
            ("hosts", Annotated[hosts.Hosts, tyro.conf.arg(name="")], hosts.Hosts()),
            ("resume", Annotated[bool, tyro.conf.arg(help="Continue the run in the folder; start it where there is none.")], False),
            ("report", Annotated[bool, tyro.conf.arg(help="Write report.html when training is done.")], True),
        ],
        frozen=True,
    )
    command.__doc__ = f"{ALGORITHMS[name].about}. Also: --preset NAME, --config run.json."
    parsed = _parse(command, args, f"causal-jax train {name}")
    settings = dataclasses.replace(parsed.settings, algorithm=name)
    return dataclasses.replace(parsed, settings=settings, hyper=module.Hyper(**vars(parsed.hyper)))


def _train(args: list[str]) -> None:
    from causal_jax import hosts
    from causal_jax.runs import train_run
    from causal_jax.settings import resolve

    parsed = parse_train(args)
    hosts.start(parsed.hosts)
    settings = parsed.settings
    if not settings.name and os.environ.get("WANDB_SWEEP_ID"):  # W&B's agent starts many runs by one command
        name = f"{settings.algorithm}-{settings.env.replace(':', '-')}-{os.environ.get('WANDB_RUN_ID', os.getpid())}"
        settings = dataclasses.replace(settings, name=name)
    folder = train_run(resolve(settings, parsed.config, parsed.hyper), resume=parsed.resume)
    if parsed.hosts.distributed:  # a report is made by one process
        if hosts.first():
            print(f"report: causal-jax report {folder}")
        hosts.leave(0)
    elif parsed.report:
        from causal_jax.gallery import report

        print(f"report: {report([folder])}")


def _sweep(command: Sweep) -> None:
    from causal_jax.sweep import run_sweep

    def parse(words: list[str]) -> tuple[Any, Any, Any]:
        parsed = parse_train(words)
        return parsed.settings, parsed.config, parsed.hyper

    options = {name: value for name, value in vars(command).items() if name != "file"}
    run_sweep(command.file, parse, **options)


def _evaluate(command: Evaluate) -> None:
    from causal_jax.evaluation import evaluate_run

    for label, row in evaluate_run(command.run, command.episodes, command.seed, command.checkpoint).items():
        print(f"{label}: " + ", ".join(f"{name} {mean:.3f} +- {spread:.3f}" for name, (mean, spread) in row.items()))


def _report(command: Report) -> None:
    from causal_jax.gallery import report

    if not command.runs:
        raise UserError("runs: missing, name at least one run folder")
    print(report(list(command.runs), command.out))


def _play(command: Play) -> None:
    from causal_jax.gallery import play

    print(play(command.run, command.member, command.seed, not command.sampled))


def _export(command: Export) -> None:
    from causal_jax.policy import export_policy

    print(export_policy(command.run, command.out, command.member, command.checkpoint))


def _list(command: List) -> None:
    from causal_jax.algorithms import ALGORITHMS
    from causal_jax.envs import list_envs

    if command.what == "algorithms":
        print("\n".join(f"{name:12} {entry.about}" for name, entry in ALGORITHMS.items()))
    elif command.what == "envs":
        print("\n".join(list_envs()))
    elif command.what == "presets":
        print("\n".join(p.stem for p in sorted(PRESETS.glob("*.json"))) or f"none: there is no {PRESETS} here")
    else:
        raise UserError(f"what = {command.what!r}: must be one of algorithms, envs, presets")


def configure() -> None:
    """What a process that trains sets before jax starts: every core a device, compiled programs cached across processes.

    The cache is under the user's cache folder unless JAX_COMPILATION_CACHE_DIR says otherwise.
    """
    import jax

    from causal_jax.engine import avoid_hang
    from causal_jax.mesh import use_all_cores

    avoid_hang()
    use_all_cores()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(base / "causal_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def run(args: Sequence[str]) -> None:
    """Run one command line. Raises: UserError for bad input."""
    rest = list(args)
    if not rest or rest[0] in ("-h", "--help"):
        print(__doc__)
        return
    name = rest.pop(0)
    if name not in COMMANDS:
        raise UserError(f"command = {name!r}: {suggest(name, list(COMMANDS))}")
    configure()
    if name == "train":
        return _train(rest)
    commands = {"evaluate": (Evaluate, _evaluate), "report": (Report, _report), "play": (Play, _play), "export": (Export, _export)}
    cls, do = {**commands, "sweep": (Sweep, _sweep), "list": (List, _list)}[name]
    do(_parse(cls, rest, f"causal-jax {name}"))  # type: ignore[operator]


def main(args: Sequence[str] | None = None) -> None:
    """The console script. Every error that is not ours is one line on stderr; the exit code tells the kind.

    0 done, 2 bad input, too little memory foreseen or a full disk, 3 diverged, 4 out of memory, 130 interrupted, 143 terminated (SIGTERM).
    """
    try:
        run(sys.argv[1:] if args is None else args)
    except UserError as error:
        _stop(str(error), 2)
    except Diverged as error:
        _stop(str(error), 3)
    except Terminated as error:
        _stop(str(error), 143)
    except OSError as error:
        _distributed_error(error, lost_only=True)
        _stop(f"{error.filename or 'output'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        _stop("stopped; continue with --resume", 130)
    except Exception as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            _stop(f"out of memory: {' '.join(str(error).split())[:200]}; take fewer members or smaller sizes", 4)
        _distributed_error(error)
        raise


def _stop(line: str, code: int) -> None:
    print(f"causal-jax: {line}", file=sys.stderr)
    if "jax" in sys.modules:
        from causal_jax import hosts

        hosts.leave(code)
    sys.exit(code)


def _distributed_error(error: Exception, lost_only: bool = False) -> None:
    """End this process of a distributed run so that the others notice. Nothing for a single process."""
    from causal_jax import hosts, stderr

    if hosts.peer_lost(error):
        print(stderr.LOST, file=sys.stderr)
        hosts.leave(1)
    if hosts.active() and not lost_only:
        traceback.print_exc()
        hosts.leave(1)


if __name__ == "__main__":
    main()
