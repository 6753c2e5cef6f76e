"""Law 7: every public function, class and module says what it is; and what it says of shapes holds under jaxtyping's runtime check."""

import ast
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from beartype import beartype
from jaxtyping import Array, Bool, Float, Int, jaxtyped

from causal_jax import losses, returns
from causal_jax.causal import effects

PACKAGE = Path(__file__).parents[2] / "causal_jax"
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py")) if path.read_text().strip()}
# In the probes `first`, `advance`, ... are described once, in the class that introduces them.
INHERITED = {"envs/probes.py": {"first", "advance", "solution", "action_space"}}


def undocumented(tree: ast.Module, inherited: set[str]) -> list[str]:
    """Public functions, classes and methods of a module (none inside functions) without a docstring."""
    missing = [] if ast.get_docstring(tree) else ["the module"]

    def visit(body: list[ast.stmt], prefix: str, is_protocol: bool) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            one_liner = is_protocol and isinstance(node, ast.FunctionDef)
            if not ast.get_docstring(node) and not one_liner and not (prefix and node.name in inherited):
                missing.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.", any(ast.unparse(base) == "Protocol" for base in node.bases))

    visit(tree.body, "", False)
    return missing


@pytest.mark.parametrize("file", FILES)
def test_everything_public_has_a_docstring(file: str) -> None:
    assert not undocumented(ast.parse(FILES[file].read_text()), INHERITED.get(file, set()))


def test_the_walk_can_fail() -> None:
    assert undocumented(ast.parse("class A:\n  '''x'''\n  def f(self): pass\n  def _g(self): pass"), set()) == ["the module", "A.f"]


T = Float[Array, "T"]
Flags = Bool[Array, "T"]
Scalar = Float[Array, ""] | float
Square = Float[Array, "A A"]


def gae(reward: T, value: T, next_value: T, terminated: Flags, done: Flags, gamma: Scalar, lam: Scalar) -> T:
    return returns.gae(reward, value, next_value, terminated, done, gamma, lam)


def lambda_return(reward: T, next_value: T, terminated: Flags, done: Flags, gamma: Scalar, lam: Scalar) -> T:
    return returns.lambda_return(reward, next_value, terminated, done, gamma, lam)


def discounted_return(reward: T, done: Flags, gamma: Scalar) -> T:
    return returns.discounted_return(reward, done, gamma)


def similarity(n_matrix: Square) -> Square:
    return effects.similarity(n_matrix)


def group(similarity: Square, epsilon: Scalar) -> Int[Array, "A"]:
    return effects.group(similarity, epsilon)


def shares(effect: Float[Array, "A"], labels: Int[Array, "A"], temperature: Scalar) -> Float[Array, "A"]:
    return effects.shares(effect, labels, temperature)


def survivors(effect: Float[Array, "A"], labels: Int[Array, "A"], tau: Scalar) -> Bool[Array, "A"]:
    return effects.survivors(effect, labels, tau)


def select(selection: str, key: Any, n_matrix: Square) -> Bool[Array, "#A"]:
    return effects.select(selection, key, n_matrix)


def fallback(kept: Bool[Array, "A"]) -> tuple[Bool[Array, "A"], Bool[Array, ""]]:
    return effects.fallback(kept)


def oracle_n_matrix(next_obs: Float[Array, "A D"], terminated: Bool[Array, "A"]) -> Square:
    return effects.oracle_n_matrix(next_obs, terminated)


def exact_n(transition: Float[Array, "A S"], policy: Float[Array, "A"]) -> Square:
    return effects.exact_n(transition, policy)


def n_target(logits: Float[Array, "A"], policy: Float[Array, "A"], floor: Scalar) -> Float[Array, "A"]:
    return effects.n_target(logits, policy, floor)


def ppo_clip(log_prob: Scalar, old_log_prob: Scalar, advantage: Scalar, clip: Scalar) -> Float[Array, ""]:
    return losses.ppo_clip(log_prob, old_log_prob, advantage, clip)


def idm_loss(logits: Float[Array, "A"], action: Int[Array, ""]) -> Float[Array, ""]:
    return effects.idm_loss(logits, action)


_t, _flags = jnp.linspace(0.0, 1.0, 5), jnp.arange(5) == 2
_a, _labels, _matrix, _one = jnp.linspace(0.1, 1.0, 3), jnp.asarray([0, 0, 1]), jnp.eye(3), jnp.ones(())
CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (gae, (_t, _t, _t, _flags, _flags, 0.9, 0.5)),
    (lambda_return, (_t, _t, _flags, _flags, 0.9, 0.5)),
    (discounted_return, (_t, _flags, 0.9)),
    (similarity, (_matrix,)),
    (group, (_matrix, 0.5)),
    (shares, (_a, _labels, 1.0)),
    (survivors, (_a, _labels, 0.8)),
    *((select, (name, jax.random.key(0), _matrix)) for name in effects.SELECTIONS),
    (fallback, (_labels == 0,)),
    (oracle_n_matrix, (jnp.ones((3, 2)), _labels == 0)),
    (exact_n, (jnp.full((3, 4), 0.25), jnp.full(3, 1 / 3))),
    (n_target, (_a, jnp.full(3, 1 / 3), 1e-8)),
    (ppo_clip, (_one, _one, _one, 0.2)),
    (idm_loss, (_a, _labels[2])),
]


@pytest.mark.parametrize(("function", "args"), CALLS, ids=[f"{f.__name__}-{i}" for i, (f, _) in enumerate(CALLS)])
def test_shapes_and_types_are_what_the_docstrings_say(function: Any, args: tuple[Any, ...]) -> None:
    """For one trajectory or state, and traced: tracers carry the same shapes and types."""
    checked = jaxtyped(typechecker=beartype)(function)
    checked(*args)
    arrays = [i for i, x in enumerate(args) if isinstance(x, jax.Array)]

    def call(*some: jax.Array) -> Any:
        full = list(args)
        for i, x in zip(arrays, some, strict=True):
            full[i] = x
        return checked(*full)

    jax.eval_shape(call, *(args[i] for i in arrays))


def test_the_shape_check_can_fail() -> None:
    with pytest.raises(Exception, match=r"jaxtyping|type"):
        jaxtyped(typechecker=beartype)(group)(jnp.ones((3, 2)), 0.5)
