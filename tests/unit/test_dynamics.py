"""What must hold of the dynamics models whatever their parameters, and table rows = plain pass.

M2 to M13 number the invariants of the method: certain edges, what a target can see, who gets which gradient, when state moves.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import codebook, context_tree, dynamics, graphs, imagination, predictors
from causal_jax.types import UserError

N, C, A, B, H = 4, 3, 12, 16, 3
SPEC = predictors.Spec(
    num_variables=N,
    variable_size=C,
    action_size=A,
    width=8,
    num_hidden=1,
    encoder_hidden=(8, 6),
    decoder_hidden=(6,),
    num_codes=5,
    code_dim=3,
)
KEY = jax.random.key(0)


def batch(key: jax.Array = KEY, size: int = B) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(one-hot obs [B, N, C], actions [B, H], next states [B, H, N])."""
    keys = jax.random.split(key, 3)
    obs = jax.nn.one_hot(jax.random.randint(keys[0], (size, N), 0, C), C)
    return obs, jax.random.randint(keys[1], (size, H), 0, A), jax.random.randint(keys[2], (size, H, N), 0, C)


def built(**changes: Any) -> tuple[dynamics.Model, Any, dynamics.State]:
    """A model with random parameters, statistics of a batch, and codes that are embeddings of the first samples.

    So several codes are in use; with one alone the decoder's batch variance is 0 and its gradients are rounding errors, much amplified.
    """
    net = dynamics.build(dataclasses.replace(SPEC, **changes), truth)
    params, state = net.init(KEY)
    if not net.spec.learns_graph:
        return net, params, state
    obs, actions, _ = batch()
    noise = jax.tree.map(lambda x: x[0], imagination.draw_noise(KEY, net, 1, B))
    _, moved = step(net, params, state, obs, actions[:, 0], noise)
    state = state._replace(norms=jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, moved.norms, state.norms))
    h = step(net, params, state, obs, actions[:, 0])[0].h
    if isinstance(moved.book, context_tree.Tree):  # its nodes ask about the first variable
        tree = moved.book._replace(asked=jnp.arange(net.spec.num_codes - 1))
        state = state._replace(book=context_tree.with_codes(tree))
    elif state.book is not None:
        codes = h[: SPEC.num_codes]
        state = state._replace(book=codebook.Codebook(codes, jnp.ones(SPEC.num_codes), codes))
    elif "codebook" in params:
        params["codebook"] = h[: SPEC.num_codes]
    return net, params, state


def truth(obs: jax.Array, action: jax.Array) -> jax.Array:
    """A local graph for tests: in state 0 of the root only the root is a parent."""
    parents = jnp.asarray(graphs.free_edges(N)[:, :N])
    local = parents & (jnp.arange(N) == 0)
    return graphs.with_self(jnp.where(obs[0, 0] == 1, local, parents))


def step(net: dynamics.Model, params: Any, state: Any, obs: Any, action: Any, noise: Any = None, rows: bool = False) -> Any:
    return jax.jit(lambda p, s, *args: net.step(p, net.prepare(p) if rows else None, s, *args))(params, state, obs, action, noise)


KINDS: list[dict[str, Any]] = [
    {},
    {"label": True},
    {"ema": False},
    {"contexts": "kmeans"},
    {"contexts": "tree", "num_codes": 4},
    {"learn_upper": True, "learn_action": True},
    {"adjacency": "sampled"},
    {"adjacency": "sampled", "label": True},
    {"adjacency": "full"},
    {"adjacency": "global"},
    {"adjacency": "given"},
]


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "fcdl")
def test_table_rows_equal_the_plain_pass(changes: dict[str, Any]) -> None:
    """Outputs, losses, state and every gradient of a training rollout (later inputs are samples with soft gradients), within 1e-5."""
    net, params, state = built(**changes)
    plain = dynamics.build(dataclasses.replace(net.spec, table_rows=False), truth)
    assert plain.prepare(params) is None
    assert net.prepare(params) is not None
    obs, actions, target = batch()
    noise = imagination.draw_noise(KEY, net, H, B)

    def run(net: dynamics.Model) -> Any:
        def loss(params: Any) -> Any:
            return imagination.loss(net, params, state, obs, actions, target, noise)

        (value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return value, aux, grads

    (got, want) = run(net), run(plain)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-5), got, want)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert np.abs(got[2]["state_w"]).max() > 1e-3  # there is a gradient to compare
    assert np.isfinite(got[0])


def test_a_tree_tells_contexts_from_what_it_asks() -> None:
    """Noise on what the tree does not ask changes neither code nor graph; the encoder learns straight through the leaf's code."""
    net, params, state = built(contexts="tree", num_codes=4)
    obs, actions, target = batch(size=40)
    clean, same = step(net, params, state, obs, actions[:, 0])
    jax.tree.map(np.testing.assert_array_equal, same, state)
    root = jnp.argmax(obs[:, 0], -1)  # the three nodes ask for colour 0 (then 1 on the left, 2 on the right)
    np.testing.assert_array_equal(clean.code, jnp.where(root == 0, 2, jnp.where(root == 1, 1, 0)))
    noisy, _ = step(net, params, state, obs.at[:, 1:].multiply(-70.0), actions[:, 0])
    np.testing.assert_array_equal(noisy.code, clean.code)
    np.testing.assert_array_equal(noisy.edges, clean.edges)
    noise = imagination.draw_noise(KEY, net, H, 40)
    grads, (after, metrics) = jax.jit(jax.grad(lambda p: imagination.loss(net, p, state, obs, actions, target, noise), has_aux=True))(
        params
    )
    assert all(np.all(np.isfinite(g)) for g in grads.values())
    assert np.any(grads["enc_fc0_w"])
    assert {"loss_commit", "codes_used"} <= set(metrics)
    assert metrics["codes_used"] >= 3  # and what the tree asks after a step may tell more apart
    np.testing.assert_allclose(after.book.counts[0, -1], 0.01 * (16 * 0.99**3 + 40 * (1 + 0.99 + 0.99**2)), rtol=1e-5)


def test_kmeans_centroids_move_in_training_only() -> None:
    net, params, state = built(contexts="kmeans")
    obs, actions, _ = batch()
    noise = jax.tree.map(lambda x: x[0], imagination.draw_noise(KEY, net, 1, B))
    result, after = step(net, params, state, obs, actions[:, 0], noise)
    want = codebook.kmeans_update(state.book, result.h, result.code)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), after.book, want)
    assert np.abs(after.book.codes - state.book.codes).max() > 1e-2
    _, same = step(net, params, state, obs, actions[:, 0])
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_fixed_edges_are_certain_and_the_others_free() -> None:  # M2
    net, params, state = built()
    obs, actions, _ = batch()
    probability = jax.nn.sigmoid(step(net, params, state, obs, actions[:, 0])[0].logits)
    free = graphs.free_edges(N)
    assert free.sum() == N * (N - 1) // 2
    always = np.eye(N, N + 1, dtype=bool) | (np.arange(N + 1) == N)
    assert np.all(np.asarray(probability)[:, always] == 1.0)
    assert np.all(np.asarray(probability)[:, ~always & ~free] < 1e-40)
    assert np.all((np.asarray(probability)[:, free] > 0) & (np.asarray(probability)[:, free] < 1))


def test_edges_that_are_not_learned_get_no_noise() -> None:
    net = dynamics.build(dataclasses.replace(SPEC, learn_upper=True))
    free = graphs.free_edges(N, learn_upper=True)
    noise = imagination.draw_noise(KEY, net, H, 200).edges
    assert noise.shape == (H, 200, N, N + 1)
    assert not np.any(noise[..., ~free])
    assert 0.45 < np.mean(noise[..., free] > 0) < 0.55
    assert len(np.unique(noise[..., free])) > 0.99 * noise[..., free].size  # every edge of every sample has its own


def test_losses_at_the_start() -> None:  # M3, M4, at the authors' size
    net = dynamics.build(predictors.Spec())
    params, state = net.init(KEY)
    obs = jax.nn.one_hot(jax.random.randint(KEY, (32, 10), 0, 5), 5)
    actions, target = jax.random.randint(KEY, (32, 3), 0, 50), jax.random.randint(KEY, (32, 3, 10), 0, 5)
    noise = imagination.draw_noise(KEY, net, 3, 32)
    metrics = jax.jit(lambda params: imagination.loss(net, params, state, obs, actions, target, noise)[1][1])(params)
    assert 0.37 < metrics["loss_reg"] < 0.40
    assert 1.55 < metrics["loss_pred"] < 1.75
    # of a graph with all 45 free edges, and with the 9 of a fork
    everything = graphs.place(jnp.full(45, 100.0), graphs.free_edges(10))
    fork = graphs.place(jnp.where(np.nonzero(graphs.free_edges(10))[1] == 0, 100.0, -100.0), graphs.free_edges(10))
    np.testing.assert_allclose(graphs.sparsity(everything, everything), 65 / 110, rtol=1e-6)
    np.testing.assert_allclose(graphs.sparsity(fork, fork), 29 / 110, rtol=1e-6)
    np.testing.assert_allclose(graphs.sparsity(fork, (fork > 0).astype(float), "sum"), 2.9, rtol=1e-6)
    assert metrics["loss_reg"] <= 65 / 110


def test_a_masked_source_does_not_matter() -> None:  # M5, M6, M7
    net, params, state = built()
    obs, actions, _ = batch(size=40)
    result, _ = step(net, params, state, obs, actions[:, 0])
    assert len(np.unique(result.code)) > 1
    changes, masked = 0, 0
    for source in range(N):
        other = obs.at[:, source].set(jnp.roll(obs[:, source], 1, axis=-1))
        after, _ = step(net, params, state, other, actions[:, 0])
        same_graph = jnp.all(after.edges == result.edges, axis=(1, 2))
        equal = jnp.all(after.output == result.output, axis=-1)  # bit for bit
        blind = same_graph[:, None] & (result.edges[..., source] == 0)
        assert np.all(equal[blind])
        assert np.all(after.output[:, :source] == result.output[:, :source], where=same_graph[:, None, None])
        masked += int(blind[:, source:].sum())
        changes += int((~equal).sum())
    assert masked > 0
    assert changes > 0


def test_a_variable_never_looks_up() -> None:  # M6, M7 under any code: even where the graph changes, allowed sources stay allowed
    net, params, state = built()
    obs, actions, _ = batch()
    result, _ = step(net, params, state, obs, actions[:, 0])
    other = obs.at[:, 1:].set(jnp.roll(obs[:, 1:], 1, axis=-1))
    after, _ = step(net, params, state, other, actions[:, 0])
    np.testing.assert_array_equal(after.output[:, 0], result.output[:, 0])
    assert np.any(after.output[:, 1:] != result.output[:, 1:])


def test_evaluation_is_independent_of_the_batch_and_training_is_not() -> None:  # M8
    net, params, state = built()
    obs, actions, _ = batch()
    whole, _ = step(net, params, state, obs, actions[:, 0])
    part, _ = step(net, params, state, obs[:2], actions[:2, 0])
    np.testing.assert_allclose(part.logits, whole.logits[:2], atol=1e-6)
    np.testing.assert_allclose(part.output, whole.output[:2], atol=1e-6)
    noise = jax.tree.map(lambda x: x[0], imagination.draw_noise(KEY, net, H, B))
    whole, _ = step(net, params, state, obs, actions[:, 0], noise)
    part, _ = step(net, params, state, obs[:3], actions[:3, 0], jax.tree.map(lambda x: x[:3], noise))
    assert np.abs(part.logits - whole.logits[:3]).max() > 1e-2


@pytest.mark.parametrize("ema", [True, False])
def test_who_gets_which_gradient(ema: bool) -> None:  # M9
    net, params, state = built(ema=ema)
    obs, actions, target = batch()
    noise = imagination.draw_noise(KEY, net, 1, B)

    def grads(name: str) -> Any:
        def term(params: Any, codes: Any) -> Any:
            book = state.book if codes is None else state.book._replace(codes=codes)
            # one step: the commitment of later steps also reaches the predictors, through the sampled states
            steps, _ = imagination.rollout(net, params, state._replace(book=book), obs, actions[:, :1], noise)
            return imagination.losses(net.spec, steps, target[:, :1])[name]

        return jax.jit(jax.grad(term, argnums=(0, 1) if ema else 0))(params, state.book.codes if ema else None)

    pred, commit = grads("pred"), grads("commit")
    if ema:
        assert not np.any(pred[1])
        assert not np.any(commit[1])
        pred, commit = pred[0], commit[0]
    else:
        assert not np.any(commit["codebook"])
        vq = grads("vq")
        assert np.any(vq["codebook"])
        assert not any(np.any(g) for name, g in vq.items() if name != "codebook")
    assert np.any(pred["enc_fc0_w"])
    assert np.any(pred["dec_out_w"])
    assert np.any(commit["enc_fc0_w"])
    assert np.any(commit["state_w"])
    assert np.any(commit["action_w"])
    assert not np.any(commit["sa_w"])


def test_state_moves_once_per_model_step_and_only_in_training() -> None:  # M10, M13
    net, params, state = built()
    obs, actions, target = batch()
    noise = imagination.draw_noise(KEY, net, H, B)
    steps, after = jax.jit(lambda *a: imagination.rollout(net, *a))(params, state, obs, actions, noise)
    book = state.book
    for t in range(H):
        np.testing.assert_allclose(steps.q[t], book.codes[steps.code[t]], atol=1e-5)  # the codebook before this step's update
        book = codebook.ema_update(book, steps.h[t], steps.code[t])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), after.book, book)
    one = jax.jit(lambda *a: imagination.rollout(net, *a))(params, state, obs, actions[:, :1], jax.tree.map(lambda x: x[:1], noise))[1]
    for name, old in state.norms.items():  # after one step a tenth is new, after three not more than 1 - 0.9^3
        assert np.all(after.norms[name].var >= 0.9**3 * old.var)
        assert np.all(one.norms[name].var >= 0.9 * old.var)
        assert np.any(after.norms[name].mean != one.norms[name].mean)
    _, same = jax.jit(lambda *a: imagination.rollout(net, *a))(params, state, obs, actions)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_noisy_encodings_reach_the_first_step_only() -> None:  # M12
    net, params, state = built()
    obs, actions, _ = batch()
    noisy = obs.at[:, 1:].multiply(-70.0)
    steps = jax.jit(lambda *a: imagination.rollout_encoded(net, *a))(params, state, noisy, actions)
    predicted = jax.nn.one_hot(jnp.argmax(steps.output[0], axis=-1), C)
    later, _ = jax.jit(lambda *a: imagination.rollout(net, *a))(params, state, predicted, actions[:, 1:])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1:], y, rtol=1e-5, atol=1e-5), steps, later)
    clean = jax.jit(lambda *a: imagination.rollout_encoded(net, *a))(params, state, obs, actions)
    fast, _ = jax.jit(lambda *a: imagination.rollout(net, *a))(params, state, obs, actions)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), clean, fast)
    assert np.abs(steps.output[0] - clean.output[0]).max() > 1.0


@pytest.mark.parametrize("changes", [{}, {"adjacency": "sampled"}, {"adjacency": "given"}, {"table_rows": False}], ids=str)
def test_plans_share_the_first_observation(changes: dict[str, Any]) -> None:
    """One noisy observation under many plans equals a plain rollout of its copies."""
    net, params, state = built(**changes)
    obs, actions, _ = batch()
    noisy = obs[0].at[2:].multiply(-70.0)
    got = jax.jit(lambda *a: imagination.imagine(net, *a))(params, state, noisy, actions)
    copies = jnp.broadcast_to(noisy, obs.shape)
    want = jax.jit(lambda *a: imagination.rollout_encoded(net, *a))(params, state, copies, actions)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), got, want)
    assert len(np.unique(np.asarray(got.output[0]), axis=0)) > 1


def test_oracles_see_what_they_should() -> None:
    obs, actions, _ = batch(size=12)
    graph = {kind: step(*built(adjacency=kind), obs, actions[:, 0])[0].edges for kind in ("full", "global", "given")}
    assert np.all(graph["full"] == 1)
    expected = np.concatenate([np.tril(np.ones((N, N))), np.ones((N, 1))], axis=1)
    assert np.all(graph["global"] == expected)
    np.testing.assert_array_equal(graph["given"], jax.vmap(truth)(obs, actions[:, 0]))
    assert len(np.unique(np.asarray(graph["given"]), axis=0)) == 2


@pytest.mark.parametrize("learn_std", [False, True])
def test_continuous_variables(learn_std: bool) -> None:
    """Magnetic's kind: scalars, three action variables, squared error or normal likelihood, means fed back outside training."""
    net = dynamics.build(
        dataclasses.replace(
            SPEC, discrete=False, variable_size=1, num_actions=3, action_size=1, learn_std=learn_std, learn_upper=True, learn_action=True
        )
    )
    params, state = net.init(KEY)
    assert net.prepare(params) is None
    assert params["dec_out_w"].shape[-1] == N * (N + 3 - 1)
    obs, actions, target = jax.random.normal(KEY, (B, N, 1)), jax.random.normal(KEY, (B, H, 3, 1)), jax.random.normal(KEY, (B, H, N))
    steps, _ = imagination.rollout(net, params, state, obs, actions)
    again, _ = net.step(params, None, state, steps.output[0][..., :1], actions[:, 1], None)
    np.testing.assert_allclose(again.output, steps.output[1], rtol=1e-5, atol=1e-6)
    error = np.square(np.asarray(steps.output[..., 0]) - np.swapaxes(target, 0, 1))
    got = imagination.losses(net.spec, steps, target)["pred"]
    if learn_std:
        std = np.exp(np.clip(steps.output[..., 1], -10, -5))
        np.testing.assert_allclose(got, np.mean(0.5 * error / std**2 + np.log(std) + 0.5 * np.log(2 * np.pi)), rtol=1e-4)
    else:
        np.testing.assert_allclose(got, error.mean(), rtol=1e-5)
    noise = imagination.draw_noise(KEY, net, H, B)
    grads = jax.grad(lambda params: imagination.loss(net, params, state, obs, actions, target, noise)[0])(params)
    assert all(np.all(np.isfinite(g)) for g in grads.values())
    assert np.any(grads["enc_fc0_w"])


@pytest.mark.slow
def test_vmap_over_members_equals_a_loop() -> None:
    net, params, state = built()
    obs, actions, target = batch()

    def run(key: jax.Array, scale: jax.Array) -> Any:
        noise = imagination.draw_noise(key, net, H, B)

        def loss(params: Any) -> Any:
            return imagination.loss(net, params, state, obs, actions, target, noise)

        return jax.value_and_grad(loss, has_aux=True)(jax.tree.map(lambda x: x * scale, params))

    keys, scales = jax.random.split(KEY, 2), jnp.asarray([0.9, 1.0])
    together, alone = jax.jit(jax.vmap(run))(keys, scales), jax.jit(run)(keys[1], scales[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-4, atol=1e-5), together, alone)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adjacency": "given"}, "truth"),
        ({"adjacency": "x"}, "adjacency = 'x'"),
        ({"num_actions": 2}, "num_actions = 2"),
        ({"discrete": False}, "variable_size = 3"),
        ({"decoder_hidden": ()}, "decoder_hidden"),
    ],
)
def test_errors_name_the_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dynamics.build(dataclasses.replace(SPEC, **changes))
