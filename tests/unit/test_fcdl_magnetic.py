"""FCDL's studies on Magnetic and Chemical: every method can be built; tables hold the published numbers and say what was not run."""

import json
from pathlib import Path

import pytest

from causal_jax import make
from causal_jax.algorithms import fcdl
from causal_jax.types import UserError
from experiments import fcdl as chemical
from experiments import fcdl_magnetic as magnetic


def test_every_method_of_magnetic_can_be_built() -> None:
    env, params = make("magnetic", physics="closed")
    for small in (False, True):
        for label in magnetic.METHODS:
            settings, config, _ = magnetic.settings_of(magnetic.Options(small=small), label)
            fcdl.build(env, params, config)
            assert (settings.env_options, config.horizon, config.schedule) == (("physics=closed",), 1, "offline")
            assert config.learn_upper == config.learn_action == (label in ("FCDL", "NCD"))
    other = magnetic.Options(reg=1.0)
    settings, _, hyper = magnetic.settings_of(other, "NCD")
    assert (settings.name, hyper.reg, magnetic.results_file(other).name) == (
        "magnetic-study-ncd-8000-reg-1",
        1.0,
        "fcdl_magnetic-reg-1.json",
    )
    with pytest.raises(UserError, match="methods = 'CDL': must be one of FCDL, NCD"):
        magnetic.settings_of(magnetic.Options(), "CDL")


def test_table_of_magnetic(tmp_path: Path) -> None:
    final = {"return": [8.0, 7.0, 9.0], "success-test": [0.5, 0.25, 0.75], "accuracy_test": [-4e-6, -9e-6, -1e-6]}
    final["shd_test"] = [8.0, 7.0, 9.0]
    row = {"final": {name: {"estimate": x} for name, x in final.items()}}
    path = tmp_path / "fcdl_magnetic.json"
    path.write_text(json.dumps({"references": {"idle": {"return": 1.083, "success": 0.02}}, "NCD": row}))
    lines = magnetic.table(path).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    at = {name: i for i, name in enumerate(magnetic.COLUMNS)}
    assert (cells["*idle*"][0], cells["*idle*"][at["success"]]) == ("1.08", "2")
    ours = cells["NCD"]
    assert ours[0] == "8.00 [7.00, 9.00]"
    assert ours[at["success-test"]] == "50 [25, 75]"
    assert ours[at["accuracy_test"]] == "2.0 [1.0, 3.0]"  # 2 mm is the root of 4e-6 m^2
    assert ours[at["shd_test"]] == "8.0 [7.0, 9.0]"
    assert cells["NCD, published"][:2] == ["8.48 ± 0.70", "1.31 ± 0.77"]
    assert cells["FCDL, published; not run"][:2] == ["8.52 ± 0.74", "4.81 ± 3.01"]
    assert "GNN, published; not run" in cells
    assert "Oracle-local" not in cells


def test_table_of_chemical_says_what_was_not_run(tmp_path: Path) -> None:
    path = tmp_path / "fcdl_chemical_fast.json"
    row = {"final": {"return": {"estimate": [18.0, 17.0, 19.0]}, "shd_n2": {"estimate": [3.0, 2.0, 4.0]}}}
    path.write_text(json.dumps({"chemical-full-chain": {"references": {"idle": {"return": [10.0, 11.0]}}, "FCDL": row}}))
    lines = chemical.table(path).splitlines()
    first = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert first[:4] == ["method", "*idle*", "FCDL", "FCDL, published"]
    assert {f"{label}, published; not run" for label in ("CDL", "GNN", "NPS", "GRADER")} <= set(first)
    assert "| GRADER, published; not run | 17.7 ± 0.5 | 8.7 ± 0.6 | 8.8 ± 0.8 | 10.1 ± 0.3 | 84.2 ± 1.2 |" in chemical.table(path)
    assert "3.0 [2.0, 4.0]" in next(line for line in lines if line.startswith("| FCDL |"))
