"""One run on several processes, on jax's distributed runtime: starting it, doing a thing once for all, and ending it.

Every process runs the same program and holds its own part of the arrays. Process 0 alone writes run.json, results.jsonl and the console;
checkpoints are written and read by all, so the run folder must be on a file system that all of them see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from causal_jax import stderr
from causal_jax.fields import option, validate
from causal_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the processes of a run find each other."""

    distributed: bool = False
    """Train on several processes; SLURM, MPI, Kubernetes and TPU pods are detected."""
    coordinator: str = ""
    """HOST:PORT of process 0, where no cluster is detected."""
    num_processes: int = option(0, low=0)
    """Number of processes; 0: detected."""
    process_id: int = option(-1, low=-1)
    """Number of this process, from 0; -1: detected."""
    heartbeat: int = option(60, low=10)
    """Seconds of silence after which a process counts as dead and the others stop."""


def start(hosts: Hosts) -> None:
    """Join the processes of a run, before jax starts. Raises: UserError for options that do not fit together, or no cluster."""
    validate(hosts)
    if not hosts.distributed:
        for name, unset in (("coordinator", ""), ("num_processes", 0), ("process_id", -1)):
            if getattr(hosts, name) != unset:
                raise UserError(f"{name} = {getattr(hosts, name)}: needs --distributed")
        return
    if hosts.coordinator and not re.fullmatch(r"\S+:\d+", hosts.coordinator):
        raise UserError(f"coordinator = {hosts.coordinator!r}: must be HOST:PORT")
    if hosts.num_processes and hosts.process_id >= hosts.num_processes:
        raise UserError(f"process_id = {hosts.process_id}: must be less than num_processes = {hosts.num_processes}")
    stderr.through_filter()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with contextlib.suppress(AttributeError):  # it takes SIGTERM for itself
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            hosts.coordinator or None,
            hosts.num_processes or None,
            hosts.process_id if hosts.process_id >= 0 else None,
            heartbeat_timeout_seconds=hosts.heartbeat,
            shutdown_timeout_seconds=hosts.heartbeat,
        )
    except ValueError as error:
        raise UserError(
            f"distributed: no cluster was detected ({error}); give --coordinator HOST:PORT --num-processes N --process-id I"
        ) from None


def active() -> bool:
    """Whether this process is one of several that train together."""
    return jax.distributed.is_initialized()


def first() -> bool:
    """Whether this is the process that writes for all."""
    return not active() or jax.process_index() == 0


def once(do: Callable[[], Any]) -> Any:
    """Process 0 does it, all wait and get its result (JSON), or raise UserError where it raised one or an OSError."""
    if jax.process_count() == 1:
        return do()
    answer = {}
    if first():
        try:
            answer = {"result": do()}
        except (UserError, OSError) as error:
            answer = {"error": str(error)}
    answer = json.loads(_broadcast(json.dumps(answer).encode()))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["result"]


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def _broadcast(message: bytes) -> bytes:
    from jax.experimental import multihost_utils

    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(length, np.uint8)
    if first():
        padded[:] = np.frombuffer(message, np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8))


def peer_lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone, in the words of jax's runtime and its collectives."""
    words = r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Bb]arrier|[Hh]eartbeat|[Cc]oordination|Connection (closed|reset)"
    return active() and re.search(words, str(error)) is not None


def leave(code: int) -> None:
    """End a distributed run: with the others when all is well, else at once, so that they notice. Nothing for a single process."""
    if not active():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (0, 2, 3, 143):  # bad input, divergence, SIGTERM: what all have agreed on
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
    if code:
        os._exit(code)  # what jax does at exit would wait for those that are gone
