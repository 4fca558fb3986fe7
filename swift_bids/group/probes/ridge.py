"""Ridge regression of many targets on the same features, from one decomposition of the features.

A permutation test fits hundreds of targets. Once the features are decomposed, each fit is a product
of small matrices, and so are the predictions for samples that are left out, which choose the
strength of the penalty: they follow from the hat matrix (Golub, Heath and Wahba 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Candidate strengths of the penalty.
ALPHAS = np.logspace(-1, 5, 7)
#: Smaller eigenvalues, as shares of the largest, are rounding errors.
_ROUNDING = 1e-12
#: Targets that are fitted at once.
_MAX_TARGETS = 600


@dataclass(frozen=True)
class Ridges:
    """Fitted targets.

    Attributes
    ----------
    predicted
        (test sample, target).
    left_out
        (sample, target) predictions for the samples of the fit, each from the others.
    error
        (target or group of neighbouring targets,): squared error of `left_out`.
    version
        Likewise: index of the version of the features that was used.
    """

    predicted: np.ndarray
    left_out: np.ndarray
    error: np.ndarray
    version: np.ndarray


def fit_best_ridges(
    versions: Sequence[tuple[np.ndarray, np.ndarray]],
    y: np.ndarray,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    n_together: int = 1,
) -> Ridges:
    """Fit each target, with the version of the features that predicts left-out samples best.

    Parameters
    ----------
    versions
        `x` and `x_test` of each version.
    y, groups, weights, n_together
        As for `fit_ridges`.
    """
    fitted = [fit_ridges(x, y, x_test, groups, weights, n_together) for x, x_test in versions]
    best = fitted[0]
    for number, own in enumerate(fitted[1:], 1):
        better = own.error < best.error
        columns = better.repeat(n_together)
        best = Ridges(
            np.where(columns, own.predicted, best.predicted),
            np.where(columns, own.left_out, best.left_out),
            np.minimum(own.error, best.error),
            np.where(better, number, best.version),
        )
    return best


def fit_ridges(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    n_together: int = 1,
) -> Ridges:
    """Fit each target, with the penalty that predicts left-out samples best.

    Parameters
    ----------
    x, x_test
        (sample, feature); the columns of `x` have mean 0.
    y
        (sample, target).
    groups
        (sample,) indices of groups that are left out as a whole; None: one sample at a time.
    weights
        (sample, target) of the squared errors of left-out samples; None: 1.
    n_together
        Number of neighbouring targets that share a penalty.
    """
    small = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    squares, vectors = np.linalg.eigh(small)
    kept = squares > _ROUNDING * max(squares[-1], np.finfo(float).tiny)
    squares, vectors = squares[kept], vectors[:, kept]
    u = x @ vectors / np.sqrt(squares) if x.shape[1] <= len(x) else vectors
    to_test = x_test @ x.T @ u
    predicted, left_out = np.empty((len(x_test), y.shape[1])), np.empty_like(y)
    errors = np.empty(y.shape[1] // n_together)
    step = n_together * max(1, _MAX_TARGETS // n_together)
    for start in range(0, y.shape[1], step):  # to limit memory
        part = slice(start, start + step)
        own_weights = 1 if weights is None else weights[:, part]
        mean = y[:, part].mean(axis=0)
        of_y = u.T @ (y[:, part] - mean)
        least = np.full(of_y.shape[1] // n_together, np.inf)
        for alpha in ALPHAS:
            shrinkage = squares / (squares + alpha)
            residual = y[:, part] - mean - u @ (shrinkage[:, None] * of_y)
            error = _without_own(residual, u, shrinkage, groups)
            total = (np.square(error) * own_weights).sum(axis=0).reshape(-1, n_together).sum(axis=1)
            better = (total < least).repeat(n_together)
            least = np.minimum(total, least)
            columns = start + np.flatnonzero(better)
            left_out[:, columns] = y[:, columns] - error[:, better]
            coefficients = of_y[:, better] / (squares + alpha)[:, None]
            predicted[:, columns] = to_test @ coefficients + mean[better]
        errors[start // n_together : (start + step) // n_together] = least
    return Ridges(predicted, left_out, errors, np.zeros(len(errors), dtype=int))


def _without_own(
    residual: np.ndarray, u: np.ndarray, shrinkage: np.ndarray, groups: np.ndarray | None
) -> np.ndarray:
    """Residuals of samples that the fit does not contain, from those of samples that it does."""
    n = len(u)
    if groups is None:
        own = 1 / n + np.square(u) @ shrinkage  # diagonal of the hat matrix; 1 / n: intercept
        return residual / np.maximum(1 - own, _ROUNDING)[:, None]
    without = np.empty_like(residual)
    for group in np.unique(groups):
        at = np.flatnonzero(groups == group)
        hat = 1 / n + (u[at] * shrinkage) @ u[at].T
        without[at] = np.linalg.solve(np.eye(len(at)) - hat, residual[at])
    return without
