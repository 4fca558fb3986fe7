"""Simulate the table in which the group level looks up its outlier limits.

    python -m benchmarks.outlier_limits swift_bids/data/outlier_limits.json

For each number of runs and components, runs per participant and share of variance between
participants, the table has the squared distance that one run in 1,000 exceeds when there are no
outliers. This takes about an hour on one CPU; if the file exists, only missing cells are computed.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import chi2

from swift_bids.group.outliers import (
    MAX_COMPONENTS,
    OUTLIER_P,
    RUNS_PER_COMPONENT,
    squared_distances,
)

RUNS = (20, 30, 50, 80, 150, 400, 1500)
COMPONENTS = (1, 2, 4, 7, 10)
RUNS_PER_PARTICIPANT = (1, 2, 4, 10)
SHARES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.97)
#: Simulated distances for each cell.
N_DISTANCES = 40_000
#: Datasets that are simulated together.
_BATCH = 50


def simulate(
    sizes: np.ndarray, n_components: int, share: float, n_distances: int = N_DISTANCES
) -> np.ndarray:
    """Squared robust distances of runs without outliers.

    Parameters
    ----------
    sizes
        (participant,) number of runs.
    share
        Share of the variance that lies between participants.
    """
    rng = np.random.default_rng(0)
    participants = np.repeat(np.arange(len(sizes)), sizes)
    n_runs, distances = len(participants), []
    batched = n_components == 1 or n_runs <= 500  # beyond, scikit-learn works with subsets
    for first in range(0, max(1, n_distances // n_runs), _BATCH):
        count = min(_BATCH, max(1, n_distances // n_runs) - first)
        between = rng.standard_normal((count, len(sizes), n_components))[:, participants]
        within = rng.standard_normal((count, n_runs, n_components))
        scores = np.sqrt(share) * between + np.sqrt(1 - share) * within
        if batched:
            distances.append(batched_distances(scores))
        else:
            distances += [squared_distances(dataset)[None] for dataset in scores]
    return np.concatenate(distances).reshape(-1)


def batched_distances(x: np.ndarray) -> np.ndarray:
    """`squared_distances` of many datasets (dataset, run, component), at least ten times as fast.

    The algorithm of scikit-learn's `MinCovDet` (1.8 and later) for up to 500 runs: the half of the
    runs that lie closest together, then the estimate from all runs that are not extreme under the
    estimate from that half.
    """
    n_runs, n_components = x.shape[1:]
    half = int(np.ceil(0.5 * (n_runs + n_components + 1)))
    estimate = _shortest_half(x, half) if n_components == 1 else _closest_half(x, half)
    raw = _distances(x, *estimate)[:, 0]
    raw /= _consistency_factor(n_components, half / n_runs)
    kept = (raw < chi2(n_components).isf(0.025)).astype(float)
    n_kept = kept.sum(axis=1)
    centred = x - (np.einsum("bn,bnk->bk", kept, x) / n_kept[:, None])[:, None]
    covariance = np.einsum("bn,bni,bnj->bij", kept, centred, centred, optimize=True)
    covariance *= _consistency_factor(n_components, 0.975) / n_kept[:, None, None]
    return np.einsum("bni,bni->bn", centred @ np.linalg.inv(covariance), centred)


def _shortest_half(x: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Location and covariance (dataset, 1, 1 and 1 x 1) of one component: exact."""
    ordered = np.sort(x[:, :, 0], axis=1)
    start = (ordered[:, half:] - ordered[:, :-half]).argmin(axis=1)
    dataset = np.arange(len(x))
    location = (ordered[dataset, half + start] + ordered[dataset, start])[:, None] / 2
    order = np.argsort(np.abs(x[:, :, 0] - location), axis=1)[:, :half]
    variance = x[dataset[:, None], order, 0].var(axis=1)
    return location[:, None], variance[:, None, None, None]


def _closest_half(x: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Location (dataset, 1, component) and covariance of the half with the smallest determinant:
    30 random halves, two concentration steps each, then the best ten until they converge."""
    n_datasets, n_runs, _ = x.shape
    rng = np.random.RandomState(0)
    support = np.stack([rng.permutation(n_runs)[:half] for _ in range(30)])
    estimate = _estimate(x, np.broadcast_to(support, (n_datasets, *support.shape)))
    for _ in range(2):
        estimate = _concentrate(x, estimate, half)
    dataset = np.arange(n_datasets)[:, None]
    best = np.argsort(estimate[2], axis=1)[:, :10]
    estimate = tuple(values[dataset, best] for values in estimate)
    for _ in range(31):
        following = _concentrate(x, estimate, half)
        if not (following[2] < estimate[2] - 1e-12).any():
            break
        estimate = following
    best = estimate[2].argmin(axis=1)[:, None]
    return estimate[0][dataset, best], estimate[1][dataset, best]


def _estimate(x: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, ...]:
    """Location, covariance and its log determinant for every trial (dataset, trial, half)."""
    chosen = x[np.arange(len(x))[:, None, None], support]
    location = chosen.mean(axis=2)
    centred = chosen - location[:, :, None]
    covariance = np.einsum("bthi,bthj->btij", centred, centred, optimize=True) / support.shape[2]
    return location, covariance, np.linalg.slogdet(covariance)[1]


def _concentrate(x: np.ndarray, estimate: tuple[np.ndarray, ...], half: int) -> tuple:
    """The estimate from the half of the runs that lie closest under an estimate."""
    distance = _distances(x, *estimate[:2])
    return _estimate(x, np.argpartition(distance, half - 1, axis=2)[:, :, :half])


def _distances(x: np.ndarray, location: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    centred = x[:, None] - location[:, :, None]
    return np.einsum("btni,btni->btn", centred @ np.linalg.inv(covariance), centred)


def _consistency_factor(n_components: int, share: float) -> float:
    """Factor by which the covariance of a central share of normal data is too low (Croux 1999)."""
    return share / chi2(n_components + 2).cdf(chi2(n_components).ppf(share))


def cells() -> list[tuple[int, int, int, float]]:
    """(runs, components, runs per participant, share) of all simulations."""
    pairs = [(1, 0.0), *itertools.product(RUNS_PER_PARTICIPANT[1:], SHARES[1:])]
    wanted = []
    for n, larger in itertools.pairwise((*RUNS, RUNS[-1] + 1)):
        # the most components that any number of runs between these two can have
        most = min(MAX_COMPONENTS, (larger - 1) // RUNS_PER_COMPONENT)
        wanted += [(n, k, m, s) for k in COMPONENTS if k <= most for m, s in pairs]
    return wanted


def main() -> None:
    file = Path(sys.argv[1])
    table = json.loads(file.read_text()) if file.exists() else {}
    for n, k, m, share in cells():
        key = f"{n} {k} {m} {share:g}"
        if key in table:
            continue
        sizes = np.full(-(-n // m), m)
        sizes[-1] -= sizes.sum() - n
        distances = simulate(sizes, k, share, N_DISTANCES // (4 if n > 500 else 1))
        table[key] = round(float(np.quantile(distances, 1 - OUTLIER_P)), 2)
        print(key, table[key], flush=True)
        file.write_text(json.dumps(table, indent=0) + "\n")


if __name__ == "__main__":
    main()
