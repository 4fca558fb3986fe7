"""Blocks of volumes -> statistics of a run: mean, standard deviation and range of each voxel, and
mean and standard deviation over all voxels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

#: Distance between the quartiles of normal values, in standard deviations.
_QUARTILES = 1.349


class VoxelMoments:
    """Statistics over time of every voxel of a run that arrives in blocks, in float64.

    The update of Chan, Golub and LeVeque (1983) merges the blocks. It loses no digits, however
    large the mean is relative to the deviations.

    Attributes
    ----------
    count
        (voxel,) number of values that are not NaN.
    mean, squares
        (voxel,) mean of these values, and sum of their squared deviations from it.
    low, high
        (voxel,) range of these values; inf and -inf for a voxel without any.
    """

    def __init__(self, n_voxels: int) -> None:
        self.count = np.zeros(n_voxels)
        self.mean = np.zeros(n_voxels)
        self.squares = np.zeros(n_voxels)
        self.low = np.full(n_voxels, np.inf, dtype=np.float32)
        self.high = np.full(n_voxels, -np.inf, dtype=np.float32)

    def add(self, rows: np.ndarray) -> None:
        """Add a float32 (volume, voxel) block; NaN marks missing values."""
        known = ~np.isnan(rows)
        values = rows.astype(np.float64)
        count: np.ndarray | np.float64
        if known.all():
            count = np.float64(len(rows))
        else:
            count = known.sum(axis=0)
            values[~known] = 0
        mean = values.sum(axis=0) / np.maximum(count, 1)
        values -= mean
        if count.ndim:
            values[~known] = 0
        np.square(values, out=values)
        total = self.count + count
        share = count / np.maximum(total, 1)
        delta = mean - self.mean
        self.squares += values.sum(axis=0) + delta**2 * self.count * share
        self.mean += delta * share
        self.count = total
        # fmin and fmax ignore NaN
        np.fmin(self.low, np.fmin.reduce(rows, axis=0), out=self.low)
        np.fmax(self.high, np.fmax.reduce(rows, axis=0), out=self.high)

    @property
    def std(self) -> np.ndarray:
        """(voxel,) unbiased standard deviation, 0 for fewer than two values."""
        return np.sqrt(self.squares / np.maximum(self.count - 1, 1))

    @property
    def constant(self) -> np.ndarray:
        """(voxel,) whether a voxel has values and all of them are equal."""
        return (self.count > 0) & (self.low == self.high)

    def overall(self, chosen: np.ndarray | None = None) -> tuple[float, float]:
        """Return mean and unbiased standard deviation over all values of all voxels, or of the
        chosen ones, bool (voxel,)."""
        voxels = slice(None) if chosen is None else chosen
        count, means, squares = (x[voxels] for x in (self.count, self.mean, self.squares))
        n = count.sum()
        if n < 2:
            return 0.0, 0.0
        mean = float((count * means).sum() / n)
        total = squares.sum() + (count * (means - mean) ** 2).sum()
        return mean, float(np.sqrt(total / (n - 1)))


def median_and_spread(
    values: np.ndarray, axis: int, method: Literal["lower", "linear"] = "lower"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the median over an axis, and a standard deviation that outliers do not change: that of
    normal values with the same distance between the quartiles.

    Parameters
    ----------
    method
        Of `numpy.percentile`; `lower` is that of FSL and nipype.
    """
    low, median, high = np.percentile(values, [25, 50, 75], axis=axis, method=method)
    return median, (high - low) / _QUARTILES
