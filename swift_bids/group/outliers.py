"""Features of runs -> which of them lie far from the others."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA

#: Fewer runs tell nothing of what is usual; a component needs so many runs, and is one of so many.
LEAST_RUNS, RUNS_PER_COMPONENT, MOST_COMPONENTS = 20, 10, 10
#: Of the components' variance, the share that those kept need not exceed.
_VARIANCE = 0.9
#: A run is an outlier where so large a distance has less than this probability, in made-up runs
#: without outliers: so many in all, of at most so many datasets.
OUTLIER_P, _SIMULATED, _DATASETS = 0.001, 10_000, 200


def outliers(features: np.ndarray, participants: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Robust Mahalanobis distance of every run on principal components.

    Location and scatter of the components are those of the half of the runs that lie closest
    together (minimum covariance determinant, Rousseeuw and Van Driessen 1999), so that outliers do
    not hide themselves. How large the distance of a run is that is no outlier depends on the number
    of runs and components, and on how alike the runs of a participant are: it is looked up in
    normally distributed runs made up with all three (the chi-squared distribution, which is right
    for very many independent runs, finds several outliers in a hundred runs that are none).

    Parameters
    ----------
    features
        (run, feature).
    participants
        (run,) number of the participant.

    Returns
    -------
    distance : numpy.ndarray
        (run,); NaN where there are too few runs, or most of them do not differ.
    outlier : numpy.ndarray
        (run,) bool.
    n_components : int
        0 where there is no distance.
    """
    n_runs = len(features)
    none = np.full(n_runs, np.nan), np.zeros(n_runs, dtype=bool), 0
    if n_runs < LEAST_RUNS or not np.ptp(features, axis=0).any():
        return none
    most = min(MOST_COMPONENTS, n_runs // RUNS_PER_COMPONENT, features.shape[1])
    scores, pca = principal_components(features, most)
    explained = np.cumsum(pca.explained_variance_ratio_)
    used = int(np.searchsorted(explained, _VARIANCE * explained[-1])) + 1
    scores = scores[:, :used] / np.sqrt(pca.explained_variance_[:used])
    try:
        squared = _squared_distances(scores)
    except ValueError:  # of scikit-learn: half of the runs are one and the same
        return none
    limit = _limit(participants, used, _share_of_participants(scores, participants))
    return np.sqrt(squared), squared > limit, used


def principal_components(features: np.ndarray, count: int) -> tuple[np.ndarray, PCA]:
    """Scores (run, component) of so many principal components, and the components."""
    pca = PCA(count, svd_solver="full" if len(features) < 5000 else "covariance_eigh")
    return pca.fit_transform(features.astype(np.float64)), pca


def _squared_distances(scores: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its determinant grew in a step; it goes on
        return MinCovDet(random_state=0).fit(scores).mahalanobis(scores)


def _share_of_participants(scores: np.ndarray, participants: np.ndarray) -> float:
    """Share of the variance that lies between participants (one-way, median of the components)."""
    size = np.bincount(participants)
    if size.max() == 1 or len(size) < 2:
        return 0.0
    means = np.stack([np.bincount(participants, column) / size for column in scores.T], axis=1)
    within = ((scores - means[participants]) ** 2).sum(axis=0) / (len(scores) - len(size))
    return float(np.clip(1 - np.median(within / scores.var(axis=0, ddof=1)), 0, 1))


def _limit(participants: np.ndarray, n_components: int, share: float) -> float:
    """Squared distance that made-up runs of as many participants seldom exceed."""
    rng = np.random.default_rng(0)
    n_runs = len(participants)
    found = []
    for _ in range(min(_DATASETS, max(1, _SIMULATED // n_runs))):
        person = rng.standard_normal((participants.max() + 1, n_components))[participants]
        runs = rng.standard_normal((n_runs, n_components))
        made_up = np.sqrt(share) * person + np.sqrt(1 - share) * runs
        try:
            found.append(_squared_distances(made_up))
        except ValueError:  # all runs of few participants are the same
            continue
    return float(np.quantile(np.concatenate(found), 1 - OUTLIER_P)) if found else np.inf
