"""Time series of parcels -> functional connectivity of runs and participants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.covariance import ledoit_wolf

from swift_bids.base.errors import Problem
from swift_bids.inputs.filenames import entities_in
from swift_bids.outputs.parcels import Origin, find_parcels, origin_of
from swift_bids.outputs.paths import run_folder

#: A parcel is used if at least this share of rows has it; a row is used if it has at least this
#: share of parcels.
_MIN_PARCEL_KNOWN, _MIN_ROW_KNOWN = 0.9, 0.7
#: Most runs, and most entries of their covariance matrices (1 GB), for which identification also
#: uses functional connectivity.
MAX_RUNS, _MAX_ENTRIES = 2000, 250_000_000
#: Correlations are clipped to this limit, because Fisher's z is infinite at 1.
_LIMIT = 1 - 1e-6
#: Smaller eigenvalues of a covariance matrix, as shares of the largest, are raised to this.
_SMALLEST = 1e-5
#: Rows at a time, to limit memory.
_PART = 20


@dataclass(frozen=True)
class Connectivity:
    """Functional connectivity of runs that have time series of the same parcels.

    Attributes
    ----------
    by_unit
        (unit, parcel, parcel) float32 covariance, the mean over the runs of a participant (or
        session), weighted by included chunks; NaN if they lack many parcels. None without
        connectivity.
    by_run
        (run, edge) correlations as Fisher's z; None for very many runs and parcels.
    note
        How it was computed, or why there is none.
    problems
        Tables that could not be read.
    """

    by_unit: np.ndarray | None
    by_run: np.ndarray | None
    note: str
    problems: tuple[Problem, ...] = ()


def collect_connectivity(output_dir: Path, runs: pd.DataFrame, units: pd.Series) -> Connectivity:
    """Compute functional connectivity from the parcels' time series of all runs.

    Parameters
    ----------
    runs
        Table of the runs.
    units
        (run,) participant or session, over whose runs to average.
    """
    codes, names = pd.factorize(units)
    weights = runs["n_included"].to_numpy(np.float32)
    made: Origin | None = None
    parcels: list[str] = []
    with_file = n_shortened = 0
    problems = []
    for row, name in enumerate(runs["name"]):
        file = find_parcels(run_folder(output_dir, name), name)
        if file is None:
            continue
        try:
            own_made = origin_of(file)
            matrix, own_parcels = covariance(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{file} or its sidecar cannot be read ({error}); embed the run again"
            problems.append(Problem(entities_in(name)["sub"], name, reason))
            continue
        if made is None:
            made, parcels = own_made, own_parcels
            mean = _Mean(len(names), len(parcels))
            per_run = None
            if len(runs) <= MAX_RUNS and len(runs) * matrix.size <= _MAX_ENTRIES:
                per_run = np.full((len(runs), *matrix.shape), np.nan, dtype=np.float32)
        elif (own_made, own_parcels) != (made, parcels):
            return Connectivity(
                None,
                None,
                f"{file} has other parcels or other confounds regressed out than the runs before "
                f"it; embed all runs with the same --atlas and --confounds-strategy",
                tuple(problems),
            )
        with_file += 1
        n_shortened += own_made.is_shortened
        mean.add(codes[row], matrix, weights[row])
        if per_run is not None:
            per_run[row] = matrix
    if made is None:
        return Connectivity(None, None, "no run has time series of parcels", tuple(problems))
    note = (
        f"covariances (Ledoit and Wolf 2004) of the signals of {len(parcels)} parcels "
        f"({made.atlas}), confounds strategy {made.strategy}, of {with_file} of {len(runs)} runs"
    )
    if n_shortened:
        note += f", of which {n_shortened} are too short for all regressors"
    by_unit = _complete(*mean.values())
    if by_unit is None:
        share = f"{_MIN_PARCEL_KNOWN:.0%} of the participants"
        note = f"fewer than two of the {len(parcels)} parcels are known for {share}"
    complete = None if per_run is None else _complete(per_run, np.empty(0, dtype=int))
    by_run = None if complete is None else in_parts(correlations, complete)
    return Connectivity(by_unit, by_run, note, tuple(problems))


def covariance(parcel_file: Path) -> tuple[np.ndarray, list[str]]:
    """Compute the shrunk covariance of the signals of a run (Ledoit and Wolf 2004).

    Returns
    -------
    numpy.ndarray
        (parcel, parcel) float32; NaN where a parcel has no signal.
    list of str
        Names of the parcels.

    Raises
    ------
    ValueError
        The table has fewer than two parcels.
    """
    table = pd.read_csv(parcel_file, sep="\t", na_values="n/a", dtype=np.float32)
    if table.shape[1] < 2:
        raise ValueError("it has fewer than two parcels")
    signals = table.to_numpy(np.float64)
    signals = signals[~np.isnan(signals).all(axis=1)]  # without faulty and scrubbed volumes
    known = np.flatnonzero(~np.isnan(signals).any(axis=0))
    matrix = np.full((table.shape[1],) * 2, np.nan, dtype=np.float32)
    if len(signals) > 1 and len(known) > 1:
        matrix[np.ix_(known, known)] = ledoit_wolf(signals[:, known])[0]
    return matrix, list(table.columns)


class _Mean:
    """Weighted means of matrices with gaps, of several units."""

    def __init__(self, n_units: int, n_parcels: int) -> None:
        self._sum = np.zeros((n_units, n_parcels, n_parcels), dtype=np.float32)
        self._weight = np.zeros(n_units, dtype=np.float32)
        #: Weights that gaps lack, of the few units that have any.
        self._lacking: dict[int, np.ndarray] = {}

    def add(self, unit: int, matrix: np.ndarray, weight: float) -> None:
        """Add a matrix, in which NaN is a gap."""
        gaps = np.isnan(matrix)
        self._sum[unit] += weight * np.where(gaps, 0, matrix)
        self._weight[unit] += weight
        if gaps.any():
            lacking = self._lacking.setdefault(unit, np.zeros(matrix.shape, np.float32))
            lacking += weight * gaps

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The means, NaN where all matrices have gaps; and the units with gaps."""
        with np.errstate(invalid="ignore", divide="ignore"):
            for unit, lacking in self._lacking.items():
                self._sum[unit] *= self._weight[unit] / (self._weight[unit] - lacking)
            self._sum /= self._weight[:, None, None]
        return self._sum, np.array(sorted(self._lacking), dtype=int)


def _complete(matrices: np.ndarray, uneven: np.ndarray) -> np.ndarray | None:
    """Drop parcels that many rows lack, fill gaps of other parcels with the mean over the rows, and
    set rows without most of the parcels to NaN; None if no row or fewer than two parcels remain.

    Parameters
    ----------
    uneven
        Rows that are means of matrices with different gaps, and so may have negative eigenvalues.
    """
    known = ~np.isnan(np.diagonal(matrices, axis1=1, axis2=2))  # (row, parcel)
    usable = known.mean(axis=1) >= _MIN_ROW_KNOWN
    if not usable.any():
        return None
    kept = np.flatnonzero(known[usable].mean(axis=0) >= _MIN_PARCEL_KNOWN)
    if len(kept) < 2:
        return None
    if len(kept) < matrices.shape[1]:
        matrices = np.ascontiguousarray(matrices[:, kept[:, None], kept])
    with_gaps = np.flatnonzero(usable & ~known[:, kept].all(axis=1))
    mean = np.zeros(matrices.shape[1:])
    if len(with_gaps):
        mean = np.nanmean(matrices[usable], axis=0)
    for row in np.union1d(with_gaps, uneven[usable[uneven]]):
        filled = np.where(np.isnan(matrices[row]), mean, matrices[row])
        values, vectors = np.linalg.eigh(filled.astype(np.float64))
        raised = np.maximum(values, _SMALLEST * values[-1])
        matrices[row] = (vectors * raised) @ vectors.T
    matrices[~usable] = np.nan
    return matrices


def correlations(covariances: np.ndarray) -> np.ndarray:
    """Fisher's z of the correlations, (row, edge), upper triangle row by row."""
    spread = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    edges = upper_triangle(covariances / (spread[:, :, None] * spread[:, None]), k=1)
    return np.arctanh(np.clip(edges, -_LIMIT, _LIMIT)).astype(np.float32)


def partial_correlations(covariances: np.ndarray) -> np.ndarray:
    """Fisher's z of the partial correlations, (row, edge), upper triangle row by row."""
    return -correlations(np.linalg.inv(covariances))


def in_parts(function: Callable[[np.ndarray], np.ndarray], matrices: np.ndarray) -> np.ndarray:
    """Apply a function of (row, n, n) to some rows at a time, to limit memory."""
    parts = [matrices[i : i + _PART] for i in range(0, len(matrices), _PART)]
    return np.concatenate([function(part) for part in parts])


def upper_triangle(matrices: np.ndarray, k: int) -> np.ndarray:
    """Upper triangle of (row, n, n) as (row, edge), row by row; k = 0: with the diagonal."""
    n = matrices.shape[1]
    places = np.flatnonzero(np.triu(np.ones((n, n), dtype=bool), k))
    return np.take(matrices.reshape(len(matrices), -1), places, axis=1)
