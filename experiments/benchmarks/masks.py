"""What the masks of many states cost with 1,024 actions: computed one by one, and looked up where states repeat (causal/mask_cache.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.algorithms import effect_model
from causal_jax.causal import effects, inverse, mask_cache
from causal_jax.envs import make
from experiments.benchmarks.measure import Ratio, Row, alternate, summary
from experiments.benchmarks.speed import Sizes

CHUNK = 8


def cached(sizes: Sizes) -> dict[str, Any]:
    """CEE's masks of a batch on maze-n10, N-network with random weights: milliseconds, by how many of the states were seen before."""
    world, params = make("maze-n10")
    module = effect_model.build(world, params)
    model = jax.jit(lambda key: effect_model.model(module.init(key, effect_model.Hyper(), effect_model.Task(params))))(jax.random.key(0))
    num_actions = world.action_space(params).n
    known = jax.random.uniform(jax.random.key(1), (sizes.mask_batch, 2))
    keys = iter(jax.random.split(jax.random.key(2), 1000))

    def compute(obs: jax.Array) -> jax.Array:
        return effects.select("cee", jax.random.key(0), inverse.n_matrix(model, obs))

    direct = jax.jit(lambda obs: jax.lax.map(compute, obs, batch_size=CHUNK))
    through = jax.jit(lambda cache, obs: mask_cache.masks(cache, obs, compute, CHUNK)[:2], donate_argnums=0)

    def timed(run: Callable[[jax.Array], Any], every: int) -> Callable[[], float]:
        """Milliseconds of a batch in which one state in `every` was never seen before."""

        def measure() -> float:
            fresh = jax.random.uniform(next(keys), known.shape)
            obs = jax.block_until_ready(jnp.where((jnp.arange(len(known)) % every == every - 1)[:, None], fresh, known))
            began = time.perf_counter()
            jax.block_until_ready(run(obs))
            return 1000.0 * (time.perf_counter() - began)

        measure()
        return measure

    def cache() -> Callable[[jax.Array], jax.Array]:
        held = through(mask_cache.empty(65_536, num_actions), known)[0]

        def run(obs: jax.Array) -> jax.Array:
            nonlocal held
            held, kept = through(held, obs)  # the cache is donated: written in place
            return kept

        return run

    contestants = {
        "direct": timed(direct, 1),
        "cache, none known": timed(cache(), 1),
        "cache, 31 of 32 known": timed(cache(), 32),
        "cache, all known": timed(cache(), len(known) + 1),
    }
    rows = [Row(label, "ms", values) for label, values in alternate(contestants, sizes.rounds).items()]
    ratios = [Ratio(f"{label} / 20 ms", label, 20.0, "<= 1") for label in contestants]
    return {**summary(rows, ratios), "actions": num_actions, "batch": sizes.mask_batch}
