"""Autoregressive: the smallest worlds that differ, s' = clip(xi s + a + eps) with its own xi for every learner (CCRL, arXiv 2401.18012).

The observation is s [1], the action a in [-1, 1], the noise eps ~ N(0, noise^2), the reward -(s' - target)^2, the start s ~ U(-2, 2); an
episode has 50 steps and never ends earlier. Groups of worlds: easy xi = -0.8, 0.1, 0.9; hard xi = -1.1, 0, 1.1, where no policy without
memory holds both signs, so that learning from everyone must fail. The paper names the task only: every constant here is ours.
Returns of 50 steps in the hard worlds: own best policy a = clip(-xi s) -0.77 (|xi| = 1.1) and -0.50 (xi = 0), no action -886 and -0.50,
random actions -895 and -17.2; the policy of xi = 1.1 in the world -1.1 returns -1201.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment, Worlds, draw_worlds
from causal_jax.fields import option
from causal_jax.spaces import Box
from causal_jax.types import Action, Key

LEVELS = {"easy": (-0.8, 0.1, 0.9), "hard": (-1.1, 0.0, 1.1)}  # xi of the groups
BOUND = 5.0  # of the state: from 10 an action of 1 could not come back at |xi| = 1.1
START = 2.0


@struct.dataclass
class AutoregressiveState:
    """`s` []: the state; `t` int32 []: steps taken."""

    s: jax.Array
    t: jax.Array


@struct.dataclass
class AutoregressiveParams:
    """`xi`, `target`, `noise` []: one world, see the module. `max_steps` int32 []."""

    xi: jax.Array
    target: jax.Array
    noise: jax.Array
    max_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Autoregressive(Environment):
    """The environment. Its arithmetic has the dtype of the params."""

    level: str = option("hard", choices=tuple(LEVELS))
    """Which groups of worlds `draw_worlds` draws from."""
    xi: float = 0.9
    """Coefficient of the one world that a single learner lives in."""
    target: float = 0.0
    """Where the state should be."""
    noise: float = option(0.1, low=0)
    """Standard deviation of the noise of a step."""
    spread: float = option(1.0, low=0)
    """Factor on the groups' xi; 0 with jitter 0: identical worlds."""
    jitter: float = option(0.03, low=0)
    """Half width of the uniform scatter within a group."""
    max_steps: int = option(50, low=1)
    """Length of an episode."""

    @property
    def default_params(self) -> AutoregressiveParams:
        """The options as params."""
        xi, target, noise = (jnp.asarray(x, jnp.float32) for x in (self.xi, self.target, self.noise))
        return AutoregressiveParams(xi=xi, target=target, noise=noise, max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def draw_worlds(self, key: Key, params: AutoregressiveParams, num: int) -> Worlds:
        """`num` worlds that differ in xi; see `base.draw_worlds`. The key is consumed."""
        return draw_worlds(key, params, "xi", [self.spread * xi for xi in LEVELS[self.level]], self.jitter, num)

    def evidence(self, obs: jax.Array, action: Action, next_obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x [2] = state and action, y [1] = the next state, usable bool []: it was not clipped) of one transition."""
        return jnp.concatenate([obs, action]), next_obs, jnp.abs(next_obs[0]) < BOUND

    def action_space(self, params: AutoregressiveParams) -> Box:
        """float [1] in [-1, 1]."""
        return Box(-1.0, 1.0, (1,))

    def observation_space(self, params: AutoregressiveParams) -> Box:
        """float [1] in [-5, 5]."""
        return Box(-BOUND, BOUND, (1,))

    def reset_env(self, key: Key, params: AutoregressiveParams) -> tuple[jax.Array, AutoregressiveState]:
        """A start: (obs [1], state). The key is consumed."""
        s = jax.random.uniform(key, (), params.xi.dtype, -START, START)
        return s[None], AutoregressiveState(s=s, t=jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: AutoregressiveState, action: Action, params: AutoregressiveParams
    ) -> tuple[jax.Array, AutoregressiveState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs [1], state, reward [], terminated [] False, {}). Action float [1]. The key is consumed by the noise."""
        eps = params.noise * jax.random.normal(key, (), params.xi.dtype)
        s = jnp.clip(params.xi * state.s + jnp.clip(action[0], -1.0, 1.0) + eps, -BOUND, BOUND)
        return s[None], AutoregressiveState(s=s, t=state.t + 1), -jnp.square(s - params.target), jnp.zeros((), bool), {}

    def is_truncated(self, state: AutoregressiveState, params: AutoregressiveParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def render(self, state: AutoregressiveState, params: AutoregressiveParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `worlds_picture.line`. Not jittable."""
        from causal_jax.envs import worlds_picture

        return worlds_picture.line(float(state.s) / BOUND, float(params.target) / BOUND, float(params.xi * state.s) / BOUND, size)


def best_action(params: AutoregressiveParams, obs: jax.Array) -> jax.Array:
    """The best policy of a world that it knows: a = clip(target - xi s), [1] of an observation [1]."""
    return jnp.clip(params.target - params.xi * obs, -1.0, 1.0)
