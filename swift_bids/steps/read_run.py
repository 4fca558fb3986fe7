"""BOLD run + brain mask -> its brain voxels and all statistics, from one pass over the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import Frame
from swift_bids.geometry.grid import is_fsl_grid
from swift_bids.geometry.resample_time import Series, resample
from swift_bids.inputs.bold_reader import brain_rows, open_bold
from swift_bids.inputs.mask import check_same_grid, load_image, mask_voxels
from swift_bids.steps.bold_points import BoldPoints
from swift_bids.steps.kept_rows import KeptRows
from swift_bids.steps.parcels import ParcelMeans, Parcels
from swift_bids.steps.volume_signals import Volumes, VolumeSignals
from swift_bids.steps.voxel_statistics import VoxelMoments


@dataclass(frozen=True)
class ReadRun:
    """What is known of a run once it has been read.

    Attributes
    ----------
    moments, recorded_moments
        Of the series, and of the used volumes of the BOLD file.
    fsl_index
        (brain voxel,) flat positions in the FSL grid.
    parcels
        Mean signals, if parcels were requested.
    volumes
        Signals and faults of the volumes.
    """

    moments: VoxelMoments
    recorded_moments: VoxelMoments
    gaps: Gaps
    fsl_index: np.ndarray
    parcels: ParcelMeans | None
    volumes: Volumes


def read_run(
    bold_file: str | Path,
    mask_file: str | Path,
    frame: Frame,
    series: Series,
    kept: KeptRows,
    parcels: Parcels | None,
    points: BoldPoints | None,
) -> ReadRun:
    """Read a run once: keep its brain voxels, and compute everything that needs all of them.

    Parameters
    ----------
    bold_file, mask_file, frame, series, parcels, points
        As for `swift_bids.steps.normalise.normalise`.
    kept
        Receives the brain voxels of all volumes of the BOLD file.

    Raises
    ------
    InputError
        A file cannot be read, is not a 4D image, does not fit its mask, or does not vary.
    """
    mask_image = load_image(mask_file)
    gaps = Gaps()
    means = None
    with ExitStack() as stack:
        bold = stack.enter_context(open_bold(bold_file))
        if points is None:
            if not is_fsl_grid(mask_image.shape, mask_image.affine):
                check_same_grid(bold, bold_file, mask_image, mask_file)
            if not is_fsl_grid(bold.shape[:3], bold.affine):
                raise TypeError("a run on another grid than the FSL 2 mm grid needs points")
        if bold.shape[3] != series.n_volumes:
            raise InputError(
                f"{bold_file}: has {bold.shape[3]} volumes, but {series.n_volumes} were expected; "
                f"the file has changed during this call, run the same command again"
            )
        brain = mask_voxels(mask_image, mask_file, frame)
        moments = VoxelMoments(len(brain.fsl_index))
        is_recorded = not (series.resampled or series.clipped)
        recorded_moments = moments if is_recorded else VoxelMoments(len(brain.fsl_index))
        # Each block is marked, shown to the observers, resampled, and added to the moments.
        if points is None:
            rows = brain_rows(bold, bold_file, brain.fsl_index)
        else:
            rows = stack.enter_context(
                points.rows(bold, bold_file, series.first_volume, kept.folder)
            )
        signals = VolumeSignals(brain.fsl_index, series.n_volumes, series.first_volume)
        rows = _observed(signals.add, gaps.mark(rows, series.first_volume), 0)
        if parcels is not None:
            means = ParcelMeans(parcels.numbers[brain.fsl_index], len(parcels.names))
            rows = _observed(means.add, rows, series.first_volume)
        if not is_recorded:
            rows = _observed(recorded_moments.add, rows, series.first_volume)
        for block in resample(_observed(kept.append, rows, 0), series):
            moments.add(block)
    if not (moments.high > 0).any() and (recorded_moments.high < 0).any() and series.clipped:
        raise InputError(
            f"{bold_file}: no value within the brain mask is above 0, and this network reads "
            f"negative values as 0; give data that have not been demeaned or filtered"
        )
    if not (moments.high > moments.low).any():
        raise InputError(
            f"{bold_file}: the data do not vary within the brain mask; check that this is the "
            f"BOLD file and that its mask belongs to it"
        )
    volumes = signals.finish()
    return ReadRun(moments, recorded_moments, gaps, brain.fsl_index, means, volumes)


class Gaps:
    """Counts and marks the values of brain voxels that are not signal.

    A value of exactly 0 was background in training. Voxels inside the mask but outside the field of
    view are therefore background, too.

    Attributes
    ----------
    n_zero
        Number of zeros in each volume; 0 for dummy scans.
    n_nonfinite
        Number of values that are NaN or infinite.
    """

    def __init__(self) -> None:
        self.n_zero: list[int] = []
        self.n_nonfinite = 0

    def mark(self, blocks: Iterable[np.ndarray], first_volume: int) -> Iterator[np.ndarray]:
        """Set zeros and non-finite values to NaN, and count them from `first_volume` on."""
        start = 0
        for block in blocks:
            n_dummy = min(max(first_volume - start, 0), len(block))
            start += len(block)
            zero, finite = block == 0, np.isfinite(block)
            self.n_zero += [0] * n_dummy + np.count_nonzero(zero[n_dummy:], axis=1).tolist()
            if zero.any() or not finite.all():
                self.n_nonfinite += int(np.count_nonzero(~finite[n_dummy:]))
                block[zero | ~finite] = np.nan
            yield block


def _observed(
    observer: Callable[[np.ndarray], None], blocks: Iterable[np.ndarray], first_volume: int
) -> Iterator[np.ndarray]:
    """Yield the blocks unchanged, and call `observer` with their volumes from `first_volume` on."""
    start = 0
    for block in blocks:
        used = block[max(first_volume - start, 0) :]
        start += len(block)
        if len(used):
            observer(used)
        yield block
