"""Law 6: imports point one way, and importing the package costs nothing that is not used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "causal_jax"
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
RANKS = (  # a module may import modules of its own line and of the lines before; a name stands for itself or for its folder
    {"types"},
    {"fields", "parallel", "noise", "row_blocks"},
    {"spaces", "mdp", "networks", "distributions", "returns", "losses", "optim", "normalize", "statistics"},
    {"replay", "rollout", "planning", "causal", "envs", "datasets", "mimic", "exploration", "episodes", "hybrid_planning", "world_models",
     "off_policy", "hybrid_embedding"},
    {"algorithms"},
    {"hosts", "stderr", "mesh", "engine", "guard", "memory"},
    {"training", "checkpoint", "logs", "history", "plots", "plots_causal", "plots_fcdl", "page", "sweep_file", "sweep_plots"},
    {"settings", "report"},
    {"runs", "evaluation", "policy", "gallery", "gallery_maze", "gallery_fcdl", "gallery_ccrl", "sweep"},
    {"cli"},
    {"__main__"},
)  # fmt: skip
RANK = {name: i for i, names in enumerate(RANKS) for name in names}
ONE_FILE = {"flax.linen": "networks.py", "distrax": "distributions.py", "orbax": "checkpoint.py", "mujoco": "envs/magnetic_mjx.py"}
NEVER_ON_TOP = {"gymnax", "brax", "navix", "mujoco", "matplotlib", "wandb", "seaborn", "gymnasium", "PIL", "optuna", "yaml"}


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all modules imported anywhere in a tree, `from a import b` as a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def on_top(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of functions: what runs when the module is imported."""

    class Drop(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

    return Drop().visit(ast.parse(ast.unparse(tree)))


def parts(name: str) -> list[str]:
    """causal_jax.envs.maze -> [envs, maze]; the package's own names (make, train, ...) are no modules."""
    return name.split(".")[1:]


@pytest.mark.parametrize("file", FILES)
def test_imports_point_one_way(file: str) -> None:
    tree = ast.parse(FILES[file].read_text())
    names = imported(tree)
    me = file.removesuffix(".py").split("/")
    if file != "__init__.py":
        assert me[0] in RANK, f"{file}: give it a line in RANKS"
        ours = [parts(name) for name in names if name.startswith("causal_jax.")]
        later = {p[0] for p in ours if p[0] in RANK and RANK[p[0]] > RANK[me[0]]}
        assert not later, f"{file} imports {later}"
        if me[0] == "algorithms":
            siblings = {p[1] for p in ours if p[0] == "algorithms" and len(p) > 1}
            assert not siblings, f"{file} imports {siblings}: algorithms never import each other"
    for package, home in ONE_FILE.items():
        users = {name for name in names if name == package or name.startswith(package + ".")}
        assert not users or file == home, f"{file} imports {users}: only {home} does"
    assert not {name.split(".")[0] for name in imported(on_top(tree))} & NEVER_ON_TOP


def test_every_rank_is_used() -> None:
    known = {file.removesuffix(".py").split("/")[0] for file in FILES}
    assert {"types", "algorithms", "training", "cli"} <= known
    assert "flax.linen" in imported(ast.parse(FILES["networks.py"].read_text()))


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import causal_jax", "jax gymnax brax matplotlib wandb distrax orbax tensorflow_probability flax optax tyro rich scipy"),
        ("from causal_jax import make, list_envs; make('maze-n6')", "gymnax brax matplotlib wandb distrax orbax tyro scipy.stats"),
        ("from causal_jax import train, fit, evaluate, ppo", "gymnax brax matplotlib wandb orbax tyro"),
        ("import causal_jax.runs, causal_jax.cli", "gymnax brax matplotlib wandb"),
    ],
)
def test_what_an_import_loads(code: str, absent: str) -> None:
    """`import causal_jax` must stay under 1.5 s; a time is no test, its lasting causes are."""
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert not set(absent.split()) & set(result.stdout.split())
