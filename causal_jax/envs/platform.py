"""Platform (Masson et al. 2016, arXiv 1509.01644): run, hop or leap to the right over three platforms, two gaps and two enemies.

An action is a choice and its parameter: run, hop or leap, and how far. One step is a whole move: a run lasts 20 sub-steps of 0.05 s, a jump
until the player lands, up to 144. Reward is the way gained over the whole way, so a return is at most 1; falling, touching an
enemy and the right end terminate. Numbers: the program gym-platform as DLPA (arXiv 2404.03037) uses it, whose observations are in [-1, 1].

Kept from that program, since results hang on it: an enemy on its turning point turns in every sub-step; only the enemy of the player's
half moves, both are deadly; whatever meets a platform loses its speed along x, so a jump that lands ends at rest; the end of the
world is where the last platform begins to leave the player's feet.
Departures: float32 (float64 where the state is); the limit of 200 steps is a truncation.
Returns (8,192 episodes): uniformly random play 0.154, the policy of `platform_policies` 0.997.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from causal_jax.envs.base import Environment
from causal_jax.fields import option
from causal_jax.noise import standard_normal
from causal_jax.spaces import Box, Hybrid
from causal_jax.types import Action, Key

RUN, HOP, LEAP = range(3)
EVENTS = (
    "run_completed", "landed_same_platform", "landed_on_platform2", "landed_on_platform3", "fell", "killed_by_enemy", "reached_right_end",
)  # fmt: skip
PLATFORMS = ((0.0, 250.0), (475.0, 275.0), (985.0, 50.0))  # left end, width; the tops are at HEIGHT, pixels everywhere
HEIGHT, END = 40.0, 1035.0  # an entity's place is its box's lower left corner: it stands where y == HEIGHT
WIDTH, TALL = 20.0, 30.0  # the boxes of player and enemies
RANGES = (30.0, 720.0, 430.0)  # the parameters of run, hop and leap are in [0, these], z = -1 to 1
DT, RUN_SUBSTEPS = 0.05, 20
NUM_DRAWS, MAX_SUBSTEPS = 150, 1000  # a jump from a platform lasts 144 sub-steps at most; only a player put higher by hand needs more
GRAVITY, DECAY, JUMPS = 9.8, 0.99, (0.0, 35.0, 25.0)  # JUMPS: the speed upwards of hop and leap, pixels a second
MAX_DX, MAX_DX_ON, MAX_DY = 100.0, 70.0, 200.0  # speeds: at all, on the ground, along y
MAX_DDX, MAX_DDY, ENEMY_SPEED, NOISE = (MAX_DX - MAX_DX_ON) / DT, MAX_DY / DT, 30.0, 0.5 * DT

SHIFT, SCALE = np.asarray([20, 0, 0, 30, 0, 0, 0, 0, 0]), np.asarray([1055, 100, 1035, 60, 275, 275, 235, 1035, 1])  # of the observation


@struct.dataclass
class PlatformState:
    """Between two moves. Floats [], pixels and pixels per second; `elapsed` int32 []: steps taken."""

    player_x: jax.Array
    player_y: jax.Array
    player_vx: jax.Array
    player_vy: jax.Array
    enemy1_x: jax.Array
    enemy1_dx: jax.Array
    enemy2_x: jax.Array
    enemy2_dx: jax.Array
    elapsed: jax.Array


@struct.dataclass
class PlatformParams:
    """One world, all scalars."""

    noise_scale: jax.Array  # what every normal draw is multiplied by; 0: the mean dynamics
    max_steps: jax.Array  # int32


class Noise(NamedTuple):
    """Unit normal draws of one step: `jump` [2] (x, y; the first sub-step of a jump), `substeps` [T, 2] (player's vx, enemy's dx)."""

    jump: jax.Array
    substeps: jax.Array


def _standing(x: Any, y: Any) -> Any:
    """bool []: on a platform. Landing writes exactly HEIGHT."""
    on = [(x >= left - WIDTH) & (x <= left + width) for left, width in PLATFORMS]
    return (y == HEIGHT) & (on[0] | on[1] | on[2])


def _touches(x: Any, y: Any, enemy_x: Any) -> Any:
    """bool []: the player's box at (x, y) overlaps an enemy's."""
    return (jnp.abs(x - enemy_x) < WIDTH) & (jnp.abs(y - HEIGHT) < TALL)


def _dead(s: PlatformState) -> tuple[Any, Any, Any]:
    """What terminates, bool [] each: the player is below the platforms; has met an enemy; is at the right end."""
    met = _touches(s.player_x, s.player_y, s.enemy1_x) | _touches(s.player_x, s.player_y, s.enemy2_x)
    return s.player_y < HEIGHT, met, s.player_x >= END


def _enemy(x: Any, dx: Any, left: float, width: float, draw: Any) -> tuple[Any, Any]:
    """The enemy's next x and speed: it turns at the ends of its platform."""
    low, high = left, left + width - WIDTH
    dx = jnp.clip(jnp.where((low < x) & (x < high), dx, -dx) + NOISE * draw, -ENEMY_SPEED, ENEMY_SPEED)
    return jnp.clip(x + dx * DT, low, high), dx


def _collide(x: Any, y: Any, vx: Any, vy: Any) -> tuple[Any, Any, Any, Any]:
    """The player moved out of the platforms it is in, sideways or up, whichever is the shorter way; its speed along x is lost."""
    for left, width in PLATFORMS:
        inside = (left - WIDTH < x) & (x < left + width) & (y > -TALL) & (y < HEIGHT)
        new_x = jnp.where(x < left, left - WIDTH, jnp.where(x > left + width - WIDTH, left + width, x))
        new_y = jnp.where(y < 0, -TALL, jnp.where(y > 10, HEIGHT, y))
        sideways = (new_x != x) & ((new_y == y) | (jnp.abs(x - new_x) < jnp.abs(y - new_y)))
        upright = inside & ~sideways
        x, vx = jnp.where(inside & sideways, new_x, x), jnp.where(inside, 0.0, vx)
        y, vy = jnp.where(upright, new_y, y), jnp.where(upright, 0.0, vy)
    return x, y, vx, vy


def _substep(s: PlatformState, k: Any, raw: Any, jump: jax.Array, draws: jax.Array) -> PlatformState:
    """0.05 s of action k with parameter raw. jump [2], draws [2]: normal draws, scaled."""
    x, y, vx, vy = s.player_x, s.player_y, s.player_vx, s.player_vy
    ground = _standing(x, y)
    up = jnp.where(k == HOP, JUMPS[HOP], JUMPS[LEAP])
    jump_dx = jnp.clip(raw / (2 * up / GRAVITY + 1) - vx, -MAX_DDX, MAX_DY - up) - jnp.abs(jump[0])
    add_x = jnp.where(ground, jnp.where(k == RUN, raw, jump_dx), 0.0)
    add_y = jnp.where(ground, jnp.where(k == RUN, 0.0, up - jnp.abs(jump[1])), -GRAVITY * DT)
    vx = vx + jnp.clip(add_x / DT, -MAX_DDX, MAX_DDX) * DT - jnp.abs(NOISE * draws[0])
    vx = jnp.clip(vx, 0.0, jnp.where(ground, MAX_DX_ON, MAX_DX))
    vy = jnp.clip(vy + jnp.clip(add_y / DT, -MAX_DDY, MAX_DDY) * DT, -MAX_DY, MAX_DY)

    second = x > PLATFORMS[1][0]  # whose half it is
    e1 = _enemy(s.enemy1_x, s.enemy1_dx, *PLATFORMS[0], draws[1])
    e2 = _enemy(s.enemy2_x, s.enemy2_dx, *PLATFORMS[1], draws[1])
    x, y, vx, vy = _collide(jnp.clip(x + vx * DT, 0.0, END), y + vy * DT, vx * DECAY, vy)
    return dataclasses.replace(
        s, player_x=x, player_y=y, player_vx=vx, player_vy=vy,
        enemy1_x=jnp.where(second, s.enemy1_x, e1[0]), enemy1_dx=jnp.where(second, s.enemy1_dx, e1[1]),
        enemy2_x=jnp.where(second, e2[0], s.enemy2_x), enemy2_dx=jnp.where(second, e2[1], s.enemy2_dx),
    )  # fmt: skip


def _over(s: PlatformState, k: Any, substeps: Any) -> Any:
    """bool []: the move has ended in the state after `substeps` sub-steps."""
    fell, met, end = _dead(s)
    return fell | met | end | jnp.where(k == RUN, substeps >= RUN_SUBSTEPS, _standing(s.player_x, s.player_y))


def _prepare(state: PlatformState, action: Action) -> tuple[PlatformState, jax.Array, jax.Array]:
    """(state with floats of one type, k, raw): the parameter z [1] scaled to pixels, in float32 as in the original, and clipped."""
    k = jnp.asarray(action[0])
    dtype = jnp.result_type(jnp.float32, state.player_x, state.player_y)
    high = jnp.asarray(RANGES, jnp.float32)[k]
    raw = jnp.clip(high * (jnp.asarray(action[1], jnp.float32)[0] + 1) / 2, 0.0, high).astype(dtype)
    elapsed = jnp.asarray(state.elapsed)
    state = jax.tree.map(lambda x: jnp.asarray(x, dtype), state)
    return dataclasses.replace(state, elapsed=elapsed), k, raw


def _platform(x: Any) -> Any:
    """int []: 0, 1 or 2, the platform at or left of x."""
    return (x >= PLATFORMS[1][0] - WIDTH).astype(jnp.int32) + (x >= PLATFORMS[2][0] - WIDTH)


def observe(s: PlatformState) -> jax.Array:
    """float32 [9], `features` mapped to [-1, 1]."""
    second, third = s.player_x >= PLATFORMS[1][0], s.player_x >= PLATFORMS[2][0]
    active = s.player_x > PLATFORMS[1][0]
    enemy = [jnp.where(active, s.enemy2_x, s.enemy1_x), jnp.where(active, s.enemy2_dx, s.enemy1_dx)]
    ground = [jnp.where(third, c, jnp.where(second, b, a)) for a, b, c in ((250, 275, 50), (275, 50, 0), (225, 235, 0), (0, 475, 985))]
    seen = jnp.stack([jnp.asarray(x, s.player_x.dtype) for x in (s.player_x, s.player_vx, *enemy, *ground, 0.0)])
    return (2 * (seen + SHIFT) / SCALE - 1).astype(jnp.float32)


def features(obs: jax.Array) -> jax.Array:
    """float [9], pixels, of an observation: x, vx, x and dx of the enemy of the player's half, widths of this platform and the next, the
    gap between, where the platform begins, difference in height (always 0). The platform: the last that begins left of the player.
    """
    return (obs + 1) / 2 * SCALE - SHIFT


@dataclasses.dataclass(frozen=True)
class Platform(Environment):
    """The environment. Action `(k, z [1])`: run, hop or leap with z in [-1, 1] from no to full strength; z is clipped."""

    noise_scale: float = option(1.0, low=0)
    """What the random draws are multiplied by; 0: every draw is its mean."""
    max_steps: int = option(200, low=1)
    """Time limit in steps (moves)."""

    @property
    def default_params(self) -> PlatformParams:
        """The options as params."""
        return PlatformParams(jnp.asarray(self.noise_scale, jnp.float32), jnp.asarray(self.max_steps, jnp.int32))

    def action_space(self, params: PlatformParams) -> Hybrid:
        """Three choices of one parameter each."""
        return Hybrid((1, 1, 1))

    def observation_space(self, params: PlatformParams) -> Box:
        """Nine features in [-1, 1]; see `features`."""
        return Box(-1.0, 1.0, (9,))

    def reset_env(self, key: Key, params: PlatformParams) -> tuple[jax.Array, PlatformState]:
        """The start, always the same: (obs, state). The key is not needed."""
        f = [jnp.float32(x) for x in (0.0, HEIGHT, 0.0, 0.0, 230.0, -ENEMY_SPEED, 730.0, -ENEMY_SPEED)]
        state = PlatformState(*[*f, jnp.zeros((), jnp.int32)])
        return observe(state), state

    def step_env(
        self, key: Key, state: PlatformState, action: Action, params: PlatformParams
    ) -> tuple[jax.Array, PlatformState, jax.Array, jax.Array, dict[str, Any]]:
        """One move: (obs, state, reward [], terminated [] bool, info). The key is consumed.

        info: "success" bool []: the right end is reached. "substeps" int32 []. "event" int32 []: what ended the move, see EVENTS.
        """
        key_jump, key_substeps = jax.random.split(key)
        # all at once: a draw inside the loop, one threefry per sub-step, makes it 2.5 times slower
        substeps = standard_normal(key_substeps, (NUM_DRAWS, 2))
        return self.step_given(Noise(standard_normal(key_jump, (2,)), substeps), state, action, params)

    def step_given(
        self, noise: Noise, state: PlatformState, action: Action, params: PlatformParams
    ) -> tuple[jax.Array, PlatformState, jax.Array, jax.Array, dict[str, Any]]:
        """`step_env` with given draws, which begin anew should a move have more than T sub-steps."""
        start, k, raw = _prepare(state, action)
        scale = jnp.asarray(params.noise_scale, raw.dtype)
        jump, draws = scale * jnp.asarray(noise.jump, raw.dtype), scale * jnp.asarray(noise.substeps, raw.dtype)

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            s, substeps, _ = carry
            s = _substep(s, k, raw, jump, draws[substeps % len(draws)])
            return s, substeps + 1, _over(s, k, substeps + 1)

        go = (start, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        end, substeps, _ = jax.lax.while_loop(lambda carry: ~carry[2] & (carry[1] < MAX_SUBSTEPS), body, go)
        end = dataclasses.replace(end, elapsed=start.elapsed + 1)
        fell, met, success = _dead(end)
        now = _platform(end.player_x)
        landed = jnp.where(now == _platform(start.player_x), 1, 1 + now)
        event = jnp.where(success, 6, jnp.where(fell, 4, jnp.where(met, 5, jnp.where(k == RUN, 0, landed))))
        info = {"success": success, "substeps": substeps, "event": event.astype(jnp.int32)}
        return observe(end), end, (end.player_x - start.player_x) / END, fell | met | success, info

    def is_truncated(self, state: PlatformState, params: PlatformParams) -> jax.Array:
        """bool []: the time limit is reached, and nothing else ended the episode."""
        fell, met, end = _dead(state)
        return (state.elapsed >= params.max_steps) & ~(fell | met | end)

    def render(self, state: PlatformState, params: PlatformParams, size: int = 480) -> np.ndarray:
        """A picture for the eye, on the host: uint8 [size // 4, size, 3]; see `platform_picture.draw`. Not jittable."""
        from causal_jax.envs import platform_picture

        return platform_picture.draw(jax.tree.map(np.asarray, state), size)
