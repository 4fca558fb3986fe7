"""Embeddings of runs -> which runs lie far from the others."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from importlib import resources

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import chi2
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA

#: Minimum number of runs, runs per principal component, and maximum number of components.
MIN_RUNS, RUNS_PER_COMPONENT, MAX_COMPONENTS = 20, 10, 10
#: Components are kept until they explain this share of the variance that all of them explain.
_EXPLAINED_VARIANCE = 0.9
#: A run is an outlier if a distance at least as large has a probability below this in data without
#: outliers.
OUTLIER_P = 0.001
#: Upper limit for the share of variance between participants.
_MAX_SHARE = 0.995
#: Stands for "no limit" in the table: runs are too few, or too alike.
_NO_LIMIT = 1e12


def outliers(features: np.ndarray, participants: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Robust Mahalanobis distance of every run on principal components.

    Location and scatter of the components are those of the half of the runs that lie closest
    together (minimum covariance determinant, Rousseeuw and Van Driessen 1999), so that outliers do
    not hide themselves. The largest distance that a normal run may have depends on the number of
    runs and components, and on how alike the runs of a participant are. It is looked up in a table
    of simulations (benchmarks/outlier_limits.py). The chi-squared distribution, which holds for
    very many independent runs, would call several normal runs in a hundred outliers.

    Parameters
    ----------
    features
        (run, feature).
    participants
        (run,) number of the participant.

    Returns
    -------
    distance : numpy.ndarray
        (run,); NaN where there are too few runs, or most of them are identical.
    outlier : numpy.ndarray
        (run,) bool.
    n_components : int
        0 where there is no distance.
    """
    n_runs = len(features)
    no_result = np.full(n_runs, np.nan), np.zeros(n_runs, dtype=bool), 0
    if n_runs < MIN_RUNS or not np.ptp(features, axis=0).any():
        return no_result
    most = min(MAX_COMPONENTS, n_runs // RUNS_PER_COMPONENT, features.shape[1])
    scores, pca = principal_components(features, most)
    explained = np.cumsum(pca.explained_variance_ratio_)
    used = int(np.searchsorted(explained, _EXPLAINED_VARIANCE * explained[-1])) + 1
    scores = scores[:, :used] / np.sqrt(pca.explained_variance_[:used])
    try:
        squared = squared_distances(scores)
    except ValueError:  # scikit-learn: half of the runs are identical
        return no_result
    limit = outlier_limit(
        np.bincount(participants), used, _share_of_participants(scores, participants)
    )
    return np.sqrt(squared), squared > limit, used


def principal_components(features: np.ndarray, count: int) -> tuple[np.ndarray, PCA]:
    """Scores (run, component) of the first principal components, and the fitted PCA."""
    pca = PCA(count, svd_solver="full" if len(features) < 5000 else "covariance_eigh")
    return pca.fit_transform(features.astype(np.float64)), pca


def squared_distances(scores: np.ndarray) -> np.ndarray:
    """Squared robust Mahalanobis distance (run,) of scores (run, component).

    Raises
    ------
    ValueError
        Half of the runs are identical.
    """
    with warnings.catch_warnings():
        # a warning that the determinant increased; the fit is still valid
        warnings.simplefilter("ignore")
        return MinCovDet(random_state=0).fit(scores).mahalanobis(scores)


def outlier_limit(sizes: np.ndarray, n_components: int, share: float) -> float:
    """Squared distance above which a run is an outlier.

    Parameters
    ----------
    sizes
        (participant,) number of runs.
    share
        Share of the variance that lies between participants, 0 to 1.
    """
    n_runs = sizes.sum()
    # the number of runs of the participant of an average run
    runs_per_participant = (sizes**2).sum() / n_runs
    table = _limits()
    point = [1 / n_runs, np.log(n_components), np.log(runs_per_participant)]
    inside = [np.clip(value, axis[0], axis[-1]) for value, axis in zip(point, table.grid)]
    return float(np.exp(table([*inside, -np.log1p(-min(share, _MAX_SHARE))])[0]))


@lru_cache(maxsize=1)
def _limits() -> RegularGridInterpolator:
    """The logarithm of the limit as a function of 1 / runs, log components, log runs per
    participant, and -log(1 - share), in which it is nearly linear beyond the table."""
    text = resources.files("swift_bids").joinpath("data/outlier_limits.json").read_text()
    cells: dict[tuple[float, ...], float] = {
        tuple(map(float, key.split())): limit for key, limit in json.loads(text).items()
    }
    runs, components, per_participant, shares = (sorted(set(axis)) for axis in zip(*cells))
    values = np.full([len(runs) + 1, len(components), len(per_participant), len(shares)], np.nan)
    for i, n in enumerate(runs):
        for j, k in enumerate(components):
            for a, m in enumerate(per_participant):
                for b, share in enumerate(shares):
                    # One run per participant and a share of 0 are the same case: the runs are
                    # independent.
                    key = (n, k, 1.0, 0.0) if m == 1 or share == 0 else (n, k, m, share)
                    values[i, j, a, b] = cells.get(key) or _NO_LIMIT
    values[-1] = chi2.ppf(1 - OUTLIER_P, components)[:, None, None]  # infinitely many runs
    inverse = np.array([1 / n for n in runs] + [0.0])
    axes = inverse[::-1], np.log(components), np.log(per_participant), -np.log1p(-np.array(shares))
    return RegularGridInterpolator(
        axes,
        np.log(values[::-1]),
        bounds_error=False,
        fill_value=None,  # extrapolates the share
    )


def _share_of_participants(scores: np.ndarray, participants: np.ndarray) -> float:
    """Share of the variance that lies between participants (one-way, median of the components)."""
    size = np.bincount(participants)
    if size.max() == 1 or len(size) < 2:
        return 0.0
    means = np.stack([np.bincount(participants, column) / size for column in scores.T], axis=1)
    within = ((scores - means[participants]) ** 2).sum(axis=0) / (len(scores) - len(size))
    return float(np.clip(1 - np.median(within / scores.var(axis=0, ddof=1)), 0, 1))
