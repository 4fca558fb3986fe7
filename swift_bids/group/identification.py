"""Features of runs -> how well they tell participants apart, against permuted participants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.group.similarity import centred

#: Runs that are looked up among all others, and pairs with runs of the same participant: at most.
MOST_QUERIES, MOST_PAIRS = 2000, 100_000
#: The set of features whose runs are compared by their distance.
MOTION_SET = "motion"
METRICS = ("rank1", "map", "idiff", "i2c2")


@dataclass(frozen=True)
class Slots:
    """Places of runs, grouped by participant; a permutation puts other runs in them.

    Attributes
    ----------
    start, size
        (participant,) first place and number of places.
    group
        (place,) number of the participant.
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
) -> pd.DataFrame:
    """How well participants are told apart by each of several sets of features.

    Parameters
    ----------
    features
        Name -> (run, feature). The similarity of two runs is the cosine after centring; of `motion`
        it is exp(-d^2 / 2), d their distance in standard deviations.
    participants
        (run,) labels.
    n_permutations
        Of the participants among the runs; p is (1 + permutations that do no worse) / (1 + all).

    Returns
    -------
    pandas.DataFrame
        `features`, `metric`, `value`, `p`, `chance` (mean of the permutations), and counts; a row
        for each set and metric. Empty where no participant has two runs.

        - `rank1`: share of runs whose most similar run is of the same participant.
        - `map`: mean average precision of the runs of the same participant among all others.
        - `idiff`: 100 x (mean similarity within - between participants), Amico and Goni 2018.
        - `i2c2`: image intra-class correlation, 1 - trace within / trace total, Shou et al. 2013.
    """
    codes, labels = pd.factorize(participants)
    slots = Slots.of(codes)
    several = slots.size > 1
    if not several.any() or len(labels) < 2:
        return pd.DataFrame()
    rng = np.random.default_rng(seed)
    true = np.argsort(codes, kind="stable")  # (place,) the run in it
    orders = [true, *(rng.permutation(true) for _ in range(n_permutations))]
    queries = _queries(slots, codes, rng)
    table = []
    for name, values in features.items():
        measure = _measure(values.astype(np.float32), queries, slots, name == MOTION_SET)
        found = np.array([measure(order) for order in orders])  # (permutation, metric)
        at_least = (found[1:] >= found[0] - 1e-9).sum(axis=0)
        for number, metric in enumerate(METRICS):
            table.append(
                {
                    "features": name,
                    "metric": metric,
                    "value": found[0, number],
                    "p": (1 + at_least[number]) / (1 + n_permutations),
                    "chance": found[1:, number].mean(),
                    "n_runs": len(codes),
                    "n_queries": len(queries),
                    "n_participants": int(several.sum()),
                    "n_permutations": n_permutations,
                }
            )
    return pd.DataFrame(table)


def _queries(slots: Slots, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Runs to look up: all where they are few, else a random part of them."""
    others = slots.size[codes] - 1
    most = min(MOST_QUERIES, max(200, int(MOST_PAIRS / max(1, others.mean()))))
    runs = np.arange(len(codes))
    return runs if len(runs) <= most else np.sort(rng.choice(runs, most, replace=False))


def _measure(
    values: np.ndarray, queries: np.ndarray, slots: Slots, by_distance: bool
) -> Callable[[np.ndarray], list[float]]:
    """A function from an order of the runs to the four metrics."""
    similarity, centred_values = _similarity(values, queries, by_distance)
    own = np.arange(len(queries))
    similarity[own, queries] = -np.inf
    rank = _ranks(similarity)  # from 1, (query, run)
    similarity[own, queries] = 0
    total_similarity = similarity.sum(dtype=np.float64)
    squares = float(np.einsum("ij,ij->", centred_values, centred_values))
    n_runs = len(values)

    def measure(order: np.ndarray) -> list[float]:
        place = np.empty(n_runs, dtype=int)
        place[order] = np.arange(n_runs)
        query, other = _pairs(place[queries], slots)
        run = order[other]
        # average precision: the k-th of a query's own runs, at rank r, counts k / r
        sorted_rank = np.sort(query * np.int64(n_runs + 1) + rank[query, run]) % (n_runs + 1)
        per_query = np.bincount(query, minlength=len(queries))
        first = np.cumsum(per_query) - per_query
        k = np.arange(1, len(query) + 1) - first[query]
        precision = np.bincount(query, k / sorted_rank, len(queries))
        asked = per_query > 0
        within = similarity[query, run].sum(dtype=np.float64)
        n_between = len(queries) * (n_runs - 1) - len(query)
        between = (total_similarity - within) / n_between
        sums = np.add.reduceat(centred_values[order], slots.start, axis=0, dtype=np.float64)
        explained = (np.einsum("ij,ij->i", sums, sums) / slots.size).sum()
        of_runs = (squares - explained) / (n_runs - len(slots.size))
        return [
            float((sorted_rank[first[asked]] == 1).mean()),
            float((precision[asked] / per_query[asked]).mean()),
            100 * (within / len(query) - between),
            1 - of_runs / (squares / (n_runs - 1)) if squares > 0 else 0.0,
        ]

    return measure


def _similarity(
    values: np.ndarray, queries: np.ndarray, by_distance: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities (query, run), and the features (run, feature) whose variance is compared."""
    if not by_distance:
        rows = centred(values)
        return rows[queries] @ rows.T, values - values.mean(axis=0, dtype=np.float64)
    values = values.astype(np.float64)
    differ = np.ptp(values, axis=0) > 0
    rows = np.where(differ, values - values.mean(axis=0), 0)
    rows /= np.where(differ, values.std(axis=0), 1)
    square = (rows**2).sum(axis=1)
    distance = square[queries, None] + square - 2 * rows[queries] @ rows.T
    return np.exp(-np.maximum(distance, 0) / 2), rows


def _ranks(similarity: np.ndarray) -> np.ndarray:
    """Rank from 1 (most similar) of every run for every query, (query, run) int32."""
    ranks = np.empty(similarity.shape, dtype=np.int32)
    places = np.arange(1, similarity.shape[1] + 1, dtype=np.int32)
    for row, values in zip(ranks, similarity):
        row[np.argsort(-values, kind="stable")] = places
    return ranks


def _pairs(places: np.ndarray, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
    """For each query at its place the other places of its participant: (query, place) pairs."""
    group = slots.group[places]
    size = slots.size[group]
    query = np.repeat(np.arange(len(places)), size)
    within = np.arange(len(query)) - np.repeat(np.cumsum(size) - size, size)
    other = slots.start[group][query] + within
    kept = other != places[query]
    return query[kept], other[kept]
