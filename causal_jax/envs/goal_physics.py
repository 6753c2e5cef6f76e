"""The physics of Goal: a player and a ball against a goalie on half a pitch, one substep at a time (gym-goal; Masson et al., AAAI 2016).

In a substep the player kicks the ball if it can reach it, else turns to it or dashes; the goalie runs to where a shot will pass it, else to
where the ball will rest; then all three move, their speeds decay, and those that overlap are pushed apart. Lengths: field units; speeds
in units per substep, angles in radians (never wrapped). The field is 0 <= x <= 20, |y| <= 15; the goal is at x = 20, |y| <= 7.01.

Kept from the original program: noise multiplies the angle of an acceleration as it stands, so a full turn more is more noise; a collision
reverses both velocities; beyond the net's depth between the posts the distance to the goal is 0. Departures: float32 by default, so the
reach of 1.6 has 1e-5 of slack (at the start the ball lies exactly at that distance, and in a sixth of the starts would round out of reach);
the goalie's way to a shot is perpendicular to the shot, which is the original's crossing of two lines without its cancellation.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

LENGTH, HALF_WIDTH = 20.0, 15.0  # of the field
GOAL_HALF_WIDTH, GOAL_DEPTH = 7.01, 2.44
REACH, CATCH = 1.6, 2.0  # where the player can kick, the goalie hold the ball
MAX_POWER, DASH, INTERCEPT, FOLLOW = 100.0, 10.0, 20.0, 8.0  # powers
INERTIA = 5.0  # how a running player turns
FACING = jnp.pi / 8  # a player turned away further than this turns before it runs
REST = 0.1  # speed of a ball that counts as stopped


class Kind(NamedTuple):
    """What an entity is made of: acceleration per power, radius, noise, most acceleration and speed per axis, what a substep leaves."""

    rate: float
    size: float
    noise: float
    limit: float
    decay: float


RUNNER = Kind(rate=0.006, size=0.9, noise=0.1, limit=1.0, decay=0.4)  # player and goalie
BALL = Kind(rate=0.027, size=0.4, noise=0.05, limit=2.7, decay=0.94)


@struct.dataclass
class GoalState:
    """Places, velocities and orientations, float [] each; `time` int32 []: macro steps taken."""

    player_x: jax.Array
    player_y: jax.Array
    player_vx: jax.Array
    player_vy: jax.Array
    player_o: jax.Array
    goalie_x: jax.Array
    goalie_y: jax.Array
    goalie_vx: jax.Array
    goalie_vy: jax.Array
    goalie_o: jax.Array
    ball_x: jax.Array
    ball_y: jax.Array
    ball_vx: jax.Array
    ball_vy: jax.Array
    time: jax.Array


class Counts(NamedTuple):
    """What happened, bool [] in a substep, int32 [] over a macro step. An intercept is a goalie's move with full power."""

    n_kick: jax.Array
    n_dash: jax.Array
    n_turn: jax.Array
    n_intercept: jax.Array
    n_coll_player_goalie: jax.Array
    n_coll_player_ball: jax.Array
    n_coll_goalie_ball: jax.Array


def wrap(angle: jax.Array) -> jax.Array:
    """The same angle in [-pi, pi]."""
    return angle - 2 * jnp.pi * jnp.round(angle / (2 * jnp.pi))


def can_kick(state: GoalState) -> jax.Array:
    """bool []: the ball is within the player's reach."""
    distance = jnp.hypot(state.ball_x - state.player_x, state.ball_y - state.player_y)
    return distance <= REACH + 84 * jnp.finfo(distance.dtype).eps  # 1e-5 in float32


def in_net(state: GoalState) -> jax.Array:
    """bool []: a goal is scored."""
    return (state.ball_x >= LENGTH) & (state.ball_x <= LENGTH + GOAL_DEPTH) & (jnp.abs(state.ball_y) <= GOAL_HALF_WIDTH)


def caught(state: GoalState) -> jax.Array:
    """bool []: the goalie holds the ball."""
    return jnp.hypot(state.ball_x - state.goalie_x, state.ball_y - state.goalie_y) < CATCH


def out(state: GoalState) -> jax.Array:
    """bool []: the ball is off the field."""
    return (state.ball_x < 0) | (state.ball_x > LENGTH) | (jnp.abs(state.ball_y) > HALF_WIDTH)


def at_rest(state: GoalState) -> jax.Array:
    """bool []: the ball has stopped at the player's feet, which ends a kick-to."""
    return (jnp.hypot(state.ball_vx, state.ball_vy) <= REST) & can_kick(state)


def goal_distance(state: GoalState) -> jax.Array:
    """Distance [] of the ball to the goal, in field units; 0 behind the goal line between the posts."""
    beside = jnp.maximum(jnp.abs(state.ball_y) - GOAL_HALF_WIDTH, 0.0)
    behind = jnp.where(state.ball_y < -GOAL_HALF_WIDTH, GOAL_HALF_WIDTH - state.ball_y, beside)  # the original's sign: further by 14.02
    return jnp.where(state.ball_x < LENGTH, jnp.hypot(LENGTH - state.ball_x, beside), behind)


def accelerate(
    kind: Kind, velocity: tuple[jax.Array, jax.Array], power: jax.Array, angle: jax.Array, units: jax.Array, noise_scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The velocity (x, y) after an acceleration of `power` along `angle`; units [3]: uniform draws in [-1, 1], of the angle, x and y."""
    rand = kind.noise * noise_scale
    angle = angle * (1 + rand * units[0])
    spread = rand * jnp.hypot(*velocity)
    push = (kind.rate * power * jnp.cos(angle) + spread * units[1], kind.rate * power * jnp.sin(angle) + spread * units[2])
    x, y = (jnp.clip(v + jnp.clip(a, -kind.limit, kind.limit), -kind.limit, kind.limit) for v, a in zip(velocity, push, strict=True))
    return x, y


def substep(state: GoalState, target: tuple[jax.Array, jax.Array], units: jax.Array, noise_scale: jax.Array) -> tuple[GoalState, Counts]:
    """A substep in which the player wants the ball at `target` (x, y). units [6]: draws in [-1, 1], three for each of player and goalie."""
    state, kick, turn = _player(state, target, units[:3], noise_scale)
    state, intercept = _goalie(state, units[3:], noise_scale)
    state = dataclasses.replace(
        state,
        player_x=state.player_x + state.player_vx,
        player_y=state.player_y + state.player_vy,
        player_vx=state.player_vx * RUNNER.decay,
        player_vy=state.player_vy * RUNNER.decay,
        goalie_x=state.goalie_x + state.goalie_vx,
        goalie_y=state.goalie_y + state.goalie_vy,
        goalie_vx=state.goalie_vx * RUNNER.decay,
        goalie_vy=state.goalie_vy * RUNNER.decay,
        ball_x=state.ball_x + state.ball_vx,
        ball_y=state.ball_y + state.ball_vy,
        ball_vx=state.ball_vx * BALL.decay,
        ball_vy=state.ball_vy * BALL.decay,
    )
    state, player_goalie = _collide(state, "player", "goalie", 2 * RUNNER.size)
    state, player_ball = _collide(state, "player", "ball", RUNNER.size + BALL.size)
    state, goalie_ball = _collide(state, "goalie", "ball", RUNNER.size + BALL.size)
    return state, Counts(kick, ~kick & ~turn, turn, intercept, player_goalie, player_ball, goalie_ball)


def _player(
    state: GoalState, target: tuple[jax.Array, jax.Array], units: jax.Array, noise_scale: jax.Array
) -> tuple[GoalState, jax.Array, jax.Array]:
    """(state, kicked, turned). The kick makes the ball roll as far as the player is from the target."""
    dx, dy = state.ball_x - state.player_x, state.ball_y - state.player_y
    bearing = jnp.arctan2(dy, dx)
    off = wrap(bearing - state.player_o)
    kick = can_kick(state)
    turn = ~kick & (jnp.abs(off) >= FACING)
    ball, player = (state.ball_vx, state.ball_vy), (state.player_vx, state.player_vy)
    wanted = [(1 - BALL.decay) * (at - x) - v for at, x, v in zip(target, (state.player_x, state.player_y), ball, strict=True)]
    skill = 1 - 0.25 * jnp.abs(off) / jnp.pi - 0.25 * jnp.hypot(dx, dy) / REACH
    power = jnp.minimum(jnp.hypot(*wanted) / (skill * BALL.rate), MAX_POWER) * skill
    kicked = accelerate(BALL, ball, power, jnp.arctan2(wanted[1], wanted[0]), units, noise_scale)
    dashed = accelerate(RUNNER, player, jnp.full_like(power, DASH), state.player_o, units, noise_scale)
    dash = ~kick & ~turn
    turned = state.player_o + off / (1 + INERTIA * jnp.hypot(*player))
    state = dataclasses.replace(
        state,
        ball_vx=jnp.where(kick, kicked[0], ball[0]),
        ball_vy=jnp.where(kick, kicked[1], ball[1]),
        player_vx=jnp.where(dash, dashed[0], player[0]),
        player_vy=jnp.where(dash, dashed[1], player[1]),
        player_o=jnp.where(turn, turned, state.player_o),
    )
    return state, kick, turn


def _goalie(state: GoalState, units: jax.Array, noise_scale: jax.Array) -> tuple[GoalState, jax.Array]:
    """(state, intercepts). To the nearest point of the ball's line if that ends in or just beside the goal, else to where it will rest."""
    vx, vy = state.ball_vx, state.ball_vy
    to_rest = 1 / (1 - BALL.decay)
    slope = jnp.where(vx != 0, vy / jnp.where(vx != 0, vx, 1), 0)
    crossing = state.ball_y + slope * (LENGTH - state.ball_x)
    intercept = (state.ball_x + to_rest * vx > LENGTH) & (jnp.abs(crossing) <= GOAL_HALF_WIDTH + 2) & (slope != 0)
    across = (state.ball_y - state.goalie_y) * vx - (state.ball_x - state.goalie_x) * vy
    way_x = jnp.where(intercept, -across * vy, state.ball_x + to_rest * vx - state.goalie_x)
    way_y = jnp.where(intercept, across * vx, state.ball_y + to_rest * vy - state.goalie_y)
    angle = jnp.arctan2(way_y, way_x)
    power = jnp.where(intercept, INTERCEPT, FOLLOW)
    x, y = accelerate(RUNNER, (state.goalie_vx, state.goalie_vy), power, angle, units, noise_scale)
    return dataclasses.replace(state, goalie_vx=x, goalie_vy=y, goalie_o=angle), intercept


def _collide(state: GoalState, one: str, other: str, reach: float) -> tuple[GoalState, jax.Array]:
    """(state, collided): two that overlap go apart by half the overlap each, and turn round."""
    names = [f"{who}_{axis}" for who in (one, other) for axis in ("x", "y", "vx", "vy")]
    x1, y1, vx1, vy1, x2, y2, vx2, vy2 = (getattr(state, name) for name in names)
    distance = jnp.hypot(x1 - x2, y1 - y2)
    hit = distance < reach
    apart = jnp.where(distance > 0, distance, 1)
    east = distance == 0  # on top of each other both go east, as the angle of no direction is 0
    overlap = jnp.where(hit, (reach - distance) / 2, 0)
    sign = jnp.where(hit, -1, 1).astype(distance.dtype)
    moved = (
        x1 + overlap * ((x1 - x2) / apart + east),
        y1 + overlap * (y1 - y2) / apart,
        sign * vx1,
        sign * vy1,
        x2 + overlap * ((x2 - x1) / apart + east),
        y2 + overlap * (y2 - y1) / apart,
        sign * vx2,
        sign * vy2,
    )
    return dataclasses.replace(state, **dict(zip(names, moved, strict=True))), hit
