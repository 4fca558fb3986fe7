"""Sets of features of a probe, some of which are fitted to the training part of each fold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from sklearn.decomposition import KernelPCA
from sklearn.preprocessing import StandardScaler

from swift_bids.group.connectivity import (
    correlations,
    in_parts,
    partial_correlations,
    upper_triangle,
)

#: Numbers of principal components among which a probe chooses.
N_COMPONENTS = (10, 30, 100)
#: With more participants, all components take minutes, and the first ones are approximated.
MAX_FOR_ALL_COMPONENTS = 500
#: With more participants, the tangents of all folds would take minutes.
MAX_FOR_TANGENT = 1000


class FeatureSet(Protocol):
    """Features of participants in one or several versions, between which the probe chooses."""

    @property
    def n_features(self) -> int:
        """Number of features of the largest version."""

    def select(self, rows: np.ndarray) -> FeatureSet:
        """The same for some of the participants."""

    def versions(self, train: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> (participant, feature), fitted to the training participants alone."""


@dataclass(frozen=True)
class Table:
    """Features that need no fit: (participant, feature)."""

    values: np.ndarray

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return self.values.shape[1]

    def select(self, rows: np.ndarray) -> Self:
        """The same for some of the participants."""
        return replace(self, values=self.values[rows])

    def versions(self, train: np.ndarray) -> dict[str, np.ndarray]:
        """One version without a name."""
        return {"": self.values}


@dataclass(frozen=True)
class Components(Table):
    """Principal components of (participant, feature), with 10, 30 and 100 of them."""

    def versions(self, train: np.ndarray) -> dict[str, np.ndarray]:
        """Components of the standardised features of the training participants."""
        scaled = StandardScaler().fit(self.values[train]).transform(self.values)
        n = min(max(N_COMPONENTS), len(train) - 1, self.n_features)
        # of the participants' scalar products, since there are many more features
        solver = "dense" if len(train) <= MAX_FOR_ALL_COMPONENTS else "randomized"
        model = KernelPCA(n, eigen_solver=solver, random_state=0).fit(scaled[train])
        projected = model.transform(scaled)
        numbers = sorted({min(number, n) for number in N_COMPONENTS})
        return {f"{number} components": projected[:, :number] for number in numbers}


@dataclass(frozen=True)
class ConnectivityMatrices:
    """Functional connectivity as correlation, partial correlation and tangent.

    Attributes
    ----------
    covariances
        (participant, parcel, parcel) float32.
    """

    covariances: np.ndarray

    @property
    def n_features(self) -> int:
        """Number of edges, and of parcels for the tangent."""
        n = self.covariances.shape[1]
        return n * (n + 1) // 2

    def select(self, rows: np.ndarray) -> ConnectivityMatrices:
        """The same for some of the participants."""
        return ConnectivityMatrices(self.covariances[rows])

    def versions(self, train: np.ndarray) -> dict[str, np.ndarray]:
        """Without the tangent for more than 1,000 participants."""
        found = dict(self._fixed)
        if len(self.covariances) <= MAX_FOR_TANGENT:
            found["tangent"] = self._tangents(train)
        return found

    @cached_property
    def _fixed(self) -> dict[str, np.ndarray]:
        return {
            "correlation": in_parts(correlations, self.covariances),
            "partial correlation": in_parts(partial_correlations, self.covariances),
        }

    @cached_property
    def _logarithms(self) -> np.ndarray:
        return in_parts(logarithms, self.covariances)

    def _tangents(self, train: np.ndarray) -> np.ndarray:
        """Project the matrices to the tangent space at the mean of the training participants.

        The features are the upper triangle of the logarithm of the matrix, whitened by the mean
        (Varoquaux et al. 2010). The mean is the log-Euclidean one (Arsigny et al. 2006), which
        does not need to be iterated; see Pervaiz et al. 2020 for a comparison of means.
        """
        values, vectors = np.linalg.eigh(self._logarithms[train].mean(axis=0))
        whitening = (vectors * np.exp(-values / 2)) @ vectors.T
        return in_parts(
            lambda part: upper_triangle(logarithms(part, whitening), k=0), self.covariances
        )


def logarithms(matrices: np.ndarray, whitening: np.ndarray | None = None) -> np.ndarray:
    """Logarithms of symmetric positive definite matrices (row, n, n).

    Parameters
    ----------
    whitening
        (n, n) symmetric; multiplies each matrix from both sides before. None: the identity.
    """
    if whitening is not None:
        matrices = whitening @ matrices @ whitening
    values, vectors = np.linalg.eigh(matrices)
    logs = np.log(np.maximum(values, np.finfo(values.dtype).eps * values[:, -1:]))
    return (vectors * logs[:, None]) @ vectors.transpose(0, 2, 1)
