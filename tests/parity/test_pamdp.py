"""Platform, Catch Point and Hard Move against transitions recorded from the published programs, which compute in float64.

data/pamdp/<name>.npz holds some rows of a recorded file, in turn over what ended the step, the choice and how the episode was started:
the state before and after, the action (k, z), what the agent saw and got. Every row is stepped alone. To add an environment: its file,
and a row in CASES. `*_noisy`: with the draws that the program consumed; `*_dist`: moments of steps that were repeated with fresh draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.envs import make, particle, platform

DATA = Path(__file__).parents[1] / "data" / "pamdp"


class Case(NamedTuple):
    """One file.

    tolerance: largest difference of each state component, "reward" and "obs"; "" stands for the others. median: of a row's largest.
    noise: arrays of the file -> the draws [N, ...] that `step_given` takes; None: the mean dynamics.
    """

    id: str
    events: tuple[str, ...]
    tolerance: dict[str, float]
    median: float
    noise: Callable[[dict[str, Any]], Any] | None = None


def platform_noise(d: dict[str, Any]) -> platform.Noise:
    """A row per step, padded with zeros behind its last sub-step."""
    counts = np.diff(d["noise_offset"])
    draws = np.zeros((len(counts), counts.max(), 2), np.float32)
    draws[np.arange(counts.max()) < counts[:, None]] = np.stack([d["noise_vx"], d["noise_enemy"]], -1)
    return platform.Noise(jnp.asarray(d["noise_jump"]), jnp.asarray(draws))


PLATFORM = {"": 1e-3, "player_x": 2e-2, "enemy1_x": 2e-2, "enemy2_x": 2e-2, "reward": 5e-5, "obs": 1e-4}
CASES = {
    "platform": Case("platform", platform.EVENTS, PLATFORM, 2e-3),
    "platform_noisy": Case("platform", platform.EVENTS, PLATFORM, 2e-3, platform_noise),
    "catch": Case("catch-point", particle.CATCH_EVENTS, {"": 2e-6}, 1e-6),
    **{f"move{n}": Case(f"hard-move-{n}", particle.MOVE_EVENTS, {"": 2e-6}, 1e-6) for n in (4, 6, 8, 10)},
}


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(all arrays of a file, the states before the steps)."""
    d = dict(np.load(DATA / f"{name}.npz"))
    before = {key.removeprefix("before_"): d[key] for key in d if key.startswith("before_")}
    return d, {key: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else jnp.int32) for key, x in before.items()}


def step_from(env: Any, params: Any, before: dict[str, Any], action: Any, key: Any, noise: Any = None) -> Any:
    """(obs, state, reward, terminated, info, truncated) of one step from a state given by its components."""
    state = env.reset(jax.random.key(0), params)[1].replace(**before)
    out = env.step_env(key, state, action, params) if noise is None else env.step_given(noise, state, action, params)
    return (*out, env.is_truncated(out[1], params))


@pytest.mark.parametrize("name", CASES)
def test_recorded_steps(name: str) -> None:
    case = CASES[name]
    d, before = load(name)
    env, params = make(case.id)
    noise = case.noise and case.noise(d)
    params = params if case.noise else params.replace(noise_scale=jnp.zeros(()))
    step = jax.jit(jax.vmap(lambda before, action, noise: step_from(env, params, before, action, jax.random.key(1), noise)))
    got = jax.device_get(step(before, (jnp.asarray(d["k"]), jnp.asarray(d["z"])), noise))
    obs, after, reward, terminated, info, truncated = got
    assert tuple(d["event_names"]) == case.events
    assert set(d["event"]) == set(range(len(case.events)))
    stable = d["f32_stable"]  # no branch hangs on the rounding of single precision
    assert stable.mean() > 0.97
    assert 0 < d["truncated"].sum() < len(stable) / 2
    flags = {"terminated": terminated, "truncated": truncated, "substeps": info["substeps"], "event": info["event"]}
    for key, flag in flags.items():
        np.testing.assert_array_equal(flag[stable], d[key][stable], err_msg=key)
    wanted = {**{key: d[f"after_{key}"] for key in before}, "reward": d["reward"], "obs": d["obs_after"]}
    found = {**{key: getattr(after, key) for key in before}, "reward": reward, "obs": obs}
    worst = []
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key][stable], value[stable], rtol=0, atol=case.tolerance.get(key, case.tolerance[""]), err_msg=key)
        worst.append(np.abs(found[key] - value).reshape(len(stable), -1).max(1))
    assert np.median(np.max(worst, axis=0)) < case.median


@pytest.mark.parametrize("name", [*CASES, "goal", "hard_goal"])
def test_a_state_is_made_of_what_is_recorded(name: str) -> None:
    """Its class takes the recorded components and nothing else, and the step is that of a reset state with them put in."""
    env, params = make(CASES[name].id if name in CASES else name.replace("_", "-"))
    before = {key: x[0] for key, x in load(name)[1].items()}
    action = (jnp.int32(0), jnp.zeros(env.action_space(params).num_parameters))
    reset = env.reset(jax.random.key(0), params)[1]
    step = jax.jit(lambda state: env.step_env(jax.random.key(1), state, action, params))
    jax.tree.map(np.testing.assert_array_equal, step(type(reset)(**before)), step(reset.replace(**before)))


@pytest.mark.parametrize("n", [4, 6, 8, 10])
def test_motions_of_hard_move(n: int) -> None:
    env, _ = make(f"hard-move-{n}")
    x, y = env.motion(jnp.arange(2**n))
    np.testing.assert_allclose(np.stack([x, y], 1), load(f"move{n}")[0]["motions"], atol=3e-7)


@pytest.mark.parametrize(("id", "counter", "large", "repeats"), [("platform", "elapsed", 100.0, 2000), ("goal", "time", 1.0, 500)])
def test_noise_is_distributed_as_recorded(id: str, counter: str, large: float, repeats: int) -> None:
    """20 states and actions, 500 recorded repeats of each against ours: means, variances, what ended the step.

    large: the size of a state's components, against which one that hardly varies is called fixed.
    """
    d, before = load(f"{id}_dist")
    env, params = make(id)
    recorded, keys = int(d["n_repeats"]), jax.random.split(jax.random.key(3), (len(d["k"]), repeats))
    step = jax.vmap(lambda before, action, key: step_from(env, params, before, action, key), (None, None, 0))
    of_all = jax.jit(lambda *rows: jax.lax.map(lambda row: step(*row), rows))  # one state after the other: none waits for a longer step
    _, after, reward, terminated, info, _ = jax.device_get(of_all(before, (jnp.asarray(d["k"]), jnp.asarray(d["z"])), keys))
    found = {key: getattr(after, key) for key in before if key != counter} | {"reward": reward, "substeps": info["substeps"]}
    z_scores = []
    for key, x in found.items():
        x = x.astype(float)
        mean, var, fourth = x.mean(1), x.var(1), ((x - x.mean(1, keepdims=True)) ** 4).mean(1)
        scale = 1.0 if key == "reward" else large
        varies = d[f"std_{key}"] > 1e-6 * scale
        usual = np.median(x, axis=1)[~varies]  # what happens to one in a thousand is not among so few recorded repeats
        np.testing.assert_allclose(usual, d[f"mean_{key}"][~varies], atol=2e-5 * scale, err_msg=key)
        var_ref, fourth_ref = d[f"std_{key}"] ** 2, d[f"m4_{key}"]
        for off, error in (
            (mean - d[f"mean_{key}"], var_ref / recorded + var / repeats),
            (var - var_ref, (fourth_ref - var_ref**2) / recorded + (fourth - var**2) / repeats),
        ):
            z_scores.append(off[varies] / np.sqrt(error[varies]))
    z = np.concatenate(z_scores)
    assert len(z) > 200
    assert np.abs(z).max() < 5
    assert np.sqrt((z**2).mean()) < 1.3
    counts = np.stack([(info["event"] == event).sum(1) for event in range(d["event_counts"].shape[1])], 1)
    share = (counts + d["event_counts"]) / (repeats + recorded)
    error = np.sqrt(share * (1 - share) * (1 / repeats + 1 / recorded))
    off = np.abs(counts / repeats - d["event_counts"] / recorded)
    assert (off <= 5 * error).all()
    np.testing.assert_allclose(terminated.mean(1), d["terminated_fraction"], atol=0.1)
