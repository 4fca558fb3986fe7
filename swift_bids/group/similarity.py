"""Features of runs -> how alike they are: cosine similarity, nearest neighbours, duplicates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

#: Most runs for which the whole matrix is written; for more, neighbours of each run instead.
FULL_MATRIX, N_NEIGHBOURS = 5000, 10
#: Two runs are nearly identical if their distance is below this share of the median distance, or if
#: they differ by at most this share of their length (rounding).
DUPLICATE, _ROUNDING = 0.05, 1e-6
_BLOCK = 1000


def centred(features: np.ndarray) -> np.ndarray:
    """Subtract the mean over runs from (run, feature) and scale each row to length 1 (or 0).

    The part that all embeddings share makes the cosines of raw embeddings almost 1.
    """
    rows = features - features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def random_runs(n_runs: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of all runs, or of a random sample if there are more than the limit."""
    runs = np.arange(n_runs)
    return runs if n_runs <= limit else np.sort(rng.choice(runs, limit, replace=False))


def similarity_matrix(features: np.ndarray, names: pd.Series) -> pd.DataFrame:
    """Cosine similarity after centring, (run, run), to four decimals."""
    rows = centred(features)
    return pd.DataFrame((rows @ rows.T).round(4), index=names, columns=names)


def nearest_neighbours(features: np.ndarray, names: pd.Series) -> pd.DataFrame:
    """Find the most similar runs of every run: one row per run and neighbour."""
    rows = centred(features)
    count = min(N_NEIGHBOURS, len(rows) - 1)
    names = names.to_numpy()
    parts = []
    for first, similarity in _blocks(rows, rows):
        own = np.arange(len(similarity))
        similarity[own, first + own] = -np.inf
        place = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        value = np.take_along_axis(similarity, place, axis=1)
        order = np.argsort(-value, axis=1, kind="stable")
        parts.append((np.take_along_axis(place, order, 1), np.take_along_axis(value, order, 1)))
    place, value = (np.concatenate(part) for part in zip(*parts))
    return pd.DataFrame(
        {
            "name": np.repeat(names, count),
            "rank": np.tile(np.arange(1, count + 1), len(names)),
            "neighbour": names[place.reshape(-1)],
            "similarity": value.reshape(-1).round(4),
        }
    )


def duplicates(features: np.ndarray, table: pd.DataFrame) -> pd.DataFrame:
    """Find nearly identical runs of two participants, for example after a mix-up of files.

    The function looks for the nearest run (Euclidean distance) of another participant. It reports
    the pair if it is closer than 5 % of the median distance from the run to all runs of other
    participants, or identical except for rounding.

    Returns
    -------
    pandas.DataFrame
        `name`, `other`, `relative_distance` (1 is the median), one row per pair.
    """
    codes, participants = pd.factorize(table["participant_id"])
    pairs: dict[tuple[int, int], float] = {}
    if len(participants) > 1:
        rows = (features - features.mean(axis=0, dtype=np.float64)).astype(np.float64)
        square = np.einsum("ij,ij->i", rows, rows)
        rounding = (_ROUNDING * np.linalg.norm(features.astype(np.float64), axis=1)) ** 2
        for first, product in _blocks(rows, rows):
            runs = np.arange(first, first + len(product))
            between = np.maximum(square[runs, None] + square - 2 * product, 0)
            between[codes[runs, None] == codes] = np.nan
            nearest = np.nanmin(between, axis=1)
            usual = np.nanmedian(between, axis=1)
            other = np.nanargmin(between, axis=1)
            for place in np.flatnonzero(
                (nearest < DUPLICATE**2 * usual) | (nearest <= rounding[runs])
            ):
                run = int(runs[place])
                pair = (min(run, int(other[place])), max(run, int(other[place])))
                scale = usual[place] if usual[place] > 0 else 1.0
                pairs[pair] = float(np.sqrt(nearest[place] / scale))
    names = table["name"].to_numpy()
    return pd.DataFrame(
        {
            "name": [names[a] for a, _ in pairs],
            "other": [names[b] for _, b in pairs],
            "relative_distance": list(pairs.values()),
        }
    )


def _blocks(rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, products of a block of rows with all others), to limit memory."""
    for first in range(0, len(rows), _BLOCK):
        yield first, rows[first : first + _BLOCK] @ others.T
