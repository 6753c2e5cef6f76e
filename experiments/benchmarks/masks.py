"""Cost of the masks of many states with 1,024 actions: from the matrix, looked up where states repeat (causal/mask_cache.py), from points.

`cached` has states of which some were seen before, `scaled` (causal/effect_space.py) only new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from causal_jax.algorithms import effect_model
from causal_jax.causal import effect_space, effects, inverse, mask_cache
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


def scaled(sizes: Sizes) -> dict[str, Any]:
    """CEE's masks of a batch of states never seen before, 1,024 actions, effects as points: milliseconds, by the number of groups."""
    num_actions, hidden, obs_size = 1024, (128, 128), 2
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    numbers = {"epsilon": 0.5, "tau": 0.8, "temperature": 1.0, "woc_threshold": 0.03}
    policy = jnp.full(num_actions, 1.0 / num_actions)
    scaler = inverse.fit_scaler(jnp.eye(obs_size), jnp.ones((obs_size, obs_size)), 6)

    def model(head: str, kinds: int) -> inverse.EffectModel:
        """Random weights; the actions are copies, nearly, of `kinds` that lie far apart."""
        params = inverse.n_network(obs_size, num_actions, hidden, "definition", 6, head).init(jax.random.key(kinds))
        if head == "distance":
            table = 1000.0 * params["actions"][jnp.arange(num_actions) % kinds] + params["actions"]
            params = {**params, "actions": table}
        return inverse.EffectModel(params, scaler, jnp.float32(1e-4), policy)

    def timed(compute: Callable[[jax.Array], jax.Array], one_by_one: bool = False) -> Callable[[], float]:
        run = jax.jit(lambda obs: jax.lax.map(compute, obs, batch_size=CHUNK) if one_by_one else jax.vmap(compute)(obs))

        def measure() -> float:
            obs = jax.block_until_ready(jax.random.uniform(next(keys), (sizes.mask_batch, obs_size)))
            began = time.perf_counter()
            jax.block_until_ready(run(obs))
            return 1000.0 * (time.perf_counter() - began)

        measure()
        return measure

    def by_points(kinds: int) -> Callable[[], float]:
        effect = model("distance", kinds)
        return timed(lambda obs: effect_space.select("cee", jax.random.key(0), inverse.points(effect, obs), policy, **numbers))

    matrix = model("softmax", num_actions)
    contestants = {
        "matrix": timed(lambda obs: effects.select("cee", jax.random.key(0), inverse.n_matrix(matrix, obs)), one_by_one=True),
        **{f"points, {kinds} groups": by_points(kinds) for kinds in (7, 16, 32, 128, 512)},
    }
    rows = [Row(label, "ms", values) for label, values in alternate(contestants, sizes.rounds).items()]
    ratios = [Ratio(f"{label} / 20 ms", label, 20.0, "<= 1") for label in contestants]
    return {**summary(rows, ratios), "actions": num_actions, "batch": sizes.mask_batch}
