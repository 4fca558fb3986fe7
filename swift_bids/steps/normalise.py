"""BOLD run + brain mask -> (volume, brain voxel) matrix of z-scores in float16, and its statistics.

The training data were z-scored with one mean and one standard deviation over all non-zero voxels
of all volumes of a run, and stored as float16 (preprocessing of Kim et al. 2023). This step keeps
only the brain voxels, a quarter of the grid. z-scores need the mean and standard deviation of the
whole run. The step therefore keeps the brain voxels until the run has been read: the first
`MAX_BYTES_IN_MEMORY` in memory, the rest in a temporary file next to the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.geometry.brain_parts import describe_part
from swift_bids.geometry.frames import Frame
from swift_bids.geometry.resample_time import Series, resample
from swift_bids.steps.bold_points import BoldPoints
from swift_bids.steps.kept_rows import KeptRows
from swift_bids.steps.parcels import Parcels
from swift_bids.steps.read_run import read_run
from swift_bids.steps.volume_faults import EMPTY
from swift_bids.steps.voxel_statistics import VoxelMoments
from swift_bids.steps.z_scores import ZScores, core_voxels


@dataclass(frozen=True)
class Normalisation:
    """Statistics of one run, over the series that the network reads and the brain inside the frame.

    Attributes
    ----------
    method, statistics
        `--normalisation`, `--statistics`.
    mean, std, background
        As in `swift_bids.steps.z_scores.ZScores`.
    intensity
        Mean of all voxels and volumes, in the units of the BOLD data.
    z_percentiles
        1st, 50th and 99th percentile of the mean volume's z-scores.
    negative
        Share of voxels whose mean over time is negative, before any clipping.
    tsnr
        Median over voxels of temporal mean / standard deviation, at the TR of the BOLD file.
    n_volumes
        Volumes of the series.
    n_constant
        Voxels with the same value in all volumes. With `voxel+global` they are background.
    n_zero, n_nonfinite
        Values (voxel x volume of the BOLD file) that were exactly 0, outside empty volumes, or NaN
        or infinite; they become background.
    n_without_signal, part_without_signal
        Voxels without signal in all volumes, and where they are, in words.
    robust
        `--robust-normalisation`: whether faulty volumes were left out of all of these statistics
        but the counts and `tsnr`.
    interpolated
        Whether the app resampled the run to the FSL 2 mm grid.
    """

    method: str
    statistics: str
    mean: float
    std: float
    background: float
    intensity: float
    z_percentiles: tuple[float, float, float]
    negative: float
    tsnr: float
    n_volumes: int
    n_constant: int
    n_zero: int
    n_nonfinite: int
    n_without_signal: int
    part_without_signal: str
    robust: bool
    interpolated: bool


def normalise(
    bold_file: str | Path,
    mask_file: str | Path,
    frame: Frame,
    series: Series,
    matrix_file: str | Path,
    method: str = "global",
    statistics: str = "mask",
    parcels: Parcels | None = None,
    parcel_file: str | Path | None = None,
    points: BoldPoints | None = None,
    robust: bool = False,
    volume_file: str | Path | None = None,
    quantisation: str = "none",
) -> Normalisation:
    """Write the z-scored brain voxels of a run and return its statistics.

    Parameters
    ----------
    bold_file, mask_file
        4D BOLD and 3D brain mask on the FSL 2 mm grid, in any storage order; with `points`, the
        BOLD may be on any grid.
    frame
        Position of the FSL 2 mm grid in the network's 96^3 input; only voxels inside it are used.
    series
        The volumes to use, and the TR to interpolate them to.
    matrix_file
        `.npy` to write: (volume of the series, brain voxel), columns in the order of
        `swift_bids.geometry.grid.BrainVoxels`; float16, or float32 with `quantisation`.
    method
        `global`: one mean and one unbiased standard deviation over all voxels and volumes, as the
        network was trained. `voxel+global`: first each voxel over time, then all together.
    statistics
        `mask`: all brain voxels decide the statistics; `core`: those inside the template's brain.
    parcels, parcel_file
        Parcels whose mean signals are computed while the run is read, and the `.npy` to write:
        float32 (used volume of the BOLD file, parcel), in its units and at its TR.
    points
        Where the brain voxels are in the run; None if it is on the FSL 2 mm grid.
    robust
        `--robust-normalisation`: whether the statistics leave faulty volumes out.
    volume_file
        `.npz` to write: what `swift_bids.steps.volume_signals.Volumes` holds.
    quantisation
        `none`, or `int8`: z-scores as NeuroSTORM's training stored them since May 2026.

    Raises
    ------
    InputError
        A file cannot be read, is not a 4D image, does not fit its mask, or contains no signal.
    """
    with KeptRows(Path(matrix_file).parent) as kept:
        run = read_run(bold_file, mask_file, frame, series, kept, parcels, points)
        if volume_file is not None:
            run.volumes.save(volume_file)
        if run.parcels is not None:
            if parcel_file is None:
                raise TypeError("parcels need a parcel_file")
            np.save(parcel_file, run.parcels.values)
        moments = run.moments
        if robust and run.volumes.faults.any.any():
            moments = _moments_without(run.volumes.faults.any, kept, series, len(moments.mean))
        core = core_voxels()[run.fsl_index] if statistics == "core" else None
        if core is not None and not moments.count[core].any():
            raise InputError(
                f"{mask_file}: contains no signal in the inner part of the template's brain; use "
                f"--statistics mask"
            )
        z_scores = ZScores(moments, method, core, run.moments if quantisation == "int8" else None)
        with open(matrix_file, "wb") as file:
            shape = (series.length, len(moments.mean))
            header = {"descr": z_scores.kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in resample(kept.pop_all(), series):
                file.write(z_scores.apply(block).data)
    mean, std = z_scores.mean, z_scores.std
    recorded, varies = run.recorded_moments, run.recorded_moments.std > 0
    z_of_mean_volume = (moments.mean[moments.count > 0] - mean) / std
    without_signal = run.fsl_index[run.moments.count == 0]
    return Normalisation(
        method=method,
        statistics=statistics,
        mean=mean,
        std=std,
        background=float(z_scores.background),
        intensity=moments.overall()[0],
        z_percentiles=tuple(np.percentile(z_of_mean_volume, [1, 50, 99]).tolist()),
        negative=float(((recorded if series.clipped else moments).mean < 0).mean()),
        tsnr=float(np.median(recorded.mean[varies] / recorded.std[varies])),
        n_volumes=series.length,
        n_constant=int(recorded.constant.sum()),
        n_zero=int(np.array(run.gaps.n_zero)[run.volumes.faults.codes != EMPTY].sum()),
        n_nonfinite=run.gaps.n_nonfinite,
        n_without_signal=len(without_signal),
        part_without_signal=describe_part(without_signal, run.fsl_index),
        robust=robust,
        interpolated=points is not None,
    )


def _moments_without(
    faulty: np.ndarray, kept: KeptRows, series: Series, n_voxels: int
) -> VoxelMoments:
    """Statistics of the series over time without the faulty volumes, bool (volume of the BOLD
    file,), and those that would be interpolated from them."""

    missing = np.inf if series.clipped else np.nan  # see `resample`

    def rows() -> Iterator[np.ndarray]:
        start = 0
        for block in kept:
            block = block.copy()
            block[faulty[start : start + len(block)]] = missing
            start += len(block)
            yield block

    moments = VoxelMoments(n_voxels)
    for block in resample(rows(), series):
        moments.add(block)
    return moments


class Matrix(Protocol):
    """z-scores (volume, brain voxel), in memory or in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(volume, brain voxel)."""

    def __getitem__(self, volumes: slice, /) -> np.ndarray:
        """Read some volumes."""


class MatrixFile:
    """A matrix that `normalise` wrote, read a few volumes at a time.

    With one memory map of the whole file, every page read would count as memory of the process.

    Attributes
    ----------
    shape
        (volume, brain voxel).
    """

    def __init__(self, file: str | Path) -> None:
        self._file = file
        self.shape = np.load(file, mmap_mode="r").shape

    def __getitem__(self, volumes: slice) -> np.ndarray:
        """Read some volumes, (volume, brain voxel)."""
        return np.array(np.load(self._file, mmap_mode="r")[volumes])
