"""MiniGrid against transitions and pictures recorded from the published programs.

data/minigrid.npz holds, for each of seven recorded tasks, `<task>_*`: rows that together show every event (0 turn, 1 moved, 2 blocked, 3
pickup, 4 drop, 5, 6 door opened and closed, 7, 8 door unlocked and refused, 9 box destroyed, 10 to 12 without effect, 13 done), successes
and time limits that coincide, and (of five tasks) `img*`: pictures and the states they show; `view_<task>_*`: states and their 7 x 7 views
as MiniGrid 2.3.1 sees them; `bonus_*`: the first 150 rows of one file, whose visits are counted from row to row.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.envs import make
from causal_jax.envs import minigrid_picture as picture
from causal_jax.envs import minigrid_views as views

DATA = np.load(Path(__file__).parents[1] / "data" / "minigrid.npz")
ROWS = {
    "unlockpickup": 872,
    "gotolocal": 591,
    "putnextlocal": 829,
    "gotodooropenr2-redball": 320,
    "gotodooropenr2-greykey": 197,
    "gotor3-greenbox": 191,
    "gotor3-bluekey": 193,
}
STATE = ("grid", "agent", "carry", "t")


@pytest.mark.parametrize("task", ROWS)
def test_recorded_transitions(task):
    d = {key.removeprefix(f"{task}_"): DATA[key] for key in DATA if key.startswith(f"{task}_")}
    env, params = make(f"minigrid-{task}")
    start = env.reset(jax.random.key(0), params)[1]
    np.testing.assert_array_equal(start.grid, d["init_grid"])
    np.testing.assert_array_equal(start.agent, d["init_agent"])
    assert params.max_steps == d["max_steps"]

    def one(grid, agent, carry, t, action):
        state = start.replace(grid=grid, agent=agent, carry=carry, t=jnp.asarray(t, jnp.int32))
        _, state, reward, terminated, info = env.step_env(jax.random.key(1), state, jnp.asarray(action, jnp.int32), params)
        return state, reward, terminated, info["success"], env.is_truncated(state, params)

    before = [d[f"{name}_before"] for name in STATE]
    state, reward, terminated, success, truncated = jax.device_get(jax.jit(jax.vmap(one))(*before, d["action"]))
    for name in STATE:
        np.testing.assert_array_equal(getattr(state, name), d[f"{name}_after"], err_msg=name)
    np.testing.assert_allclose(reward, d["reward"], atol=1e-6)
    np.testing.assert_array_equal(terminated, d["terminated"])
    np.testing.assert_array_equal(success, d["terminated"])
    np.testing.assert_array_equal(truncated, d["truncated"])
    assert len(reward) == ROWS[task]
    assert (d["terminated"] & d["truncated"]).any()
    if task == "unlockpickup":
        assert set(d["event"].tolist()) == set(range(14))


@pytest.mark.parametrize("task", [task for task in ROWS if f"{task}_img" in DATA])
def test_recorded_pictures(task):
    got = jax.jit(jax.vmap(picture.image))(DATA[f"{task}_img_grid"], DATA[f"{task}_img_agent"])
    np.testing.assert_array_equal(got, DATA[f"{task}_img"])


@pytest.mark.parametrize("task", ["unlockpickup", "gotodooropenr2-redball", "gotor3-bluekey"])
def test_recorded_views(task):
    grid, agent, carry, view = (DATA[f"view_{task}_{name}"] for name in ("grid", "agent", "carry", "view"))
    np.testing.assert_array_equal(jax.jit(jax.vmap(views.egocentric))(grid, agent, carry), view)
    assert (view[..., 0] == 0).any()  # some cells cannot be seen
    assert len(view) > 30


def test_recorded_bonus():
    env, params = make("minigrid-gotor3-bluekey", bonus="add")
    start = env.reset(jax.random.key(0), params)[1]

    def one(visits, row):
        *state, action = row
        state = start.replace(**dict(zip(STATE, state, strict=True)), visits=visits)
        _, state, reward, _, _ = env.step_env(jax.random.key(1), state, action, params)
        return state.visits, (reward, state.visits[state.agent[0], state.agent[1]])

    rows = [DATA[f"bonus_{name}_before"] for name in STATE[:3]]
    rows += [jnp.asarray(DATA[f"bonus_{name}"], jnp.int32) for name in ("t_before", "action")]
    reward, count = jax.jit(lambda rows: jax.lax.scan(one, start.visits, rows)[1])(rows)
    np.testing.assert_array_equal(count, DATA["bonus_visit_count"])
    np.testing.assert_allclose(reward, DATA["bonus_reward_bonus"], atol=1e-6)
    assert count.max() > 5
