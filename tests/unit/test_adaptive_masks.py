"""CEE where the paper stops: tau that ramps or learns, N learned beside the policy and corrected for who acted, a bank of candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import ppo, replay, train
from causal_jax.causal import effect_learning, inverse
from causal_jax.envs import make
from causal_jax.types import UserError

SMALL = {"num_envs": 2, "num_steps": 4, "num_epochs": 1, "num_minibatches": 1, "hidden": (4,), "selection": "cee"}
ONLINE = {"n_values": "online", "effect_updates": 2, "effect_batch": 8, "effect_warmup": 4, "effect_capacity": 16, "effect_hidden": (4, 4)}


def run(env_id, fields, hyper, num_updates, **options):
    env, params = make(env_id, **options)
    algorithm = ppo.build(env, params, ppo.Config(**{**SMALL, **fields}))
    key, task = jax.random.key(0), ppo.Task(params)
    return jax.jit(lambda hyper: train(key, hyper, task, algorithm=algorithm, num_updates=num_updates))(hyper)


def test_tau_learns_what_leaves_an_action_and_ramps_to_its_value():
    # three copies of each action: a share of 1/3 at most, so at tau = 0.8 every state loses all of its actions
    fields = {"n_values": "oracle", "tau_rule": "learned"}
    hyper = ppo.Hyper(tau=0.8, tau_rate=0.3, masked_budget=0.1)
    state, metrics = run("alias:maze-n2", fields, hyper, 4, m=3)
    np.testing.assert_allclose(metrics["all_masked"], [1, 1, 0, 0])
    np.testing.assert_allclose(metrics["tau"], [0.8, 0.53, 0.26, 0.29], atol=1e-6)  # 0.3 (0.1 - 1), then 0.3 * 0.1
    assert float(state.policy.hyper.tau) == pytest.approx(0.32)
    state, metrics = run("alias:maze-n2", {**fields, "tau_rule": "ramp"}, hyper, 4, m=3)
    np.testing.assert_allclose(metrics["tau"], [0, 0.3, 0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(metrics["all_masked"], [0, 0, 1, 1])


def test_the_mask_comes_in_and_the_loss_has_the_policy_that_acted():
    state, metrics = run("maze-n2", ONLINE, ppo.Hyper(mask_rate=0.6, leak=0.1), 3)
    np.testing.assert_allclose(metrics["unmasked"], [1, 0.4, 0.1], atol=1e-6)
    np.testing.assert_allclose(metrics["approx_kl"], 0, atol=1e-6)  # one minibatch: the ratio is that of a policy to itself
    assert state.effects.buffer.size == 16
    assert (np.asarray(state.effects.buffer.rows.log_policy) > np.log(0.1 / 4 / 2)).all()  # no action is ever ruled out
    np.testing.assert_allclose(np.exp(state.effects.buffer.rows.log_policy).sum(1), 1, atol=1e-5)


def test_the_posterior_is_the_uniform_policys_whoever_acted():
    # actions 0 and 1 lead to 1, action 2 to 0; the policy takes 0 nine times as often as the others together
    behaviour = jnp.asarray([0.9, 0.05, 0.05])
    action = jax.random.choice(jax.random.key(1), 3, (512,), p=behaviour)
    after = jnp.where(action == 2, 0.0, 1.0)[:, None]
    learner = effect_learning.learner(1, 3, inverse_hidden=(16,), n_hidden=(16, 16), batch_size=128)

    def fit(told):
        rows = effect_learning.Row(jnp.full((512, 1), 0.5), action, after, jnp.ones(512, bool), jnp.log(jnp.tile(told, (512, 1))))
        buffer = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), 512), rows)
        nets = learner.init(*jax.random.split(jax.random.key(2)))
        scaler = inverse.fit_scaler(rows.obs, rows.next_obs, 0)
        effect = inverse.EffectModel(nets.network, scaler, jnp.float32(1e-2), jnp.full(3, 1 / 3))
        update = lambda nets, key: learner.update(key, nets, effect, buffer, 1e-2, 1e-2, 1)  # noqa: E731
        nets, _ = jax.lax.scan(update, nets, jax.random.split(jax.random.key(3), 300))
        infer = inverse.inverse_model(1, 3, (16,), "definition").apply
        return jax.nn.softmax(infer(nets.inverse, scaler, jnp.full(1, 0.5), jnp.ones(1), effect.policy))

    corrected, not_corrected = jax.jit(jax.vmap(fit))(jnp.stack([behaviour, jnp.ones(3)]))
    np.testing.assert_allclose(corrected, [0.5, 0.5, 0], atol=0.06)
    np.testing.assert_allclose(not_corrected, [0.95, 0.05, 0], atol=0.03)


def test_bad_combinations_are_told_in_one_line():
    env, params = make("maze-n2")
    for fields, message in (
        ({**ONLINE, "mode": "authors"}, "n_values = 'online': must be learned or oracle in mode 'authors'"),
        ({"selection": "npm", "tau_rule": "ramp"}, "tau_rule = 'ramp': needs selection 'cee', this one is 'npm'"),
        ({**ONLINE, "effect_capacity": 7}, "effect_capacity = 7: must be at least 8, the transitions collected at once"),
    ):
        with pytest.raises(UserError, match=message):
            ppo.build(env, params, ppo.Config(**{**SMALL, **fields}))


def test_a_bank_is_points_of_the_box_and_steps_like_it():
    env, params = make("bank:pendulum-wind", k=5, max_steps=7)
    inner, _ = make("pendulum-wind", max_steps=7)
    assert env.candidates.ravel().tolist() == [-2, -1, 0, 1, 2]
    assert env.action_space(params).n == 5
    assert int(params.max_steps) == 7
    obs, state = env.reset_env(jax.random.key(0), params)
    found = jax.vmap(env.step_env, (None, None, 0, None))(jax.random.key(0), state, jnp.arange(5), params)
    wanted = jax.vmap(inner.step_env, (None, None, 0, None))(jax.random.key(0), state, jnp.linspace(-2.0, 2.0, 5)[:, None], params)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    many = make("bank:magnetic", k=64)[0].candidates  # three numbers: both halves of each are visited as often
    assert many.shape == (64, 3)
    assert (np.abs((many > 0).mean(0) - 0.5) < 0.04).all()
    assert len(np.unique(many, axis=0)) == 64
    for name, options, message in (
        ("bank:pendulum-wind", {"k": 1}, "bank:pendulum-wind: k = 1: must be 2 <= x <= 65536"),
        ("bank:maze-n2", {}, "bank: env = Maze: needs a bounded Box of actions, this one is Discrete"),
        ("bank:pendulum-wind", {"kk": 2}, "pendulum-wind: kk = 2: unknown option"),
    ):
        with pytest.raises(UserError, match=message):
            make(name, **options)
