"""The brain mask of a run, and which voxels of the network's input it fills."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE, Frame
from swift_bids.geometry.grid import BrainVoxels, brain_voxels
from swift_bids.inputs.bold_reader import COPY_AGAIN, open_image
from swift_bids.inputs.brain_mask import BrainMask


def load_image(file: str | Path) -> nib.Nifti1Image:
    """Read a 3D image, such as a brain mask; raise InputError if it is not 3D."""
    with open_image(file) as stored:
        image = nib.squeeze_image(stored) if stored.shape[3:] == (1,) else stored
        if image.ndim != 3:
            raise InputError(f"{file}: has {image.ndim} dimensions, not 3; {COPY_AGAIN}")
        return nib.Nifti1Image(
            np.asarray(image.dataobj), image.affine, dtype=image.get_data_dtype()
        )


def mask_voxels(mask: nib.Nifti1Image, mask_file: str | Path, frame: Frame) -> BrainVoxels:
    """Call `swift_bids.geometry.grid.brain_voxels`; its InputError names the file.

    The order of these voxels is that of the columns of the matrix and of the index map.
    """
    try:
        return brain_voxels(np.asarray(mask.dataobj), mask.affine, frame)
    except InputError as error:
        raise InputError(f"{mask_file}: {error}") from error


def inside_of(mask: nib.Nifti1Image) -> np.ndarray:
    """Return whether each voxel of a mask image is brain, bool (X, Y, Z); NaN is not."""
    return np.nan_to_num(np.asarray(mask.dataobj)) != 0


def located_mask(
    brain: np.ndarray, mask: BrainMask, frame: Frame
) -> tuple[nib.Nifti1Image, np.ndarray]:
    """Make a mask image of values at the voxels of the FSL grid.

    Parameters
    ----------
    brain
        bool (voxel of the FSL grid,), in C order.
    mask, frame
        Where the values come from; as for `mask_voxels`.

    Returns
    -------
    located : nibabel.Nifti1Image
        On the FSL 2 mm grid.
    fsl_index : numpy.ndarray
        Flat positions of the brain voxels that are in the frame.
    """
    located = nib.Nifti1Image(brain.reshape(FSL_SHAPE).astype(np.uint8), FSL_AFFINE)
    return located, mask_voxels(located, str(mask.file), frame).fsl_index


def nearest(mask: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Nearest-neighbour values of a mask (X, Y, Z) at voxel positions (point, 3), bool (point,);
    false outside its grid."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(mask.astype(np.uint8), position.T, order=0) != 0


def check_same_grid(
    bold: nib.Nifti1Image, bold_file: str | Path, mask: nib.Nifti1Image, mask_file: str | Path
) -> None:
    """Raise InputError if a mask and its BOLD image are not on the same grid."""
    if mask.shape != bold.shape[:3] or not np.allclose(mask.affine, bold.affine, atol=1e-3):
        raise InputError(
            f"{mask_file}: the brain mask ({_grid(mask)}) is not on the grid of {bold_file} "
            f"({_grid(bold)}); take mask and BOLD from the same preprocessing"
        )


def _grid(image: nib.Nifti1Image) -> str:
    size = " x ".join(map(str, image.shape[:3]))
    origin = ", ".join(f"{x:g}" for x in image.affine[:3, 3])
    axes = "".join(code or "?" for code in nib.aff2axcodes(image.affine))  # a code may be None
    zooms = " x ".join(f"{x:.3g}" for x in nib.affines.voxel_sizes(image.affine))
    return f"{size} voxels of {zooms} mm, {axes}, first at {origin} mm"
