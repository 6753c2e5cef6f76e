"""Atari 2600 games (Bellemare et al. 2013): `ale:<game>`, the real ones, and `jaxtari:<game>`, rewritten in JAX.

`ale:<game>` is ale-py's vector environment called from inside the compiled program (its XLA interface); `pip install "causal_jax[atari]"`.
How it fits a contract that is written for one environment: the emulators live outside of the program and an environment's state is the way
to them (an address) with its lives. `reset` and `step` of one environment are primitives that vmap turns into one call for the batch,
so N environments are one vector environment of N games on N threads. What follows from that:
- one member per run: emulators of several members in one program, maybe on several devices, are refused with a UserError;
- a state is not a copy: only the newest one can be stepped, there is no branching, and a program may run once at a time;
- a checkpoint holds no emulator: a resumed run begins its games anew, and is not bit-exact.
Preprocessing is that of the CEE paper's code (stable-baselines3's): the full 18 actions, up to 30 no-ops and FIRE at the start, the
maximum of two frames, 84 x 84 grey, a stack of 4, lost lives as ends, the sign of the reward. Departures: a step is 4 frames, the authors'
is 16 (they skip 4 of an environment that skips 4: frame_skip=16); no FIRE after a lost life; lives and signs are what training sees
(`reset`, `step`), evaluation (`reset_env`, `step_env`) plays whole games for points.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.custom_batching import custom_vmap

from causal_jax.envs.adapters import LimitParams, _quiet
from causal_jax.envs.base import Environment
from causal_jax.fields import option, suggest
from causal_jax.spaces import Box, Discrete
from causal_jax.types import Action, Key, Obs, UserError

NUM_ACTIONS, SIDE, STACK = 18, 84, 4
RAW = 4  # emulators that evaluations take in turn: greedy and sampled, with a mask and without, may be in one program
TOKEN = int.from_bytes(os.urandom(3), "little") << 8  # tells states of this process from those of a checkpoint


@struct.dataclass
class AleState:
    """The way to the emulators, `handle` uint8 [8]; `token` uint32 [], of this process and batch; `lives` int32 []; `cut` bool []."""

    handle: jax.Array
    token: jax.Array
    lives: jax.Array
    cut: jax.Array


def _import(name: str) -> Any:
    try:
        import ale_py
        from ale_py.vector_env import AtariVectorEnv  # which needs gymnasium
    except ImportError as error:
        raise UserError(
            f"env = 'ale:{name}': needs the package ale-py (pip install \"causal_jax[atari]\"), which cannot be imported here ({error})"
        ) from None
    games = sorted(ale_py.roms.get_all_rom_ids())
    if name not in games:
        raise UserError(f"env = 'ale:{name}': {suggest(name, games)}")
    return AtariVectorEnv


@functools.cache
def _emulators(env: Ale, num: int, slot: int) -> np.ndarray:
    """The address uint8 [8] of `num` emulators, made at the first call; slot 0 is for training, the others for evaluations."""
    with _quiet():
        vector = _import(env.name)(
            env.name, num, max_num_frames_per_episode=env.max_steps * env.frame_skip, repeat_action_probability=env.sticky,
            full_action_space=True, frameskip=env.frame_skip, noop_max=env.noop_max, reward_clipping=False, stack_num=STACK,
            img_height=SIDE, img_width=SIDE,
        )  # fmt: skip
        vector.xla()  # registers the two calls
    _KEPT.append(vector)
    return np.asarray(vector.ale.handle(), np.uint8)


_KEPT: list[Any] = []  # what an address points to
_TURNS: dict[Any, Iterator[int]] = {}


def _batched(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one lane that vmap turns into one `run(num, *args)`, args and results with a leading axis [num].

    Raises: UserError (when traced) under a second vmap of more than 1.
    """

    @custom_vmap
    def lanes(*args: Any) -> Any:
        return run(jax.tree.leaves(args)[0].shape[0], *args)

    @lanes.def_vmap
    def members(size: int, batched: Any, *args: Any) -> Any:
        if size > 1:
            raise UserError(f"members = {size}: must be 1 with ale:<game>, whose emulators are outside of the program; run each seed apart")
        args = jax.tree.map(lambda x, is_batched: x[0] if is_batched else x, args, tuple(batched))
        out = jax.tree.map(lambda x: x[None], lanes(*args))
        return out, jax.tree.map(lambda _: True, out)

    @custom_vmap
    def one(*args: Any) -> Any:
        return jax.tree.map(lambda x: x[0], lanes(*jax.tree.map(lambda x: x[None], args)))

    @one.def_vmap
    def batch(size: int, batched: Any, *args: Any) -> Any:
        spread = jax.tree.map(lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (size, *x.shape)), args, tuple(batched))
        out = lanes(*spread)
        return out, jax.tree.map(lambda _: True, out)

    return one


def _call(target: str, num: int, kinds: tuple[Any, ...], *args: jax.Array) -> Any:
    """ale-py's XLA call `target`: (handle, frames uint8 [num, 84, 84, stack], ..., lives int32 [num])."""
    of = jax.ShapeDtypeStruct
    shapes = (of((8,), jnp.uint8), of((num, STACK, SIDE, SIDE), jnp.uint8), *(of((num,), kind) for kind in (*kinds, *[jnp.int32] * 4)))
    handle, frames, *rest = jax.ffi.ffi_call(f"atari_vector_xla_{target}", shapes, has_side_effect=True)(*args)
    return handle, jnp.moveaxis(frames, 1, -1), *rest[: len(kinds)], rest[len(kinds) + 1]


@dataclasses.dataclass(frozen=True)
class Ale(Environment):
    """A game of the Arcade Learning Environment; see the module. Observations are uint8 [84, 84, 4], the newest frame last."""

    name: str
    frame_skip: int = option(4, low=1, high=60)
    """Frames of a step, all with the same action; the observation has the maximum of the last two. 16 is what the authors' code does."""
    sticky: float = option(0.25, low=0.0, high=1.0)
    """Probability, at each frame, that the action before is played again (Machado et al. 2018)."""
    noop_max: int = option(30, low=0)
    """A game begins with up to this many frames without an action."""
    episodic_life: bool = True
    """A lost life ends an episode of training, and the game goes on in the next."""
    clip: bool = True
    """Training is rewarded by the sign of the points."""
    max_steps: int = option(27_000, low=1)
    """Time limit of a game in steps."""

    def __post_init__(self) -> None:
        _import(self.name)

    @property
    def default_params(self) -> LimitParams:
        """The time limit; it tells how long evaluations may take, the emulators have the option's."""
        return LimitParams(max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def action_space(self, params: LimitParams) -> Discrete:
        """All 18 positions of joystick and button; in most games many are aliases of each other."""
        return Discrete(NUM_ACTIONS)

    def observation_space(self, params: LimitParams) -> Box:
        """Four grey frames."""
        return Box(0, 255, (SIDE, SIDE, STACK), jnp.uint8)

    def _reset(self, key: Key, slot: int) -> tuple[jax.Array, AleState]:
        def run(num: int, seeds: jax.Array) -> tuple[jax.Array, AleState]:
            return self._all(num, jnp.asarray(_emulators(self, num, slot)), seeds)

        return _batched(run)(jax.random.bits(key, (), jnp.uint32).astype(jnp.int32) & 0x7FFFFFFF)

    def _all(self, num: int, handle: jax.Array, seeds: jax.Array) -> tuple[jax.Array, AleState]:
        """Every game of a batch begins: its observations and states."""
        handle, obs, lives = _call("reset", num, (), handle, jnp.arange(num, dtype=jnp.int32), seeds)
        return obs, self._state(num, handle, lives, jnp.zeros(num, bool))

    def _state(self, num: int, handle: jax.Array, lives: jax.Array, cut: jax.Array) -> AleState:
        return AleState(jnp.broadcast_to(handle, (num, 8)), jnp.full(num, TOKEN + num, jnp.uint32), lives, cut)

    def _step(self, num: int, state: AleState, action: jax.Array) -> Any:
        """One call for the batch: observations, states, points, over, cut; a game that is over is not begun again."""
        known = state.token[0] == jnp.uint32(TOKEN + num)
        spare = jnp.asarray(_emulators(self, num, 0))

        def revive() -> tuple[jax.Array, jax.Array]:  # the state is one of another process: its games are gone
            new = self._all(num, spare, jnp.arange(num, dtype=jnp.int32))[1]
            return new.handle[0], new.lives

        handle, lives = jax.lax.cond(known, lambda: (state.handle[0], state.lives), revive)
        kinds = (jnp.int32, jnp.bool_, jnp.bool_)
        handle, obs, points, over, cut, after = _call("step", num, kinds, handle, action.astype(jnp.int32), jnp.ones(num))
        return obs, self._state(num, handle, after, cut), points.astype(jnp.float32), over, lives

    def reset(self, key: Key, params: Any = None) -> tuple[Obs, AleState]:
        """See `Environment.reset`."""
        obs, state = self._reset(key, 0)
        return obs, state

    def reset_env(self, key: Key, params: LimitParams) -> tuple[Obs, AleState]:
        """See `Environment.reset_env`: a whole game for points."""
        turn = _TURNS.setdefault(self, itertools.cycle(range(1, RAW + 1)))
        obs, state = self._reset(key, next(turn))
        return obs, state

    def step_env(
        self, key: Key, state: AleState, action: Action, params: LimitParams
    ) -> tuple[Obs, AleState, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`. The reward is points; info["lives"] int32 []. The key is not needed: emulators have their own."""
        obs, state, points, over, _ = _batched(self._step)(state, jnp.asarray(action))
        return obs, state, points, over, {"lives": state.lives}

    def step(
        self, key: Key, state: AleState, action: Action, params: Any = None
    ) -> tuple[Obs, AleState, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step`; info["points"] are those of the game. A new game is begun only where one is over."""

        def run(num: int, state: AleState, action: jax.Array) -> Any:
            last, state, points, over, lives = self._step(num, state, action)
            cut, ended = state.cut, over | state.cut

            def begin(carry: Any) -> Any:
                left, handle, _, _ = carry
                lane = jnp.argmax(left)
                one = (lane[None].astype(jnp.int32), jnp.full(1, -1, jnp.int32))
                return left.at[lane].set(False), *_call("reset", num, (), handle, *one)

            carry = (ended, state.handle[0], last, state.lives)
            _, handle, obs, now = jax.lax.while_loop(lambda carry: jnp.any(carry[0]), begin, carry)
            terminated = over | (self.episodic_life & (state.lives < lives))
            return obs, self._state(num, handle, now, jnp.zeros(num, bool)), points, terminated, cut, last, state.lives

        obs, state, points, terminated, truncated, last, lives = _batched(run)(state, jnp.asarray(action))
        info = {"points": points, "lives": lives, "terminated": terminated, "truncated": truncated, "final_observation": last}
        return obs, state, jnp.sign(points) if self.clip else points, terminated, truncated, info

    def is_truncated(self, state: AleState, params: LimitParams) -> jax.Array:
        """bool []: the game was cut at its time limit."""
        return state.cut


@functools.cache
def _jaxtari(name: str, observation: str, sticky: float) -> Any:
    with _quiet(), jax.ensure_compile_time_eval():
        try:
            import jaxtari
            from jaxtari import core, wrappers
        except ImportError as error:
            raise UserError(f"env = 'jaxtari:{name}': needs the package jaxtari, which cannot be imported here ({error})") from None
        if name not in core.GAME_MODULES:
            raise UserError(f"env = 'jaxtari:{name}': {suggest(name, sorted(core.GAME_MODULES))}")
        try:
            game = jaxtari.make(name)
        except (RuntimeError, OSError, EOFError) as error:  # EOFError: it asks on the console
            told = next((line for line in str(error).split("\n") if line.strip(" -")), type(error).__name__).strip()
            raise UserError(
                f"env = 'jaxtari:{name}': needs jaxtari's sprites, installed by python -m jaxtari.install_sprites ({told})"
            ) from None
        world = wrappers.AtariWrapper(game, sticky_actions=sticky, episodic_life=False, full_action_space=True)
        if observation == "objects":
            return wrappers.FlattenObservationWrapper(wrappers.ObjectCentricWrapper(world, clip_reward=False))
        return wrappers.PixelObsWrapper(world, do_pixel_resize=True, grayscale=True, clip_reward=False)


@struct.dataclass
class JaxtariState:
    """`game`: the package's own state; `t` int32 []: steps taken."""

    game: Any
    t: jax.Array


@dataclasses.dataclass(frozen=True)
class Jaxtari(Environment):
    """A game of the package jaxtari, which runs wherever JAX does, in populations too. An episode is a game, the reward its points."""

    name: str
    observation: str = option("pixels", choices=("pixels", "objects"))
    """pixels: four grey frames, uint8 [84, 84, 4]; objects: a vector of where things are, over four frames."""
    sticky: float = option(0.25, low=0.0, high=1.0)
    """Probability, at each frame, that the action before is played again."""
    max_steps: int = option(27_000, low=1)
    """Time limit of a game in steps of four frames, the package's."""

    def __post_init__(self) -> None:
        _ = self.env

    @property
    def env(self) -> Any:
        """The game in the package's own wrappers."""
        return _jaxtari(self.name, self.observation, self.sticky)

    @property
    def default_params(self) -> LimitParams:
        """The time limit."""
        return LimitParams(max_steps=jnp.asarray(self.max_steps, jnp.int32))

    def _show(self, obs: jax.Array) -> jax.Array:
        return jnp.moveaxis(obs[..., 0], 0, -1) if self.observation == "pixels" else obs.astype(jnp.float32).reshape(-1)

    def reset_env(self, key: Key, params: LimitParams) -> tuple[Obs, JaxtariState]:
        """See `Environment.reset_env`."""
        obs, state = self.env.reset(key)
        return self._show(obs), JaxtariState(state, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Key, state: JaxtariState, action: Action, params: LimitParams
    ) -> tuple[Obs, JaxtariState, jax.Array, jax.Array, dict[str, Any]]:
        """See `Environment.step_env`. The package begins the next game by itself, so that the last picture of a game is never shown."""
        obs, new, reward, terminated, _, _ = self.env.step(state.game, jnp.asarray(action))
        return self._show(obs), JaxtariState(new, state.t + 1), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), {}

    def is_truncated(self, state: JaxtariState, params: LimitParams) -> jax.Array:
        """bool []: the time limit is reached."""
        return state.t >= params.max_steps

    def action_space(self, params: LimitParams) -> Discrete:
        """All 18 positions of joystick and button."""
        return Discrete(NUM_ACTIONS)

    def observation_space(self, params: LimitParams) -> Box:
        """Pixels, or unbounded float [D]."""
        if self.observation == "pixels":
            return Box(0, 255, (SIDE, SIDE, STACK), jnp.uint8)
        return Box(-math.inf, math.inf, jax.eval_shape(self.reset, jax.random.key(0))[0].shape)
