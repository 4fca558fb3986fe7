"""Features of runs -> which of them lie far from the others."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import chi2
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA

#: Fewer runs tell nothing of what is usual; a component needs so many runs, and is one of so many.
LEAST_RUNS, RUNS_PER_COMPONENT, MOST_COMPONENTS = 20, 10, 10
#: Share of the variance that the components need not exceed.
_VARIANCE = 0.9
#: A run is an outlier where so large a distance has less than this probability.
OUTLIER_P = 0.001


def outliers(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Robust Mahalanobis distance of every run on principal components.

    Location and scatter of the components are those of the half of the runs that lie closest
    together (minimum covariance determinant, Rousseeuw and Van Driessen 1999), so that outliers do
    not hide themselves. Squared distances are compared with the chi-squared distribution.

    Parameters
    ----------
    features
        (run, feature).

    Returns
    -------
    distance : numpy.ndarray
        (run,); NaN where there are too few runs, or runs do not differ.
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
    pca = PCA(most, svd_solver="full" if n_runs < 5000 else "covariance_eigh")
    scores = pca.fit_transform(features.astype(np.float64))
    explained = np.cumsum(pca.explained_variance_ratio_)
    used = int(np.searchsorted(explained, _VARIANCE * explained[-1])) + 1
    scores = scores[:, :used] / np.sqrt(pca.explained_variance_[:used])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its determinant grew in a step; it goes on
        robust = MinCovDet(random_state=0).fit(scores)
    squared = robust.mahalanobis(scores)
    return np.sqrt(squared), chi2.sf(squared, used) < OUTLIER_P, used
