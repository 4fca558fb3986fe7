"""Blocks of volumes -> mean, deviation and range of every voxel, and of all of them together."""

from __future__ import annotations

import numpy as np


class VoxelMoments:
    """Statistics over time of every voxel of a run that comes in blocks, in float64.

    Blocks are merged by the update of Chan, Golub and LeVeque (1983), which does not lose digits
    however large the mean is beside the deviations.

    Attributes
    ----------
    count
        (voxel,) values that are not NaN.
    mean, squares
        (voxel,) their mean, and the sum of their squared deviations from it.
    low, high
        (voxel,) their range; inf and -inf where there is none.
    """

    def __init__(self, n_voxels: int) -> None:
        self.count = np.zeros(n_voxels)
        self.mean = np.zeros(n_voxels)
        self.squares = np.zeros(n_voxels)
        self.low = np.full(n_voxels, np.inf, dtype=np.float32)
        self.high = np.full(n_voxels, -np.inf, dtype=np.float32)

    def add(self, rows: np.ndarray) -> None:
        """Take in float32 (volume, voxel), NaN where there is no value."""
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
        # fmin and fmax pass over NaN
        np.fmin(self.low, np.fmin.reduce(rows, axis=0), out=self.low)
        np.fmax(self.high, np.fmax.reduce(rows, axis=0), out=self.high)

    @property
    def std(self) -> np.ndarray:
        """(voxel,) unbiased standard deviation, 0 for fewer than two values."""
        return np.sqrt(self.squares / np.maximum(self.count - 1, 1))

    @property
    def constant(self) -> np.ndarray:
        """(voxel,) whether a voxel has values and none differs from the others."""
        return (self.count > 0) & (self.low == self.high)

    def of_all(self) -> tuple[float, float]:
        """Mean and unbiased standard deviation over all values of all voxels."""
        n = self.count.sum()
        if n < 2:
            return 0.0, 0.0
        mean = float((self.count * self.mean).sum() / n)
        squares = self.squares.sum() + (self.count * (self.mean - mean) ** 2).sum()
        return mean, float(np.sqrt(squares / (n - 1)))
