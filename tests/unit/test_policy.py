"""Exported policies: they act as the run does, load with jax alone and without pickle, and bad files are one clear line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import cli, evaluation, runs
from causal_jax.policy import export_policy, load_policy
from causal_jax.types import UserError


@pytest.fixture(scope="module")
def exported(cee_run, tmp_path_factory):
    """Member 1 of the masked run, which normalises its observations."""
    return export_policy(cee_run, tmp_path_factory.mktemp("policy") / "member", member=1)


@pytest.fixture(scope="module")
def policy(exported):
    return load_policy(exported)


@pytest.fixture
def damaged(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def obs_batch(num):
    return jax.random.uniform(jax.random.key(7), (num, 2))


@pytest.mark.parametrize("greedy", [True, False])
def test_exported_policy_acts_as_the_run_does(cee_run, policy, greedy):
    loaded = runs.load_run(cee_run)
    state, _ = evaluation.member_of(loaded, 1)
    act = jax.jit(lambda key, obs: loaded.resolved.algorithm.act(key, state, obs, greedy))
    obs, key = obs_batch(20), jax.random.key(3)
    expected = [int(act(k, o)) for k, o in zip(jax.random.split(key, 20), obs, strict=True)]
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(policy(obs, key, greedy), expected)
    assert int(policy(obs[4], key, greedy)) == int(act(key, obs[4]))


def test_one_observation_or_a_batch_of_any_size(policy):
    obs = obs_batch(5)
    assert policy(obs[0]).shape == ()
    assert policy(obs).shape == (5,)
    np.testing.assert_array_equal(policy(obs[:3]), policy(obs)[:3])
    assert policy(np.asarray(obs, np.float64).tolist()).shape == (5,)  # plain lists of Python floats too
    np.testing.assert_array_equal(jax.jit(policy)(obs), policy(obs))
    draws = {int(policy(obs[0], jax.random.key(seed), greedy=False)) for seed in range(30)}
    assert len(draws) > 1


def test_about_says_where_it_comes_from(exported, policy):
    about = json.loads((exported / "policy.json").read_text())
    assert about == policy.about
    assert about["env"] == "maze-n3"
    assert about["env_options"] == ["max_steps=30"]
    assert (about["algorithm"], about["member"], about["seed"], about["steps"]) == ("cee", 1, 1, 64)
    assert about["config"]["selection"] == "cee"
    assert about["obs"] == {"shape": [2], "dtype": "float32"}
    assert about["action"] == {"kind": "Discrete", "n": 8, "shape": []}
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["versions"]["jax"] == jax.__version__


def test_pairs_of_action_and_parameters_are_exported_too(hybrid_run):
    path = export_policy(hybrid_run)
    assert path == hybrid_run / "policy" / "member-0"
    policy = load_policy(path)
    shape = tuple(policy.about["obs"]["shape"])
    k, z = policy(jnp.zeros((4, *shape)), jax.random.key(0), greedy=False)
    assert k.shape == (4,)
    assert z.shape == (4, max(policy.about["action"]["sizes"]))


LOADING = """
import pickle, sys
def refuse(*args, **kwargs):
    raise SystemExit("unpickled something")
pickle.load = pickle.loads = pickle.Unpickler = refuse
from causal_jax import load_policy
action = load_policy(sys.argv[1])([[0.25, 0.1], [0.5, 0.9]])
assert action.shape == (2,)
bad = [n for n in sys.modules if n.startswith(("causal_jax.algorithms", "causal_jax.envs", "causal_jax.runs", "flax", "optax", "orbax"))]
print(",".join(bad) or "clean")
"""


def test_loading_needs_neither_the_training_code_nor_pickle(exported):
    done = subprocess.run([sys.executable, "-c", LOADING, str(exported)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "clean", done.stderr


def test_wrong_observations_and_keys(policy):
    with pytest.raises(UserError, match=r"shape \(3,\): must be \(2,\) or \(B, 2\)"):
        policy(jnp.zeros(3))
    with pytest.raises(UserError, match="key = None: a sampled action needs a key"):
        policy(jnp.zeros(2), greedy=False)
    with pytest.raises(UserError, match="must be one threefry key"):
        policy(jnp.zeros(2), jax.random.split(jax.random.key(0), 2))
    with pytest.raises(UserError, match="must be one threefry key"):
        policy(jnp.zeros(2), jnp.zeros(2, jnp.uint32))


def test_missing_and_foreign_folders(tmp_path, damaged, cee_run):
    with pytest.raises(UserError, match=r"no readable policy\.json"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"no readable policy\.json"):
        load_policy(cee_run)
    for content in ("[]", '{"format": "other"}', '{"format": "causal_jax policy", "version": 2}'):
        (damaged / "policy.json").write_text(content)
        with pytest.raises(UserError, match="not of format"):
            load_policy(damaged)
    (damaged / "policy.json").write_text('{"format": "causal_jax policy", "version": 1}')
    with pytest.raises(UserError, match="has no 'obs'"):
        load_policy(damaged)


def test_damaged_programs_are_recognised_before_they_are_read(damaged):
    program = (damaged / "sampled.jax").read_bytes()
    for content in (b"", program[:-1], program[:100] + bytes([program[100] ^ 1]) + program[101:], (damaged / "greedy.jax").read_bytes()):
        (damaged / "sampled.jax").write_bytes(content)
        with pytest.raises(UserError, match=r"sampled\.jax is damaged"):
            load_policy(damaged)
    (damaged / "sampled.jax").unlink()
    with pytest.raises(UserError, match=r"sampled\.jax cannot be read"):
        load_policy(damaged)


def test_a_program_of_a_jax_that_this_one_cannot_read(damaged):
    import hashlib

    about = json.loads((damaged / "policy.json").read_text())
    (damaged / "greedy.jax").write_bytes(b"from the future")
    about["sha256"]["greedy"] = hashlib.sha256(b"from the future").hexdigest()
    (damaged / "policy.json").write_text(json.dumps({**about, "jax": "9.9"}))
    with pytest.raises(UserError, match=r"greedy\.jax is of jax 9\.9") as error:
        load_policy(damaged)
    assert "\n" not in str(error.value)


def test_export_command(cee_run, tmp_path, capsys):
    out = tmp_path / "out"
    cli.run(["export", str(cee_run), "--member", "1", "--out", str(out)])
    assert capsys.readouterr().out.strip() == str(out)
    assert int(load_policy(out)(jnp.zeros(2))) in range(8)
    with pytest.raises(UserError, match=r"member = 5"):
        cli.run(["export", str(cee_run), "--member", "5"])
    with pytest.raises(UserError, match=r"checkpoint = 'newest'"):
        cli.run(["export", str(cee_run), "--checkpoint", "newest"])
