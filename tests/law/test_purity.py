"""Laws 3 and 4 and portability: no key is used twice, nothing talks to the host below the host loop, every step lowers for every device."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from causal_jax.algorithms import ALGORITHMS

TO_THE_HOST = ("callback", "infeed", "outfeed", "debug", "io_effect", "host")


def trace(case: Any) -> dict[str, Any]:
    """init, step and act of one member, traced; nothing is compiled or run."""
    key, hyper, task = case.member(0)
    state = jax.eval_shape(case.algorithm.init, key, hyper, task)
    obs = jax.eval_shape(case.env.reset_env, key, task.env_params)[0]
    functions = {
        "init": (lambda *args: case.algorithm.init(*args), (key, hyper, task)),
        "step": (lambda *args: case.algorithm.step(*args), (key, state, hyper, task)),
        "sampled": (lambda *args: case.algorithm.act(*args, False), (key, state, obs)),
        "greedy": (lambda *args: case.algorithm.act(*args, True), (key, state, obs)),
    }
    return {name: jax.jit(function).trace(*args) for name, (function, args) in functions.items()}


_vmap = jax.vmap


def loop(function: Any, in_axes: Any = 0, out_axes: int = 0) -> Any:
    """jax.vmap, as a Python loop where keys are among the arguments.

    Batched, the key check finds fault with keys in a scan that are used once; unbatched it does not. And a key that every turn gets
    whole (in_axes None) is then seen to be used several times.
    """

    def mapped(*args: Any) -> Any:
        flat, tree = jax.tree.flatten(args)
        if not any(jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) for x in flat):
            return _vmap(function, in_axes, out_axes)(*args)
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        assert set(axes) <= {0, None}
        assert out_axes == 0
        turns = [(list(x) if axis == 0 else None) for arg, axis in zip(args, axes, strict=True) for x in jax.tree.leaves(arg)]
        num = next(len(turn) for turn in turns if turn is not None)
        each = [[x if turn is None else turn[i] for x, turn in zip(flat, turns, strict=True)] for i in range(num)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[function(*jax.tree.unflatten(tree, leaves)) for leaves in each])

    return mapped


def test_no_key_is_used_twice(law: ModuleType, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = law.build_case(case.name, smaller=True)
    monkeypatch.setattr(jax, "vmap", loop)
    with jax.debug_key_reuse(True):
        trace(small)


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


def test_nothing_talks_to_the_host(case: Any) -> None:
    for name, program in trace(case).items():
        found = set(primitives(program.jaxpr.jaxpr))
        assert not to_the_host(program.jaxpr.jaxpr), name
        assert not program.jaxpr.effects, name
        assert name != "step" or {"scan", "random_split", "dot_general"} <= found  # the walk does see what is inside


def test_the_checks_can_fail() -> None:
    for twice in (
        lambda key: (jax.random.normal(key), jax.random.normal(key)),
        lambda key: loop(lambda key, x: jax.random.normal(key) + x, (None, 0))(key, jnp.ones(2)),
    ):
        with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
            jax.jit(twice).trace(jax.random.key(0))

    def noisy(x: jax.Array) -> Any:
        def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            jax.debug.print("{}", x)
            return jax.pure_callback(lambda y: y, x, x), None

        return jax.lax.scan(body, x, length=2)[0]

    assert {"pure_callback"} < to_the_host(jax.jit(noisy).trace(jnp.ones(())).jaxpr.jaxpr)


@pytest.mark.parametrize("case", ALGORITHMS, indirect=True)
def test_step_lowers_for_cpu_cuda_and_tpu(case: Any) -> None:
    key, hyper, task = case.member(0)
    state = jax.eval_shape(case.algorithm.init, key, hyper, task)
    exported = jax.export.export(jax.jit(case.algorithm.step), platforms=["cpu", "cuda", "tpu"])(key, state, hyper, task)
    assert exported.platforms == ("cpu", "cuda", "tpu")
