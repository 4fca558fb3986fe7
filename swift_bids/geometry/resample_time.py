"""Volumes of a BOLD run in time -> the series of volumes that the network reads.

A chunk is 20 volumes, so its duration depends on the TR. The network was trained at 0.72 s (HCP),
0.735 s (UK Biobank) and 0.8 s (ABCD). Like published evaluations, the app interpolates runs with
another TR linearly to 0.8 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from swift_bids.base.errors import InputError

#: Volumes of one chunk, the network's T.
CHUNK_VOLUMES = 20
#: With `--target-tr auto`, runs are resampled to this TR in s unless theirs is closer to it than
#: this tolerance (Brainmarks, arXiv:2510.13768).
TARGET_TR, TR_TOLERANCE = 0.8, 0.1
#: Positions closer than this, in volumes, are equal: TRs such as 0.2667 s are rounded fractions.
_POSITION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Series:
    """The series that the network reads: the used volumes of a run, at its own or another TR.

    Attributes
    ----------
    n_volumes, repetition_time
        Volumes of the BOLD file and its TR in s.
    first_volume
        Index of the first used volume (the number of dummy scans).
    model_tr
        TR of the series in s.
    """

    n_volumes: int
    repetition_time: float
    first_volume: int
    model_tr: float

    @property
    def resampled(self) -> bool:
        return self.model_tr != self.repetition_time

    @property
    def step(self) -> float:
        """Step from one volume of the series to the next, in volumes of the BOLD file."""
        return self.model_tr / self.repetition_time

    @property
    def length(self) -> int:
        """Number of volumes of the series; the last is at or before the run's last volume."""
        return self.length_until(self.n_volumes - self.first_volume - 1)

    def length_until(self, volume: int) -> int:
        """Return how many volumes of the series lie at or before used volume number `volume`
        (from 0)."""
        return int((volume + 0.999 * _POSITION_TOLERANCE) / self.step) + 1 if volume >= 0 else 0

    def positions(self, start: int, stop: int) -> np.ndarray:
        """Return the positions of volumes start to stop of the series, in used volumes from 0."""
        positions = np.arange(start, stop) * self.step
        nearest = positions.round()
        return np.where(np.abs(positions - nearest) < _POSITION_TOLERANCE, nearest, positions)

    def source(self, start: int, stop: int) -> tuple[int, int]:
        """Return the volumes (start, stop) of the BOLD file from which volumes start to stop of the
        series are interpolated."""
        first, last = self.positions(start, stop)[[0, -1]]
        return self.first_volume + int(first), self.first_volume + int(np.ceil(last)) + 1


def model_repetition_time(target: str, repetition_time: float) -> float:
    """Return the TR in s at which the network reads a run.

    Parameters
    ----------
    target
        `--target-tr`: `auto`, `native` or seconds.
    repetition_time
        The run's TR in s.
    """
    if target == "native":
        return repetition_time
    wanted = TARGET_TR if target == "auto" else float(target)
    distance = round(abs(repetition_time - wanted), 6)  # 0.9 - 0.8 is a little less than 0.1
    if target == "auto":
        return repetition_time if distance < TR_TOLERANCE else wanted
    return wanted if distance else repetition_time


def refuse_too_short(series: Series, short_runs: str) -> None:
    """Check that a run is long enough for at least one chunk.

    Parameters
    ----------
    short_runs
        `--short-runs`: `skip` rejects a series of fewer than 20 volumes, `pad` only an empty one.

    Raises
    ------
    InputError
        The run is too short.
    """
    length = series.length
    if length >= CHUNK_VOLUMES or (short_runs == "pad" and length > 0):
        return
    remedy = "; use --short-runs pad to fill it up by reflection" if length > 0 else ""
    omitted = f", and {series.first_volume} are omitted as dummy scans"
    left = f", which leaves {length} at the network's TR of {series.model_tr:g} s"
    raise InputError(
        f"the run has {series.n_volumes} volumes{omitted * (series.first_volume > 0)}"
        f"{left * series.resampled}, but the network needs {CHUNK_VOLUMES}, so it is too short to "
        f"embed{remedy}"
    )


def resample(blocks: Iterable[np.ndarray], series: Series) -> Iterator[np.ndarray]:
    """Interpolate the used volumes of a run linearly to the TR of the series.

    Parameters
    ----------
    blocks
        Float32 (volume, voxel) blocks of the BOLD file, starting with its first volume. A value is
        NaN if there is no signal; values interpolated from NaN are NaN too.

    Yields
    ------
    numpy.ndarray
        Float32 (volume, voxel) blocks of the series, `series.length` volumes in all.
    """
    first = 0  # index of the block's first volume in the BOLD file
    n_yielded = 0  # volumes of the series so far
    previous = None  # the last volume of the previous block
    for block in blocks:
        used = block[max(series.first_volume - first, 0) :]
        first += len(block)
        if not series.resampled or len(used) == 0:
            if len(used):
                yield used
            continue
        if previous is not None:
            used = np.concatenate([previous, used])
        previous = used[-1:].copy()
        start = first - len(used) - series.first_volume  # position of used[0], in used volumes
        count = series.length_until(start + len(used) - 1)
        positions = series.positions(n_yielded, count) - start
        n_yielded = count
        n_parts = -(-len(positions) // len(block))
        for part in np.array_split(positions, n_parts) if n_parts else ():
            low = part.astype(int)
            fraction = (part - low).astype(np.float32)
            rows = used[low]
            between = np.flatnonzero(fraction)
            rows[between] += fraction[between, None] * (used[low[between] + 1] - rows[between])
            yield rows
