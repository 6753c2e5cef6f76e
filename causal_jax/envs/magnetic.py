"""Magnetic: an end effector, a ball and a box on a table; a red box attracts a red ball (FCDL, arXiv 2406.03234, appendix C.1.3).

Eleven scalars are the state: the colours of ball and box (one-hot: red, black) and their xy, the xyz of the end effector. An action moves
the end effector, in one step by `action_scale` along each axis at most. Only if both are red does the ball move, towards the box. The
reward is 1 - tanh(5 |eef - g|_1), g = (ball x, ball y, 0.8); success is a distance |eef - g|_1 below 0.05. An episode has 25 steps.

Tasks (`level` in params, so that one program plays both): 0 is training, both colours and places are uniform. 1 is the test: one of the
two, either alike, is black, so the ball rests, and the box is off the table, its xy a normal draw times 100: who has learned to look at
the box although it does not matter sees nonsense.

FAITHFUL IN STRUCTURE ONLY. The authors' program (robosuite) is not published and the paper has no force law. Ours: at a distance d the
box pulls with F = min(attraction / d, max_force) until it touches the ball; drag dominates, so the ball goes at the speed F / drag and has
no speed to remember: the eleven scalars are the whole state. The end effector touches nothing, and starts anywhere in its workspace, so
that data of random actions cover it. `physics` says who integrates: `mjx` (the default) a small MuJoCo MJX scene, see `magnetic_mjx`;
`closed` one closed-form step of the same law, which agrees within 2 mm, compiles in a third of the time and steps over ten times faster.
Calibrated: `action_scale`, with which the policy that goes straight to the ball returns about 8.5 in training (published: 8.4 to 8.8 for
all models but one), and the pull, so that a ball half a metre away reaches the box within an episode. Returns of the policies of
`magnetic_policies` (8,192 episodes, 95% within 0.16), training and test: random 1.09, 1.06; idle 1.08, 1.05; chase 8.50, 8.46; lookahead
8.59, 8.46 (if both are red 9.16 against chase's 8.80: to foresee the attraction is worth little here); chase is there in time in half of
the episodes. In the paper dense models get 0.9 in the test, as much as doing nothing does here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment, Factors
from causal_jax.fields import option
from causal_jax.spaces import Box
from causal_jax.types import Action, Key

VARIABLES = ("ball_red", "ball_black", "ball_x", "ball_y", "box_red", "box_black", "box_x", "box_y", "eef_x", "eef_y", "eef_z")
BALL_COLOUR, BALL, BOX_COLOUR, BOX, EEF = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8), slice(8, 11)
NUM_VARIABLES, NUM_ACTIONS = len(VARIABLES), 3

TABLE = (0.3, 0.45)  # the table is |x| <= 0.3, |y| <= 0.45, in metres
TABLE_Z, TOP_Z = 0.8, 1.0  # its height, and how high the end effector can go
LOW, HIGH = np.asarray([-TABLE[0], -TABLE[1], TABLE_Z], np.float32), np.asarray([*TABLE, TOP_Z], np.float32)  # the workspace
TOUCH = 0.06  # distance of the centres of ball and box that touch
DT = 0.1  # seconds a step
NEAR = 0.05  # success
STEEPNESS = 5.0  # of the reward
PHYSICS = ("mjx", "closed")


@struct.dataclass
class MagneticState:
    """`red` bool [2]: ball, box. `ball`, `box` float32 [2]: xy in metres. `eef` float32 [3]: xyz. `step` int32 []: steps taken."""

    red: jax.Array
    ball: jax.Array
    box: jax.Array
    eef: jax.Array
    step: jax.Array


@struct.dataclass
class MagneticParams:
    """One world and task, all scalars."""

    attraction: jax.Array  # N m: the force at one metre
    max_force: jax.Array  # N
    drag: jax.Array  # N s / m
    action_scale: jax.Array  # metres: how far an action of 1 moves the end effector
    noise_scale: jax.Array  # metres: what the normal draw of the box's place is multiplied by in the test
    level: jax.Array  # int32: 0 the training task, 1 the test
    max_steps: jax.Array  # int32


def graphs(minimal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(global, local), bool [11, 14]: row = child, columns = the eleven variables, itself included, then the three actions.

    Local is what is in force unless both are red: the six edges {box colour, box x, box y} -> {ball x, ball y} are gone, colour counted
    as one variable as in the paper; in scalars they are eight, a colour being two. An object's edges to itself (its colour and its other
    coordinate to its place) stay, as published; with `minimal` they go too where the ball rests, six more scalar edges, and what is left
    is exactly what the next state can be changed by.
    """
    everywhere = np.eye(NUM_VARIABLES, NUM_VARIABLES + NUM_ACTIONS, dtype=bool)
    everywhere[EEF, NUM_VARIABLES:] = np.eye(NUM_ACTIONS, dtype=bool)
    alone = everywhere.copy()
    everywhere[BALL, BALL_COLOUR.start : BOX.stop] = True
    local = everywhere.copy()
    local[BALL, BOX_COLOUR.start : BOX.stop] = False
    return everywhere, alone if minimal else local


def attracted(ball: jax.Array, box: jax.Array, params: MagneticParams) -> jax.Array:
    """Where a red ball, xy [2] in metres, is a step later if the box at xy [2] is red too: [2]. The force law in closed form."""
    offset = box - ball
    distance = jnp.sqrt(jnp.maximum(jnp.sum(offset**2), 1e-12))
    speed = jnp.minimum(params.attraction / distance, params.max_force) / params.drag
    way = jnp.minimum(DT * speed, jnp.maximum(distance - TOUCH, 0.0))
    return ball + way * offset / distance


def distance_to_goal(values: jax.Array) -> jax.Array:
    """[]: |eef - (ball x, ball y, 0.8)|_1 in metres, of the variables [11]."""
    goal = jnp.append(values[BALL], TABLE_Z)
    return jnp.sum(jnp.abs(values[EEF] - goal))


def both_red(values: jax.Array) -> jax.Array:
    """bool []: of the variables [11], which may be a model's: a thing is red if it is more red than black."""
    return (values[0] > values[1]) & (values[4] > values[5])


@dataclasses.dataclass(frozen=True)
class Magnetic(Environment):
    """The environment. The observation is float32 [11], see VARIABLES, in metres; the action float [3], clipped to [-1, 1]."""

    physics: str = option("mjx", choices=PHYSICS)
    """Who moves the ball: a MuJoCo MJX scene, or one closed-form step of the same law."""
    attraction: float = option(0.05, low=0)
    """Strength of the attraction, N m."""
    max_force: float = option(0.3, low=0)
    """The most it can be, N."""
    drag: float = option(1.0, above=0)
    """Drag of the ball, N s / m."""
    action_scale: float = option(0.0115, above=0)
    """How far an action of 1 moves the end effector, in metres."""
    level: int = option(0, low=0, high=1)
    """0: the training task; 1: the test task, one of the two black and the box off the table."""
    noise_scale: float = option(100.0, low=0)
    """Standard deviation of the box's place in the test, in metres."""
    max_steps: int = option(25, low=1)
    """Length of an episode; none ends earlier."""
    minimal_graph: bool = False
    """The local graph also drops the edges within the ball where it rests; see `graphs`."""

    @property
    def default_params(self) -> MagneticParams:
        """The options as params."""
        names = [f.name for f in dataclasses.fields(MagneticParams)]
        whole = {"level", "max_steps"}
        return MagneticParams(**{name: jnp.asarray(getattr(self, name), jnp.int32 if name in whole else jnp.float32) for name in names})

    def action_space(self, params: MagneticParams) -> Box:
        """A displacement, in units of `action_scale`."""
        return Box(-1.0, 1.0, (NUM_ACTIONS,))

    def observation_space(self, params: MagneticParams) -> Box:
        """Unbounded: the box may be anywhere."""
        return Box(-jnp.inf, jnp.inf, (NUM_VARIABLES,))

    @property
    def factors(self) -> Factors:
        """Eleven scalars, in no order; three action variables of one component. See `Factors` for the methods below."""
        return Factors(num_variables=NUM_VARIABLES, variable_size=1, num_actions=NUM_ACTIONS, action_size=1, discrete=False, ordered=False)

    @property
    def global_graph(self) -> np.ndarray:
        """bool [11, 14]: the edges while both are red; see `graphs`."""
        return graphs(self.minimal_graph)[0]

    def tests(self, params: MagneticParams) -> dict[str, MagneticParams]:
        """The test tasks of the world `params`, by name."""
        return {"test": dataclasses.replace(params, level=jnp.ones_like(params.level))}

    def disturb(self, key: Key, values: jax.Array, params: MagneticParams) -> jax.Array:
        """The variables [11, 1] with the box where the world `params` has it: in the test off the table. The key is consumed."""
        return jnp.where(params.level > 0, values.at[BOX, 0].set(self._off_table(key, params)), values)

    def in_tests(self, values: jax.Array) -> jax.Array:
        """bool []: one of the two is red, the other black."""
        red = values[:, 0][np.asarray([0, 4])] > values[:, 0][np.asarray([1, 5])]
        return red[0] != red[1]

    def counted(self, params: MagneticParams) -> jax.Array:
        """bool [11]: where the ball and the end effector are, all that the reward reads."""
        return jnp.zeros(NUM_VARIABLES, bool).at[BALL].set(True).at[EEF].set(True)

    def _off_table(self, key: Key, params: MagneticParams) -> jax.Array:
        return params.noise_scale * jax.random.normal(key, (2,))

    def features(self, obs: jax.Array) -> jax.Array:
        """The variables as a model sees them, [11, 1], of an observation [11]."""
        return obs[:, None]

    def imagined_reward(self, obs: jax.Array, values: jax.Array) -> jax.Array:
        """The task's reward [] where the variables are `values` [11, 1]. obs [11] is not needed: there is one goal."""
        return 1.0 - jnp.tanh(STEEPNESS * distance_to_goal(values[:, 0]))

    def local_graph(self, features: jax.Array, action: Action) -> jax.Array:
        """bool [11, 14], row = child, columns = variables, then actions: the graph in force at `features` [11, 1], whatever the action."""
        everywhere, local = graphs(self.minimal_graph)
        return jnp.where(both_red(features[:, 0]), everywhere, local)

    def _attracted(self, state: MagneticState, params: MagneticParams) -> jax.Array:
        """xy [2] of the ball a step later, were it and the box red."""
        if self.physics == "closed":
            return attracted(state.ball, state.box, params)
        from causal_jax.envs import magnetic_mjx

        return magnetic_mjx.attracted(state.ball, state.box, state.eef, params)

    def _observe(self, state: MagneticState) -> jax.Array:
        ball_colour, box_colour = jnp.stack([state.red, ~state.red], -1).astype(jnp.float32)
        return jnp.concatenate([ball_colour, state.ball, box_colour, state.box, state.eef])

    def reset_env(self, key: Key, params: MagneticParams) -> tuple[jax.Array, MagneticState]:
        """A start of the task `params.level`: (obs, state). The key is consumed."""
        key_uniform, key_normal = jax.random.split(key)
        uniforms = jax.random.uniform(key_uniform, (9,))
        table, low, high, test = jnp.asarray(TABLE), jnp.asarray(LOW), jnp.asarray(HIGH), params.level > 0
        red = uniforms[:2] < 0.5
        box = table * (2 * uniforms[4:6] - 1)
        state = MagneticState(
            red=jnp.where(test, jnp.stack([red[0], ~red[0]]), red),
            ball=table * (2 * uniforms[2:4] - 1),
            box=jnp.where(test, self._off_table(key_normal, params), box),
            eef=low + (high - low) * uniforms[6:],
            step=jnp.zeros((), jnp.int32),
        )
        return self._observe(state), state

    def step_env(
        self, key: Key, state: MagneticState, action: Action, params: MagneticParams
    ) -> tuple[jax.Array, MagneticState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs, state, reward [], terminated [] False, info). Action float [3]. Nothing is drawn: the key is not read.

        info: "success" bool []. "parents" bool [11, 11], row = child: the graph in force in this step, a variable itself excluded.
        """
        eef = jnp.clip(state.eef + params.action_scale * jnp.clip(action, -1.0, 1.0), LOW, HIGH)
        ball = jnp.where(jnp.all(state.red), self._attracted(state, params), state.ball)
        parents = self.local_graph(self.features(self._observe(state)), action)[:, :NUM_VARIABLES] & ~np.eye(NUM_VARIABLES, dtype=bool)
        state = MagneticState(red=state.red, ball=ball, box=state.box, eef=eef, step=state.step + 1)
        obs = self._observe(state)
        info = {"success": distance_to_goal(obs) < NEAR, "parents": parents}
        return obs, state, self.imagined_reward(obs, self.features(obs)), jnp.zeros((), bool), info

    def is_truncated(self, state: MagneticState, params: MagneticParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.step >= params.max_steps

    def render(self, state: MagneticState, params: MagneticParams, size: int = 240) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `magnetic_picture.draw`. Not jittable."""
        from causal_jax.envs import magnetic_picture

        return magnetic_picture.draw(np.asarray(state.red), np.asarray(state.ball), np.asarray(state.box), np.asarray(state.eef), size)
