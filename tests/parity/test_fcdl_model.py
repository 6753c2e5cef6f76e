"""The FCDL dynamics model against numbers recorded from the authors' program (golden README sections 3 and 4).

tests/data/fcdl_model.npz is a slice of the narrow model (width 32) of seed 0 after training: parameters, eval-mode rollouts (clean and
noisy), one training step with recorded noise (gradients of sa_w, enc_fc0_w, gen_w* cut to some output columns), two codebook updates.
The plain forward pass and the one by table rows both have to agree with it.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import codebook, dynamics, imagination, predictors

with np.load(Path(__file__).parents[1] / "data" / "fcdl_model.npz") as archive:
    DATA: dict[str, Any] = dict(archive)
PARAMS, STATE = dynamics.from_reference(DATA, "param/")


def model(table_rows: bool) -> dynamics.Model:
    spec = predictors.Spec(width=32, encoder_hidden=(64, 32), decoder_hidden=(32,), table_rows=table_rows)
    return dynamics.build(spec)


def inputs(prefix: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(one-hot states [B, N, C], actions [B, H], next states [B, H, N])."""
    states, actions, target = (jnp.asarray(DATA[f"{prefix}/in/{name}"], jnp.int32) for name in ("states", "actions", "next_states"))
    return jax.nn.one_hot(states, 5), actions, target


def agree(steps: dynamics.Step, prefix: str, relative: bool) -> None:
    """Decisions equal; numbers within 2e-5 (clean), or within 1e-5 of the largest entry (noisy inputs, which reach 100 and more)."""

    def close(got: jax.Array, name: str) -> None:
        want = DATA[f"{prefix}/{name}"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max() if relative else 2e-5, err_msg=name)

    np.testing.assert_array_equal(steps.code, DATA[f"{prefix}/code"])
    np.testing.assert_array_equal(steps.edges, DATA[f"{prefix}/adjacency"])
    np.testing.assert_array_equal(jnp.argmax(steps.output, axis=-1), DATA[f"{prefix}/pred"])
    close(steps.h, "h")
    close(steps.output, "logits")
    np.testing.assert_allclose(jax.nn.sigmoid(steps.logits), DATA[f"{prefix}/edge_prob"], atol=1e-4 if relative else 2e-5)
    np.testing.assert_allclose(predictors.log_probs(steps.output), DATA[f"{prefix}/logp"], atol=1e-4)


@pytest.mark.parametrize("table_rows", [True, False])
def test_forward_and_losses(table_rows: bool) -> None:
    states, actions, target = inputs("clean")
    net = model(table_rows)

    @jax.jit
    def run(params: Any, state: Any) -> Any:
        steps, after = imagination.rollout(net, params, state, states, actions)
        return steps, imagination.losses(net.spec, steps, target), after

    steps, losses, after = run(PARAMS, STATE)
    agree(steps, "clean/out", relative=False)
    for name, value in losses.items():
        np.testing.assert_allclose(value, DATA[f"clean/out/loss_{name}"], atol=1e-5, err_msg=name)
    assert set(losses) == {"pred", "reg", "commit"}
    jax.tree.map(np.testing.assert_array_equal, after, STATE)


@pytest.mark.parametrize("table_rows", [True, False])
def test_forward_from_noisy_observations(table_rows: bool) -> None:
    features, actions = jnp.asarray(DATA["noisy/in/features"]), jnp.asarray(DATA["noisy/in/actions"], jnp.int32)
    steps = jax.jit(lambda params, state: imagination.rollout_encoded(model(table_rows), params, state, features, actions))(PARAMS, STATE)
    agree(steps, "noisy/out", relative=True)


def test_graph_of_every_code() -> None:
    logits, norms = dynamics.decode(PARAMS, STATE.norms, model(True).spec, STATE.book.codes)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), DATA["clean/out/codebook_edge_prob"], atol=2e-5)


@pytest.mark.parametrize("table_rows", [True, False])
def test_one_training_step(table_rows: bool) -> None:
    states, actions, target = inputs("train_step")
    noise = dynamics.Noise(jnp.asarray(DATA["train_step/in/logistic_noise"]), jnp.asarray(DATA["train_step/in/gumbel_noise"]))
    net = model(table_rows)

    @jax.jit
    def run(params: Any) -> Any:
        def loss(params: Any) -> Any:
            return imagination.loss(net, params, STATE, states, actions, target, noise)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (total, (after, metrics)), grads = run(PARAMS)
    want = {name: float(DATA[f"train_step/out/loss_{name}"]) for name in ("pred", "reg", "commit")}
    for name, value in want.items():
        np.testing.assert_allclose(metrics[f"loss_{name}"], value, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, want["pred"] + 0.001 * want["reg"] + 0.25 * want["commit"], atol=1e-5)
    assert metrics["codes_used"] == len(np.unique(DATA["train_step/out/code"]))

    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(norm, DATA["train_step/out/grad_norm"], rtol=1e-5)
    by_source = jnp.sqrt(jnp.sum(jnp.square(grads["sa_w"]), axis=(2, 3)))
    np.testing.assert_allclose(by_source, DATA["train_step/grad_norms/sa_w_by_target_source"], atol=1e-6)
    assert not np.triu(by_source[:, :10], 1).any()  # pairs that may never have an edge
    recorded = {name.removeprefix("train_step/grad/") for name in DATA if name.startswith("train_step/grad/")}
    assert recorded == set(grads)
    for name in recorded:
        wanted = DATA[f"train_step/grad/{name}"]
        got = np.asarray(grads[name]).reshape(*wanted.shape[:-1], -1)[..., : wanted.shape[-1]]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max(), err_msg=name)

    state = {"codebook": after.book.codes, "ema_count": after.book.counts, "ema_sum": after.book.total}
    for name, (mean, var) in after.norms.items():
        state |= {f"{name}_mean": mean, f"{name}_var": var}
    for name, value in state.items():
        wanted = DATA[f"train_step/state_after/{name}"]
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


def test_decisions_of_a_training_step() -> None:
    """Codes, sampled edges and embeddings of the three steps: each uses the codebook and the batch of its own moment."""
    states, actions, _ = inputs("train_step")
    noise = dynamics.Noise(jnp.asarray(DATA["train_step/in/logistic_noise"]), jnp.asarray(DATA["train_step/in/gumbel_noise"]))
    steps, _ = jax.jit(lambda params, state: imagination.rollout(model(True), params, state, states, actions, noise))(PARAMS, STATE)
    np.testing.assert_array_equal(steps.code, DATA["train_step/out/code"])
    np.testing.assert_array_equal(steps.edges, DATA["train_step/out/adjacency"])
    np.testing.assert_allclose(steps.h, DATA["train_step/out/h"], atol=2e-5)
    np.testing.assert_allclose(steps.output, DATA["train_step/out/logits"], atol=2e-5)


@pytest.mark.parametrize("case", [0, 1])
def test_codebook_update(case: int) -> None:
    book = codebook.Codebook(*(jnp.asarray(DATA[f"ema/{name}_before"][case]) for name in ("codebook", "count", "sum")))
    h = jnp.asarray(DATA["ema/h"][case])
    code = jax.vmap(codebook.nearest, (None, 0))(book.codes, h)
    np.testing.assert_array_equal(code, DATA["ema/code"][case])
    after = jax.jit(codebook.ema_update)(book, h, code)
    for got, name in zip(after, ("codebook", "count", "sum"), strict=True):
        want = DATA[f"ema/{name}_after"][case]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 2_346_319),
        ({"width": 32, "encoder_hidden": (64, 32)}, 166_639),
        ({"adjacency": "global"}, 2_154_418),
        ({"adjacency": "full"}, 2_154_418),
        ({"adjacency": "sampled", "encoder_hidden": (128, 128), "label": True}, 2_371_423),
    ],
)
def test_parameter_counts(changes: dict[str, Any], count: int) -> None:
    net = dynamics.build(predictors.Spec(**changes))
    params, _ = jax.eval_shape(net.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
