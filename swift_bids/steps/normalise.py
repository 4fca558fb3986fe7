"""BOLD run + brain mask -> (volume, brain voxel) matrix of z-scores in float16, and its statistics.

The training data were z-scored with one mean and one standard deviation over all non-zero voxels
of all volumes of a run, and stored as float16 (preprocessing of Kim et al. 2023). This step keeps
only the brain voxels, a quarter of the grid. z-scores need the mean and standard deviation of the
whole run. The step therefore keeps the brain voxels until the run has been read: the first
`MAX_BYTES_IN_MEMORY` in memory, the rest in a temporary file next to the matrix.
"""

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
        Share of voxels whose mean over time is negative.
    tsnr
        Median over voxels of temporal mean / standard deviation, at the TR of the BOLD file.
    n_volumes
        Volumes of the series.
    n_constant
        Voxels with the same value in all volumes. With `voxel+global` they are background.
    n_zero, n_nonfinite
        Values (voxel x volume of the BOLD file) that were exactly 0, or NaN or infinite; they
        become background.
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
        `.npy` to write: float16 (volume of the series, brain voxel), columns in the order of
        `swift_bids.geometry.grid.BrainVoxels`.
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

    Raises
    ------
    InputError
        A file cannot be read, is not a 4D image, does not fit its mask, or contains no signal.
    """
    with KeptRows(Path(matrix_file).parent) as kept:
        run = _read(bold_file, mask_file, frame, series, kept, parcels, points)
        if run.parcels is not None:
            if parcel_file is None:
                raise TypeError("parcels need a parcel_file")
            np.save(parcel_file, run.parcels.values)
        core = core_voxels()[run.fsl_index] if statistics == "core" else None
        if core is not None and not run.moments.count[core].any():
            raise InputError(
                f"{mask_file}: contains no signal in the inner part of the template's brain; use "
                f"--statistics mask"
            )
        z_scores = ZScores(run.moments, method, core)
        with open(matrix_file, "wb") as file:
            shape = (series.length, len(run.moments.mean))
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for block in resample(kept.pop_all(), series):
                file.write(z_scores.apply(block).data)
    mean, std = z_scores.mean, z_scores.std
    recorded, varies = run.recorded_moments, run.recorded_moments.std > 0
    z_of_mean_volume = (run.moments.mean[run.moments.count > 0] - mean) / std
    return Normalisation(
        method=method,
        statistics=statistics,
        mean=mean,
        std=std,
        background=float(np.float16(z_scores.background)),
        intensity=run.moments.overall()[0],
        z_percentiles=tuple(np.percentile(z_of_mean_volume, [1, 50, 99]).tolist()),
        negative=float((run.moments.mean < 0).mean()),
        tsnr=float(np.median(recorded.mean[varies] / recorded.std[varies])),
        n_volumes=series.length,
        n_constant=int(recorded.constant.sum()),
        n_zero=run.gaps.n_zero,
        n_nonfinite=run.gaps.n_nonfinite,
        interpolated=points is not None,
    )


@dataclass(frozen=True)
class _Run:
    """What is known of a run once it has been read.

    Attributes
    ----------
    moments, recorded_moments
        Of the series, and of the used volumes of the BOLD file.
    fsl_index
        (brain voxel,) flat positions in the FSL grid.
    parcels
        Mean signals, if parcels were requested.
    """

    moments: VoxelMoments
    recorded_moments: VoxelMoments
    gaps: Gaps
    fsl_index: np.ndarray
    parcels: ParcelMeans | None


def _read(
    bold_file: str | Path,
    mask_file: str | Path,
    frame: Frame,
    series: Series,
    kept: KeptRows,
    parcels: Parcels | None,
    points: BoldPoints | None,
) -> _Run:
    """Read a run once: keep its brain voxels, and compute everything that needs all of them."""
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
        recorded_moments = VoxelMoments(len(brain.fsl_index)) if series.resampled else moments
        # Each block is marked, shown to the observers, resampled, and added to the moments.
        if points is None:
            rows = brain_rows(bold, bold_file, brain.fsl_index)
        else:
            rows = stack.enter_context(
                points.rows(bold, bold_file, series.first_volume, kept.folder)
            )
        rows = gaps.mark(rows, series.first_volume)
        if parcels is not None:
            means = ParcelMeans(parcels.numbers[brain.fsl_index], len(parcels.names))
            rows = _observed(means.add, rows, series.first_volume)
        if series.resampled:
            rows = _observed(recorded_moments.add, rows, series.first_volume)
        for block in resample(_observed(kept.append, rows, 0), series):
            moments.add(block)
    if not (moments.high > moments.low).any():
        raise InputError(
            f"{bold_file}: the data do not vary within the brain mask; check that this is the "
            f"BOLD file and that its mask belongs to it"
        )
    return _Run(moments, recorded_moments, gaps, brain.fsl_index, means)


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
        """Read some volumes, float16 (volume, brain voxel)."""
        return np.array(np.load(self._file, mmap_mode="r")[volumes])


class Gaps:
    """Counts and marks the values of brain voxels that are not signal.

    A value of exactly 0 was background in training. Voxels inside the mask but outside the field of
    view are therefore background, too.
    """

    def __init__(self) -> None:
        self.n_zero = self.n_nonfinite = 0

    def mark(self, blocks: Iterable[np.ndarray], first_volume: int) -> Iterator[np.ndarray]:
        """From `first_volume` on, count zeros and non-finite values, and set them to NaN."""
        start = 0
        for block in blocks:
            used = block[max(first_volume - start, 0) :]
            start += len(block)
            n_zero = int(used.size - np.count_nonzero(used))
            finite = np.isfinite(used)
            if n_zero or not finite.all():
                self.n_zero += n_zero
                self.n_nonfinite += int(finite.size - np.count_nonzero(finite))
                used[~finite | (used == 0)] = np.nan
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
