"""The loader of MIMIC-III sepsis trajectories, on synthetic files of the pipeline's two schemas; the encoder of states."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import datasets, mimic
from causal_jax.algorithms import offline_q
from causal_jax.causal import ais, estimators
from causal_jax.types import UserError

LENGTHS = tuple(1 + i % 7 for i in range(40))


def tables(seed: int = 0) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Columns of (standardised 54, its RAW twin, remapped 58): 40 patients of 1 to 7 rows."""
    rng, rows = np.random.default_rng(seed), sum(LENGTHS)
    doses = {
        name: np.where(rng.random(rows) < 0.4, 0.0, rng.lognormal(*law, rows))
        for name, law in zip(mimic.DOSES, ((6, 1), (-1.5, 1)), strict=True)
    }
    for name, edge, three in ((mimic.DOSES[0], 500.0, 7000.0), (mimic.DOSES[1], 0.08, 3.0)):
        doses[name][:3] = (edge, 0.0, three)
    common = {name: rng.normal(size=rows) for name in mimic.COLUMNS}
    common["traj"] = np.repeat(np.arange(40) * 3 + 1, LENGTHS)
    common["step"] = np.concatenate([np.arange(n) for n in LENGTHS])
    last = common["step"] == np.repeat(LENGTHS, LENGTHS) - 1
    common["r:reward"] = np.where(last, np.where(common["traj"] % 2, 1.0, -1.0), 0.0)
    raw = {**common, **doses}
    levels = [mimic.bins(doses[name], np.asarray(edges)) for name, edges in zip(mimic.DOSES, mimic.EDGES, strict=True)]
    extra = {
        "a:iv": levels[0],
        "a:vaso": levels[1],
        "a:action": 5 * levels[0] + levels[1],
        "a:iv_OLD": 0 * levels[0],
        "a:action_OLD": 0 * levels[0],
    }
    return common, raw, {name: {**common, **doses, **extra}[name] for name in mimic.REMAPPED}


def write(path: Path, columns: dict[str, Any]) -> Path:
    """A CSV file of the columns."""
    np.savetxt(path, np.stack(list(columns.values()), 1), fmt="%.17g", delimiter=",", header=",".join(columns), comments="")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("mimic")
    return {name: write(place / f"{name}.csv", columns) for name, columns in zip(("z", "raw", "remapped"), tables(), strict=True)}


@pytest.fixture(scope="module")
def patients(files: dict[str, Path]) -> mimic.Trajectories:
    return mimic.trajectories(mimic.read(files["remapped"]))


def test_the_two_schemas_have_54_and_58_columns_and_tell_the_same_patients(files: dict[str, Path], patients: mimic.Trajectories) -> None:
    assert (len(mimic.COLUMNS), len(set(mimic.COLUMNS)), len(mimic.REMAPPED), len(set(mimic.REMAPPED))) == (54, 54, 58, 58)
    assert (len(mimic.OBSERVED), len(mimic.DEMOGRAPHIC)) == (33, 5)
    both = mimic.trajectories(mimic.read(files["z"]), mimic.read(files["raw"]))
    np.testing.assert_array_equal(both.action, patients.action)
    np.testing.assert_array_equal(both.reward, patients.reward)


def test_bins_at_their_edges() -> None:
    fluids, vaso = (np.asarray(edges) for edges in mimic.EDGES)
    np.testing.assert_array_equal(mimic.bins(np.asarray([0.0, 1.0, 499.9, 500.0, 1000.0, 2000.0]), fluids), [0, 1, 1, 2, 3, 4])
    np.testing.assert_array_equal(mimic.bins(np.asarray([0.0, 0.01, 0.08, 0.2, 0.45]), vaso), [0, 1, 2, 3, 4])
    with pytest.raises(UserError, match=r"dose = -1.0 in row 1"):
        mimic.bins(np.asarray([0.0, -1.0]), vaso)


@pytest.mark.parametrize("size", [8, 14])
def test_more_bins_hold_equally_many_doses(size: int) -> None:
    doses = np.append(np.zeros(50), np.random.default_rng(0).lognormal(size=13_000))
    counts = np.bincount(mimic.bins(doses, mimic.bin_edges(doses, size, ())), minlength=size)
    assert counts[0] == 50
    assert np.ptp(counts[1:]) <= 2
    assert len(counts) == size


@pytest.mark.parametrize("sizes", [(5, 5), (8, 8), (11, 5), (14, 14)])
def test_patients_of_any_number_of_bins(files: dict[str, Path], sizes: tuple[int, int]) -> None:
    found = mimic.trajectories(mimic.read(files["z"]), mimic.read(files["raw"]), sizes)
    np.testing.assert_array_equal(found.action[found.exists].max(0), np.asarray(sizes) - 1)
    assert mimic.encoder_inputs(found, sizes).shape[-1] == 38 + sizes[0] * sizes[1]
    assert mimic.joint(found.action, sizes).max() < sizes[0] * sizes[1]
    assert not mimic.joint(found.action, sizes)[found.action.sum(-1) == 0].any()  # no dose is index 0 at every size


def test_bins_that_cannot_be_made() -> None:
    with pytest.raises(UserError, match="levels = 2: must be at least 3"):
        mimic.bin_edges(np.ones(3), 2, mimic.EDGES[0])
    with pytest.raises(UserError, match="levels = 8: need non-zero doses"):
        mimic.bin_edges(np.zeros(3), 8, mimic.EDGES[0])


def test_patients_are_padded_and_those_of_one_row_left_out(patients: mimic.Trajectories) -> None:
    kept = [n for n in LENGTHS if n > 1]
    np.testing.assert_array_equal(patients.exists.sum(1), kept)
    assert patients.obs.shape == (len(kept), 7, 33)
    assert not patients.obs[~patients.exists].any()
    last = np.asarray(kept) - 1
    paid = patients.reward[np.arange(len(kept)), last]
    assert set(paid) == {0.0, 100.0}
    assert patients.reward.sum() == paid.sum()


def test_a_state_is_paired_with_the_dose_of_the_next_row(patients: mimic.Trajectories) -> None:
    codes = np.random.default_rng(1).normal(size=(*patients.exists.shape, 4)).astype(np.float32)
    data = mimic.episodes(codes, patients)
    np.testing.assert_array_equal(data.action[:, 0], patients.action[:, 1])
    np.testing.assert_array_equal(np.asarray(data.taken).sum(1), patients.exists.sum(1) - 1)
    np.testing.assert_array_equal(np.asarray(data.terminated).sum(1), 1)
    np.testing.assert_array_equal(datasets.returns(data), patients.reward.sum(1))
    rows = datasets.sample(datasets.rows(data), jax.random.key(0), 200)
    known = {tuple(code) for code in codes[patients.exists]}
    assert all(tuple(np.asarray(code)) in known for code in (*rows[0], *rows[3]))  # padding is never drawn
    leaking = patients._replace(action=np.broadcast_to(patients.action[:, :1], patients.action.shape))
    with pytest.raises(UserError, match="its own state encodes"):
        mimic.episodes(codes, leaking)
    with pytest.raises(UserError, match="codes"):
        mimic.episodes(codes[:, 1:], patients)


def test_the_split_is_by_patient_and_outcome(patients: mimic.Trajectories) -> None:
    parts = mimic.split(patients)
    assert [len(part.obs) for part in parts] == [24, 4, 6]  # 12, 2, 3 of the 17 who survived, and of the others
    first = [part.obs[:, 0, 0] for part in parts]
    np.testing.assert_array_equal(np.sort(np.concatenate(first)), np.sort(patients.obs[:, 0, 0]))
    shares = [(part.reward.sum(1) > 0).mean() for part in parts]
    assert max(shares) - min(shares) < 0.25
    np.testing.assert_array_equal(mimic.split(patients)[0].obs, parts[0].obs)


def test_inputs_of_the_encoder(patients: mimic.Trajectories) -> None:
    inputs = mimic.encoder_inputs(patients)
    assert inputs.shape == (*patients.exists.shape, 33 + 5 + 25)
    np.testing.assert_array_equal(inputs[..., 38:].sum(-1), patients.exists)
    np.testing.assert_array_equal(inputs[..., 38:].argmax(-1)[patients.exists], mimic.joint(patients.action)[patients.exists])
    assert int(mimic.joint(np.asarray([3, 1]))) == 16  # fluids major


def test_the_neighbours_vote() -> None:
    codes = np.asarray([[0.0], [0.1], [0.2], [5.0], [5.1]])
    found = mimic.knn_policy(codes, np.asarray([0, 0, 2, 1, 1]), np.asarray([[0.05], [5.0]]), 4, k=3, chunk=1)
    np.testing.assert_allclose(found, [[2 / 3, 0, 1 / 3, 0], [0, 2 / 3, 1 / 3, 0]])
    with pytest.raises(UserError, match="k = 6"):
        mimic.knn_policy(codes, np.zeros(5, int), codes, 4, k=6)


def test_the_way_from_patients_to_the_scores_of_a_policy(patients: mimic.Trajectories) -> None:
    """Codes, the neighbours' policy, AD-BCQ on the training patients, WIS and ESS on the test patients."""
    rng, (train, _, test) = np.random.default_rng(2), mimic.split(patients)
    codes = [rng.normal(size=(*part.exists.shape, 4)).astype(np.float32) for part in (train, test)]
    taken = [part.exists[:, 1:] for part in (train, test)]
    labels = mimic.joint(train.action[:, 1:])[taken[0]]
    behaviour = mimic.knn_policy(codes[0][:, :-1][taken[0]], labels, codes[1][:, :-1].reshape(-1, 4), 25, k=10).reshape(*taken[1].shape, 25)
    behaviour = 0.99 * behaviour + 0.01 / 25  # what no neighbour did has happened nevertheless
    action = mimic.joint(test.action[:, 1:])
    prob = np.take_along_axis(behaviour, action[..., None], -1)[..., 0].astype(np.float32)
    scored = mimic.episodes(codes[1], test, prob)
    np.testing.assert_array_equal(scored.prob, np.where(taken[1], prob, 1.0))

    config = offline_q.Config(hidden=(8,), model_hidden=(8,), batch_size=8, num_updates=2)
    env, task = datasets.Recorded(4, (5, 5)), offline_q.Task(None, datasets.rows(mimic.episodes(codes[0], train)))
    algorithm, hyper = offline_q.build(env, None, config), offline_q.Hyper()
    state = algorithm.init(jax.random.key(0), hyper, task)
    state, metrics = jax.jit(algorithm.step)(jax.random.key(1), state, hyper, task)
    assert np.isfinite([float(x) for x in metrics.values()]).all()
    act = jax.jit(jax.vmap(jax.vmap(lambda obs: algorithm.act(jax.random.key(0), state, obs, True))))
    greedy = mimic.joint(np.asarray(act(scored.obs[:, :-1])))
    told = estimators.wis_ess(jnp.asarray(action), jnp.asarray(greedy), behaviour, behaviour, scored.reward, scored.taken)
    assert 0.0 <= float(told.wis) <= mimic.SURVIVED
    assert 1.0 <= float(told.ess) <= len(test.obs)


def test_what_is_wrong_with_a_file_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    z, raw, remapped = tables()
    for columns, absent in ((z, "o:GCS"), (remapped, "a:vaso")):
        path = write(tmp_path / "missing.csv", {name: x for name, x in columns.items() if name != absent})
        with pytest.raises(UserError, match=f"column = '{absent}'"):
            mimic.read(path)
    with pytest.raises(UserError, match="cannot be read"):
        mimic.read(tmp_path / "none.csv")
    with pytest.raises(UserError, match="RAW twin"):
        mimic.trajectories(mimic.read(files["z"]))
    wrong = remapped["a:iv"].copy()
    wrong[5] = (wrong[5] + 1) % 5
    with pytest.raises(UserError, match="a:iv = . in row 5"):
        mimic.trajectories(mimic.read(write(tmp_path / "bin.csv", {**remapped, "a:iv": wrong})))
    shifted = mimic.read(write(tmp_path / "raw.csv", {**raw, "step": np.roll(raw["step"], 1)}))
    with pytest.raises(UserError, match="other rows"):
        mimic.trajectories(mimic.read(files["z"]), shifted)
    early = {**remapped, "r:reward": np.where(np.arange(len(wrong)) == 1, 1.0, remapped["r:reward"])}
    with pytest.raises(UserError, match="r:reward = 1 in row 1"):
        mimic.trajectories(mimic.read(write(tmp_path / "reward.csv", early)))
    order = {**remapped, "step": np.where(np.arange(len(wrong)) == 2, 5, remapped["step"])}
    with pytest.raises(UserError, match="steps 0, 1, 2"):
        mimic.trajectories(mimic.read(write(tmp_path / "order.csv", order)))


def test_the_encoder_reads_the_past_alone_and_learns_from_it() -> None:
    """Next observation = last observation + a shift that the action names: better told after training than before."""
    rng = np.random.default_rng(0)
    action = rng.integers(0, 2, (16, 5))
    obs = np.cumsum(np.where(action == 1, 1.0, -1.0), 1)[..., None] * 0.5
    inputs = np.concatenate([obs, np.eye(2)[action]], -1)
    rows = ais.Sequences(*map(jnp.asarray, (inputs.astype(np.float32), action, obs.astype(np.float32), np.ones((16, 5), bool))))
    encoder = ais.build(3, 2, 1, size=4, width=16)
    params = encoder.init(jax.random.key(0))
    other = rows.inputs[0].at[3:].add(1.0)
    codes = jax.jit(encoder.codes)
    np.testing.assert_array_equal(codes(params, rows.inputs[0])[:3], codes(params, other)[:3])
    assert not np.allclose(codes(params, rows.inputs[0])[3], codes(params, other)[3])
    fitted = ais.fit(jax.random.key(1), encoder, rows, rows, lr=1e-2, batch_size=8, epochs=30, patience=30)
    floor = 4 * 0.5 * np.log(2 * np.pi)
    assert fitted.validation.min() - floor < 0.3 * (fitted.validation[0] - floor)
    with pytest.raises(UserError, match="batch_size = 17"):
        ais.fit(jax.random.key(1), encoder, rows, rows, batch_size=17)
