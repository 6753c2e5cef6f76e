"""The studies beyond FCDL's paper: every variant can be built, spoilt worlds are as said, results are kept and told."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_jax import make
from causal_jax.algorithms import fcdl
from causal_jax.fields import validate
from causal_jax.types import UserError
from experiments import fcdl as chemical
from experiments import fcdl_studies as studies


def test_every_variant_can_be_built_and_one_of_each_study_changes_nothing() -> None:
    env, _ = make(studies.ENV)
    for variants in studies.STUDIES.values():
        for fields, rates in variants.values():
            _, config, hyper = chemical.settings_of(chemical.Options("chemical"), studies.ENV, "study", rates, **fields)
            validate(config)
            validate(hyper)
            fcdl.dynamics_model(env, config)  # checks the spec
        assert sum(not any(change) for change in variants.values()) == 1


def test_spoilt_worlds() -> None:
    env = studies.Spoilt(num_objects=4, num_colours=3, level=2)
    values = jax.nn.one_hot(jnp.asarray([0, 2, 1, 1]), 3)
    seen = {name: env.disturb(jax.random.key(0), values, env.default_params.replace(noise_scale=x)) for name, x in studies.SCALES.items()}
    np.testing.assert_array_equal(seen["clean"], values)
    np.testing.assert_array_equal(seen["hidden"], values * jnp.asarray([1.0, 0.0, 0.0, 1.0])[:, None])
    np.testing.assert_allclose(seen["noise 100"][1:3], 100 * seen["noise 1"][1:3], rtol=1e-6)  # the same draws
    assert np.abs(seen["noise 1"][1, 2]) > 0
    clean = jnp.asarray([0, 3])
    np.testing.assert_array_equal(seen["noise 100"][clean], values[clean])


def test_results_are_told_in_order_beside_the_published_ones(tmp_path: Path) -> None:
    options = studies.Options("table", folder=str(tmp_path), small=True)
    final = studies.estimates({"return-n2": [1.0, 3.0], "f1_local": [0.5, np.nan], "weight": [1e-3, 1e-3]})
    assert set(final) == {"return-n2", "weight"}
    path = studies.results_file(options, "codes")
    studies.write(path, {"K=16": {"final": final}, "K=4": {"final": final}}, studies.STUDIES["codes"])
    assert list(json.loads(path.read_text())) == ["K=16", "K=4"]
    told = studies.table(options).splitlines()
    rows = [line.split("|")[1].strip() for line in told if line.startswith("| K")]
    assert rows == ["K=4", "K=4, published", "K=16", "K=16, published"]
    assert "2.0 [1.0, 3.0]" in told[-2]
    assert "15.3 | 14.7 | 13.6" in told[-1]
    assert len({line.count("|") for line in told if line.startswith("|")}) == 1


@pytest.mark.parametrize(("members", "steps", "told"), [(2, 10_000, "members = 4: .* has 2"), (8, 6000, "iterations = 1000: .* has 600")])
def test_only_a_run_as_long_and_as_large_is_taken_for_the_unchanged_one(tmp_path: Path, members: int, steps: int, told: str) -> None:
    folder = tmp_path / "chemical-full-fork-fast-fcdl"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"members": members, "seconds": 1.0, "settings": {"steps": steps}}))
    (folder / "results.jsonl").write_text("")
    with pytest.raises(UserError, match=told):
        studies.train(studies.Options("codes", folder=str(tmp_path)), "K=16", ({}, {}))


def test_a_demo_has_a_folder_of_its_own() -> None:
    names = [chemical.settings_of(chemical.Options(what), studies.ENV, "FCDL")[0].name for what in ("demo", "chemical")]  # type: ignore[arg-type]
    assert names == ["chemical-full-fork-demo-fast-fcdl", "chemical-full-fork-fast-fcdl"]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UserError, match="variants = 'K=5': must be one of K=16, K=4"):
        studies.study(studies.Options("codes", variants=("K=5",)))


def test_the_command_is_kept_without_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fcdl_studies.py", "codes", "--folder", "runs/here", "--variants", "K=4", "K=8"])
    assert studies.command("fcdl_studies") == "python -m experiments.fcdl_studies codes --variants K=4 K=8"


def test_a_label_runs_its_own_method_and_an_unknown_one_is_refused() -> None:
    env, _ = make(studies.ENV)
    for label, name in chemical.METHODS.items():
        settings, config, _ = chemical.settings_of(chemical.Options("chemical"), studies.ENV, label)
        assert settings.algorithm == name
        assert settings.name.endswith(label.lower())
        fcdl.dynamics_model(env, config)
    assert {"GNN", "NPS", "GRADER"} == set(chemical.METHODS) - set(chemical.STUDIED)
    with pytest.raises(UserError, match="methods = 'GNM': must be among FCDL, NCD"):
        chemical.main(chemical.Options("chemical", methods=("GNM",)))
