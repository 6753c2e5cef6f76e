"""Laws 3 and 4 and portability: no key is used twice, nothing talks to the host below the host loop, every step lowers for every device."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from causal_jax.algorithms import ALGORITHMS

TO_THE_HOST = ("callback", "infeed", "outfeed", "debug", "io_effect", "host")


_traced: dict[str, dict[str, Any]] = {}


def traced(case: Any) -> dict[str, Any]:
    """init, step and act of one member, traced with the key check on; nothing is compiled or run."""
    if case.name not in _traced:
        _traced[case.name] = trace(case)
    return _traced[case.name]


def trace(case: Any) -> dict[str, Any]:
    key, hyper, task = case.member(0)
    state = jax.eval_shape(case.algorithm.init, key, hyper, task)
    obs = jax.eval_shape(case.env.reset_env, key, task.env_params)[0]
    with jax.debug_key_reuse(True):
        return {
            "init": jax.jit(case.algorithm.init).trace(key, hyper, task),
            "step": jax.jit(case.algorithm.step).trace(key, state, hyper, task),
            "act": jax.jit(case.algorithm.act, static_argnums=3).trace(key, state, obs, False),
            "greedy": jax.jit(case.algorithm.act, static_argnums=3).trace(key, state, obs, True),
        }


def primitives(jaxpr: Any) -> Iterator[str]:
    """Names of all primitives of a jaxpr, those inside loops and calls too."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)


def to_the_host(jaxpr: Any) -> set[str]:
    return {name for name in primitives(jaxpr) if any(word in name for word in TO_THE_HOST)}


def test_no_key_is_used_twice(case: Any) -> None:
    traced(case)


def test_nothing_talks_to_the_host(case: Any) -> None:
    for name, program in traced(case).items():
        found = set(primitives(program.jaxpr.jaxpr))
        assert not to_the_host(program.jaxpr.jaxpr), name
        assert not program.jaxpr.effects, name
        assert name != "step" or {"scan", "random_split", "dot_general"} <= found  # the walk does see what is inside


def test_the_checks_can_fail() -> None:
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(lambda key: (jax.random.normal(key), jax.random.normal(key))).trace(jax.random.key(0))

    def noisy(x: jax.Array) -> Any:
        def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            jax.debug.print("{}", x)
            return jax.pure_callback(lambda y: y, x, x), None

        return jax.lax.scan(body, x, length=2)[0]

    assert {"pure_callback"} < to_the_host(jax.jit(noisy).trace(jnp.ones(())).jaxpr.jaxpr)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_step_lowers_for_cpu_cuda_and_tpu(law: ModuleType, name: str) -> None:
    case = law.build_case(name)
    key, hyper, task = case.member(0)
    state = jax.eval_shape(case.algorithm.init, key, hyper, task)
    exported = jax.export.export(jax.jit(case.algorithm.step), platforms=["cpu", "cuda", "tpu"])(key, state, hyper, task)
    assert exported.platforms == ("cpu", "cuda", "tpu")
