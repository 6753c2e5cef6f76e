"""The cases that the laws are tested on: every entry of ALGORITHMS and every mask of ppo, each as small as it can be.

A case's programs are compiled once. `case` has session scope, so all tests of one case follow each other.
"""

import dataclasses
import functools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import training
from causal_jax.algorithms import ALGORITHMS, algorithm_module
from causal_jax.algorithms.ppo import SELECTIONS
from causal_jax.causal.effects import MODES
from causal_jax.envs import make
from causal_jax.types import Algorithm

NUM_UPDATES, SEEDS = 6, (5, 11)
TINY = {
    "ppo": {"num_envs": 2, "num_steps": 4, "num_epochs": 2, "num_minibatches": 2, "hidden": (8,)},
    "template": {"num_envs": 2, "num_steps": 4, "hidden": (8,)},
    "effect_model": {
        "num_envs": 2, "num_steps": 4, "warmup_steps": 4, "capacity": 32, "batch_size": 8, "num_updates": 2, "inverse_hidden": (8, 8),
        "n_hidden": (8, 8), "num_frequencies": 1,
    },
    "fcdl": {
        "num_steps": 3, "init_steps": 3, "capacity": 20, "batch_size": 16, "horizon": 2, "num_candidates": 4, "num_elites": 2,
        "plan_iterations": 2, "width": 4, "num_hidden": 1, "hidden": (4,), "num_codes": 3, "code_dim": 2,
    },
    "factored_q": {
        "num_envs": 2, "num_steps": 2, "init_steps": 4, "capacity": 20, "batch_size": 4, "num_updates": 2, "hidden": (8,),
        "target_every": 2, "model_hidden": (8,),
    },
    "offline_q": {"num_updates": 2, "episodes": 4, "max_steps": 4, "batch_size": 4, "hidden": (8,), "model_hidden": (8,)},
    "dlpa": {
        "width": 4, "horizon": 2, "num_samples": 8, "num_elites": 4, "plan_iterations": 2, "random_episodes": 2, "episode_steps": 3,
        "capacity": 4, "num_updates": 2, "batch_size": 4,
    },
    "hybrid_offpolicy": {"hidden": (8,), "capacity": 12, "batch_size": 4, "random_steps": 4, "num_steps": 2},
    "hyar": {
        "hidden": (8,), "capacity": 12, "batch_size": 4, "random_steps": 4, "num_steps": 2, "k_size": 2, "z_size": 2, "width": 8,
        "pretrain_updates": 2, "retrain_updates": 1, "embed_batch": 4, "bound_rows": 8,
    },
    "concurrent_ddpg": {
        "num_learners": 3, "num_steps": 3, "warmup_steps": 4, "samples": 3, "batch_size": 4, "capacity": 16, "hidden": (4,), "restarts": 2,
        "fit_steps": 2, "num_components": 2,
    },
}  # fmt: skip
SMALLER = {  # for a loop in the place of vmap; two of what gets keys, so that a shared key shows
    "ppo": {"num_steps": 1, "num_epochs": 2, "num_minibatches": 1},
    "template": {"num_steps": 1},
    "effect_model": {"num_steps": 1, "warmup_steps": 1, "batch_size": 2},
    "fcdl": {"num_steps": 2, "init_steps": 1},
    "factored_q": {"num_steps": 1, "init_steps": 2, "batch_size": 2},
    "offline_q": {"batch_size": 2},
    "dlpa": {"num_samples": 4, "num_elites": 2, "batch_size": 2},
    "hybrid_offpolicy": {"random_steps": 2, "batch_size": 2},
    "hyar": {"random_steps": 2, "batch_size": 2, "embed_batch": 2, "bound_rows": 2},
    "concurrent_ddpg": {"num_learners": 2, "num_steps": 2, "warmup_steps": 2, "samples": 2, "batch_size": 2},
}
ENVS: dict[str, tuple[str, dict[str, Any]]] = {  # others play the maze
    "fcdl": ("chemical-full-fork", {"num_objects": 3, "num_colours": 2}),
    "factored_q": ("point-mass-3", {}),
    "offline_q": ("sepsis-sim", {}),
    **dict.fromkeys(("dlpa", "hybrid_offpolicy", "hyar"), ("probe-hybrid", {})),
    "concurrent_ddpg": ("autoregressive-hard", {}),
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> entry of ALGORITHMS, Config fields
    **{name: (name, {}) for name in ALGORITHMS},
    **{
        f"{selection}-oracle-{mode}": ("ppo", {"selection": selection, "n_values": "oracle", "mode": mode})
        for selection in SELECTIONS
        for mode in MODES
        if selection != "all"
    },
    "ppo-authors": ("ppo", {"mode": "authors"}),
    "cee-authors": ("cee", {"mode": "authors"}),
    "cee-online": (
        "cee",
        {
            "n_values": "online",
            "tau_rule": "learned",
            "effect_updates": 2,
            "effect_batch": 8,
            "effect_warmup": 4,
            "effect_capacity": 32,
            "effect_hidden": (8, 8),
            "effect_frequencies": 1,
        },
    ),
    "ppo-normalized": ("ppo", {"normalize_obs": True}),
    "fcdl-offline": ("fcdl", {"schedule": "offline", "sparsity": "target", "ema": False, "label": "yes"}),
    "fcdl-kmeans": ("fcdl", {"schedule": "offline", "contexts": "kmeans"}),
    "fcdl-tree": ("fcdl", {"schedule": "offline", "contexts": "tree", "num_codes": 4}),
    "ccrl-every": ("ccrl", {"refresh": "every"}),
    "effects-authors": ("effects", {"mode": "authors", "n_per_inverse": 2, "n_warmup": 2}),
}

# Early on a whole batch has one code. Its decoder is normalised over the batch: its gradient is rounding, of which Adam makes steps.
ROUNDING_DECIDES = ("fcdl", "fcdl-offline", "fcdl-kmeans", "fcdl-tree")

SLOW = (
    "ncd",
    "cdl",
    "modular",
    "mlp",
    "gnn",
    "oracle-graph",
    "oracle-local",
    "nps",
    "grader",
    "fcdl-kmeans",
    "fcdl-tree",  # fcdl with another network: make test-slow
    "paddpg",
    "hhqn",
    "hyar-ddpg",  # variants of pdqn and hyar-td3
    "dqn",
    "decqn",
    "bcq",
    "factored-bcq",  # other blocks and losses of factored Q-learning
    "ccrl",
    "ddpg-individual",
    "ddpg-naive",
    "ddpg-oracle",
    "ddpg-shuffled",
    "cee-online",  # its parts have unit tests
)  # ccrl-every and seed-sampling run every line of theirs


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the laws of the SLOW cases."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("case") in SLOW:
            item.add_marker(pytest.mark.slow)


class Case(NamedTuple):
    """One algorithm, ready to be run: `task_axes` as vmap's in_axes, `run` a fresh population of two members."""

    name: str
    module: Any
    algorithm: Algorithm
    env: Any
    task: Any
    task_axes: Any
    run: training.Run

    def start(self) -> training.Run:
        """A copy of the fresh population, to be given away."""
        return copy(self.run)

    def member(self, m: int) -> tuple[jax.Array, Any, Any]:
        """(root key, hyper, task) of one member."""
        axes = self.task_axes or (None,) * len(self.task)
        fields = (x if axis is None else take(x, m) for x, axis in zip(self.task, axes, strict=True))
        return jax.random.key(SEEDS[m]), take(self.run.hyper, m), type(self.task)(*fields)


def take(tree: Any, m: Any) -> Any:
    """Member m of every leaf [M, ...]."""
    return jax.tree.map(lambda x: x[m], tree)


def copy(tree: Any) -> Any:
    """New buffers: the chunk function takes its run away."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


@functools.cache
def build_case(name: str, smaller: bool = False) -> Case:
    """A case by its name."""
    entry, fields = CASES[name]
    module = algorithm_module(entry)
    file = module.__name__.rpartition(".")[2]
    config = module.Config(**{**TINY[file], **(SMALLER[file] if smaller else {}), **ALGORITHMS[entry].preset, **fields})
    env_id, options = ENVS.get(file, ("maze-n1" if smaller else "maze-n2", {}))
    limit = {} if env_id.startswith("probe") else {"max_steps": (2 if smaller else 3) if file in ENVS else 5}
    env, params = make(env_id, **limit, **options)
    own = hasattr(module, "make_task")  # data sets
    task, axes = module.make_task(env, params, config, SEEDS, True) if own else (module.Task(params), None)
    if getattr(module, "needs_effects", lambda config: False)(config):  # a random model masks as well as a fitted one
        models = build_case("effects", smaller).run.state.effect
        task, axes = module.Task(params, models), module.Task(None, 0)
    algorithm = module.build(env, params, config)
    if not smaller:  # traced once, whatever program it is part of
        algorithm = algorithm._replace(init=jax.jit(algorithm.init), step=jax.jit(algorithm.step))
    hyper, seeds, _ = training.grid(module.Hyper(), SEEDS)
    first = dataclasses.fields(hyper)[0].name  # the members differ in their step size too
    hyper = hyper.replace(**{first: jnp.linspace(1e-3, 3e-3, len(SEEDS))})
    if smaller:  # only ever traced: its values do not matter
        shapes = jax.eval_shape(lambda: training.start(algorithm, seeds, hyper, task, axes).state)
        state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return Case(name, module, algorithm, env, task, axes, training.Run(None, state, hyper, None))
    return Case(name, module, algorithm, env, task, axes, training.start(algorithm, seeds, hyper, task, axes))


@functools.cache
def compiled(name: str) -> training.Compiled:
    """The program of a case, for chunks of up to NUM_UPDATES."""
    case = build_case(name)
    return training.compile_run(case.algorithm, case.run, case.task, NUM_UPDATES, task_axes=case.task_axes)


def advance(case: Case, run: training.Run, *lengths: int) -> tuple[training.Run, dict[str, np.ndarray]]:
    """The run after chunks of these lengths, and the metrics [updates, M] in a row. `run` is given away."""
    rows = []
    for num in lengths:
        run, metrics = compiled(case.name).chunk(run, case.task, jnp.asarray(num, jnp.int32))
        rows.append({name: np.asarray(x)[:num] for name, x in metrics.items()})
    return run, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def reference(name: str) -> tuple[training.Run, dict[str, np.ndarray]]:
    """(run, metrics) of a case after NUM_UPDATES in one chunk. To be read only."""
    case = build_case(name)
    return advance(case, case.start(), NUM_UPDATES)


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """{path: array}; typed keys as their data."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return {jax.tree_util.keystr(path): np.asarray(jax.random.key_data(x) if is_key(x) else x) for path, x in flat}


def assert_equal(a: Any, b: Any) -> None:
    """Every leaf equal bit for bit."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    assert not [path for path in a if a[path].dtype != b[path].dtype or a[path].tobytes() != b[path].tobytes()]


def assert_close(a: Any, b: Any) -> None:
    """Integers equal, floats to 1e-5 of the largest value of their leaf: what is promised between two different programs."""
    a, b = leaves(a), leaves(b)
    assert a.keys() == b.keys()
    for path in a:
        if np.issubdtype(a[path].dtype, np.floating):
            scale = max(1.0, float(np.nanmax(np.abs(b[path]), initial=0.0)))
            np.testing.assert_allclose(a[path], b[path], rtol=1e-5, atol=1e-5 * scale, err_msg=path)
        else:
            np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.fixture(scope="session", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every case in turn."""
    return build_case(request.param)


@pytest.fixture(scope="session")
def law() -> Any:
    """This module: the helpers above."""
    return sys.modules[__name__]
