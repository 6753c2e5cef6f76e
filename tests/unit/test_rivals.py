"""The dense models, CDL, NPS and GRADER as dynamics models: sizes, finite gradients, members; and what CDL sees and finds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from causal_jax.causal import cdl, dynamics, grader, imagination, nps, predictors, rivals

N, C, A, B, H = 3, 3, 9, 16, 2
KEY = jax.random.key(0)
SPEC = predictors.Spec(num_variables=N, variable_size=C, action_size=A, width=16, num_hidden=1)
BUILD: dict[str, Any] = {
    "mlp": lambda spec: rivals.dense(spec, (16, 16)),
    "gnn": lambda spec: rivals.gnn(spec, width=8, hidden=8),
    "cdl": lambda spec: cdl.build(spec),
    "nps": lambda spec: nps.build(spec, num_rules=4, num_layers=2),
    "grader": lambda spec: grader.build(spec),
}


def data(key: jax.Array, size: int = B) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(key, 3)
    obs = jax.nn.one_hot(jax.random.randint(keys[0], (size, N), 0, C), C)
    return obs, jax.random.randint(keys[1], (size, H), 0, A), jax.random.randint(keys[2], (size, H, N), 0, C)


@pytest.mark.parametrize(
    ("build", "count"), [(rivals.dense, 2_253_874), (rivals.gnn, 1_892_402), (nps.build, 2_487_912), (grader.build, 1_011_378)]
)
def test_parameter_counts(build: Any, count: int) -> None:
    params, _ = jax.eval_shape(build(predictors.Spec()).init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("name", BUILD)
def test_they_are_dynamics_models(name: str, discrete: bool) -> None:
    """Losses and gradients by the shared code, finite; every parameter gets some gradient in a discrete model."""
    spec = SPEC if discrete else predictors.Spec(num_variables=N, variable_size=1, num_actions=2, action_size=1, discrete=False, width=8)
    net = BUILD[name](spec)
    params, state = net.init(KEY)
    obs, actions, target = data(KEY)
    if not discrete:
        obs, actions, target = obs[..., :1], jax.random.normal(KEY, (B, H, 2, 1)), target.astype(jnp.float32)
    noise = imagination.draw_noise(KEY, net, H, B)

    def loss(params: Any) -> Any:
        return imagination.loss(net, params, state, obs, actions, target, noise)

    (value, (after, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert set(metrics) == {"loss_pred"}
    assert value == metrics["loss_pred"]
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert all(np.any(g) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["nps", "grader"])
def test_vmap_over_members_equals_a_loop(name: str) -> None:
    net = BUILD[name](SPEC)
    obs, actions, target = data(KEY)

    def run(key: jax.Array) -> Any:
        key_init, key_noise = jax.random.split(key)
        params, state = net.init(key_init)
        noise = imagination.draw_noise(key_noise, net, H, B)
        return jax.value_and_grad(lambda params: imagination.loss(net, params, state, obs, actions, target, noise)[0])(params)

    keys = jax.random.split(KEY, 2)
    together, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)(keys[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-4, atol=1e-5), together, alone)


def test_gnn_messages_come_from_all_the_others() -> None:
    """Against the definition, pair by pair: e_i and e_j through the message network, summed over j != i."""
    net = rivals.gnn(SPEC, width=8, hidden=8)
    params, state = net.init(KEY)
    obs, actions, _ = data(KEY)
    result, _ = net.step(params, None, state, obs, actions[:, 0], None)

    def network(layers: Any, x: jax.Array) -> jax.Array:
        for i in range(4):
            x = (jax.nn.relu(x) if i else x) @ layers[f"layers_{i}"]["kernel"] + layers[f"layers_{i}"]["bias"]
        return x

    e = [obs[0, i] @ params["embed"]["w"][i] + params["embed"]["b"][i] for i in range(N)]
    action = jax.nn.one_hot(actions[0, 0], A)
    for i in range(N):
        received = sum(network(params["message"], jnp.concatenate([e[i], e[j]])) for j in range(N) if j != i)
        x = network(params["node"], jnp.concatenate([e[i], action, received]))
        np.testing.assert_allclose(result.output[0, i], x @ params["out"]["w"][i] + params["out"]["b"][i], atol=1e-5)


def test_cdl_table_rows_equal_the_plain_pass() -> None:
    net = cdl.build(SPEC)
    params, state = net.init(KEY)
    state = state._replace(cmi=jax.random.normal(KEY, state.cmi.shape))
    obs, actions, _ = data(KEY)
    fast, _ = net.step(params, net.prepare(params), state, obs, actions[:, 0], None)
    plain, _ = net.step(params, None, state, obs, actions[:, 0], None)
    np.testing.assert_allclose(fast.output, plain.output, atol=1e-5)
    np.testing.assert_array_equal(fast.edges[0], cdl.graph(state.cmi))
    noisy = obs[0].at[1:].multiply(30.0)
    copies = jnp.broadcast_to(noisy, obs.shape)
    shared = imagination.imagine(net, params, state, noisy, actions)
    want = imagination.rollout_encoded(net, params, state, copies, actions)
    np.testing.assert_allclose(shared.output, want.output, atol=1e-4)


def test_a_source_outside_cdls_graph_does_not_matter() -> None:
    net = cdl.build(SPEC)
    params, state = net.init(KEY)
    state = state._replace(cmi=jnp.full((N, N + 1), 1.0).at[2, 0].set(-1.0))
    obs, actions, _ = data(KEY)
    before, _ = net.step(params, None, state, obs, actions[:, 0], None)
    after, _ = net.step(params, None, state, obs.at[:, 0].set(jnp.roll(obs[:, 0], 1, axis=-1)), actions[:, 0], None)
    np.testing.assert_array_equal(before.output[:, 2], after.output[:, 2])
    assert np.any(before.output[:, 1] != after.output[:, 1])


def test_cdl_finds_the_graph() -> None:
    """Variable 0 stays, 1 copies 0, 2 is set by the action: the edges (1, 0) and (2, action) and no others off the diagonal."""
    net = cdl.build(SPEC, epsilon=0.05)
    params, state = net.init(KEY)
    optimiser = optax.adam(1e-2)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        obs, actions, _ = data(key, 64)
        colours = jnp.argmax(obs, axis=-1)
        return obs, actions[:, :1], jnp.stack([colours[:, 0], colours[:, 0], actions[:, 0] % C], axis=-1)

    def update(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, opt, state = carry
        key_data, key_loss, key_test = jax.random.split(key, 3)
        obs, actions, target = draw(key_data)
        grads = jax.grad(lambda p: cdl.loss(key_loss, net, p, state, obs, actions, target[:, None])[0])(params)
        updates, opt = optimiser.update(grads, opt)
        obs, actions, target = draw(key_test)
        state = cdl.update_cmi(net, params, state, obs, actions[:, 0], target)
        return (optax.apply_updates(params, updates), opt, state), None

    carry = (params, optimiser.init(params), state)
    (_, _, state), _ = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys))(carry, jax.random.split(KEY, 150))
    np.testing.assert_array_equal(cdl.graph(state.cmi, 0.05), [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
    assert isinstance(state, dynamics.State)
