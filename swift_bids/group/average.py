"""Embeddings of runs -> means over the runs of a participant or of a session."""

from __future__ import annotations

import numpy as np
import pandas as pd

from swift_bids.group.load import MEANS, SUMS, Embedded


def average_by_participant(runs: Embedded) -> Embedded:
    """Average the runs of each participant, weighted by their included chunks."""
    averaged = average_runs(runs, runs.table["participant_id"])
    labels = runs.table["participant_id"].drop_duplicates()
    averaged.table.insert(0, "participant_id", labels.to_numpy())
    return averaged


def average_runs(runs: Embedded, units: pd.Series) -> Embedded:
    """Average the runs of each unit, such as a session, in the order of their first runs.

    Parameters
    ----------
    units
        (run,) name of the unit.
    """
    table = runs.table
    codes, _ = pd.factorize(units)
    weights = table["n_included"].to_numpy(np.float64)
    rows = pd.DataFrame({"n_runs": np.bincount(codes)})
    for column in SUMS:
        rows[column] = np.bincount(codes, table[column]).astype(int)
    rows["n_included"] = np.bincount(codes, weights).astype(int)
    for column in MEANS:
        rows[column] = _weighted(table[[column]].to_numpy(np.float64), weights, codes)[:, 0]
    features = _weighted(runs.features.astype(np.float64), weights, codes)
    return Embedded(rows, features.astype(np.float32), runs.label)


def _weighted(values: np.ndarray, weights: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Weighted means (group, column) of (row, column) values, without NaN."""
    known = ~np.isnan(values)
    weighted = pd.DataFrame(np.where(known, values, 0) * weights[:, None]).groupby(codes).sum()
    total = pd.DataFrame(known * weights[:, None]).groupby(codes).sum()
    return (weighted / total.where(total > 0)).to_numpy()
