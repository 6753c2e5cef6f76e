"""ICU-Sepsis (Choudhary, Gupta and Thomas 2024): 716 states clustered from MIMIC-III, 25 actions, fluids x vasopressors, 5 levels each.

The tables are read at run time from the installed package icu-sepsis (pip install "causal_jax[icu-sepsis]"), which is not imported: it
brings two generations of gym along. States 0 .. 712 are patients, 713 is death, 714 survival (+1 on entering), 715 follows both. gamma is
1. The joint action is 5 fluids + vasopressors. Only 3.14 actions per state on average were seen often enough to be admissible; the others
move as the mean of the admissible ones, or end the episode in death (`inadmissible`).

Three things to know: the package's rewards are read off rows that cannot be reached as well, so R = sum_s' P R and none from 713 on; doing
nothing is admissible in a third of the states only; its expert policy puts 15.6% of its mass on inadmissible actions.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.causal.intervention import Blocks
from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.mdp import Array, TabularMDP, make_mdp
from causal_jax.spaces import Box, Factored
from causal_jax.types import Action, Key, UserError

NUM_STATES, NUM_ACTIONS = 716, 25
NUM_PATIENTS, DEATH, SURVIVAL, END = 713, 713, 714, 715
ICU_BLOCKS = Blocks.of((5, 5), (0, 0))  # fluids, vasopressors
INADMISSIBLE = ("mean", "terminate")


@functools.cache
def tables() -> dict[str, Array]:
    """The package's arrays: tx_mat, r_mat [716, 25, 716], d_0 [716], expert_policy [716, 25], state_cluster_centers [716, 47],
    sofa_scores [716], and `admissible` bool [716, 25]. Raises: UserError where the package is not installed."""
    spec = importlib.util.find_spec("icu_sepsis")
    if spec is None or spec.origin is None:
        raise UserError("env = 'icu-sepsis': needs the package icu-sepsis: pip install \"causal_jax[icu-sepsis]\"")
    assets = Path(spec.origin).parent / "envs" / "assets"
    with np.load(assets / "dynamics.npz") as file:
        found = {name: file[name] for name in file.files}
    _, *lines = (assets / "admissible_actions.txt").read_text().splitlines()  # the first line counts them
    admissible = np.zeros((NUM_STATES, NUM_ACTIONS), bool)
    for state in range(NUM_STATES):
        admissible[state, np.asarray(lines[state].split(), int)] = True
    return {**found, "admissible": admissible}


@functools.cache
def icu_sepsis_mdp(inadmissible: str = "mean") -> TabularMDP:
    """ICU-Sepsis as exact tables: 716 states, 25 actions, `allowed` the admissible ones, `expert` the shipped policy.

    Args: inadmissible: "mean", such an action moves as the mean of the admissible ones (the package's default), or "terminate", in death.
    Raises: UserError for another word, or where the package icu-sepsis is not installed.
    """
    if inadmissible not in INADMISSIBLE:
        raise UserError(f"inadmissible = {inadmissible!r}: must be one of {', '.join(INADMISSIBLE)}")
    found = tables()
    transition, patients = found["tx_mat"].copy(), np.arange(NUM_STATES) < NUM_PATIENTS
    if inadmissible == "terminate":
        forbidden = ~found["admissible"] & patients[:, None]
        transition[forbidden] = np.eye(NUM_STATES)[DEATH]
    transition /= transition.sum(-1, keepdims=True)
    reward = np.where(patients[:, None], transition[:, :, SURVIVAL], 0.0)
    expert = np.where(patients[:, None], found["expert_policy"], 1.0 / NUM_ACTIONS)  # the package has no row for the ends
    start, survived = found["d_0"] / found["d_0"].sum(), np.eye(NUM_STATES)[SURVIVAL]
    return make_mdp(transition, reward, start, allowed=found["admissible"], expert=expert, entry=survived)


@struct.dataclass
class ICUState:
    """`index` int32 []: the state of `icu_sepsis_mdp()`. `t` int32 []: steps taken."""

    index: jax.Array
    t: jax.Array


@struct.dataclass
class ICUParams:
    """The world as tables. A row of `cumulative` sums the probabilities of the states in the same row of `successors`."""

    cumulative: jax.Array  # float32 [716, 25, W]
    successors: jax.Array  # int16 [716, 25, W]
    starts: jax.Array  # float32 [716], cumulative
    features: jax.Array  # float32 [716, D]
    allowed: jax.Array  # bool [716, 25]
    max_steps: jax.Array  # int32


@dataclasses.dataclass(frozen=True)
class ICUSepsis(Environment):
    """ICU-Sepsis. The action is int [2], levels of fluids and vasopressors; the observation the state's features."""

    inadmissible: str = option("mean", choices=INADMISSIBLE)
    """What an action does that was too rare in the data: the mean of the others, or death."""
    features: str = option("centres", choices=("centres", "onehot"))
    """What is observed: the 47 coordinates of the cluster's centre, standardised over patients, or the state one-hot (716)."""
    max_steps: int = option(500, low=1)
    """Time limit in steps, a truncation."""

    @property
    def default_params(self) -> ICUParams:
        """The package's tables."""
        cumulative, successors, starts, features, allowed = _device_tables(self.inadmissible, self.features)
        return ICUParams(
            cumulative=jnp.asarray(cumulative),
            successors=jnp.asarray(successors),
            starts=jnp.asarray(starts),
            features=jnp.asarray(features),
            allowed=jnp.asarray(allowed),
            max_steps=jnp.asarray(self.max_steps, jnp.int32),
        )

    @property
    def blocks(self) -> Blocks:
        """Fluids and vasopressors; joint index 5 fluids + vasopressors."""
        return ICU_BLOCKS

    @property
    def noop(self) -> tuple[int, ...]:
        """No dose of either."""
        return ICU_BLOCKS.noop

    def action_space(self, params: ICUParams) -> Factored:
        """A level of fluids, a level of vasopressors."""
        return Factored((5, 5))

    def observation_space(self, params: ICUParams) -> Box:
        """Standardised coordinates, or one-hot."""
        return Box(-jnp.inf, jnp.inf, (params.features.shape[1],))

    def reset_env(self, key: Key, params: ICUParams) -> tuple[jax.Array, ICUState]:
        """A patient on arrival: (obs, state). The key is consumed."""
        index = _draw(key, params.starts)
        return params.features[index], ICUState(index, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: ICUState, action: Action, params: ICUParams
    ) -> tuple[jax.Array, ICUState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] bool, info). Action int [2]. The key is consumed.

        info: "success" bool []: survived; "allowed" bool [25]: the joint actions that are admissible in the new state.
        """
        joint = 5 * action[0] + action[1]
        place = _draw(key, params.cumulative[state.index, joint])
        index = params.successors[state.index, joint, place].astype(jnp.int32)
        survived = (index == SURVIVAL) & (state.index < NUM_PATIENTS)
        info = {"success": survived, "allowed": params.allowed[index]}
        return params.features[index], ICUState(index, state.t + 1), survived.astype(jnp.float32), index >= NUM_PATIENTS, info

    def is_truncated(self, state: ICUState, params: ICUParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps


def _draw(key: Key, cumulative: jax.Array) -> jax.Array:
    """int32 []: an index drawn with the probabilities of which `cumulative` [W] is the running sum. The key is consumed."""
    draw = jax.random.uniform(key) * cumulative[-1]
    return jnp.searchsorted(cumulative, draw, side="right").astype(jnp.int32)


@functools.cache
def _device_tables(inadmissible: str, features: str) -> tuple[Array, ...]:
    mdp = icu_sepsis_mdp(inadmissible)
    width = int(np.diff(mdp.kernel.indptr).max())
    chances, successors = np.zeros((mdp.kernel.shape[0], width)), np.zeros((mdp.kernel.shape[0], width), np.int16)
    row = np.repeat(np.arange(mdp.kernel.shape[0]), np.diff(mdp.kernel.indptr))
    place = np.arange(mdp.kernel.nnz) - mdp.kernel.indptr[row]
    chances[row, place], successors[row, place] = mdp.kernel.data, mdp.kernel.indices
    shape = (NUM_STATES, NUM_ACTIONS, width)
    centres = tables()["state_cluster_centers"]
    spread = centres[:NUM_PATIENTS].std(0)
    centres = (centres - centres[:NUM_PATIENTS].mean(0)) / np.where(spread > 0, spread, 1.0)
    centres[NUM_PATIENTS:] = 0.0  # an end has no vital signs
    shown = centres if features == "centres" else np.eye(NUM_STATES)
    cumulative = chances.cumsum(1).reshape(shape)
    return (
        cumulative.astype(np.float32), successors.reshape(shape), mdp.initial.cumsum().astype(np.float32), shown.astype(np.float32),
        tables()["admissible"],
    )  # fmt: skip
