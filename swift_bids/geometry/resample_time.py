"""Volumes of a BOLD run in time -> the series of volumes that the network reads.

A chunk has a fixed number of volumes, so its duration depends on the TR. The app interpolates runs
linearly to a TR at which the network was trained (`swift_bids.base.backbones.TimeRule`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from swift_bids.base.backbones import CHUNK_VOLUMES, Backbone, TimeRule
from swift_bids.base.errors import InputError

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
    chunk_volumes
        Volumes of a chunk.
    centred
        As for `swift_bids.base.backbones.TimeRule`; the TR of the series is then only close to
        `model_tr`.
    clipped
        Whether negative values become 0, and values of 0 take part in the interpolation, as in the
        training of NeuroSTORM.
    """

    n_volumes: int
    repetition_time: float
    first_volume: int
    model_tr: float
    chunk_volumes: int = CHUNK_VOLUMES
    centred: bool = False
    clipped: bool = False

    @classmethod
    def of_run(
        cls,
        n_volumes: int,
        repetition_time: float,
        first_volume: int,
        model_tr: float,
        backbone: Backbone,
    ) -> Series:
        """Build the series that a network reads."""
        return cls(
            n_volumes,
            repetition_time,
            first_volume,
            model_tr,
            backbone.network.chunk_volumes,
            backbone.time.centred,
            backbone.clipped,
        )

    @property
    def resampled(self) -> bool:
        return self.model_tr != self.repetition_time

    @property
    def interpolation(self) -> str:
        """How the volumes of the series were made, for sidecars."""
        if not self.resampled:
            return "none"
        return "linear, at the middles of equal parts of the run" if self.centred else "linear"

    @property
    def n_used(self) -> int:
        """Number of used volumes."""
        return max(0, self.n_volumes - self.first_volume)

    @property
    def step(self) -> float:
        """Step from one volume of the series to the next, in volumes of the BOLD file."""
        if self.centred and self.resampled and self.n_used:
            return self.n_used / self.length
        return self.model_tr / self.repetition_time

    @property
    def volume_duration(self) -> float:
        """Duration of a volume of the series in s."""
        return self.step * self.repetition_time if self.centred else self.model_tr

    @property
    def length(self) -> int:
        """Number of volumes of the series; the last is at or before the run's last volume."""
        if self.centred and self.resampled:
            n_fitting = round(self.n_used * self.repetition_time / self.model_tr)
            return max(n_fitting, 1) if self.n_used else 0
        return self.length_until(self.n_used - 1)

    def length_until(self, volume: int) -> int:
        """Return how many volumes of the series lie at or before used volume number `volume`
        (from 0)."""
        if volume < 0:
            return 0
        if self.centred and self.resampled:
            if volume >= self.n_used - 1:
                return self.length
            return max(0, int((volume + 0.5) / self.step + 0.5))
        return int((volume + 0.999 * _POSITION_TOLERANCE) / self.step) + 1

    def positions(self, start: int, stop: int) -> np.ndarray:
        """Return the positions of volumes start to stop of the series, in used volumes from 0."""
        if self.centred and self.resampled:
            centres = (np.arange(start, stop) + 0.5) * self.step - 0.5
            return centres.clip(0, self.n_used - 1)
        positions = np.arange(start, stop) * self.step
        nearest = positions.round()
        return np.where(np.abs(positions - nearest) < _POSITION_TOLERANCE, nearest, positions)

    def source(self, start: int, stop: int) -> tuple[int, int]:
        """Return the volumes (start, stop) of the BOLD file from which volumes start to stop of the
        series are interpolated."""
        first, last = self.positions(start, stop)[[0, -1]]
        return self.first_volume + int(first), self.first_volume + int(np.ceil(last)) + 1


def model_repetition_time(target: str, repetition_time: float, rule: TimeRule) -> float:
    """Return the TR in s at which the network reads a run.

    Parameters
    ----------
    target
        `--target-tr`: `auto`, `native` or seconds.
    repetition_time
        The run's TR in s.
    rule
        What `auto` means for the network.
    """
    if target == "native":
        return repetition_time
    wanted = rule.target_tr if target == "auto" else float(target)
    distance = round(abs(repetition_time - wanted), 6)  # 0.9 - 0.8 is a little less than 0.1
    tolerance = rule.tolerance if target == "auto" else 0.0
    return repetition_time if distance < tolerance or not distance else wanted


def refuse_too_short(series: Series, short_runs: str) -> None:
    """Check that a run is long enough for at least one chunk.

    Parameters
    ----------
    short_runs
        `--short-runs`: `skip` rejects a series shorter than a chunk, `pad` only an empty one.

    Raises
    ------
    InputError
        The run is too short.
    """
    length = series.length
    if length >= series.chunk_volumes or (short_runs == "pad" and length > 0):
        return
    remedy = "; use --short-runs pad to fill it up by reflection" if length > 0 else ""
    omitted = f", and {series.first_volume} are omitted as dummy scans"
    left = f", which leaves {length} at the network's TR of {series.model_tr:g} s"
    raise InputError(
        f"the run has {series.n_volumes} volumes{omitted * (series.first_volume > 0)}"
        f"{left * series.resampled}, but the network needs {series.chunk_volumes}, so it is too "
        f"short to embed{remedy}"
    )


def resample(blocks: Iterable[np.ndarray], series: Series) -> Iterator[np.ndarray]:
    """Interpolate the used volumes of a run linearly to the TR of the series, and clip them.

    Parameters
    ----------
    blocks
        Float32 (volume, voxel) blocks of the BOLD file, starting with its first volume. A value is
        NaN if there is no signal, and infinite if it must not be used; values interpolated from
        either are NaN. For a clipped series, no signal is 0, which is interpolated; a result of
        exactly 0 is NaN.

    Yields
    ------
    numpy.ndarray
        Float32 (volume, voxel) blocks of the series, `series.length` volumes in all.
    """
    if not series.clipped:
        yield from _interpolated(blocks, series)
        return
    filled = (np.where(np.isnan(block), np.float32(0), block) for block in blocks)
    for rows in _interpolated(filled, series):
        without_signal = (rows == 0) | ~np.isfinite(rows)
        rows[rows < 0] = 0
        rows[without_signal] = np.nan
        yield rows


def _interpolated(blocks: Iterable[np.ndarray], series: Series) -> Iterator[np.ndarray]:
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
            with np.errstate(invalid="ignore"):  # an infinite value minus itself
                rows[between] += fraction[between, None] * (used[low[between] + 1] - rows[between])
            yield rows
