"""The table of algorithms: a name, the module that builds it, and the Config fields that the name fixes.

A module has `Config`, `Hyper`, `Task` (first field `env_params`), `build(env, env_params, config)` and `steps_per_update(config)`;
where they apply also `needs_effects(config)` (a phase 1 must come first), `evaluations(config)` ({suffix: Config to act by}),
`EVALUATION_MODES` (of "greedy", "sampled"; default both), `episodes_at_once(config)` (how many are evaluated in parallel; default all),
`worlds(env, env_params)` ({suffix: params to be evaluated in}),
`make_task(env, env_params, config, seeds, own)` ((task, its vmap axes), where a task is more than params: a data set) and
`measure(env, env_params, config)` ((key, state, task) -> {name: []}, logged with each evaluation as eval.model.<name>). Several learners as
one member: `seats(config)`, how many, and `seat(state, i)` -> (state as `act` reads it, env_params of learner i): evaluations are means
over them, each in its own world.
Modules are imported when asked for, and never import each other.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from causal_jax.fields import suggest
from causal_jax.types import UserError


class Entry(NamedTuple):
    """One algorithm: module path, Config fields that its name sets, a line of description."""

    module: str
    preset: dict[str, Any]
    about: str


_PPO = "causal_jax.algorithms.ppo"
_FCDL = "causal_jax.algorithms.fcdl"
_HYBRID, _HYAR = "causal_jax.algorithms.hybrid_offpolicy", "causal_jax.algorithms.hyar"
_FACTORED = "causal_jax.algorithms.factored_q"
_OFFLINE = "causal_jax.algorithms.offline_q"
_DDPG = "causal_jax.algorithms.concurrent_ddpg"
_SEEDS = {"sharing": "naive", "exploration": "none", "prior": True}
ALGORITHMS: dict[str, Entry] = {
    "ppo": Entry(_PPO, {}, "proximal policy optimisation (Schulman et al. 2017)"),
    "cee": Entry(_PPO, {"selection": "cee"}, "PPO, redundant actions masked by causal effect (arXiv 2501.14543)"),
    "npm": Entry(_PPO, {"selection": "npm"}, "PPO, one action kept per group of similar ones (arXiv 2312.06258)"),
    "npm-random": Entry(_PPO, {"selection": "npm-random"}, "NPM with a random action kept per group"),
    "cee-woc": Entry(_PPO, {"selection": "cee-woc"}, "CEE without classes: a threshold on the softmax of all effects"),
    "effects": Entry("causal_jax.algorithms.effect_model", {}, "phase 1 of CEE and NPM: inverse dynamics model and N-value network"),
    "fcdl": Entry(_FCDL, {"model": "fcdl"}, "planning with a dynamics model whose codes pick local causal graphs (arXiv 2406.03234)"),
    "ncd": Entry(_FCDL, {"model": "ncd"}, "the same with a graph inferred for every state and action (Hwang et al. 2023)"),
    "oracle-graph": Entry(_FCDL, {"model": "oracle-graph"}, "the same with the true global graph"),
    "oracle-local": Entry(_FCDL, {"model": "oracle-local"}, "the same with the true local graph"),
    "modular": Entry(_FCDL, {"model": "modular"}, "the same with every edge, a network per variable"),
    "mlp": Entry(_FCDL, {"model": "mlp"}, "planning with one dense network"),
    "gnn": Entry(_FCDL, {"model": "gnn"}, "planning with a graph network over all pairs of variables"),
    "cdl": Entry(_FCDL, {"model": "cdl"}, "planning with a global graph from conditional mutual information (arXiv 2206.13452)"),
    "nps": Entry(_FCDL, {"model": "nps"}, "planning with neural production systems (arXiv 2103.01937)"),
    "grader": Entry(_FCDL, {"model": "grader"}, "planning with a graph from independence tests (arXiv 2207.09081)"),
    "ad-dqn": Entry(_FACTORED, {}, "Q-learning with values of single action blocks and a mixer (arXiv 2504.21326)"),
    "decqn": Entry(_FACTORED, {"mixer": "average", "aug": "off"}, "Q is the mean of a value per action factor (Seyde et al. 2022)"),
    "dqn": Entry(_FACTORED, {"blocks": "joint", "mixer": "average", "aug": "off"}, "double DQN over joint actions"),
    "ad-bcq": Entry(_OFFLINE, {}, "the same from a data set, near the policy that made it (arXiv 2504.21326)"),
    "factored-bcq": Entry(_OFFLINE, {"mixer": "average", "aug": "off"}, "BCQ with a value per action factor (Tang et al. 2022)"),
    "bcq": Entry(_OFFLINE, {"blocks": "joint", "mixer": "average", "aug": "off"}, "discrete BCQ (Fujimoto et al. 2019)"),
    "dlpa": Entry("causal_jax.algorithms.dlpa", {}, "planning in a learned model with hybrid actions (arXiv 2404.03037)"),
    "pdqn": Entry(_HYBRID, {"method": "pdqn"}, "Q-learning over an actor's parameters of every action (arXiv 1810.06394)"),
    "paddpg": Entry(_HYBRID, {"method": "paddpg"}, "DDPG over activations and parameters of all actions (arXiv 1511.04143)"),
    "hhqn": Entry(_HYBRID, {"method": "hhqn"}, "a Q-network picks the action, an actor its parameters (arXiv 1903.04959)"),
    "hyar-td3": Entry(_HYAR, {"learner": "td3"}, "TD3 in a learned latent space of hybrid actions (arXiv 2109.05490)"),
    "hyar-ddpg": Entry(_HYAR, {"learner": "ddpg"}, "DDPG in that space"),
    "ccrl": Entry(
        _DDPG, {"sharing": "ccrl"}, "DDPG learners in worlds that differ share data by what makes them differ (arXiv 2401.18012)"
    ),
    "ddpg-individual": Entry(_DDPG, {"sharing": "individual", "exploration": "ou"}, "the same, everyone learning alone"),
    "ddpg-naive": Entry(_DDPG, {"sharing": "naive", "exploration": "ou"}, "the same, everyone learning from everyone"),
    "ddpg-oracle": Entry(_DDPG, {"sharing": "oracle", "exploration": "ou"}, "the same, sharing within the true groups"),
    "ddpg-shuffled": Entry(_DDPG, {"sharing": "shuffled"}, "ccrl with its similarities between the wrong learners"),
    "seed-sampling": Entry(_DDPG, _SEEDS, "concurrent learners with prior functions and perturbed rewards (arXiv 1805.08948)"),
    "template": Entry("causal_jax.algorithms.template", {}, "REINFORCE with a baseline, the file to copy"),
}


def algorithm_module(name: str) -> Any:
    """The module of an algorithm. Raises: UserError with the nearest names for an unknown one."""
    if name not in ALGORITHMS:
        raise UserError(f"algorithm = {name!r}: {suggest(name, list(ALGORITHMS))}")
    return importlib.import_module(ALGORITHMS[name].module)
