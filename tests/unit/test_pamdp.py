"""Platform, Catch Point and Hard Move by literal numbers: spaces, limits, bounds, ends, scripted policies, pictures, mistakes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make, particle_policies, platform_policies
from causal_jax.envs.particle import CATCH, CATCH_EVENTS, MOVE, HardMove
from causal_jax.envs.platform import EVENTS, HOP, LEAP, RUN, Noise, features, observe
from causal_jax.spaces import Hybrid
from causal_jax.types import UserError

KEY = jax.random.key(0)


def start(name: str, **components: Any) -> tuple[Any, Any, Any]:
    """(env, params without noise, a start with some components set)."""
    env, params = make(name)
    params = params.replace(noise_scale=jnp.zeros(()))
    state = env.reset_env(KEY, params)[1]
    return env, params, state.replace(**{key: jnp.asarray(x, getattr(state, key).dtype) for key, x in components.items()})


def step(env: Any, params: Any, state: Any, k: int, z: float) -> Any:
    return env.step_env(KEY, state, (jnp.asarray(k), jnp.full(1, z)), params)


@pytest.mark.parametrize(
    ("name", "sizes", "observed", "limit"),
    [
        ("platform", (1, 1, 1), 9, 200),
        ("catch-point", (1, 0), 6, 25),
        *[(f"hard-move-{n}", (1,) * 2**n, 4, 25) for n in (4, 6, 8, 10, 12, 14, 16)],
    ],
)
def test_spaces_and_time_limits(name: str, sizes: tuple[int, ...], observed: int, limit: int) -> None:
    env, params = make(name)
    assert env.action_space(params) == Hybrid(sizes)
    assert env.observation_space(params).shape == (observed,)
    assert int(params.max_steps) == limit
    clock = "elapsed" if name == "platform" else "t"
    _, params, state = start(name, **{clock: limit - 2})
    if name != "platform":  # far from the target, whatever was drawn
        state = state.replace(agent_x=jnp.float32(-5.0))
    over = []
    for _ in range(2):
        _, state, _, terminated, _ = step(env, params, state, 0, -1.0)
        over.append((bool(terminated), bool(env.is_truncated(state, params))))
    assert over == [(False, False), (False, True)]


@pytest.mark.parametrize("name", ["hard-move-7", "hard-move-18", "hard-move-2", "hard-move"])
def test_numbers_of_actuators_that_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^env = '{name}': must be hard-move-4, hard-move-6, .. hard-move-16$"):
        make(name)
    with pytest.raises(UserError, match="^n = 5: must be even$"):
        HardMove(n=5)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("platform", {"noise_scale": -1.0}, "platform: noise_scale = -1.0: must be 0 <= x"),
        ("platform", {"max_steps": 0}, "platform: max_steps = 0: must be 1 <= x"),
        ("catch-point", {"max_steps": 2.5}, "catch-point: max_steps = 2.5: must be of type int"),
        ("hard-move-6", {"n": 8}, "hard-move-6: n = 8: unknown option, hard-move-6 has max_steps"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        make(name, **options)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("k", "z", "components", "x", "substeps", "event"),
    [
        (RUN, -1.0, {}, 0.0, 20, "run_completed"),
        (RUN, 1.0, {}, 67.485, 20, "run_completed"),
        (RUN, 7.0, {}, 67.485, 20, "run_completed"),  # beyond its bound
        (RUN, 1.0, {"player_x": 200.0}, 207.985, 3, "killed_by_enemy"),
        (RUN, 1.0, {"player_x": 248.0, "enemy1_x": 10.0}, 255.440, 3, "fell"),
        (LEAP, -1.0, {}, 0.0, 104, "landed_same_platform"),
        (HOP, 1.0, {"player_x": 248.0, "enemy1_x": 10.0}, 362.718, 144, "fell"),
        (HOP, 1.0, {"player_x": 1010.0}, 1035.0, 19, "reached_right_end"),
    ],
)
def test_platform(k: int, z: float, components: dict[str, float], x: float, substeps: int, event: str) -> None:
    env, params, state = start("platform", **components)
    _, after, reward, terminated, info = step(env, params, state, k, z)
    assert float(after.player_x) == pytest.approx(x, abs=2e-3)
    assert float(reward) == pytest.approx((x - components.get("player_x", 0.0)) / 1035, abs=5e-6)
    assert (int(info["substeps"]), EVENTS[int(info["event"])], int(after.elapsed)) == (substeps, event, 1)
    assert bool(terminated) == (event in ("killed_by_enemy", "fell", "reached_right_end"))
    assert bool(info["success"]) == (event == "reached_right_end")


def test_platform_s_noise_slows_and_scales() -> None:
    env, params, state = start("platform")
    ones = Noise(jnp.ones(2), jnp.ones((20, 2)))
    ends = [env.step_given(ones, state, (jnp.asarray(RUN), jnp.ones(1)), params.replace(noise_scale=jnp.asarray(x)))[1] for x in (0, 1, 2)]
    xs = [float(end.player_x) for end in ends]
    assert xs[0] == pytest.approx(67.485, abs=2e-3)
    assert xs[0] > xs[1] > xs[2]  # vx loses 0.025 |draw| in every sub-step
    assert float(ends[1].enemy1_dx) == pytest.approx(-30 + 19 * 0.025, abs=1e-4)  # turned twice, the first time at the clip


def test_platform_s_observation_tells_its_features() -> None:
    env, _, state = start("platform", player_x=600.0, player_vx=12.0, enemy2_x=500.0, enemy2_dx=30.0)
    np.testing.assert_allclose(features(observe(state)), [600, 12, 500, 30, 275, 50, 235, 475, 0], atol=1e-3)
    np.testing.assert_allclose(env.reset_env(KEY, env.default_params)[0][:4], [40 / 1055 - 1, -1, 460 / 1035 - 1, -1], atol=1e-6)


@pytest.mark.parametrize(
    ("k", "z", "components", "reward", "event", "terminated"),
    [
        (MOVE, 0.0, {}, -0.98 * 0.98, "moved", False),  # north: v = 0.2, p = 0.02, target (0, 1)
        (MOVE, 2.0, {}, -0.98 * 0.98, "moved", False),  # the angle wraps
        (MOVE, 0.5, {}, -1.0004, "moved", False),  # east
        (CATCH, 0.0, {}, -1.0, "missed_catch", False),
        (CATCH, 0.0, {"agent_y": 0.85}, 20 - 0.0225, "caught", True),
        (CATCH, 0.0, {"agent_y": 0.85, "trials": 11}, 0.0, "exhausted", True),
        (MOVE, 0.0, {"trials": 11}, 0.0, "exhausted", True),
    ],
)
def test_catch_point(k: int, z: float, components: dict[str, float], reward: float, event: str, terminated: bool) -> None:
    where = {"agent_x": 0.0, "agent_y": 0.0, "target_x": 0.0, "target_y": 1.0, **components}
    env, params, state = start("catch-point", **where)
    obs, after, found, ended, info = step(env, params, state, k, z)
    assert float(found) == pytest.approx(reward, abs=2e-6)
    assert (CATCH_EVENTS[int(info["event"])], bool(ended), bool(info["success"])) == (event, terminated, event == "caught")
    assert int(after.trials) == components.get("trials", 0) + (event == "missed_catch")
    np.testing.assert_allclose(obs[4:], [-1 + (event == "missed_catch") / 6, -1 + 1 / 12], atol=1e-6)


@pytest.mark.parametrize(
    ("n", "k", "z", "end"),
    [
        (4, 0b1000, 1.0, (0.02 / 2**0.5, 0.0)),  # the first actuator, the most significant bit: east
        (4, 0b0100, 1.0, (0.0, 0.02 / 2**0.5)),
        (4, 0b1100, 1.0, (0.02 / 2**0.5, 0.02 / 2**0.5)),  # the largest motion: of length 0.02
        (4, 0b1010, 1.0, (0.0, 0.0)),
        (4, 0b1000, -2.0, (-0.04 / 2**0.5, 0.0)),  # not clipped
        (16, 2**16 - 1, 1.0, (0.0, 0.0)),
        (16, 2**15, 1.0, (0.02 / 5.126, 0.0)),  # eight of sixteen add up to 1 / sin(pi / 16)
    ],
)
def test_hard_move(n: int, k: int, z: float, end: tuple[float, float]) -> None:
    env, params, state = start(f"hard-move-{n}", agent_x=0.0, agent_y=0.0, target_x=1.0, target_y=0.0)
    obs, after, reward, terminated, _ = step(env, params, state, k, z)
    np.testing.assert_allclose([after.agent_x, after.agent_y], end, atol=2e-5)
    assert float(reward) == pytest.approx(-((1 - end[0]) ** 2) - end[1] ** 2, abs=5e-5)
    assert not terminated
    np.testing.assert_allclose(obs, [10 * end[0], 10 * end[1], 1 - end[0], -end[1]], atol=3e-4)
    near = step(env, params, state.replace(target_x=jnp.float32(end[0] + 0.15), target_y=jnp.float32(end[1])), k, z)
    assert float(near[2]) == pytest.approx(20 - 0.0225, abs=1e-4)
    assert bool(near[3])


def test_starts_of_the_particle() -> None:
    env, params = make("catch-point")
    _, states = jax.jit(jax.vmap(env.reset_env, (0, None)))(jax.random.split(KEY, 1000), params)
    for name in ("agent_x", "agent_y", "target_x", "target_y"):
        x = np.asarray(getattr(states, name))
        assert np.abs(x).max() <= 1
        assert x.std() == pytest.approx(3**-0.5, abs=0.03)
    assert not np.any(np.asarray(states.agent_vx))


@pytest.mark.parametrize(
    ("name", "policies", "best", "random", "learned"),
    [
        ("platform", platform_policies.policies, "scripted", 0.154, 0.997),
        ("catch-point", particle_policies.policies, "straight", -27.5, 8.8),
        ("hard-move-6", particle_policies.policies, "straight", -32.4, 7.5),
    ],
)
def test_scripted_policies(name: str, policies: Any, best: str, random: float, learned: float) -> None:
    env, params = make(name)
    acts = policies(env, params)
    assert list(acts) == ["random", best]
    found = []
    for act in acts.values():
        play = jax.jit(jax.vmap(lambda key, act=act: rollout.evaluate(key, env, params, act, 25).total))
        found.append(np.asarray(play(jax.random.split(KEY, 512))))
    for total, expected in zip(found, (random, learned), strict=True):
        assert abs(total.mean() - expected) < 4 * total.std() / 512**0.5 + 0.01


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(-1).sum())


BLUE, RED, GREEN, GREY = (38, 110, 196), (214, 69, 65), (52, 152, 74), (120, 120, 125)


def test_picture_of_platform() -> None:
    env, params, state = start("platform")
    image = env.render(state, params)
    assert (image.shape, image.dtype) == ((120, 480, 3), np.uint8)
    assert (count(image, GREEN), count(image, GREY)) == (0, 0)
    at = [np.flatnonzero((image == colour).all(-1).any(0)).mean() for colour in (BLUE, RED)]
    assert at[0] == pytest.approx(480 * 25 / 1110, abs=2)  # the box from 0 to 20, in a window that begins at -15
    assert at[1] == pytest.approx(480 * (255 + 755) / 2 / 1110, abs=4)
    met = env.render(state.replace(player_x=jnp.float32(225.0)), params)
    assert (count(met, BLUE), count(met, GREY) > 60) == (0, True)
    assert count(env.render(state.replace(player_x=jnp.float32(1035.0)), params), GREEN) > 60


def test_pictures_of_the_particle() -> None:
    where = {"agent_x": 0.0, "agent_y": 0.9, "target_x": 0.5, "target_y": -0.5}
    env, params, state = start("catch-point", **where)
    image = env.render(state, params)
    assert (image.shape, image.dtype, count(image, RED)) == ((200, 200, 3), np.uint8, 0)
    rows, columns = np.nonzero((image == BLUE).all(-1))
    assert (columns.mean(), rows.mean()) == (pytest.approx(99.5, abs=1), pytest.approx(99.5 * (1 - 0.9 / 1.7), abs=1))
    missed = [count(env.render(state.replace(trials=jnp.asarray(n)), params), RED) for n in (1, 11)]
    assert missed[0] > 20
    assert missed[1] == pytest.approx(11 * missed[0], rel=0.3)
    near = env.render(state.replace(agent_x=jnp.float32(0.4), agent_y=jnp.float32(-0.5)), params)
    assert (count(near, GREEN) > 40, count(near, BLUE)) == (True, 0)
    move, params, state = start("hard-move-8", **where)
    assert count(move.render(state, params), BLUE) > count(image, BLUE) + 30  # the actuators
    assert count(move.render(state.replace(agent_x=jnp.float32(50.0)), params), BLUE) > 40  # at the rim
