"""Grouping, selections, targets and oracles against numbers recorded from the published programs (golden README sections 3 to 5).

The copies in tests/data are slices of the originals: masking two fifths of the matrices (rows default_rng(n).permutation(K)[:2K/5],
sorted; similarities: the first 6 of those), targets every 5th batch and every 3rd tabular problem, maze_oracle every 2nd position of
n = 4 and 6. Together they keep every regime and kind.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax.causal import effects

DATA = Path(__file__).parents[1] / "data"
MODES = {"def": "definition", "code": "authors"}


def load(name: str) -> dict[str, Any]:
    with np.load(DATA / name) as archive:
        return dict(archive)


MASKING, TARGETS, MAZE = load("masking.npz"), load("targets.npz"), load("maze_oracle.npz")
EPS, TAUS, WOC = float(MASKING["eps"]), MASKING["taus"], float(MASKING["woc_threshold"])


@pytest.mark.parametrize("suffix", ["def", "code"])
@pytest.mark.parametrize("n", [4, 7, 16, 18, 64])
def test_similarity_groups_and_shares(n: int, suffix: str) -> None:
    matrix = jnp.asarray(MASKING[f"n{n}_N"])

    @jax.jit
    @jax.vmap
    def run(m):
        sim = effects.similarity(m, MODES[suffix])
        labels = effects.group(sim, EPS)
        return sim, labels, effects.shares(jnp.diagonal(m), labels)

    sim, labels, share = run(matrix)
    want = MASKING[f"n{n}_sf_{suffix}"]
    np.testing.assert_allclose(sim[: len(want)], want, atol=2e-6)
    np.testing.assert_array_equal(labels, MASKING[f"n{n}_cls_{suffix}"])
    np.testing.assert_allclose(share, MASKING[f"n{n}_share_{suffix}"], atol=1e-6)


@partial(jax.jit, static_argnums=0)
def run_selections(mode, keys, matrix, classes, tau):
    def one(key, m, labels):
        kept = {s: effects.select(s, key, m, mode=mode, epsilon=EPS, tau=tau, woc_threshold=WOC) for s in effects.SELECTIONS}
        return kept | {"survivors": effects.survivors(jnp.diagonal(m), labels, tau)}

    return jax.vmap(one)(keys, matrix, classes)


@pytest.mark.parametrize("suffix", ["def", "code"])
@pytest.mark.parametrize("n", [4, 7, 16, 18, 64])
def test_selections(n: int, suffix: str) -> None:
    data = {k.split("_", 1)[1]: v for k, v in MASKING.items() if k.startswith(f"n{n}_")}
    classes = data[f"cls_{suffix}"]
    keys = jax.random.split(jax.random.key(n), len(classes))
    for t, tau in enumerate(TAUS):
        got = {k: np.asarray(v) for k, v in run_selections(MODES[suffix], keys, data["N"], classes, tau).items()}
        assert got["all"].all()
        np.testing.assert_array_equal(got["npm"], data[f"npm_{suffix}"] == 1)
        sure = (data["margin_woc"] == 0) | (data["margin_woc"] >= 1e-6)
        np.testing.assert_array_equal(got["cee-woc"][sure], data["woc"][sure] == 1)
        margin = data[f"margin_tau_{suffix}"][:, t]
        sure = (margin == 0) | (margin >= 1e-6)
        want = data[f"cee_surv_{suffix}"][:, t] == 1
        np.testing.assert_array_equal(got["survivors"][sure], want[sure])
        if suffix == "def":
            np.testing.assert_array_equal(got["cee"][sure], want[sure])
        else:
            assert not (got["cee"] & ~want)[sure].any()
        for kept, labels in zip(got["npm-random"], classes, strict=True):  # one of each class
            assert np.bincount(labels[kept]).tolist() == [1] * (labels.max() + 1)
        if suffix == "code":  # one of the survivors of each class that has any
            for kept, allowed, labels in zip(got["cee"][sure], want[sure], classes[sure], strict=True):
                assert sorted(labels[kept]) == sorted(set(labels[allowed]))


def test_one_draw_per_group_has_the_recorded_probabilities() -> None:
    matrix = jnp.asarray(MASKING["n7_N"])
    keys = jax.random.split(jax.random.key(0), 4000)
    for t, tau in ((3, 0.1), (1, 0.5)):

        def draw(key, tau=tau):
            return jax.vmap(lambda m: effects.select("cee", key, m, mode="authors", epsilon=EPS, tau=tau))(matrix)

        margin = MASKING["n7_margin_tau_code"][:, t]
        sure = (margin == 0) | (margin >= 1e-6)
        frequency = np.asarray(jax.jit(jax.vmap(draw))(keys)).mean(0)
        # 4000 draws: a standard error of at most 0.008; 5 of them over about 280 comparisons
        np.testing.assert_allclose(frequency[sure], MASKING["n7_cee_prob_code"][:, t][sure], atol=0.04)


@pytest.mark.parametrize("n", [4, 7, 16, 18, 64])
def test_targets_losses_and_gradients(n: int) -> None:
    data = {k.split("_", 1)[1]: jnp.asarray(v) for k, v in TARGETS.items() if k.startswith(f"n{n}_")}

    def n_loss(pred, target):
        return jnp.mean(jax.vmap(effects.n_loss)(pred, target))

    def idm_loss(logits, action):
        return jnp.mean(jax.vmap(effects.idm_loss)(logits, action))

    target = jax.vmap(jax.vmap(effects.n_target))(data["logits"], data["pi"])
    np.testing.assert_allclose(target, data["target"], atol=1e-5)
    loss, grad = jax.jit(jax.vmap(jax.value_and_grad(n_loss)))(data["pred"], data["target"])
    np.testing.assert_allclose(loss, data["n_loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, data["n_grad"], atol=1e-6)
    loss, grad = jax.jit(jax.vmap(jax.value_and_grad(idm_loss)))(data["logits"], data["action"].astype(jnp.int32))
    np.testing.assert_allclose(loss, data["idm_loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, data["idm_grad"], atol=1e-6)
    accuracy = (jnp.argmax(data["logits"], -1) == data["action"]).mean(-1)
    np.testing.assert_allclose(accuracy, data["idm_acc"], atol=1e-6)


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 8])
def test_tabular_problems(n: int) -> None:
    key = jax.random.key(0)
    with jax.enable_x64(True):
        data = {k.split("_", 1)[1]: jnp.asarray(v) for k, v in TARGETS.items() if k.startswith(f"tab{n}_")}

        @jax.jit
        @jax.vmap
        @jax.vmap
        def run(p, pi):
            exact, floored = effects.exact_n(p, pi), effects.exact_n(p, pi, 1e-8)
            out = {"N_exact": exact, "N_floor": floored, "KL": effects.kl_matrix(p), "C": jnp.diagonal(exact)}
            out["mutual_info"] = pi @ out["C"]
            out["cls"] = effects.group(effects.similarity(exact), EPS)
            out["share"] = effects.shares(out["C"], out["cls"])
            out["keep_cee"] = effects.select("cee", key, exact)
            out["keep_npm"] = effects.select("npm", key, exact)
            for suffix, mode in MODES.items():
                out[f"cls_floor_{suffix}"] = effects.group(effects.similarity(floored, mode), EPS)
                out[f"keep_floor_{suffix}"] = effects.select("cee", key, floored, mode=mode)
            return out

        got = run(data["P"], data["pi"])
        for name in ("N_exact", "N_floor", "KL", "C", "mutual_info", "share"):
            np.testing.assert_allclose(got[name], data[name], atol=1e-10, rtol=1e-12, err_msg=name)  # infinities must match
        for name in ("cls", "keep_cee", "keep_npm", "cls_floor_def", "keep_floor_def", "cls_floor_code", "keep_floor_code"):
            np.testing.assert_array_equal(np.asarray(got[name]).astype(int), np.asarray(data[name]).astype(int), err_msg=name)
        entropy = -np.sum(data["pi"] * np.log(data["pi"]), -1)
        assert (np.asarray(got["mutual_info"]) <= entropy + 1e-12).all()
    with jax.enable_x64(False):
        p, pi = (jnp.asarray(np.asarray(data[k]), jnp.float32) for k in ("P", "pi"))
        single = jax.vmap(jax.vmap(lambda p, pi: effects.exact_n(p, pi)))(p, pi)
        np.testing.assert_allclose(single, np.asarray(data["N_exact"]), atol=1e-4)


@pytest.mark.parametrize("n", [4, 6])
def test_maze_oracle(n: int) -> None:
    data = {k.split("_", 1)[1]: v for k, v in MAZE.items() if k.startswith(f"n{n}_")}
    key = jax.random.key(0)

    @jax.jit
    @jax.vmap
    def run(next_obs):
        matrix = effects.oracle_n_matrix(next_obs)
        out = {f"cls_{mode}": effects.group(effects.similarity(matrix, mode), EPS) for mode in effects.MODES}
        out["N_diag"] = jnp.diagonal(matrix)
        for selection in ("cee", "npm", "cee-woc"):
            out[selection] = effects.select(selection, key, matrix)
        return out | {"unique": effects.unique(next_obs)}

    for suffix in ("", "_reset"):
        successors = np.where(data["goal"][..., None] == 1, (0.25, 0.10), data["next_pos"]) if suffix else data["next_pos"]
        got = run(jnp.asarray(successors, jnp.float32))
        np.testing.assert_allclose(got["N_diag"], data["N_diag" + suffix], atol=1e-6)
        for mode in effects.MODES:
            np.testing.assert_array_equal(got[f"cls_{mode}"], data["cls" + suffix])
        np.testing.assert_array_equal(got["cee"], data["keep_cee" + suffix] == 1)
        np.testing.assert_array_equal(got["unique"], data["keep_cee" + suffix] == 1)
        np.testing.assert_array_equal(got["npm"], data["keep_npm" + suffix] == 1)
        if not suffix:
            np.testing.assert_array_equal(got["cee-woc"], data["keep_woc"] == 1)
