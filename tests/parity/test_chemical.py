"""Chemical against numbers recorded from the published program.

data/chemical.npz: the mechanisms of seed 0 and, as `<rule>/<name>`, the first rows of its file for each rule: transitions
(`train_*`, `n2_*`, `n4_*`, `n6_*`), starts and targets, noisy encodings. data/chemical_refs.json: mean returns of six scripted policies
over 6000 episodes with these mechanisms. `mismatches` counts over any file of the same kind.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import rollout
from causal_jax.envs import make
from causal_jax.envs.chemical import RULES, ChemicalState, graphs, mechanism_probs, noisy_encoding
from causal_jax.envs.chemical_policies import policies

HERE = Path(__file__).parents[1] / "data"
DATA = np.load(HERE / "chemical.npz")
REFS = json.loads((HERE / "chemical_refs.json").read_text())
MECHANISMS = ("mlp_w1", "mlp_b1", "mlp_w2", "mlp_b2")


def load(rule):
    """The arrays of one rule, named as in the original file."""
    own = {name.partition("/")[2]: DATA[name] for name in DATA if name.startswith(rule + "/")}
    return {**own, **{name: DATA[name] for name in MECHANISMS}}


def world(rule, arrays, **options):
    env, params = make(f"chemical-{rule.replace('_', '-')}", **options)
    return env, params.replace(**{name: jnp.asarray(arrays[name]) for name in MECHANISMS})


def differs(a, b, tolerance=0.0):
    """How many rows (axis 0) differ by more than `tolerance` somewhere."""
    gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) > tolerance
    return int(gap.reshape(len(gap), -1).any(1).sum())


@partial(jax.jit, static_argnums=0)
def replay(env, params, keys, level, colours, after, target, match, step, action):
    """From given states, one row each: the step that was recorded, the law of what it drew, and an idle step from where it led."""

    def one(key, level, colours, after, target, match, step, action):
        world = params.replace(level=level)
        state = ChemicalState(colours=colours, target=target, match=match, step=step)
        _, next_state, _, terminated, info = env.step_env(key, state, action, world)
        _, stayed, reward, _, idle = env.step_env(key, state.replace(colours=after), 5 * 9 + after[9], world)
        probs = mechanism_probs(world, after, info["parents"])
        return next_state, terminated, env.is_truncated(next_state, world), info, probs, stayed.colours, reward, idle["success"]

    return jax.vmap(one)(keys, level, colours, after, target, match, step, action)


@partial(jax.jit, static_argnums=0)
def starts(env, params, keys, level):
    return jax.vmap(lambda key: env.reset(key, params.replace(level=level))[1])(keys)


def mismatches(rule, d):
    """{what: number of rows that differ} between the environment and one file's arrays."""
    tasks = [task for task in ("train", "n2", "n4", "n6") if f"{task}_before" in d]
    levels = {task: 0 if task == "train" else int(task[1:]) for task in tasks}
    env, params = world(rule, d)
    path, num = d["train_reset_target_path"].astype(np.int32), d["train_reset_target_actions"].size
    reset = {
        "before": path[:, :-1].reshape(-1, 10),
        "after": path[:, 1:].reshape(-1, 10),
        "action": d["train_reset_target_actions"].ravel(),
    }
    reset |= {"target": reset["after"], "match": np.ones((num, 10), bool), "step": np.zeros(num)}

    def rows(name):
        return np.concatenate([d[f"{task}_{name}"] for task in tasks] + [reset[name]])

    before, after, target, step, action = (jnp.asarray(rows(name), jnp.int32) for name in ("before", "after", "target", "step", "action"))
    sizes = [len(d[f"{task}_step"]) for task in tasks]
    level = jnp.asarray(np.repeat([*levels.values(), 0], [*sizes, num]), jnp.int32)
    keys = jax.random.split(jax.random.key(0), len(level))
    found = jax.device_get(replay(env, params, keys, level, before, after, target, jnp.asarray(rows("match")), step, action))

    count = {}
    for task, end in zip(tasks, np.cumsum(sizes), strict=True):
        part = slice(end - len(d[f"{task}_step"]), end)
        state, terminated, truncated, info, probs, stayed, reward, success = jax.tree.map(lambda x, part=part: x[part], found)
        get = lambda name, task=task: d[f"{task}_{name}"]  # noqa: E731
        redrawn = get("resampled").astype(bool)
        likely = np.take_along_axis(probs, get("after")[..., None].astype(int), -1)[..., 0]
        count |= {
            f"{task} parents": differs(info["parents"], get("parents")),
            f"{task} resampled": differs(info["resampled"], redrawn),
            f"{task} kept colours": differs(np.where(redrawn, 0, state.colours), np.where(redrawn, 0, get("after"))),
            f"{task} cond_probs": differs(probs, get("cond_probs"), 1e-5),
            f"{task} logp": differs(np.where(redrawn, np.log(np.where(redrawn, likely, 1.0)), 0.0).sum(1), get("logp"), 1e-4),
            f"{task} done": differs(truncated, get("done")) + int(terminated.sum()),
            f"{task} idle": differs(stayed, get("after")),
            f"{task} reward": differs(reward, get("reward"), 1e-6),
            f"{task} success": differs(success, get("success")),
        }
        ours = starts(env, params, jax.random.split(jax.random.key(2), 64), levels[task])
        count[f"{task} match"] = differs(get("match"), np.broadcast_to(ours.match[0], get("match").shape))
        if levels[task]:
            shifts = [np.unique((b - a.astype(int)) % 5, axis=0) for a, b in ((get("reset_init"), get("reset_target")), ours_pair(ours))]
            count[f"{task} target"] = int(not np.array_equal(*shifts))
            count[f"{task} root"] = int(get("reset_init")[:, 0].any()) + int(ours.colours[:, 0].any())
            count[f"{task} match_set"] = int(not np.array_equal(np.flatnonzero(ours.match[0]), get("match_set")))
            normals = np.zeros((len(get("enc_colours")), 10, 5), np.float32)
            normals[:, get("noisy_nodes")] = get("enc_normals")
            encoded = jax.vmap(noisy_encoding, (0, 0, None))(get("enc_colours").astype(np.int32), normals, levels[task])
            count[f"{task} encoding"] = differs(encoded, get("enc_encoded"))

    state, _, _, info, *_ = jax.tree.map(lambda x: x[-num:], found)
    count["reset path"] = differs(np.where(info["resampled"], 0, state.colours), np.where(info["resampled"], 0, reset["after"]))
    ours = starts(env, params, jax.random.split(jax.random.key(2), 64), 0)  # a training target keeps the root: so theirs, so ours
    pairs = ((d["train_reset_init"], d["train_reset_target"]), ours_pair(ours))
    count["reset root"] = sum(differs(start[:, 0], target[:, 0]) for start, target in pairs)
    init = jnp.asarray(d["train_reset_init"], jnp.int32)
    parents = jax.vmap(env.parents_in_force)(init[:, 0])
    count["reset parents"] = differs(parents, d["train_reset_parents"])
    count["reset cond_probs"] = differs(jax.vmap(mechanism_probs, (None, 0, 0))(params, init, parents), d["train_reset_cond_probs"], 1e-5)
    everywhere, local = graphs(rule, 10)
    count["adjacency"] = differs(everywhere, d["global_adjacency"]) + differs(local, d["local_adjacency"])
    return count


def ours_pair(state):
    return np.asarray(state.colours), np.asarray(state.target)


@pytest.mark.parametrize("rule", RULES)
def test_recorded_transitions_resets_and_encodings(rule):
    count = mismatches(rule, load(rule))
    assert len(count) == (15 if rule == "none" else 15 + 3 * 14)
    assert not {what: n for what, n in count.items() if n}


def test_the_comparison_can_fail():
    d = load("full_fork")
    count = mismatches("full_chain", d)
    assert count["train parents"] > 0
    assert count["n2 cond_probs"] > 0
    assert count["adjacency"] == 8


@pytest.mark.parametrize(("rule", "task", "policy"), [("full_fork", "train", "idle"), ("full_chain", "n2", "persistence_random")])
def test_returns_of_scripted_policies(rule, task, policy):
    """400 episodes against the recorded 6000; experiments print all of them."""
    env, params = world(rule, DATA, level=0 if task == "train" else int(task[1:]))
    act = policies(env)[policy]
    played = jax.jit(jax.vmap(lambda key: rollout.evaluate(key, env, params, act, 25)))(jax.random.split(jax.random.key(0), 400))
    ref = REFS[rule][task][policy]
    spread = np.hypot(np.std(played.total) / 20, ref["se"])
    assert abs(np.mean(played.total) - ref["mean"]) < 4 * spread
    assert spread < 0.25
