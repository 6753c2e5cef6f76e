"""Goal and Hard Goal against transitions recorded from the published programs, which compute in float64; files as in test_pamdp.py."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import goal, goal_policies, make
from causal_jax.envs.goal_physics import Counts

DATA = Path(__file__).parents[1] / "data" / "pamdp"
TOLERANCE = {"player_o": 5e-3, "goalie_o": 5e-2}  # of angles, radians; places and velocities 5e-3


def draws(d: dict[str, Any]) -> np.ndarray:
    """[N, T, 6], a row per substep, padded with zeros."""
    counts = np.diff(d["noise_offset"])
    units = np.zeros((len(counts), counts.max(), 6))
    units[np.arange(counts.max()) < counts[:, None]] = np.concatenate([d["noise_actor"], d["noise_goalie"]], 1)
    return units


def stepped(name: str, dtype: Any) -> tuple[dict[str, np.ndarray], Any]:
    """(the file, what a step from every stored state gives)."""
    d = dict(np.load(DATA / f"{name}.npz"))
    env, params = make("hard-goal" if name.startswith("hard") else "goal")
    before = {key: jnp.asarray(d[f"before_{key}"], jnp.int32 if key == "time" else dtype) for key in (*goal.NAMES, "time")}
    state, action = goal.GoalState(**before), (jnp.asarray(d["k"], jnp.int32), jnp.asarray(d["z"], jnp.float32))
    if "noise_offset" in d:
        return d, jax.device_get(jax.jit(jax.vmap(env.step_given, (0, 0, 0, None)))(jnp.asarray(draws(d), dtype), state, action, params))
    mean = params.replace(noise_scale=jnp.zeros(()))
    return d, jax.device_get(jax.jit(jax.vmap(env.step_env, (None, 0, 0, None)))(jax.random.key(0), state, action, mean))


@pytest.mark.parametrize("name", ["goal", "hard_goal", "goal_noisy"])
def test_recorded_steps(name: str) -> None:
    d, (obs, after, reward, terminated, info) = stepped(name, jnp.float32)
    stable = d["f32_stable"]
    assert stable.mean() > 0.97
    assert tuple(d["event_names"]) == goal.EVENTS
    assert len(set(d["event"])) >= 3
    for key, found in {"terminated": terminated, "substeps": info["substeps"], "event": info["event"], "after_time": after.time}.items():
        np.testing.assert_array_equal(found[stable], d[key][stable], err_msg=key)
    off = {key: np.abs(getattr(after, key) - d[f"after_{key}"])[stable] for key in goal.NAMES}
    for key, x in off.items():
        assert x.max() < TOLERANCE.get(key, 5e-3), key
    assert np.median(np.max(list(off.values()), axis=0)) < 1e-4
    np.testing.assert_allclose(reward[stable], d["reward"][stable], atol=2e-3)
    env, _ = make("goal")
    seen = jax.vmap(env.observe)(goal.GoalState(**{key: jnp.asarray(d[f"after_{key}"], jnp.float32) for key in (*goal.NAMES, "time")}))
    np.testing.assert_allclose(seen[:, :16], d["obs_after"][:, :16], atol=1e-5)
    np.testing.assert_allclose(seen[:, 16], d["obs_after"][:, 16], atol=1e-4)
    assert set(Counts._fields) <= set(info)


def test_recorded_noisy_steps_in_double_precision() -> None:
    with jax.enable_x64(True):
        d, (_, after, reward, _, info) = stepped("goal_noisy", jnp.float64)
    np.testing.assert_array_equal(info["substeps"], d["substeps"])
    np.testing.assert_allclose(reward, d["reward"], atol=1e-9)
    for key in goal.NAMES:
        np.testing.assert_allclose(getattr(after, key), d[f"after_{key}"], atol=1e-9, err_msg=key)


def test_variants_and_limits() -> None:
    action = (jnp.int32(0), jnp.asarray([0.0, -0.5]))
    authors, fixed = (make("goal", variant=variant)[0] for variant in ("authors", "fixed"))
    np.testing.assert_allclose(jnp.stack(authors.raw(action)), [20.0, 20.0])  # the second parameter is never read
    np.testing.assert_allclose(jnp.stack(fixed.raw(action)), [20.0, -7.5])
    authors, fixed = (make("hard-goal", variant=variant)[0] for variant in ("authors", "fixed"))
    for z in (-1.0, 1.0):
        shot = (jnp.int32(3), jnp.asarray([z, 0.0]))
        np.testing.assert_allclose(authors.raw(shot)[1], 1.402, atol=1e-5)
        np.testing.assert_allclose(fixed.raw(shot)[1], -1.402 * z, atol=1e-5)
    env, params = make("goal", max_steps=1)
    obs, state = env.reset_env(jax.random.key(0), params)
    _, end, reward, terminated, info = env.step_env(jax.random.key(1), state, action, params)
    assert bool(terminated)
    assert float(end.ball_x) == float(state.ball_x)
    assert int(info["event"]) == goal.TIME_LIMIT
    np.testing.assert_allclose(reward, -np.hypot(20 - float(state.ball_x), max(abs(float(state.ball_y)) - 7.01, 0)), rtol=1e-5)
    picture = env.render(jax.device_get(state), params)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 8  # grass, line, net, two runners, their faces, the ball


@pytest.mark.parametrize(("name", "mean", "error"), [("goal", -8.14, 0.11), ("hard-goal", -7.41, 0.07)])
def test_random_play_scores_as_in_the_published_programs(name: str, mean: float, error: float) -> None:
    """mean, error: of 300 episodes of random play there, with the standard error."""
    env, params = make(name)
    act = goal_policies.policies(env, params)["random"]
    played = jax.jit(jax.vmap(lambda key: rollout.evaluate(key, env, params, act, 100)))(jax.random.split(jax.random.key(2), 300))
    assert abs(float(jnp.mean(played.total)) - mean) < 3 * np.hypot(error, float(jnp.std(played.total)) / 300**0.5)


def test_the_ball_starts_at_the_players_feet() -> None:
    """1.6 away, within reach of a kick, before a player who looks at the middle of the goal line."""
    env, params = make("goal")
    _, state = jax.vmap(env.reset_env, (0, None))(jax.random.split(jax.random.key(0), 500), params)
    away = np.asarray([state.ball_x - state.player_x, state.ball_y - state.player_y], np.float64)
    np.testing.assert_allclose(np.hypot(*away), 1.6, atol=1e-5)
    np.testing.assert_allclose(np.arctan2(away[1], away[0]), np.arctan2(-state.player_y, 20.0), atol=1e-5)
    np.testing.assert_array_equal(state.player_x, 0.0)
    assert np.ptp(state.player_y) > 29.0


@pytest.mark.parametrize("name", ["goal", "hard-goal"])
def test_the_scripted_policy_scores(name: str) -> None:
    """12.9 +- 0.5 over 4,096 episodes, 40% goals; random play -8.1 and -7.5, one goal in 2,000."""
    env, params = make(name)
    act = goal_policies.policies(env, params)["scripted"]
    played = jax.jit(jax.vmap(lambda key: rollout.evaluate(key, env, params, act, 100)))(jax.random.split(jax.random.key(0), 256))
    assert 0.25 < jnp.mean(played.success) < 0.55
    assert 4.0 < jnp.mean(played.total) < 22.0
