"""Measuring a finished run again: `evaluate_run` plays more episodes than training did; `member_of` is one member of a loaded run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causal_jax import memory, mesh, runs, training
from causal_jax.types import UserError

CHECKPOINTS = ("last", "best")


def member_of(loaded: runs.Loaded, member: int) -> tuple[Any, Any]:
    """(state, task) of one member of a loaded run. Raises: UserError when there is no such member."""
    num_members = loaded.resolved.num_members
    if not 0 <= member < num_members:
        raise UserError(f"member = {member}: must be 0 <= member < {num_members}, the members of {loaded.resolved.folder}")

    def pick(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[member], tree)

    if loaded.task_axes is None:
        return pick(loaded.run.state), loaded.task
    axes, task = loaded.task_axes, loaded.task
    return pick(loaded.run.state), jax.tree.map(
        lambda axis, part: part if axis is None else pick(part), axes, task, is_leaf=lambda axis: axis is None
    )


def check_checkpoint(kind: str) -> str:
    """`kind` itself. Raises: UserError unless it is "last" or "best"."""
    if kind not in CHECKPOINTS:
        raise UserError(f"checkpoint = {kind!r}: must be one of {', '.join(CHECKPOINTS)}")
    return kind


def evaluate_run(
    folder: Path | str, episodes: int = 100, seed: int = 0, checkpoint: str = "last"
) -> dict[str, dict[str, tuple[float, float]]]:
    """Play `episodes` fresh episodes with every member of a run, greedy and sampled, masked and unmasked.

    Args: seed: of the episodes, 0 <= seed < 2^31; the streams are apart from those of training and of its evaluations.
    Returns: {policy: {"return" in task units | "length" in steps | "success" in [0, 1]: (mean over members, standard deviation over
      members of their means)}}. Raises: UserError for a field out of range, and as `runs.load_run`.
    """
    if episodes < 1:
        raise UserError(f"episodes = {episodes}: must be at least 1")
    if not 0 <= seed < 2**31:
        raise UserError(f"seed = {seed}: must be 0 <= seed < 2^31")
    loaded = runs.load_run(Path(folder), check_checkpoint(checkpoint))
    settings = dataclasses.replace(loaded.resolved.settings, eval_episodes=episodes, mesh="")  # not the devices of its training
    run = loaded.resolved._replace(settings=settings)
    evaluate = runs.evaluator(run)
    if evaluate is None:
        raise UserError(f"run = {str(folder)!r}: {settings.algorithm} has no policy to evaluate")
    # Training evaluates at t < 2^31: the upper half of the fold_in numbers is free for the seeds asked for here.
    moment = loaded.run._replace(t=jnp.asarray(2**31 + seed, jnp.uint32))
    devices, _ = runs.placement(run, memory.size_of(moment.state))
    moment, task = mesh.shard_run(moment, devices), mesh.shard_task(loaded.task, loaded.task_axes, devices)
    with mesh.ambient(mesh.mesh_of(moment)):
        program = jax.jit(training.evaluate_function(evaluate, loaded.task_axes, mesh.mesh_of(moment)))
        results = jax.tree.map(lambda x: x[: run.num_members], mesh.fetch(program(moment, task)))
    return {policy: {name: (float(np.mean(x)), float(np.std(x))) for name, x in values.items()} for policy, values in results.items()}
