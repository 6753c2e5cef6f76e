"""Law 7: every public function, class and module says what it is; and what it says of shapes holds under jaxtyping's runtime check."""

import ast
import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from beartype import beartype
from jaxtyping import jaxtyped

from causal_jax import losses, returns
from causal_jax.causal import codebook, context_tree, effects, graphs, independence, tables

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


_t, _flags = jnp.linspace(0.0, 1.0, 5), jnp.arange(5) == 2
_a, _labels, _matrix, _one = jnp.linspace(0.1, 1.0, 3), jnp.asarray([0, 0, 1]), jnp.eye(3), jnp.ones(())
_free, _logits = graphs.free_edges(3), jnp.zeros((2, 3, 4))
_edges, _h = _logits > 0, jnp.ones((4, 2))
_book = codebook.Codebook(_h[:3], _a, _h[:3])
_weight, _bias, _layer = jnp.ones((3, 2, 5)), jnp.ones((3, 5)), jnp.ones((4, 4, 5, 6))
_tree, _inputs = context_tree.init(jax.random.key(0), 3, 4, 2), jnp.ones((4, 3))
_kept, _dynamics, _uniform = _labels == 0, jnp.full((3, 4), 0.25), jnp.full(3, 1 / 3)
CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (returns.gae, (_t, _t, _t, _flags, _flags, 0.9, 0.5)),
    (returns.lambda_return, (_t, _t, _flags, _flags, 0.9, 0.5)),
    (returns.discounted_return, (_t, _flags, 0.9)),
    (losses.ppo_clip, (_one, _one, _one, 0.2)),
    (losses.value_loss, (_t, _t)),
    (losses.value_clipped, (_t, _t, _t, 0.2)),
    (losses.cross_entropy, (_a, _labels[2])),
    (losses.huber, (_t, _t, _one)),
    *((effects.similarity, (_matrix, mode)) for mode in effects.MODES),
    (effects.group, (_matrix, 0.5)),
    (effects.shares, (_a, _labels, 1.0)),
    (effects.survivors, (_a, _labels, 0.8)),
    *((effects.select, (name, jax.random.key(0), _matrix)) for name in effects.SELECTIONS),
    *((effects.of_groups, (name, jax.random.key(0), _a, _labels, 0.8)) for name in ("cee", "npm", "npm-random")),
    (effects.fallback, (_kept,)),
    (effects.same_successor, (jnp.ones((3, 2)), _kept)),
    (effects.oracle_n_matrix, (jnp.ones((3, 2)), _kept)),
    (effects.unique, (jnp.ones((3, 2)),)),
    (effects.exact_n, (_dynamics, _uniform)),
    (effects.exact_n, (_dynamics, _uniform, 1e-8)),
    (effects.kl_matrix, (_dynamics,)),
    (effects.n_target, (_a, _uniform, 1e-8)),
    (effects.n_loss, (_a, _a)),
    (effects.idm_loss, (_a, _labels[2])),
    (effects.agreement, (_labels, _labels)),
    (codebook.init, (jax.random.key(0), 3, 2)),
    (codebook.nearest, (_h, _h[0])),
    (codebook.straight_through, (_h[0], _h[1])),
    (codebook.commitment_loss, (_h[0], _h[1])),
    (codebook.codebook_loss, (_h[0], _h[1])),
    (codebook.ema_update, (_book, _h, jnp.asarray([0, 1, 2, 2]))),
    (codebook.kmeans_update, (_book, _h, jnp.asarray([0, 1, 2, 2]))),
    (context_tree.init, (jax.random.key(0), 3, 4, 2)),
    (context_tree.descend, (_tree, _inputs)),
    (context_tree.gains, (_tree,)),
    (context_tree.with_codes, (_tree,)),
    (context_tree.update, (_tree, _inputs, _h)),
    (codebook.usage, (jnp.asarray([[0, 1], [2, 2]]), 3)),
    (graphs.free_edges, (3, 1, True, True)),
    (graphs.place, (jnp.zeros((2, 3)), _free)),
    (graphs.spread, (jnp.zeros((2, 3)), _free)),
    (graphs.logistic_noise, (jax.random.key(0), (2, 3))),
    (graphs.sample_edges, (_logits, _logits)),
    (graphs.likely_edges, (_logits,)),
    (graphs.choose, (_logits, _logits)),
    (graphs.choose, (_logits, None)),
    *((graphs.sparsity, (_logits, _logits, how)) for how in graphs.SPARSITIES),
    (graphs.with_self, (_edges[..., :3],)),
    (graphs.shd, (_edges, _edges, _free)),
    (graphs.f1, (_edges, _edges)),
    (independence.chi_squared, (jnp.ones((2, 3, 4)),)),
    (independence.partial_correlations, (jnp.eye(5), _one, 2)),
    (tables.tabulate, (_weight, _bias, _weight[:1], _bias[:1], _layer)),
]


def public(module: Any) -> set[str]:
    """The names of a module's own public functions."""
    return {name for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__ and name[0] != "_"}


@pytest.mark.parametrize(
    "module", [returns, losses, effects, codebook, context_tree, graphs, independence, tables], ids=lambda module: module.__name__
)
def test_every_public_function_of_the_maths_is_checked(module: Any) -> None:
    """Its arrays are annotated with their axes (no bare jax.Array), and CALLS calls it."""
    called = {f.__name__ for f, _ in CALLS if f.__module__ == module.__name__}
    assert public(module) == called
    bare = {name for name in called if "jax.Array" in vars(module)[name].__annotations__.values()}
    assert not bare


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
        jaxtyped(typechecker=beartype)(effects.group)(jnp.ones((3, 2)), 0.5)
