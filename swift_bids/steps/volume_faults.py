"""Signals of a run over time -> its faulty volumes, and steps of its intensity.

In every rule, a volume must differ from the others by more than the noise of the run, and by enough
to matter (docs/method.md gives the rates of false alarms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.steps.voxel_statistics import median_and_spread

#: Names of the faults, in the order of their codes from 1 on; code 0 means no fault.
FAULTS = ("empty", "repeated", "incomplete", "outlier")
EMPTY, REPEATED, INCOMPLETE, OUTLIER = range(1, 5)
#: A voxel has signal if its median exceeds its robust standard deviation by this factor, and has
#: lost it in volumes in which it is below this share of its median. If fewer than half of the
#: voxels have signal, the data are no intensities (they were demeaned or filtered).
_MIN_SIGNAL_TO_NOISE, _LOST_BELOW, _MIN_WITH_SIGNAL = 4, 0.5, 0.5
#: A volume is empty, or incomplete, if more than this share of the voxels has lost its signal.
_EMPTY_ABOVE, _INCOMPLETE_ABOVE = 0.9, 0.02
#: A volume repeats the one before if it differs from it by less than this share of what is usual.
_REPEATED_BELOW = 0.05
#: The mean of an outlier is further from the running median over this many volumes than these
#: multiples of the robust standard deviation and of the run's median.
_WINDOW, _MIN_DEVIATIONS, _MIN_CHANGE = 21, 6, 0.05
#: A step exceeds as many robust standard deviations, and this share of the run's median.
_MIN_STEP = 0.03
#: It has this many volumes on either side: closer to an end of the run, those beyond it are
#: outliers. More than this share of it happens between three volumes and the next three, unlike a
#: drift.
_STEP_VOLUMES, _SUDDEN = 10, 0.7


@dataclass(frozen=True)
class Faults:
    """What is wrong with the volumes of a BOLD file.

    Attributes
    ----------
    codes
        (volume,) int8: 0, or the position in `FAULTS`, counted from 1. Dummy scans have 0.
    deviations
        (volume,) how far the mean of a volume is from the running median, as a share of the run's
        median; NaN for dummy scans, for volumes with one of the first three faults, and in data
        that are no intensities.
    steps, step_sizes
        (step,) first volume after each step of the mean, and its size as a share of the mean
        before it.
    """

    codes: np.ndarray
    deviations: np.ndarray
    steps: np.ndarray
    step_sizes: np.ndarray

    @classmethod
    def none(cls, n_volumes: int) -> Faults:
        """Return no faults."""
        return cls(np.zeros(n_volumes, np.int8), np.full(n_volumes, np.nan), *np.zeros((2, 0)))

    @property
    def any(self) -> np.ndarray:
        """(volume,) whether a volume has a fault."""
        return self.codes > 0

    @property
    def not_measured(self) -> np.ndarray:
        """(volume,) whether a volume is empty or repeats the one before."""
        return np.isin(self.codes, (EMPTY, REPEATED))


def find_faults(
    values: np.ndarray, means: np.ndarray, changes: np.ndarray, first_volume: int
) -> tuple[Faults, np.ndarray]:
    """Find the faulty volumes of a run, and where incomplete ones have lost their signal.

    Parameters
    ----------
    values
        (volume, voxel) some brain voxels; NaN marks values without signal.
    means, changes
        (volume,) mean of all brain voxels, and root mean square difference from the volume before.
    first_volume
        Number of dummy scans; they have no faults and do not count.

    Returns
    -------
    faults : Faults
    lost : numpy.ndarray
        bool (voxel,): voxels that have no signal in an incomplete volume, but in most others.
    """
    used = np.arange(len(means)) >= first_volume
    counts, lost, are_intensities = _lost_signal(values, used)
    share = lost.mean(axis=1)
    empty = share > _EMPTY_ABOVE
    usual = changes[used & (changes > 0)]
    small = changes <= _REPEATED_BELOW * np.median(usual) if len(usual) else changes == 0
    codes = np.zeros(len(means), dtype=np.int8)
    codes[share - np.median(share[used]) > _INCOMPLETE_ABOVE] = INCOMPLETE
    codes[small & ~np.roll(empty, 1)] = REPEATED
    codes[empty] = EMPTY
    codes[~used] = 0
    deviations, steps = np.full(len(means), np.nan), pd.Series(dtype=np.float64)
    if are_intensities:
        signal = pd.Series(np.where(used & (codes == 0), means, np.nan))
        signal /= signal.median()
        rest = signal - signal.rolling(_WINDOW, center=True, min_periods=1).median()
        limit = _MIN_DEVIATIONS * 1.4826 * rest.abs().median()
        is_outlier = rest.abs() > max(_MIN_CHANGE, limit)
        codes[is_outlier] = OUTLIER
        deviations = rest.to_numpy()
        steps = _find_steps(signal[signal.notna() & ~is_outlier], max(_MIN_STEP, limit))
    faults = Faults(codes, deviations, steps.index.to_numpy(dtype=np.int64), steps.to_numpy())
    where = np.zeros(values.shape[1], dtype=bool)
    where[counts] = lost[codes == INCOMPLETE].any(axis=0)
    return faults, where


def _lost_signal(values: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Voxels that have signal in most volumes, bool (voxel,); whether each of these has lost it in
    each volume; and whether the data are intensities.

    In data that are none, only NaN means that a voxel has no signal.
    """
    series = np.nan_to_num(values[used]).T  # (voxel, volume)
    median, spread = median_and_spread(series, axis=1)
    known = ~np.isnan(values[used]).all(axis=0)
    counts = known & (median > _MIN_SIGNAL_TO_NOISE * spread)
    if counts.sum() < _MIN_WITH_SIGNAL * known.sum():
        return known, np.isnan(values[:, known]), False
    # a comparison with NaN is false
    return counts, ~(values[:, counts] >= _LOST_BELOW * median[counts]), True


def _find_steps(signal: pd.Series, limit: float) -> pd.Series:
    """Sizes of the steps of a signal, indexed by the first volume after each.

    Parameters
    ----------
    signal
        Means of the volumes without faults, as shares of the run's median, indexed by volume.
    limit
        Least size of a step.
    """

    def change(n_volumes: int) -> pd.Series:
        before = signal.rolling(n_volumes).median().shift()
        return signal[::-1].rolling(n_volumes).median()[::-1] / before - 1

    size = change(_STEP_VOLUMES)
    sudden = change(3) * np.sign(size) > _SUDDEN * size.abs()
    found = size[(size.abs() > limit) & sudden]
    kept: list[int] = []
    # next to a step, the size exceeds the limit, too
    for volume in found.abs().sort_values(ascending=False).index:
        if all(abs(volume - other) >= _STEP_VOLUMES for other in kept):
            kept.append(volume)
    return found[sorted(kept)]
