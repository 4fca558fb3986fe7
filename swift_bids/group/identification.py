"""Features of runs -> how well they identify participants, compared with permutations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from swift_bids.group.conditions import strata_of
from swift_bids.group.permute import MIN_DIFFERENT, n_permutations_within, permute_within
from swift_bids.group.probes.scores import MOTION
from swift_bids.group.similarity import centred, random_runs

#: Most runs that are looked up among all others, and maximum total number of same-participant
#: pairs.
MAX_QUERIES, MAX_PAIRS = 2000, 100_000
METRICS = ("rank1", "map", "idiff", "i2c2")


@dataclass(frozen=True)
class Slots:
    """Slots for runs, grouped by participant; a permutation fills them with other runs.

    Attributes
    ----------
    start, size
        (participant,) index of the first slot and number of slots.
    group
        (slot,) index of the participant.
    """

    start: np.ndarray
    size: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray) -> Slots:
        size = np.bincount(codes)
        return cls(np.cumsum(size) - size, size, np.repeat(np.arange(len(size)), size))


def identification(
    features: dict[str, np.ndarray],
    participants: pd.Series,
    n_permutations: int = 200,
    seed: int = 0,
    conditions: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Measure how well each of several sets of features identifies participants.

    Parameters
    ----------
    features
        Name -> (run, feature). The similarity of two runs is the cosine after centring, except for
        `motion`: exp(-d^2 / 2), where d is their distance in standard deviations.
    participants
        (run,) labels.
    n_permutations
        Number of permutations of the participants among the runs; p is
        (1 + permutations that do no worse) / (1 + permutations).
    conditions
        From `swift_bids.group.conditions.conditions_of`: runs are permuted only among those with
        the same conditions. None: among all.

    Returns
    -------
    pandas.DataFrame
        `features`, `metric`, `value`, `p`, `chance` (mean of the permutations), counts and names of
        the conditions; one row per set and metric. Empty if no participant has two runs, or there
        is only one participant. `p` and `chance` are NaN if the conditions leave too few
        permutations.

        - `rank1`: share of runs whose most similar run is from the same participant.
        - `map`: mean average precision of the runs of the same participant among all others.
        - `idiff`: 100 x (mean similarity within - between participants), Amico and Goni 2018.
        - `i2c2`: image intra-class correlation, 1 - trace within / trace total, Shou et al. 2013.
    """
    codes, labels = pd.factorize(participants)
    slots = Slots.of(codes)
    has_several = slots.size > 1
    if not has_several.any() or len(labels) < 2:
        return pd.DataFrame()
    rng = np.random.default_rng(seed)
    true = np.argsort(codes, kind="stable")  # (slot,) the run in it
    if conditions is None:
        conditions = pd.DataFrame(index=participants.index)
    strata = strata_of(conditions)
    names = ", ".join(conditions.columns[conditions.nunique() > 1])
    if n_permutations_within(strata, codes) < np.log(1 + MIN_DIFFERENT):
        n_permutations = 0
    in_slots = strata[true]
    orders = [true, *(true[permute_within(in_slots, rng)] for _ in range(n_permutations))]
    queries = _queries(slots, codes, rng)
    table = []
    for name, values in features.items():
        # motion is compared by distance instead of cosine
        measure = _measure(values.astype(np.float32), queries, slots, name == MOTION)
        scores = np.array([measure(order) for order in orders])  # (permutation, metric)
        no_worse = (scores[1:] >= scores[0] - 1e-9).sum(axis=0)
        for number, metric in enumerate(METRICS):
            table.append(
                {
                    "features": name,
                    "metric": metric,
                    "value": scores[0, number],
                    "p": (1 + no_worse[number]) / (1 + n_permutations)
                    if n_permutations
                    else np.nan,
                    "chance": scores[1:, number].mean() if n_permutations else np.nan,
                    "n_runs": len(codes),
                    "n_queries": len(queries),
                    "n_participants": int(has_several.sum()),
                    "n_permutations": n_permutations,
                    "conditions": names or None,
                }
            )
    return pd.DataFrame(table)


def _queries(slots: Slots, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Runs to look up: all runs, or a random sample if there are many."""
    others = slots.size[codes] - 1
    limit = min(MAX_QUERIES, max(200, int(MAX_PAIRS / max(1, others.mean()))))
    return random_runs(len(codes), limit, rng)


def _measure(
    values: np.ndarray, queries: np.ndarray, slots: Slots, by_distance: bool
) -> Callable[[np.ndarray], list[float]]:
    """Return a function that computes the four metrics for an order of the runs."""
    similarity, centred_values = _similarity(values, queries, by_distance)
    own = np.arange(len(queries))
    similarity[own, queries] = -np.inf
    rank = _ranks(similarity)  # (query, run), from 1
    similarity[own, queries] = 0
    total_similarity = similarity.sum(dtype=np.float64)
    squares = float(np.einsum("ij,ij->", centred_values, centred_values))
    n_runs = len(values)
    ones = np.ones(n_runs, centred_values.dtype)

    def measure(order: np.ndarray) -> list[float]:
        slot = np.empty(n_runs, dtype=int)
        slot[order] = np.arange(n_runs)
        query, other = _pairs(slot[queries], slots)
        run = order[other]
        # average precision: the k-th run of the query's participant, at rank r, counts k / r
        sorted_rank = np.sort(query * np.int64(n_runs + 1) + rank[query, run]) % (n_runs + 1)
        per_query = np.bincount(query, minlength=len(queries))
        first = np.cumsum(per_query) - per_query
        k = np.arange(1, len(query) + 1) - first[query]
        precision = np.bincount(query, k / sorted_rank, len(queries))
        has_match = per_query > 0
        within = similarity[query, run].sum(dtype=np.float64)
        n_between = len(queries) * (n_runs - 1) - len(query)
        between = (total_similarity - within) / n_between
        bounds = np.append(slots.start, n_runs)
        of_participants = csr_array((ones, order, bounds), (len(slots.size), n_runs))
        sums = (of_participants @ centred_values).astype(np.float64)
        explained = (np.einsum("ij,ij->i", sums, sums) / slots.size).sum()
        within_variance = (squares - explained) / (n_runs - len(slots.size))
        return [
            float((sorted_rank[first[has_match]] == 1).mean()),
            float((precision[has_match] / per_query[has_match]).mean()),
            100 * (within / len(query) - between),
            1 - within_variance / (squares / (n_runs - 1)) if squares > 0 else 0.0,
        ]

    return measure


def _similarity(
    values: np.ndarray, queries: np.ndarray, by_distance: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities (query, run), and the features (run, feature) whose variance I2C2 compares."""
    if not by_distance:
        rows = centred(values)
        mean = values.mean(axis=0, dtype=np.float64)
        return rows[queries] @ rows.T, (values - mean).astype(np.float32)
    values = values.astype(np.float64)
    varies = np.ptp(values, axis=0) > 0
    rows = np.where(varies, values - values.mean(axis=0), 0)
    rows /= np.where(varies, values.std(axis=0), 1)
    square = (rows**2).sum(axis=1)
    distance = square[queries, None] + square - 2 * rows[queries] @ rows.T
    return np.exp(-np.maximum(distance, 0) / 2), rows


def _ranks(similarity: np.ndarray) -> np.ndarray:
    """Rank of every run for every query, (query, run) int32; 1 is the most similar."""
    ranks = np.empty(similarity.shape, dtype=np.int32)
    rank = np.arange(1, similarity.shape[1] + 1, dtype=np.int32)
    for row, values in zip(ranks, similarity):
        row[np.argsort(-values, kind="stable")] = rank
    return ranks


def _pairs(query_slots: np.ndarray, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
    """Pair each query with the other slots of its participant: (query, slot) pairs."""
    group = slots.group[query_slots]
    size = slots.size[group]
    query = np.repeat(np.arange(len(query_slots)), size)
    within = np.arange(len(query)) - np.repeat(np.cumsum(size) - size, size)
    other = slots.start[group][query] + within
    kept = other != query_slots[query]
    return query[kept], other[kept]
