"""Sepsis trajectories from the AI-Clinician / MIMIC-III pipeline's CSV files, as offline data sets. No data are shipped.

The files are those of microsoft/mimic_sepsis, `sepsis_final_data_withTimes.csv` (54 columns, standardised) with its RAW twin, or the file
of 58 columns that MLD3's RemapActions makes of both (Tang et al. 2022). A row is 4 hours of one patient: what was measured and the doses of
the same hours. So what is decided on rows 0 .. t is the dose of row t + 1: `episodes` pairs (z_t, a_{t+1}, r_{t+1}, z_{t+1}) and refuses
the same-row pairing, in which the action is part of the state already (Tang et al. 2026, "Off by a beat").
An action is (iv, vaso), its joint index 5 iv + vaso at 5 x 5 bins. More bins (the paper goes to 14 x 14): level 0 is no dose, the others
equally frequent among the doses that are not 0. Bins come from raw doses, never from standardised ones.
Departure: the split is stratified by outcome like MLD3's, but drawn by numpy; scikit-learn's with seed 42 cannot be had without it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from causal_jax.datasets import Episodes
from causal_jax.types import UserError

META = ("traj", "step", "m:presumed_onset", "m:charttime", "m:icustayid")
BINARY = ("gender", "mechvent", "max_dose_vaso", "re_admission")
NORMAL = (
    "age", "Weight_kg", "GCS", "HR", "SysBP", "MeanBP", "DiaBP", "RR", "Temp_C", "FiO2_1", "Potassium", "Sodium", "Chloride", "Glucose",
    "Magnesium", "Calcium", "Hb", "WBC_count", "Platelets_count", "PTT", "PT", "Arterial_pH", "paO2", "paCO2", "Arterial_BE", "HCO3",
    "Arterial_lactate", "SOFA", "SIRS", "Shock_Index", "PaO2_FiO2", "cumulated_balance",
)  # fmt: skip
LOGARITHMIC = (
    "SpO2", "BUN", "Creatinine", "SGOT", "SGPT", "Total_bili", "INR", "input_total", "input_4hourly", "output_total", "output_4hourly",
)  # fmt: skip
COLUMNS = (*META, *(f"o:{name}" for name in (*BINARY, *NORMAL, *LOGARITHMIC)), "a:action", "r:reward")  # 54
DOSES = ("o:input_4hourly", "o:max_dose_vaso")  # mL in 4 hours, ug/kg/min norepinephrine-equivalent; the order of an action
DROPPED = ("a:action", *DOSES)
REMAPPED = (
    *(c for c in COLUMNS if c not in DROPPED), "o:max_dose_vaso", "o:input_4hourly", "a:vaso", "a:iv_OLD", "a:iv", "a:action_OLD",
    "a:action",
)  # 58  # fmt: skip
EDGES = ((500.0, 1000.0, 2000.0), (0.08, 0.2, 0.45))  # of (iv, vaso) at 5 levels: a dose of an edge belongs above it
DEMOGRAPHIC = ("gender", "mechvent", "re_admission", "age", "Weight_kg")
OBSERVED = tuple(
    name for name in (*NORMAL, *LOGARITHMIC)
    if name not in (*DEMOGRAPHIC, "SOFA", "SIRS", "Shock_Index", "cumulated_balance") and "put_" not in name
)  # 33  # fmt: skip
SURVIVED = 100.0

Array = NDArray[np.float64]


class Table(NamedTuple):
    """A CSV file: its column names and values float64 [rows, columns]."""

    columns: tuple[str, ...]
    values: Array

    def column(self, name: str) -> Array:
        """[rows] of a column. Raises: UserError when there is none of that name."""
        if name not in self.columns:
            raise UserError(f"column = {name!r}: missing, the file has {len(self.columns)} columns, {', '.join(self.columns[:5])} ...")
        return np.asarray(self.values[:, self.columns.index(name)])


class Trajectories(NamedTuple):
    """N patients of at most L rows, padded at the end with 0.

    obs: float32 [N, L, 33]; demographic: float32 [N, L, 5]; action: int [N, L, 2], the levels (iv, vaso) given in the row's own hours;
    reward: float32 [N, L], 100 in the last row of a survivor, else 0; exists: bool [N, L].
    """

    obs: NDArray[np.float32]
    demographic: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    exists: NDArray[np.bool_]

    def take(self, index: NDArray[np.int64]) -> Trajectories:
        """Some of the patients."""
        return Trajectories(self.obs[index], self.demographic[index], self.action[index], self.reward[index], self.exists[index])


def read(path: Path | str) -> Table:
    """A CSV file of the pipeline. Raises: UserError for a file that cannot be read, or that misses a column of both known schemas."""
    try:
        with Path(path).open(newline="") as file:
            columns = tuple(next(csv.reader(file), []))
            values = np.loadtxt(file, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"file = {str(path)!r}: cannot be read as a table of numbers ({error})") from None
    schema = REMAPPED if "a:iv" in columns or "a:vaso" in columns else COLUMNS
    for name in schema:
        if name not in columns:
            raise UserError(f"column = {name!r}: missing in {str(path)!r}, whose schema has {len(schema)} columns")
    if values.shape[1] != len(columns):
        raise UserError(f"file = {str(path)!r}: rows have {values.shape[1]} numbers, must be {len(columns)}, one per column")
    return Table(columns, values)


def bin_edges(doses: Array, levels: int, standard: tuple[float, ...]) -> Array:
    """Lower edges [levels - 2] of the levels above the lowest non-zero one: `standard` at 5 levels, else quantiles of non-zero doses.

    Raises: UserError for less than 3 levels or where there are no doses to take quantiles of.
    """
    if levels < 3:
        raise UserError(f"levels = {levels}: must be at least 3")
    if levels == 5:
        return np.asarray(standard)
    given = doses[doses > 0]
    if not given.size:
        raise UserError(f"levels = {levels}: need non-zero doses, all are 0")
    return np.asarray(np.quantile(given, np.arange(1, levels - 1) / (levels - 1)))


def bins(doses: Array, edges: Array) -> NDArray[np.int64]:
    """Level of every dose [rows]: 0 for none, else 1 + the number of edges at or below it. Raises: UserError for a negative or NaN dose."""
    if not np.all(doses >= 0):
        bad = int(np.flatnonzero(~(doses >= 0))[0])
        raise UserError(f"dose = {doses[bad]} in row {bad}: must be 0 <= dose; levels come from raw doses, not from standardised ones")
    return np.where(doses > 0, 1 + np.searchsorted(edges, doses, side="right"), 0)


def levels_of(table: Table, raw: Table | None, sizes: tuple[int, int]) -> NDArray[np.int64]:
    """(iv, vaso) levels int [rows, 2] of a table: from the raw doses of `raw`, or of the table itself where it is remapped.

    Raises: UserError where doses are missing, the two tables are not of the same rows, or the recorded levels are not those of the doses.
    """
    remapped = "a:iv" in table.columns
    if raw is None and not remapped:
        raise UserError("raw = None: a file of 54 columns has standardised doses; its RAW twin is needed for the levels")
    source = table if remapped else raw
    assert source is not None
    for name in ("traj", "step"):
        if not np.array_equal(source.column(name), table.column(name)):
            raise UserError(f"raw: column {name!r} differs from the standardised file's, so that the doses would be those of other rows")
    doses = [source.column(name) for name in DOSES]
    found = np.stack(
        [bins(dose, bin_edges(dose, size, edges)) for dose, size, edges in zip(doses, sizes, EDGES, strict=True)], axis=-1
    )  # fmt: skip
    if remapped and sizes == (5, 5):
        for name, mine in (("a:iv", found[:, 0]), ("a:vaso", found[:, 1]), ("a:action", 5 * found[:, 0] + found[:, 1])):
            recorded = table.column(name)
            if not np.array_equal(recorded, mine):
                bad = int(np.flatnonzero(recorded != mine)[0])
                raise UserError(f"{name} = {recorded[bad]:g} in row {bad}: its doses say {mine[bad]}")
    return found


def trajectories(table: Table, raw: Table | None = None, sizes: tuple[int, int] = (5, 5)) -> Trajectories:
    """Patients of a table, those of one row left out (they hold no decision).

    sizes: levels of (iv, vaso). Raises: UserError, see `levels_of`; for steps that are not 0, 1, 2, ... within a patient, and for a reward
    that is not 0 before the last row and +1 or -1 in it.
    """
    action = levels_of(table, raw, sizes)
    who, first = np.unique(table.column("traj"), return_index=True)
    who = who[np.argsort(first)]
    lengths = np.asarray([np.sum(table.column("traj") == i) for i in who]) if len(who) < 50 else _counts(table.column("traj"), who)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    row = np.concatenate([np.arange(n) for n in lengths])
    if not np.array_equal(np.repeat(who, lengths), table.column("traj")) or not np.array_equal(row, table.column("step")):
        raise UserError("traj, step: the rows of a patient must lie together, with steps 0, 1, 2, ...")
    reward = table.column("r:reward")
    last = np.zeros(len(reward), bool)
    last[starts + lengths - 1] = True
    if not np.array_equal(np.abs(reward), last.astype(float)):
        bad = int(np.flatnonzero(np.abs(reward) != last)[0])
        raise UserError(f"r:reward = {reward[bad]:g} in row {bad}: must be 0, and +1 or -1 in the last row of a patient")
    kept = np.flatnonzero(lengths > 1)
    exists = np.arange(lengths.max()) < lengths[kept, None]
    index = np.where(exists, starts[kept, None] + np.arange(lengths.max()), 0)

    def padded(values: NDArray[Any]) -> NDArray[Any]:
        return np.where(exists.reshape(*exists.shape, *[1] * (values.ndim - 1)), values[index], 0)

    features = [
        np.stack([table.column(f"o:{c}") for c in names], -1) for names in (_in_file(table, OBSERVED), _in_file(table, DEMOGRAPHIC))
    ]
    paid = np.where(reward > 0, SURVIVED, 0.0)
    return Trajectories(
        padded(features[0]).astype(np.float32), padded(features[1]).astype(np.float32), padded(action).astype(np.int64),
        padded(paid).astype(np.float32), exists,
    )  # fmt: skip


def _counts(traj: Array, who: Array) -> NDArray[np.int64]:
    ids, counts = np.unique(traj, return_counts=True)
    return np.asarray(counts[np.searchsorted(ids, who)])


def _in_file(table: Table, names: tuple[str, ...]) -> list[str]:
    """Names in the order of the file, so that encoders trained elsewhere see their inputs where they were."""
    for name in names:
        table.column(f"o:{name}")  # says which one is missing
    return sorted(names, key=lambda name: table.columns.index(f"o:{name}"))


def split(patients: Trajectories, seed: int = 42) -> tuple[Trajectories, Trajectories, Trajectories]:
    """(train 70%, validation 15%, test 15%) by patient, survivors and others apart. seed: of numpy's generator."""
    rng, parts = np.random.default_rng(seed), ([], [], [])  # type: tuple[np.random.Generator, tuple[list[NDArray[np.int64]], ...]]
    survived = patients.reward.sum(1) > 0
    for group in (np.flatnonzero(survived), np.flatnonzero(~survived)):
        order = rng.permutation(group)
        for part, chosen in zip(parts, np.split(order, [round(0.7 * len(order)), round(0.85 * len(order))]), strict=True):
            part.append(chosen)
    train, validation, test = (patients.take(np.sort(np.concatenate(part))) for part in parts)
    return train, validation, test


def encoder_inputs(patients: Trajectories, sizes: tuple[int, int] = (5, 5)) -> NDArray[np.float32]:
    """What the state encoder reads of each row, float32 [N, L, 33 + 5 + prod(sizes)]: measured, demographic, dose of those hours."""
    one_hot = np.eye(sizes[0] * sizes[1], dtype=np.float32)[joint(patients.action, sizes)]
    inputs = np.concatenate([patients.obs, patients.demographic, one_hot], axis=-1)
    return np.where(patients.exists[..., None], inputs, 0).astype(np.float32)


def joint(action: NDArray[np.int64], sizes: tuple[int, int] = (5, 5)) -> NDArray[np.int64]:
    """Joint index [...] of levels (iv, vaso) [..., 2]: sizes[1] * iv + vaso."""
    return np.asarray(sizes[1] * action[..., 0] + action[..., 1])


def check_alignment(previous: NDArray[np.int64], action: NDArray[np.int64], taken: NDArray[np.bool_]) -> None:
    """Raises: UserError where the logged actions [N, T, 2] are those that the states already hold, `previous`: rows paired with themselves.

    taken: bool [N, T]. Two consecutive doses may be alike, all of them never are (unless every dose is the same, which teaches nothing).
    """
    if taken.any() and np.array_equal(previous[taken], action[taken]):
        raise UserError("action: every one is the dose that its own state encodes; pair state t with the dose of row t + 1")


def episodes(codes: NDArray[np.float32], patients: Trajectories, prob: NDArray[np.float32] | None = None) -> Episodes:
    """(z_t, a_{t+1}, r_{t+1}, z_{t+1}) of codes [N, L, D], z_t being what rows 0 .. t show: T = L - 1 decisions.

    prob: [N, T], the behaviour policy's probability of each action (`knn_policy`); None: 1.
    Raises: UserError for codes of other patients or rows, or doses that never change (`check_alignment`).
    """
    if codes.shape[:2] != patients.exists.shape:
        raise UserError(f"codes: {codes.shape[:2]} patients and rows, must be {patients.exists.shape}")
    taken = patients.exists[:, 1:]
    check_alignment(patients.action[:, :-1], patients.action[:, 1:], taken)
    ends = taken & ~np.concatenate([taken[:, 1:], np.zeros((len(taken), 1), bool)], axis=1)
    probability = np.ones(taken.shape, np.float32) if prob is None else np.where(taken, prob, 1.0).astype(np.float32)
    return Episodes(
        jnp.asarray(codes), jnp.asarray(patients.action[:, 1:], jnp.int32), jnp.asarray(np.where(taken, patients.reward[:, 1:], 0.0)),
        jnp.asarray(ends), jnp.asarray(taken), jnp.asarray(probability),
    )  # fmt: skip


def knn_policy(codes: Array, labels: NDArray[np.int64], queries: Array, num: int, k: int = 100, chunk: int = 1024) -> Array:
    """Behaviour policy [Q, num]: the shares of the actions among the k nearest of codes [M, D] (Euclidean, all weighing the same).

    labels: int [M] in 0 .. num - 1; queries: [Q, D]. Actions that nobody took get 0. Source: Tang et al. 2022, KNN notebooks.
    Raises: UserError for less rows than k.
    """
    if len(codes) < k:
        raise UserError(f"k = {k}: must be at most {len(codes)}, the rows there are")
    squares, found = (codes**2).sum(1), np.zeros((len(queries), num))
    for i in range(0, len(queries), chunk):
        part = queries[i : i + chunk]
        near = np.argpartition(squares - 2 * part @ codes.T, k - 1, axis=1)[:, :k]
        np.add.at(found, (np.arange(i, i + len(part))[:, None], labels[near]), 1.0 / k)
    return found
