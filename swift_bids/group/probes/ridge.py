"""Ridge regression of many targets on the same features, from one decomposition of the features.

A permutation test fits hundreds of targets. Once the features are decomposed, each fit is a product
of small matrices, and so are the predictions for samples that are left out, which choose the
strength of the penalty: they follow from the hat matrix (Golub, Heath and Wahba 1979).
"""

from __future__ import annotations

import numpy as np

#: Candidate strengths of the penalty.
ALPHAS = np.logspace(-1, 5, 7)
#: Smaller eigenvalues, as shares of the largest, are rounding errors.
_ROUNDING = 1e-12


def fit_ridges(
    x: np.ndarray,
    y: np.ndarray,
    x_test: np.ndarray,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    n_together: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
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

    Returns
    -------
    predicted : numpy.ndarray
        (test sample, target).
    left_out : numpy.ndarray
        (sample, target) predictions for the samples of `x`, each from the others.
    """
    small = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    squares, vectors = np.linalg.eigh(small)
    kept = squares > _ROUNDING * max(squares[-1], np.finfo(float).tiny)
    squares, vectors = squares[kept], vectors[:, kept]
    u = x @ vectors / np.sqrt(squares) if x.shape[1] <= len(x) else vectors
    mean = y.mean(axis=0)
    of_y = u.T @ (y - mean)
    errors, predictions = [], []
    for alpha in ALPHAS:
        shrinkage = squares / (squares + alpha)
        residual = y - mean - u @ (shrinkage[:, None] * of_y)
        left_out = y - _without_own(residual, u, shrinkage, groups)
        error = np.square(y - left_out) * (1 if weights is None else weights)
        errors.append(error.sum(axis=0).reshape(-1, n_together).sum(axis=1))
        predictions.append(left_out)
    best = np.argmin(errors, axis=0).repeat(n_together)  # (target,)
    coefficients = of_y / (squares[:, None] + ALPHAS[best])
    predicted = x_test @ (x.T @ (u @ coefficients)) + mean
    return predicted, np.stack(predictions)[best, :, np.arange(y.shape[1])].T


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
