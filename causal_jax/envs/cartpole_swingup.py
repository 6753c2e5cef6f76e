"""Cart-pole swing-up: the pole hangs and is to stand, its length differs between the worlds (CCRL, arXiv 2401.18012).

Barto's equations with explicit Euler steps, as in bsuite's cartpole_swingup: th = 0 is upright, l is half the pole's length; old speeds
move the places. The force is a real number in [-10, 10]. Rewards, of the state after the step: dense: (1 + cos th) / 2 cos(pi x / 4.8),
ends at |x| > 2.4. sparse (bsuite): 1 if cos th > 0.5, |th'| < 1 and |x| < 1, ends at |x| > 3; bsuite's cost of 0.1 of a move left or
right is 0.1 |f| / 10 here, where force is continuous. seeds (Dimakopoulou et al. 2018): 1 if cos th > 0.95, |x| < 0.1, |x'| < 1 and |th'|
< 1, cost |f| / 1000, ends at |x| > 3. CCRL names the task; which parameter varies, l in 0.3, 0.5, 0.7 m here, and every constant are
ours. Between 0.3 and 0.5 m the cart's speed differs by 4e-6 in a step, the pole's by 6e-2: `evidence` looks at the pole.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment, Worlds, draw_worlds
from causal_jax.fields import option
from causal_jax.spaces import Box
from causal_jax.types import Action, Key

MAX_FORCE = 10.0
HALF_LENGTHS = (0.3, 0.5, 0.7)
LIMIT = {"dense": 2.4, "sparse": 3.0, "seeds": 3.0}  # of |x|, by reward


@struct.dataclass
class CartpoleState:
    """`x` [] in m, `x_speed` [], `theta` [] in radians, `theta_speed` []; `t` int32 []: steps taken."""

    x: jax.Array
    x_speed: jax.Array
    theta: jax.Array
    theta_speed: jax.Array
    t: jax.Array


@struct.dataclass
class CartpoleParams:
    """`half_length` [] in m, `cart_mass`, `pole_mass` [] in kg, `gravity` [], `dt` [] in s. `max_steps` int32 []."""

    half_length: jax.Array
    cart_mass: jax.Array
    pole_mass: jax.Array
    gravity: jax.Array
    dt: jax.Array
    max_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class CartpoleSwingup(Environment):
    """The environment; obs [6] = (cos th, sin th, th' / 10, x / 10, x' / 10, |x| < 0.1), action [1] = force / 10 N in [-1, 1]."""

    reward: str = option("dense", choices=tuple(LIMIT))
    """Which reward; see the module."""
    half_length: float = option(0.5, above=0)
    """l of the one world that a single learner lives in, in m."""
    cart_mass: float = option(1.0, above=0)
    """In kg."""
    pole_mass: float = option(0.1, above=0)
    """In kg."""
    gravity: float = option(9.8, above=0)
    """In m / s^2."""
    dt: float = option(0.01, above=0)
    """Seconds a step."""
    spread: float = option(1.0, low=0, high=2)
    """Factor on the groups' distance from 0.5 m; 0 with jitter 0: identical worlds."""
    jitter: float = option(0.02, low=0, high=0.09)
    """Half width of the uniform scatter within a group, in m."""
    max_steps: int = option(1000, low=1)
    """Time limit."""

    @property
    def default_params(self) -> CartpoleParams:
        """The options as params."""
        names = [f.name for f in dataclasses.fields(CartpoleParams)]
        return CartpoleParams(**{n: jnp.asarray(getattr(self, n), jnp.int32 if n == "max_steps" else jnp.float32) for n in names})

    def draw_worlds(self, key: Key, params: CartpoleParams, num: int) -> Worlds:
        """`num` worlds that differ in the pole's length; see `base.draw_worlds`. The key is consumed."""
        centres = [0.5 + self.spread * (l - 0.5) for l in HALF_LENGTHS]
        return draw_worlds(key, params, "half_length", centres, self.jitter, num)

    def evidence(self, obs: jax.Array, action: Action, next_obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(x [4] = cos, sin, th' and force, y [1] = change of th', usable bool [] True) of one transition."""
        return jnp.concatenate([obs[:3], action]), next_obs[2:3] - obs[2:3], jnp.ones((), bool)

    def action_space(self, params: CartpoleParams) -> Box:
        """float [1] in [-1, 1], in units of 10 N."""
        return Box(-1.0, 1.0, (1,))

    def observation_space(self, params: CartpoleParams) -> Box:
        """float [6]."""
        return Box(-jnp.inf, jnp.inf, (6,))

    def _observe(self, s: CartpoleState) -> jax.Array:
        near = (jnp.abs(s.x) < 0.1).astype(s.x.dtype)
        return jnp.stack([jnp.cos(s.theta), jnp.sin(s.theta), s.theta_speed / 10, s.x / 10, s.x_speed / 10, near])

    def reset_env(self, key: Key, params: CartpoleParams) -> tuple[jax.Array, CartpoleState]:
        """A start, hanging: th = pi +- 0.05, all else +- 0.05: (obs [6], state). The key is consumed."""
        u = 0.05 * jax.random.uniform(key, (4,), params.half_length.dtype, -1.0)
        state = CartpoleState(x=u[0], x_speed=u[1], theta=math.pi + u[2], theta_speed=u[3], t=jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def _reward(self, s: CartpoleState, force: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(reward [], success bool [])."""
        up, slow = jnp.cos(s.theta), jnp.abs(s.theta_speed) < 1.0
        if self.reward == "seeds":
            success = (up > 0.95) & (jnp.abs(s.x) < 0.1) & (jnp.abs(s.x_speed) < 1.0) & slow
            return success - jnp.abs(force) / 1000.0, success
        success = (up > 0.5) & slow & (jnp.abs(s.x) < 1.0)
        if self.reward == "sparse":
            return success - 0.1 * jnp.abs(force) / MAX_FORCE, success
        return (1.0 + up) / 2.0 * jnp.cos(math.pi * s.x / 4.8), success

    def step_env(
        self, key: Key, state: CartpoleState, action: Action, params: CartpoleParams
    ) -> tuple[jax.Array, CartpoleState, jax.Array, jax.Array, dict[str, Any]]:
        """One raw step: (obs [6], state, reward [], terminated [] bool, {"success": it stands}). Action float [1].

        Nothing is drawn: the key is not read.
        """
        force = MAX_FORCE * jnp.clip(action[0], -1.0, 1.0)
        l, total = params.half_length, params.cart_mass + params.pole_mass
        sin, cos = jnp.sin(state.theta), jnp.cos(state.theta)
        push = (force + params.pole_mass * l * jnp.square(state.theta_speed) * sin) / total
        theta_acc = (params.gravity * sin - cos * push) / (l * (4.0 / 3.0 - params.pole_mass * jnp.square(cos) / total))
        x_acc = push - params.pole_mass * l * theta_acc * cos / total
        state = CartpoleState(
            x=state.x + params.dt * state.x_speed,
            x_speed=state.x_speed + params.dt * x_acc,
            theta=state.theta + params.dt * state.theta_speed,
            theta_speed=state.theta_speed + params.dt * theta_acc,
            t=state.t + 1,
        )
        reward, success = self._reward(state, force)
        return self._observe(state), state, reward, jnp.abs(state.x) > LIMIT[self.reward], {"success": success}

    def is_truncated(self, state: CartpoleState, params: CartpoleParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def render(self, state: CartpoleState, params: CartpoleParams, size: int = 200) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size, size, 3]; see `worlds_picture.cartpole`. Not jittable."""
        from causal_jax.envs import worlds_picture

        x, theta, half = float(state.x), float(state.theta), float(params.half_length)
        return worlds_picture.cartpole(x / LIMIT[self.reward], theta, half / LIMIT[self.reward], size)
