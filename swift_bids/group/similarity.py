"""Features of runs -> how alike they are: cosine similarity, nearest neighbours, duplicates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

#: Beyond so many runs the whole matrix is not written; so many neighbours of each run are instead.
FULL_MATRIX, N_NEIGHBOURS = 5000, 10
#: Runs of two participants this much closer than runs usually are look like one run; so do those
#: that differ by no more than this share of their length.
DUPLICATE, _ROUNDING = 0.05, 1e-6
_BLOCK = 1000


def centred(features: np.ndarray) -> np.ndarray:
    """(run, feature) minus the mean over runs, each row of length 1 (0 where nothing is left).

    What all runs have in common makes the cosines of raw embeddings all but 1.
    """
    rows = features - features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def similarity_matrix(features: np.ndarray, names: pd.Series) -> pd.DataFrame:
    """Cosine similarity after centring, (run, run), with four decimals."""
    rows = centred(features)
    return pd.DataFrame((rows @ rows.T).round(4), index=names, columns=names)


def nearest_neighbours(features: np.ndarray, names: pd.Series) -> pd.DataFrame:
    """The most similar runs of every run: a row for each run and neighbour."""
    rows = centred(features)
    count = min(N_NEIGHBOURS, len(rows) - 1)
    names = names.to_numpy()
    found = []
    for first, similarity in _blocks(rows, rows):
        own = np.arange(len(similarity))
        similarity[own, first + own] = -np.inf
        place = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        value = np.take_along_axis(similarity, place, axis=1)
        order = np.argsort(-value, axis=1, kind="stable")
        found.append((np.take_along_axis(place, order, 1), np.take_along_axis(value, order, 1)))
    place, value = (np.concatenate(parts) for parts in zip(*found))
    return pd.DataFrame(
        {
            "name": np.repeat(names, count),
            "rank": np.tile(np.arange(1, count + 1), len(names)),
            "neighbour": names[place.reshape(-1)],
            "similarity": value.reshape(-1).round(4),
        }
    )


def duplicates(features: np.ndarray, table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of runs of two participants that are nearly identical, as in a mix-up of files.

    For every run the nearest run (Euclidean distance) of another participant is looked for. The
    pair is reported where it is closer than 5 % of the median distance from the run to all runs of
    others, or the same but for rounding.

    Returns
    -------
    pandas.DataFrame
        `name`, `other`, `relative_distance` (1: the median), a row a pair.
    """
    codes, participants = pd.factorize(table["participant_id"])
    found: dict[tuple[int, int], float] = {}
    if len(participants) > 1:
        rows = (features - features.mean(axis=0, dtype=np.float64)).astype(np.float64)
        square = np.einsum("ij,ij->i", rows, rows)
        rounding = (_ROUNDING * np.linalg.norm(features.astype(np.float64), axis=1)) ** 2
        for first, product in _blocks(rows, rows):
            here = np.arange(first, first + len(product))
            between = np.maximum(square[here, None] + square - 2 * product, 0)
            between[codes[here, None] == codes] = np.nan
            nearest = np.nanmin(between, axis=1)
            usual = np.nanmedian(between, axis=1)
            other = np.nanargmin(between, axis=1)
            for place in np.flatnonzero(
                (nearest < DUPLICATE**2 * usual) | (nearest <= rounding[here])
            ):
                run = int(here[place])
                pair = (min(run, int(other[place])), max(run, int(other[place])))
                scale = usual[place] if usual[place] > 0 else 1.0
                found[pair] = float(np.sqrt(nearest[place] / scale))
    names = table["name"].to_numpy()
    return pd.DataFrame(
        {
            "name": [names[a] for a, _ in found],
            "other": [names[b] for _, b in found],
            "relative_distance": list(found.values()),
        }
    )


def _blocks(rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, products of a block of rows with all others), so that memory is bounded."""
    for first in range(0, len(rows), _BLOCK):
        yield first, rows[first : first + _BLOCK] @ others.T
