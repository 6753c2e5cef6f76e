"""NPS: a step against its definition, choices, tables = plain pass, and that training finds whom to ask."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from causal_jax.causal import imagination, nps, predictors
from causal_jax.types import UserError

N, C, A, B, H, R = 3, 3, 9, 16, 2, 4
KEY = jax.random.key(0)
SPEC = predictors.Spec(num_variables=N, variable_size=C, action_size=A, width=8)
REAL = predictors.Spec(num_variables=N, variable_size=1, num_actions=2, action_size=1, discrete=False, learn_std=True, width=8)


def data(key: jax.Array, size: int = B) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key, 2)
    return jax.nn.one_hot(jax.random.randint(keys[0], (size, N), 0, C), C), jax.random.randint(keys[1], (size, H), 0, A)


@pytest.mark.parametrize("spec", [SPEC, REAL], ids=["discrete", "continuous"])
@pytest.mark.parametrize("train", [False, True])
def test_a_step_is_what_it_says(spec: predictors.Spec, train: bool) -> None:
    """Against the definition, variable by variable: who is asked, by which rule, and what it says."""
    net = nps.build(spec, num_rules=R, num_layers=2)
    params, state = net.init(KEY)
    p = {name: np.asarray(x) for name, x in params.items()}
    obs, actions = data(KEY)
    action = actions[:, 0]
    if not spec.discrete:
        obs, action = jax.random.normal(KEY, (B, N, 1)), jax.random.normal(KEY, (B, 2, 1))
    noise = jax.tree.map(lambda x: x[0], imagination.draw_noise(KEY, net, 1, B)) if train else None
    result, _ = jax.jit(net.step)(params, None, state, obs, action, noise)
    real = np.eye(A)[np.asarray(action)][:, None] if spec.discrete else np.asarray(action)
    for b in range(3):
        rows = [(p["state_w0"], p["state_b0"], p["state_w1"], p["state_b1"], i, np.asarray(obs)[b, i]) for i in range(N)]
        rows += [(p["action_w0"], p["action_b0"], p["action_w1"], p["action_b1"], i, real[b, i]) for i in range(spec.num_actions)]
        u = [np.maximum(x @ w0[i] + b0[i], 0) @ w1[i] + b1[i] for w0, b0, w1, b1, i, x in rows]
        for j in range(N):
            ask = u[j] @ p["context_query_w"][j] + p["context_query_b"][j]
            context = np.array([ask @ (x @ p["context_key_w"][i] + p["context_key_b"][i]) for i, x in enumerate(u)]) / np.sqrt(8)
            ask = u[j] @ p["rule_query_w"][j] + p["rule_query_b"][j]
            rules = np.array([ask @ (p["embed"][i] @ p["rule_key_w"][i] + p["rule_key_b"][i]) for i in range(R)]) / np.sqrt(8)
            if noise is not None:
                context, rules = context + noise.edges[b, j, : len(u)], rules + noise.edges[b, j, len(u) :]
            source, rule = int(np.argmax(context)), int(np.argmax(rules))
            x = np.concatenate([u[j], u[source]])
            for i in range(2):
                x = np.maximum(x @ p[f"rule_w{i}"][rule] + p[f"rule_b{i}"][rule], 0)
            own = j if spec.discrete else 0
            np.testing.assert_allclose(result.output[b, j], x @ p["out_w"][own, rule] + p["out_b"][own, rule], atol=1e-5)
            np.testing.assert_array_equal(np.flatnonzero(result.edges[b, j]), sorted({j, source}))


def test_tables_equal_the_plain_pass() -> None:
    net = nps.build(SPEC, num_rules=R)
    params, state = net.init(KEY)
    obs, actions = data(KEY)
    fast, _ = jax.jit(lambda p: net.step(p, net.prepare(p), state, obs, actions[:, 0], None))(params)
    plain, _ = jax.jit(lambda p: net.step(p, None, state, obs, actions[:, 0], None))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), fast, plain)
    assert len(np.unique(np.asarray(plain.edges), axis=0)) > 1
    noisy = obs[0].at[1:].multiply(-30.0)
    shared = jax.jit(lambda p: imagination.imagine(net, p, state, noisy, actions))(params)
    want = jax.jit(lambda p: imagination.rollout_encoded(net, p, state, jnp.broadcast_to(noisy, obs.shape), actions))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), shared, want)


def test_who_is_not_asked_does_not_matter() -> None:
    net = nps.build(SPEC, num_rules=R)
    params, state = net.init(KEY)
    obs, actions = data(KEY, 40)
    step = jax.jit(lambda obs: net.step(params, None, state, obs, actions[:, 0], None)[0])
    before, after = step(obs), step(obs.at[:, 0].set(jnp.roll(obs[:, 0], 1, axis=-1)))
    blind = (before.edges[:, 1:, 0] == 0) & (after.edges[:, 1:, 0] == 0)
    assert 0 < blind.sum() < blind.size
    np.testing.assert_allclose(after.output[:, 1:][blind], before.output[:, 1:][blind], atol=1e-6)


def test_the_authors_choices_are_steps_and_ours_are_not() -> None:
    """At full width, one observation: how often fresh noise leaves the choice of a context as it is."""
    spec, share = predictors.Spec(num_variables=2, variable_size=3, action_size=4), {}
    for selectors in nps.SELECTORS:
        net = nps.build(spec, num_layers=1, selectors=selectors)
        params, state = net.init(KEY)
        obs = jax.nn.one_hot(jnp.zeros((400, 2), int), 3)
        noise = jax.tree.map(lambda x: x[0], imagination.draw_noise(KEY, net, 1, 400))
        edges = jax.jit(net.step)(params, None, state, obs, jnp.zeros(400, int), noise)[0].edges
        share[selectors] = np.mean(np.asarray(edges) == np.asarray(edges[:1]))
    assert share["authors"] == 1.0
    assert share["definition"] < 0.9


def test_nps_learns_whom_to_ask() -> None:
    """Variable 1 copies variable 0, the others stay: variable 1 comes to ask 0, and predictions become right."""
    net = nps.build(predictors.Spec(num_variables=N, variable_size=C, action_size=2, width=16), num_rules=3, num_layers=1)
    params, state = net.init(KEY)
    optimiser = optax.adam(1e-2)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        obs, actions = data(key, 64)
        colours = jnp.argmax(obs, axis=-1)
        return obs, actions[:, :1] % 2, colours[:, jnp.array([0, 0, 2])]

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, opt = carry
        key_data, key_noise = jax.random.split(key)
        obs, actions, target = draw(key_data)
        noise = imagination.draw_noise(key_noise, net, 1, 64)
        grads = jax.grad(lambda p: imagination.loss(net, p, state, obs, actions, target[:, None], noise)[0])(params)
        updates, opt = optimiser.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), None

    scan = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys)[0])
    params, _ = scan((params, optimiser.init(params)), jax.random.split(KEY, 200))
    obs, actions, target = draw(jax.random.key(1))
    result, _ = net.step(params, net.prepare(params), state, obs, actions[:, 0], None)
    assert np.mean(np.argmax(result.output, axis=-1) == target) > 0.97
    assert np.mean(result.edges[:, 1, 0]) > 0.95


def test_errors_name_the_field() -> None:
    for options, words in (
        ({"num_rules": 0}, "num_rules = 0"),
        ({"num_layers": 0}, "num_layers = 0"),
        ({"selectors": "x"}, "selectors = 'x'"),
    ):
        with pytest.raises(UserError, match=words):
            nps.build(SPEC, **options)
