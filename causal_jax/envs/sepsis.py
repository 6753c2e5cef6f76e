"""The sepsis simulator of Oberst and Sontag (ICML 2019, version 2): three treatments, four vital signs, one hidden by nothing.

Our own program, from the published dynamics. A patient has diabetes or not (fixed), heart rate, blood pressure, oxygen, glucose, and a flag
for each treatment that is on. An action switches antibiotics, ventilation and vasopressors: joint index 4 abx + 2 vent + vaso, while states
count their flags in the order abx, vaso, vent. A step treats (and withdraws what is switched off), then every vital sign that no
treatment moves may fluctuate by one. Three abnormal signs are death (-1), none and all treatments off is discharge (+1). As in the
literature the state that is entered then pays in the NEXT step, whatever is done, and ends the episode.

`sepsis_sim_mdp()` is the same world as exact tables, built independently of the step function (a product of the signs' own kernels), and
`icu_sepsis_mdp()` (re-exported) ICU-Sepsis's. `split`: three blocks of one treatment, which interact (antibiotics and vasopressors both
move blood pressure), or two, (abx, vaso) and vent, which do not.

Beyond the paper: with `confounding` c > 0 half of the patients are severe, which no observation shows: all their treatments take with
(1 - 0.8 c) times the probability, and an abnormal sign is c / 2 times as likely again to appear by fluctuation. `logging_policy` treats
the severe more. So the log's treated patients do worse for a reason that the log does not hold, and the truth is known all the same.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from flax import struct

from causal_jax.causal.intervention import Blocks
from causal_jax.envs.base import Environment
from causal_jax.envs.icu_sepsis import ICU_BLOCKS, ICUSepsis, icu_sepsis_mdp
from causal_jax.fields import option
from causal_jax.mdp import Array, TabularMDP, make_mdp
from causal_jax.spaces import Box, Factored
from causal_jax.types import Action, Key

__all__ = ["ICU_BLOCKS", "ICUSepsis", "SepsisSim", "blocks", "icu_sepsis_mdp", "logging_policy", "sepsis_sim_mdp"]

NAMES = ("diab", "hr", "sbp", "o2", "glu", "abx", "vaso", "vent")
SIZES = (2, 3, 3, 2, 5, 2, 2, 2)
TREATMENTS = ("abx", "vent", "vaso")  # the order of the action's bits
NUM_STATES = 1440
DEATH, DISCHARGE = NUM_STATES, NUM_STATES + 1  # absorbing
NORMAL = (1, 1, 1, 2)  # hr, sbp, o2, glu
DIABETIC = 0.2
GLU_START = ((0.05, 0.15, 0.6, 0.15, 0.05), (0.01, 0.05, 0.15, 0.6, 0.19))
SPLITS = {"3": ((0,), (1,), (2,)), "2": ((0, 2), (1,))}
EFFECTS = {"3": ((1, 5), (3, 7), (2, 4, 6)), "2": ((1, 2, 4, 5, 6), (3, 7))}  # per block, indices into NAMES


def blocks(split: str = "3") -> Blocks:
    """The action blocks: "3" is abx, vent, vaso, "2" is (abx, vaso), vent, with level 2 abx + vaso of the first. No-op: all off."""
    return Blocks.of((2, 2, 2), (0, 0, 0), SPLITS[split])


def _move(size: int, value: int, down: float, up: float) -> Array:
    """[size]: one down or one up with these probabilities, clipped at the ends."""
    p = np.zeros(size)
    for step, chance in ((-1, down), (1, up), (0, 1 - down - up)):
        p[min(max(value + step, 0), size - 1)] += chance
    return p


def _fluctuate(size: int, value: int, normal: int, chance: float, worse: float) -> Array:
    """Up or down by one, each with `chance`; leaving the normal value with `worse` times that."""
    c = chance * (worse if value == normal else 1.0)
    return _move(size, value, c, c)


def _sign_kernels(confounding: float, severe: int) -> tuple[Array, Array, Array, Array]:
    """P(next sign | what it depends on), for hr [hr, abx flag, abx, next], o2 likewise, glu [diab, glu, vaso, next] and
    sbp [diab, sbp, abx flag, vaso flag, abx, vaso, next]."""
    takes, worse = 1.0 - 0.8 * confounding * severe, 1.0 + 0.5 * confounding * severe
    hr, o2 = np.zeros((3, 2, 2, 3)), np.zeros((2, 2, 2, 2))
    glu, sbp = np.zeros((2, 5, 2, 5)), np.zeros((2, 3, 2, 2, 2, 2, 3))

    def antibiotics(value: int, flag: int, on: int) -> Array:
        return _move(3, value, 0.5 * takes * (on and value == 2), 0.1 * (flag and not on and value == 1))

    for value, flag, on in itertools.product(range(3), (0, 1), (0, 1)):
        hr[value, flag, on] = antibiotics(value, flag, on) if on or flag else _fluctuate(3, value, 1, 0.1, worse)
    for value, flag, on in itertools.product((0, 1), (0, 1), (0, 1)):
        treated = _move(2, value, 0.1 * (flag and not on), 0.7 * takes * on)
        o2[value, flag, on] = treated if on or flag else _fluctuate(2, value, 1, 0.1, worse)
    for diab, value, on in itertools.product((0, 1), range(5), (0, 1)):
        treated = _move(5, value, 0.0, 0.5 * diab)
        glu[diab, value, on] = treated if on else _fluctuate(5, value, 2, 0.3 if diab else 0.1, worse)
    for diab, flag_a, flag_v, abx, vaso in itertools.product((0, 1), repeat=5):
        lift = np.eye(3)
        if vaso and diab:
            lift = np.asarray([[1 - 0.9 * takes, 0.5 * takes, 0.4 * takes], [0, 1 - 0.9 * takes, 0.9 * takes], [0, 0, 1]])
        elif vaso or flag_v:
            rates = (0.0, 0.7 * takes) if vaso else (0.05 if diab else 0.1, 0.0)
            lift = np.stack([_move(3, value, *rates) for value in range(3)])
        for value in range(3):
            p = antibiotics(value, flag_a, abx) @ lift
            idle = not (abx or flag_a or vaso or flag_v)
            sbp[diab, value, flag_a, flag_v, abx, vaso] = _fluctuate(3, value, 1, 0.1, worse) if idle else p
    return hr, sbp, o2, glu


def _states() -> Array:
    """int [1440, 8]: the variables of every state, mixed radix in the order of NAMES."""
    return np.stack(np.unravel_index(np.arange(NUM_STATES), SIZES), -1)


def _outcome(states: Any, xp: Any = np) -> tuple[Any, Any]:
    """(died, discharged) bool [...] of variables [..., 8]."""
    abnormal = (states[..., 1:5] != xp.asarray(NORMAL)).sum(-1)
    return abnormal >= 3, (abnormal == 0) & (states[..., 5:].sum(-1) == 0)


def _starts(reset: str) -> Array:
    """[1440]: the distribution of starts; `uniform` is uniform over live states given diabetes, flags included."""
    s = _states()
    diab = np.where(s[:, 0] == 1, DIABETIC, 1 - DIABETIC)
    live = ~np.logical_or(*_outcome(s))
    if reset == "uniform":
        p = np.where(live, 1.0, 0.0)
        p = sum(np.where(s[:, 0] == d, p, 0) * share / p[s[:, 0] == d].sum() for d, share in ((0, 1 - DIABETIC), (1, DIABETIC)))
        return np.asarray(p)
    three = np.asarray([0.25, 0.5, 0.25])
    p = diab * three[s[:, 1]] * three[s[:, 2]] * np.asarray([0.2, 0.8])[s[:, 3]] * np.asarray(GLU_START)[s[:, 0], s[:, 4]]
    p = np.where(live & (s[:, 5:].sum(1) == 0), p, 0.0)
    return np.asarray(p / p.sum())


def _kernel(confounding: float, severe: int) -> sp.csr_array:
    """CSR [1442 * 8, 1442]."""
    hr, sbp, o2, glu = _sign_kernels(confounding, severe)
    s = _states()
    diab, flag_a, flag_v, flag_o = s[:, 0], s[:, 5], s[:, 6], s[:, 7]
    died, discharged = _outcome(s)
    rows, columns, chances = [], [], []
    for action in range(8):
        abx, vent, vaso = action >> 2, (action >> 1) & 1, action & 1
        p = [hr[s[:, 1], flag_a, abx], sbp[diab, s[:, 2], flag_a, flag_v, abx, vaso], o2[s[:, 3], flag_o, vent], glu[diab, s[:, 4], vaso]]
        joint = np.einsum("sa,sb,sc,sd->sabcd", *p)
        joint[died | discharged] = 0.0
        state, *signs = np.nonzero(joint)
        new = (diab[state], *signs, *(np.full(len(state), flag) for flag in (abx, vaso, vent)))
        ends = np.flatnonzero(died | discharged)
        rows += [state * 8 + action, ends * 8 + action, np.asarray([DEATH, DISCHARGE]) * 8 + action]
        columns += [np.ravel_multi_index(new, SIZES), np.where(died, DEATH, DISCHARGE)[ends], np.asarray([DEATH, DISCHARGE])]
        chances += [joint[joint > 0], np.ones(len(ends)), np.ones(2)]
    shape = ((NUM_STATES + 2) * 8, NUM_STATES + 2)
    return sp.csr_array(sp.coo_array((np.concatenate(chances), (np.concatenate(rows), np.concatenate(columns))), shape=shape))


def sepsis_sim_mdp(reset: str = "initial", confounding: float = 0.0) -> TabularMDP:
    """The simulator as exact tables: 1440 states and 2 absorbing ones (death, discharge), 8 actions.

    Args: reset: "initial", the simulator's starts (all treatments off), or "uniform" over live states given diabetes, flags included.
      confounding: above 0 the hidden severity u is part of the state: 2884 states, index 1442 u + s; a policy of the observed
      state, [1442] or [1442, 8], is `np.concatenate([policy, policy])` here, and its value the interventional truth.
    """
    s, ends = _states(), np.zeros((2, 8))
    died, discharged = _outcome(s)
    reward = np.concatenate([np.where(died, -1.0, np.where(discharged, 1.0, 0.0))[:, None].repeat(8, 1), ends])
    initial = np.append(_starts(reset), [0.0, 0.0])
    variables = np.concatenate([s, np.full((2, 8), -1)])
    if not confounding:
        return make_mdp(_kernel(0.0, 0), reward, initial, variables=variables, names=NAMES)
    kernel = sp.csr_array(sp.block_diag([_kernel(confounding, u) for u in (0, 1)]))
    return make_mdp(kernel, np.tile(reward, (2, 1)), np.tile(initial, 2) / 2, variables=np.tile(variables, (2, 1)), names=NAMES)


def logging_policy(policy: Array, confounding: float) -> Array:
    """pi_b(a | s, u), float64 [2, S, 8], of a base policy [S, 8]: in proportion to base * exp(c (2u - 1) (treatments that a switches on)).

    The severe (u = 1) are treated more. The odds of an action given u differ from those of the u-blind mixture by at most exp(3 c).
    """
    treated = np.asarray([bin(a).count("1") for a in range(8)])
    tilted = policy * np.exp(confounding * np.asarray([-1.0, 1.0])[:, None, None] * treated)
    return np.asarray(tilted / tilted.sum(-1, keepdims=True))


@struct.dataclass
class SepsisState:
    """`values` int32 [8]: the variables in the order of NAMES. `severe` int32 []: hidden. `t` int32 []: steps taken."""

    values: jax.Array
    severe: jax.Array
    t: jax.Array


@struct.dataclass
class SepsisParams:
    """`confounding` float32 []: strength of the hidden severity. `max_steps` int32 []."""

    confounding: jax.Array
    max_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class SepsisSim(Environment):
    """The simulator. The observation is the eight variables one-hot, float32 [21]; the action one level per block, int [K]."""

    split: str = option("3", choices=tuple(SPLITS))
    """Blocks of the action: "3" is abx, vent, vaso (they interact); "2" is (abx, vaso), vent (they do not)."""
    reset_mode: str = option("initial", choices=("initial", "uniform"))
    """Starts: the simulator's, or uniform over live states given diabetes, treatments included."""
    confounding: float = option(0.0, low=0.0, high=1.0)
    """Strength of a hidden severity that weakens treatments and makes signs worse."""
    max_steps: int = option(20, low=1)
    """Time limit in steps, a truncation."""

    @property
    def default_params(self) -> SepsisParams:
        """The options as params."""
        return SepsisParams(jnp.float32(self.confounding), jnp.asarray(self.max_steps, jnp.int32))

    @property
    def blocks(self) -> Blocks:
        """The action's blocks; joint index 4 abx + 2 vent + vaso."""
        return blocks(self.split)

    @property
    def noop(self) -> tuple[int, ...]:
        """All treatments off."""
        return self.blocks.noop

    def action_space(self, params: SepsisParams) -> Factored:
        """One level per block."""
        return Factored(self.blocks.sizes)

    def observation_space(self, params: SepsisParams) -> Box:
        """One-hot variables."""
        return Box(0.0, 1.0, (sum(SIZES),))

    def index(self, values: jax.Array) -> jax.Array:
        """int32 []: the row in `sepsis_sim_mdp()` of the variables [8]."""
        return jnp.sum(values * jnp.asarray([int(np.prod(SIZES[i + 1 :])) for i in range(8)]))

    def observe(self, values: jax.Array) -> jax.Array:
        """float32 [21]: the variables [8], each one-hot."""
        return jnp.concatenate([jax.nn.one_hot(values[i], size) for i, size in enumerate(SIZES)])

    def reset_env(self, key: Key, params: SepsisParams) -> tuple[jax.Array, SepsisState]:
        """A patient: (obs, state). The key is consumed."""
        key_start, key_severe = jax.random.split(key)
        cumulative = np.cumsum(_starts(self.reset_mode))
        draw = jax.random.uniform(key_start) * cumulative[-1]
        index = jnp.searchsorted(jnp.asarray(cumulative, jnp.float32), draw, side="right")
        values = jnp.asarray(_states(), jnp.int32)[jnp.minimum(index, NUM_STATES - 1)]
        severe = jax.random.bernoulli(key_severe).astype(jnp.int32) * (params.confounding > 0)
        return self.observe(values), SepsisState(values, severe, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: SepsisState, action: Action, params: SepsisParams
    ) -> tuple[jax.Array, SepsisState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] bool, info). Action int [K]. The key is consumed.

        info: "success" bool []: discharged. The step after death or discharge pays, moves nothing and terminates.
        """
        joint = jnp.asarray(self.blocks.joint, jnp.int32)[tuple(jnp.asarray(action))]
        died, discharged = _outcome(state.values, jnp)
        over = died | discharged
        values = jnp.where(over, state.values, _treat(key, state.values, joint, params.confounding * state.severe))
        reward = jnp.where(died, -1.0, jnp.where(discharged, 1.0, 0.0))
        return self.observe(values), SepsisState(values, state.severe, state.t + 1), reward, over, {"success": discharged}

    def is_truncated(self, state: SepsisState, params: SepsisParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def render(self, state: SepsisState, params: SepsisParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `sepsis_picture.draw`. Not jittable."""
        from causal_jax.envs import sepsis_picture

        return sepsis_picture.draw(np.asarray(state.values), size)


def _treat(key: Key, values: jax.Array, joint: jax.Array, severity: jax.Array) -> jax.Array:
    """The variables [8] a step later, step by step as the simulator tells it: abx, vent, vaso, then fluctuations. The key is consumed."""
    diab, hr, sbp, o2, glu, flag_a, flag_v, flag_o = values
    abx, vent, vaso = joint >> 2, (joint >> 1) & 1, joint & 1
    u = jax.random.uniform(key, (12,))
    takes, worse = 1.0 - 0.8 * severity, 1.0 + 0.5 * severity
    off_a, off_v, off_o = flag_a * (1 - abx), flag_v * (1 - vaso), flag_o * (1 - vent)

    def antibiotics(sign: jax.Array, draw: jax.Array) -> jax.Array:
        return sign - (abx * (sign == 2) * (draw < 0.5 * takes)) + (off_a * (sign == 1) * (draw < 0.1))

    new_hr, new_sbp = antibiotics(hr, u[0]), antibiotics(sbp, u[1])
    new_o2 = jnp.clip(o2 + vent * (u[2] < 0.7 * takes) - off_o * (u[2] < 0.1), 0, 1)
    plain = jnp.where(u[3] < 0.7 * takes, 1, 0)
    strong = jnp.where(
        new_sbp == 0, jnp.where(u[3] < 0.5 * takes, 1, jnp.where(u[3] < 0.9 * takes, 2, 0)), jnp.where(u[3] < 0.9 * takes, 1, 0)
    )
    drop = off_v * (u[3] < jnp.where(diab == 1, 0.05, 0.1))
    new_sbp = jnp.clip(new_sbp + vaso * jnp.where(diab == 1, strong, plain) - drop, 0, 2)
    new_glu = jnp.minimum(glu + vaso * diab * (u[4] < 0.5), 4)

    def fluctuate(sign: jax.Array, draw: jax.Array, high: int, normal: int, chance: Any) -> jax.Array:
        c = chance * jnp.where(sign == normal, worse, 1.0)
        return jnp.clip(sign - (draw < c) + (draw >= 1.0 - c), 0, high)

    new_hr = jnp.where((abx | off_a) == 0, fluctuate(new_hr, u[5], 2, 1, 0.1), new_hr)
    new_sbp = jnp.where((abx | off_a | vaso | off_v) == 0, fluctuate(new_sbp, u[6], 2, 1, 0.1), new_sbp)
    new_o2 = jnp.where((vent | off_o) == 0, fluctuate(new_o2, u[7], 1, 1, 0.1), new_o2)
    new_glu = jnp.where(vaso == 0, fluctuate(new_glu, u[8], 4, 2, jnp.where(diab == 1, 0.3, 0.1)), new_glu)
    return jnp.stack([diab, new_hr, new_sbp, new_o2, new_glu, abx, vaso, vent]).astype(jnp.int32)
