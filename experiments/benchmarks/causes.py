"""ANM-MM: seconds of a fit of 8 restarts after compilation, on the toy of its authors and at the size CCRL refits with.

The toy (Hu et al. 2018): x ~ U(0, 1), y = exp(-theta x) + N(0, 0.05^2), two mechanisms with theta = 1.05 and 3.05 of 50 points each. The
authors' code was timed at 21 to 183 s for one start of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.causal import noise_models
from experiments.benchmarks.measure import Ratio, Row, alternate, summary, with_cpu_time
from experiments.benchmarks.speed import Sizes


def toy(key: jax.Array, num: int = 100) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x [num, 1], y [num, 1], mechanism int [num]) of the authors' two mechanisms. key: consumed."""
    key_x, key_noise = jax.random.split(key)
    mechanism = jnp.arange(num) % 2
    x = jax.random.uniform(key_x, (num, 1))
    y = jnp.exp(-(1.05 + 2.0 * mechanism[:, None]) * x) + 0.05 * jax.random.normal(key_noise, (num, 1))
    return x, y, mechanism


def agents(key: jax.Array, num: int, samples: int) -> tuple[jax.Array, jax.Array]:
    """(x [num, samples, 2], y [num, samples, 1]): s' = xi s + a + noise with xi = -0.8, 0.1 or 0.9. key: consumed."""
    key_x, key_noise = jax.random.split(key)
    x = jax.random.uniform(key_x, (num, samples, 2), minval=jnp.asarray([-2.0, -1.0]), maxval=jnp.asarray([2.0, 1.0]))
    xi = jnp.asarray([-0.8, 0.1, 0.9])[jnp.arange(num) % 3]
    y = xi[:, None] * x[..., 0] + x[..., 1] + 0.1 * jax.random.normal(key_noise, (num, samples))
    return x, y[..., None]


def fits(sizes: Sizes) -> dict[str, Any]:
    """ANM-MM, 8 random starts and one from residuals, 300 steps: 100 points of the toy, 320 of 20 agents; after compilation, and that."""
    x, y, _ = toy(jax.random.key(0), sizes.toy_points)
    data = {
        f"{len(x)} points, a theta per sample": (x[:, None], y[:, None], noise_models.Spec("sample_free"), 10.0),
        f"{len(x)} points, theta a network": (x[:, None], y[:, None], noise_models.Spec("sample_mlp"), 10.0),
        f"{20 * sizes.agent_points} points, a theta per agent": (
            *agents(jax.random.key(1), 20, sizes.agent_points), noise_models.Spec("agent"), 1.0
        ),
    }  # fmt: skip
    compiling: dict[str, list[float]] = {}
    contestants: dict[str, Callable[[], float]] = {}
    for label, (x, y, spec, lam) in data.items():
        began = time.perf_counter()
        program = jax.jit(lambda key, x, y, spec=spec, lam=lam: noise_models.fit(key, x, y, lam, spec)).lower(jax.random.key(0), x, y)
        compiled = program.compile()
        compiling[label] = [time.perf_counter() - began]

        def measure(compiled: Any = compiled, x: jax.Array = x, y: jax.Array = y) -> float:
            began = time.perf_counter()
            jax.block_until_ready(compiled(jax.random.key(1), x, y))
            return time.perf_counter() - began

        measure()
        contestants[label] = measure
    contestants, cpu = with_cpu_time(contestants)
    rows = [Row(label, "s", values) for label, values in alternate(contestants, sizes.rounds).items()]
    rows += [Row(f"{label}, CPU time", "s", values) for label, values in cpu.items()]
    rows += [Row(f"compile: {label}", "s", values) for label, values in compiling.items()]
    targets = zip(data, (2.0, 2.0, 60.0), strict=True)
    return summary(rows, [Ratio(f"{label} / {target:g} s", label, target, "<= 1") for label, target in targets])
