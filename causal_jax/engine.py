"""The engine's known trap: jax 0.10 on the CPU can hang for ever in vmapped training programs; an XLA flag avoids it.

Seen on 0.10.0 to 0.10.2: a vmapped PPO with minibatch permutations compiles and then never returns; 0.9.2, 0.11 and 0.12 do. The
package's requirements exclude 0.10; this is for an environment that has it all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping

import jax

from causal_jax.types import UserError

FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def started() -> bool:
    """Whether jax has started its backends: from then on XLA_FLAGS are not read any more."""
    before = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", max(before, 0) + 1)  # what jax refuses from then on
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False


def in_danger(version: str, environ: MutableMapping[str, str]) -> bool:
    """Whether this jax can hang here: version 0.10.*, the CPU not ruled out by JAX_PLATFORMS, the flag not set."""
    platforms = environ.get("JAX_PLATFORMS", "")
    on_cpu = not platforms or "cpu" in platforms.split(",")
    return version.startswith("0.10.") and on_cpu and FLAG not in environ.get("XLA_FLAGS", "")


def avoid_hang(
    say: Callable[[str], None] = print,
    *,
    version: str = jax.__version__,
    environ: MutableMapping[str, str] = os.environ,
    has_started: Callable[[], bool] = started,
) -> None:
    """Set the flag where it is needed and not too late, and say so. Raises: UserError, one line, when jax has started without it."""
    if not in_danger(version, environ):
        return
    if has_started():
        raise UserError(f"jax = {version}: can hang on the CPU; install another version, or start with XLA_FLAGS={FLAG}=false")
    environ["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} {FLAG}=false".strip()
    say(f"jax {version} can hang on the CPU: set XLA_FLAGS={FLAG}=false")
