"""Training: `train` is one member as a pure function, `fit` is the host loop that drives a population of members in chunks.

A member's root key splits once into init / train / eval streams; update t uses fold_in(train, t), its evaluation fold_in(eval, t). So
the chunk length, logging, evaluation, a stop and a resume cannot change training: 100 updates == 10 x 10 == 50 + kill + 50, bit for
bit, in the same program. The chunk's length is a traced argument: one compilation serves every chunk, the last short one too. (A
member alone differs from the same member inside a population by about 1e-6: bit-exactness is promised for the same program only.)
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import engine, guard, memory
from causal_jax import mesh as meshes
from causal_jax.types import Algorithm, Hyper, Key, Metrics, State, Task, UserError

Evaluate = Callable[[Key, State, Task], Any]


class Run(NamedTuple):
    """All that a stop must keep. Leaves of key, state and hyper have a leading axis of members [M]; t counts updates."""

    key: Key
    state: State
    hyper: Hyper
    t: jax.Array


class Chunk(NamedTuple):
    """What the host hears of a chunk: `metrics` {name: [updates, M]}, `evaluation` the evaluate pytree with leaves [M, ...] or None,

    `finite` {path of a float leaf of the state: bool [M]}; a leaf that was not finite when `fit` began counts as finite.
    """

    run: Run
    t: int
    metrics: dict[str, np.ndarray]
    evaluation: Any
    seconds: float
    finite: dict[str, np.ndarray]


class Compiled(NamedTuple):
    """The programs of a run, with what compiling cost (seconds) and what running takes (bytes on one device)."""

    chunk: Callable[..., Any]
    evaluate: Callable[..., Any] | None
    finite: Callable[..., Any]
    seconds: float
    bytes: int


def streams(root: Key) -> tuple[Key, Key, Key]:
    """The init, train and eval streams of a run. The root key is consumed."""
    init, train, evaluate = jax.random.split(root, 3)
    return init, train, evaluate


def train(key: Key, hyper: Hyper, task: Task, *, algorithm: Algorithm, num_updates: int) -> tuple[State, Metrics]:
    """One member from nothing to `num_updates`: pure, so jit, vmap over keys and hyperparameters, or differentiate it.

    Returns: the final state and metrics with leaves [num_updates]. The key is consumed.
    """
    init, stream, _ = streams(key)

    def body(state: State, t: jax.Array) -> tuple[State, Metrics]:
        return algorithm.step(jax.random.fold_in(stream, t), state, hyper, task)

    return jax.lax.scan(body, algorithm.init(init, hyper, task), jnp.arange(num_updates))


def grid(hyper: Hyper, seeds: Sequence[int], combine: str = "product") -> tuple[Hyper, list[int], list[dict[str, float]]]:
    """The members of a sweep: the points that the swept values make, times the seeds.

    Args: hyper: a Hyper whose fields are floats or sequences of floats. combine: "product" takes every combination of them, "zip" the
      i-th values together (fields of one value hold for all points).
    Returns: Hyper with float32 leaves [M]; the seed of each member; the swept values of each member by name.
    Raises: UserError when there is no member, or fields to zip differ in length.
    """
    names = list(vars(hyper))
    values = [tuple(np.atleast_1d(getattr(hyper, name)).tolist()) for name in names]
    if not seeds or not all(values):
        raise UserError("members = 0: must be at least 1")
    swept = [i for i, v in enumerate(values) if len(v) > 1]
    if combine == "zip":
        count = max(map(len, values))
        for i in swept:
            if len(values[i]) != count:
                raise UserError(f"hyper.{names[i]} = {len(values[i])} values: must be 1 or {count} values, as many as the longest (zip)")
        values = [v * count if len(v) == 1 else v for v in values]
    points: list[tuple[float, ...]] = list(zip(*values, strict=True) if combine == "zip" else itertools.product(*values))
    members = [(point, seed) for point in points for seed in seeds]
    leaves = {name: jnp.asarray([point[i] for point, _ in members], jnp.float32) for i, name in enumerate(names)}
    return (
        hyper.replace(**leaves),
        [seed for _, seed in members],
        [{names[i]: point[i] for i in swept} for point, _ in members],
    )


def start(
    algorithm: Algorithm, seeds: Sequence[int], hyper: Hyper, task: Task, task_axes: Any = None, mesh: jax.sharding.Mesh | None = None
) -> Run:
    """A fresh population: member m's root key is jax.random.key(seeds[m]); hyper's leaves are [M]; task_axes as vmap's in_axes.

    mesh: where it is placed (mesh.make_mesh), every device making its own members; None: on one device.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    run = Run(keys, None, hyper, jnp.zeros((), jnp.int32))

    def one(key: Key, hyper: Hyper, task: Task) -> State:
        return algorithm.init(streams(key)[0], hyper, task)

    population = jax.vmap(one, (0, 0, task_axes))
    if mesh is None:
        return run._replace(state=jax.jit(population)(keys, hyper, task))
    run, task = meshes.shard_run(run, mesh), meshes.shard_task(task, task_axes, mesh)
    with meshes.ambient(mesh):
        shapes = run._replace(state=jax.eval_shape(population, run.key, run.hyper, task))
        program = meshes.over_members(population, meshes.mesh_of(run), (0, 0, task_axes), 0)
        if meshes.copies(mesh, len(seeds)) > 1:
            return run._replace(state=meshes.gathered(jax.jit(program)(run.key, run.hyper, task), mesh, len(seeds)))
        return run._replace(state=jax.jit(program, out_shardings=meshes.shardings(shapes, mesh).state)(run.key, run.hyper, task))


def chunk_function(
    algorithm: Algorithm, capacity: int, task_axes: Any = None, mesh: jax.sharding.Mesh | None = None
) -> Callable[[Run, Task, jax.Array], tuple[Run, Metrics]]:
    """The program of a run: (run, task, num <= capacity) -> run after `num` more updates, metrics with leaves [capacity, M]."""
    update = jax.jit(algorithm.step)  # so that it is traced once, for the shapes of its metrics and for the loop

    def one(key: Key, state: State, hyper: Hyper, t: jax.Array, task: Task, num: jax.Array) -> tuple[State, Metrics]:
        stream = streams(key)[1]

        def step(t: jax.Array, state: State) -> tuple[State, Metrics]:
            return update(jax.random.fold_in(stream, t), state, hyper, task)

        def body(i: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, rows = carry
            state, metrics = step(t + i, state)
            return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

        shapes = jax.eval_shape(step, t, state)[1]
        rows = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)
        return jax.lax.fori_loop(0, num, body, (state, rows))

    axes = (0, 0, 0, None, task_axes, None)
    population = meshes.over_members(jax.vmap(one, axes, (0, 1)), mesh, axes, (0, 1))

    def chunk(run: Run, task: Task, num: jax.Array) -> tuple[Run, Metrics]:
        state, metrics = population(run.key, run.state, run.hyper, run.t, task, num)
        return run._replace(state=state, t=run.t + num), metrics

    return chunk


def evaluate_function(evaluate: Evaluate, task_axes: Any = None, mesh: jax.sharding.Mesh | None = None) -> Callable[[Run, Task], Any]:
    """The evaluation of every member with its own stream: (run, task) -> pytree with leaves [M, ...]."""

    def one(key: Key, state: State, t: jax.Array, task: Task) -> Any:
        return evaluate(jax.random.fold_in(streams(key)[2], t), state, task)

    axes = (0, 0, None, task_axes)
    population = meshes.over_members(jax.vmap(one, axes), mesh, axes, 0)
    return lambda run, task: population(run.key, run.state, run.t, task)


def compile_run(
    algorithm: Algorithm,
    run: Run,
    task: Task,
    capacity: int,
    evaluate: Evaluate | None = None,
    task_axes: Any = None,
    on_estimate: Callable[[int], None] = lambda num_bytes: None,
) -> Compiled:
    """Compile the chunk, the evaluation and the check for NaN ahead of time. `run` is given away to the chunk function at every call.

    `on_estimate` hears the bytes that the programs will need (see memory.py) before anything is compiled; it may raise to refuse.
    """
    engine.avoid_hang()
    began = time.perf_counter()
    num = np.int32(0)  # numpy: an argument that every process has
    shardings = (jax.tree.map(lambda x: x.sharding, run), None)
    # LLVM's first level costs the CPU programs 1% of speed and saves a third of the compile time
    options: dict[str, Any] = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    mesh, members = meshes.mesh_of(run), run.key.shape[0]
    copies = 1 if mesh is None else meshes.copies(mesh, members)
    if copies > 1:  # the members of the new state do not lie where the old ones do
        shardings = (shardings[0]._replace(state=None), None)
    with meshes.ambient(mesh):
        program = jax.jit(
            chunk_function(algorithm, capacity, task_axes, mesh), donate_argnums=() if copies > 1 else 0, out_shardings=shardings
        )
        traced = [program.trace(run, task, num)]
        if evaluate is not None:
            traced.append(jax.jit(evaluate_function(evaluate, task_axes, mesh)).trace(run, task))
        on_estimate(copies * (memory.size_of((run, task)) + max(memory.peak(x.jaxpr.jaxpr) for x in traced)))
        programs = [x.lower().compile(compiler_options=options) for x in traced]
        finite = jax.jit(guard.finite).lower(run.state).compile(compiler_options=options)
    seconds = time.perf_counter() - began
    chunk, evaluation = programs[0], programs[1] if evaluate is not None else None
    if mesh is not None and copies > 1:
        chunk, evaluation = _gathering(chunk, evaluation, mesh, members)
    return Compiled(chunk, evaluation, finite, seconds, max(map(_bytes, programs)))


def _gathering(chunk: Any, evaluation: Any, mesh: jax.sharding.Mesh, members: int) -> tuple[Any, Any]:
    """The programs of a run whose members the devices do not divide, followed by what puts the members together."""

    def whole_chunk(run: Run, task: Task, num: Any) -> tuple[Run, Metrics]:
        run, metrics = chunk(run, task, num)
        return run._replace(state=meshes.gathered(run.state, mesh, members)), meshes.gathered(metrics, mesh, members, 1)

    def whole_evaluation(run: Run, task: Task) -> Any:
        return meshes.gathered(evaluation(run, task), mesh, members)

    return whole_chunk, None if evaluation is None else whole_evaluation


def _bytes(program: Any) -> int:
    memory = program.memory_analysis()
    if memory is None:  # a backend that does not tell
        return 0
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes)


def fit(
    algorithm: Algorithm,
    run: Run,
    task: Task,
    num_updates: int,
    *,
    chunk_updates: int,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 1,
    task_axes: Any = None,
    on_estimate: Callable[[int], None] = lambda num_bytes: None,
    on_compiled: Callable[[Compiled], None] = lambda compiled: None,
    on_chunk: Callable[[Chunk], None] = lambda chunk: None,
) -> Run:
    """Drive a population from update run.t to `num_updates`, `chunk_updates` at a time; between chunks evaluate and tell `on_chunk`.

    Args: run: from `start` or a checkpoint; it is consumed. evaluate: (key, state, task) -> pytree, for one member. task_axes: vmap
      axes of the task (None: shared by all members). A fresh run is evaluated before its first update, then after every
      `evaluate_every`th chunk and the last. on_estimate: as in `compile_run`.
    Returns: the run after the last update.
    Raises: UserError when a count is not positive.
    """
    for name, value in (("num_updates", num_updates), ("chunk_updates", chunk_updates), ("evaluate_every", evaluate_every)):
        if value < 1:
            raise UserError(f"{name} = {value}: must be at least 1")
    t = int(run.t)
    compiled = compile_run(algorithm, run, task, min(chunk_updates, num_updates), evaluate, task_axes, on_estimate)
    on_compiled(compiled)

    def evaluation(run: Run) -> Any:
        due = -(-t // chunk_updates) % evaluate_every == 0 or t == num_updates
        return None if compiled.evaluate is None or not due else meshes.fetch(compiled.evaluate(run, task))

    finite = meshes.fetch(compiled.finite(run.state))
    pending = {path: ~good for path, good in finite.items()}  # not finite from the start: a best score of -inf, say
    if t == 0 and compiled.evaluate is not None:
        on_chunk(Chunk(run, 0, {}, evaluation(run), 0.0, {}))
    while t < num_updates:
        began = time.perf_counter()
        num = min(chunk_updates - t % chunk_updates, num_updates - t)
        run, metrics = compiled.chunk(run, task, np.int32(num))
        metrics, finite = meshes.fetch((metrics, compiled.finite(run.state)))
        rows = {name: np.asarray(x)[:num] for name, x in metrics.items()}
        t += num
        seconds = time.perf_counter() - began
        on_chunk(Chunk(run, t, rows, evaluation(run), seconds, {path: good | pending[path] for path, good in finite.items()}))
    return run
