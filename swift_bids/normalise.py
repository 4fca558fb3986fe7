"""BOLD run + brain mask -> (volume, brain voxel) matrix of z-scores in float16, and its statistics.

The training data were z-scored with one mean and one standard deviation over all non-zero voxels
of all volumes of a run, and stored as float16 (preprocessing of Kim et al. 2023). Only the brain
voxels are kept here, a quarter of the grid. The run is read once, in blocks of volumes, and is
never in memory as a whole.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from swift_bids.errors import InputError
from swift_bids.grid import Frame, brain_voxels, flat_storage_index, is_fsl_grid, to_fsl_grid

#: Volumes read at a time: 16 x 902,629 voxels of float32 are 58 MB.
VOLUMES_AT_ONCE = 16
#: What a damaged or truncated image raises, in the gzip layer or in nibabel.
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    isal_zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


@dataclass(frozen=True)
class Normalisation:
    """Statistics of one run, over its used volumes and the brain voxels within the frame.

    Attributes
    ----------
    mean, std
        In the units of the BOLD data; `std` is the unbiased one.
    background
        z-score of everything outside the brain: the smallest z-score within it.
    n_volumes
        Volumes in the matrix, the unused first ones included.
    n_zero, n_nonfinite
        Values (voxel x volume) that were exactly 0, or NaN or infinite: set to the background.
    interpolated
        Whether the run was resampled to the FSL 2 mm grid.
    """

    mean: float
    std: float
    background: float
    n_volumes: int
    n_zero: int
    n_nonfinite: int
    interpolated: bool


class RunningMoments:
    """Count, mean, sum of squared deviations and minimum of values that come in blocks.

    Blocks are merged by the update of Chan, Golub and LeVeque (1983) in float64, which does not
    lose digits however large the mean is beside the deviations.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.minimum = 0, 0.0, 0.0, np.inf

    def add(self, values: np.ndarray) -> None:
        if values.size == 0:
            return
        values = values.astype(np.float64)
        mean = values.mean()
        squares = float(np.square(values - mean).sum())
        total = self.count + values.size
        delta = mean - self.mean
        self.mean += delta * values.size / total
        self.squares += squares + delta**2 * self.count * values.size / total
        self.count, self.minimum = total, min(self.minimum, float(values.min()))

    @property
    def std(self) -> float:
        return float(np.sqrt(self.squares / (self.count - 1))) if self.count > 1 else 0.0


def normalise(
    bold_file: str | Path,
    mask_file: str | Path,
    frame: Frame,
    matrix_file: str | Path,
    first_volume: int = 0,
) -> Normalisation:
    """Write the z-scored brain voxels of a run and return its statistics.

    Parameters
    ----------
    bold_file, mask_file
        4D BOLD and 3D brain mask on the same grid, in a standard (MNI) space.
    frame
        Place of the brain in the network's input: only voxels within it count.
    matrix_file
        `.npy` to write: float16 (volume, brain voxel), columns in the order of
        `swift_bids.grid.BrainVoxels`.
    first_volume
        Volumes before it (dummy scans) are in the matrix but not in the statistics.

    Raises
    ------
    InputError
        A file that cannot be read, is no 4D image, does not fit its mask, or holds no signal.
    """
    mask_image = load_mask(mask_file)
    moments = RunningMoments()
    n_zero = n_nonfinite = 0
    with _open_bold(bold_file) as bold, tempfile.TemporaryFile(dir=Path(matrix_file).parent) as raw:
        _check_same_grid(bold, bold_file, mask_image, mask_file)
        brain = brain_voxels(np.asarray(mask_image.dataobj), mask_image.affine, frame)
        for start, rows in _brain_rows(bold, bold_file, brain.fsl):
            used = rows[max(first_volume - start, 0) :]
            n_zero += int((used == 0).sum())
            n_nonfinite += int((~np.isfinite(used)).sum())
            rows[~np.isfinite(rows)] = 0
            moments.add(used[used != 0])
            raw.write(rows)
        if moments.std == 0:
            raise InputError(
                f"{bold_file}: the data do not vary within the brain mask; check that it is the "
                f"preprocessed BOLD and that {mask_file} belongs to it"
            )
        background = (moments.minimum - moments.mean) / moments.std
        n_volumes = bold.shape[3]
        matrix = np.lib.format.open_memmap(
            matrix_file, mode="w+", dtype=np.float16, shape=(n_volumes, len(brain.fsl))
        )
        raw.seek(0)
        for start in range(0, n_volumes, VOLUMES_AT_ONCE):
            part = matrix[start : start + VOLUMES_AT_ONCE]
            rows = np.frombuffer(raw.read(4 * part.size), np.float32).reshape(part.shape)
            z = (rows - np.float32(moments.mean)) / np.float32(moments.std)
            part[:] = np.where(rows != 0, z, np.float32(background))
        matrix.flush()
        interpolated = not is_fsl_grid(bold.shape[:3], bold.affine)
    return Normalisation(
        mean=float(moments.mean),
        std=moments.std,
        background=float(np.float16(background)),
        n_volumes=n_volumes,
        n_zero=n_zero,
        n_nonfinite=n_nonfinite,
        interpolated=interpolated,
    )


@contextmanager
def _open_bold(bold_file: str | Path) -> Iterator[nib.Nifti1Image]:
    """Open a 4D NIfTI for reading from front to back, gzip through isal (twice zlib's speed)."""
    opener = igzip.open if str(bold_file).endswith(".gz") else open
    try:
        with opener(bold_file, "rb") as stream:
            image = nib.Nifti1Image.from_file_map({"image": FileHolder(fileobj=stream)})
            if image.ndim != 4:
                raise InputError(f"{bold_file}: has {image.ndim} dimensions, a BOLD run has 4")
            yield image
    except UNREADABLE as error:
        raise InputError(
            f"{bold_file}: cannot be read ({error or type(error).__name__}); the file is damaged "
            f"or incomplete, fetch or make it again"
        ) from error


def _brain_rows(
    bold: nib.Nifti1Image, bold_file: str | Path, fsl: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first volume, float32 (volume, brain voxel)) blocks of a run, in order."""
    shape, affine = bold.shape[:3], bold.affine
    storage = flat_storage_index(shape, affine, fsl) if is_fsl_grid(shape, affine) else None
    for start in range(0, bold.shape[3], VOLUMES_AT_ONCE):
        try:
            block = np.asarray(bold.dataobj[..., start : start + VOLUMES_AT_ONCE])  # (X, Y, Z, vol)
        except ValueError as error:  # nibabel's for data that end early
            raise InputError(
                f"{bold_file}: holds fewer than the {bold.shape[3]} volumes of its header; the "
                f"file is incomplete, fetch or make it again"
            ) from error
        if block.dtype.kind not in "iuf":
            raise InputError(f"{bold_file}: holds {block.dtype} values, BOLD must be real numbers")
        rows = np.empty((block.shape[3], len(fsl)), dtype=np.float32)
        for row, volume in zip(rows, np.moveaxis(block, 3, 0)):
            if storage is None:
                row[:] = to_fsl_grid(volume.astype(np.float32), affine, order=1).reshape(-1)[fsl]
            else:
                row[:] = volume.reshape(-1, order="F")[storage]
        yield start, rows


def load_mask(mask_file: str | Path) -> nib.Nifti1Image:
    """Read a 3D brain mask; InputError where it is none."""
    try:
        mask = nib.load(mask_file)
        if mask.ndim != 3:
            raise InputError(f"{mask_file}: has {mask.ndim} dimensions, a brain mask has 3")
        np.asarray(mask.dataobj)
        return mask
    except UNREADABLE as error:
        raise InputError(f"{mask_file}: the brain mask cannot be read ({error})") from error


def _grid(image: nib.Nifti1Image) -> str:
    size = " x ".join(map(str, image.shape[:3]))
    origin = ", ".join(f"{x:g}" for x in image.affine[:3, 3])
    return f"{size} voxels, {''.join(nib.aff2axcodes(image.affine))}, first at {origin} mm"


def _check_same_grid(bold, bold_file, mask, mask_file) -> None:
    if mask.shape != bold.shape[:3] or not np.allclose(mask.affine, bold.affine, atol=1e-3):
        raise InputError(
            f"{mask_file}: the brain mask ({_grid(mask)}) is not on the grid of {bold_file} "
            f"({_grid(bold)}); take mask and BOLD from the same fMRIPrep output"
        )
