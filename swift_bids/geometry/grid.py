"""Any BOLD grid -> the FSL MNI152 2 mm grid -> positions in the network's 96^3 input.

The network's position embeddings are absolute, so each voxel must be where it was in training. The
training volumes were on the FSL MNI152 2 mm grid in storage order: 91 x 109 x 91 voxels whose
x index increases to the left (LAS).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE, MODEL_SHAPE, Frame

#: Affines that shift each corner of the grid by less than this, in mm, count as the same grid.
AFFINE_TOLERANCE = 0.01


@dataclass(frozen=True)
class BrainVoxels:
    """The brain voxels of one run that the network reads; the columns of the run's matrix.

    Attributes
    ----------
    fsl_index
        int64 (voxel,): flat C-order positions in the FSL grid, ascending.
    model_index
        int64 (voxel,): flat C-order positions of the same voxels in the 96^3 input.
    n_outside
        Number of brain voxels of the FSL grid that are outside the frame and are lost.
    """

    fsl_index: np.ndarray
    model_index: np.ndarray
    n_outside: int


def is_fsl_grid(shape: tuple[int, ...], affine: np.ndarray) -> bool:
    """Whether a grid is the FSL 2 mm grid in any storage order (no interpolation needed)."""
    if np.isnan(io_orientation(affine)).any():  # an axis is nearly dropped
        return False
    to_las = _to_las(affine)
    las_affine = affine @ inv_ornt_aff(to_las, shape)
    las_shape = tuple(np.array(shape)[np.argsort(to_las[:, 0])])
    corners = list(itertools.product(*((0, n) for n in FSL_SHAPE)))
    distance = nib.affines.apply_affine(las_affine - FSL_AFFINE, corners)
    return las_shape == FSL_SHAPE and bool(np.abs(distance).max() < AFFINE_TOLERANCE)


def to_fsl_grid(volume: np.ndarray, affine: np.ndarray, order: int) -> np.ndarray:
    """Resample a volume (X, Y, Z) of any grid to the FSL 2 mm grid (91, 109, 91).

    Parameters
    ----------
    volume, affine
        Voxels in storage order and their voxel-to-world affine in mm.
    order
        Spline order if interpolation is needed: 0 nearest neighbour (masks), 1 linear. Outside the
        field of view, the result is 0.

    Returns
    -------
    numpy.ndarray
        A view if axes only need to be flipped or swapped, else a new array.
    """
    if is_fsl_grid(volume.shape, affine):
        return apply_orientation(volume, _to_las(affine))
    # nibabel needs scipy for this, which is slow to import and rarely needed
    from nibabel.processing import resample_from_to

    image = nib.Nifti1Image(volume, affine)
    return np.asarray(resample_from_to(image, (FSL_SHAPE, FSL_AFFINE), order=order).dataobj)


def brain_voxels(mask: np.ndarray, affine: np.ndarray, frame: Frame) -> BrainVoxels:
    """Find the brain voxels of a mask in the FSL grid and in a frame of the 96^3 input.

    Parameters
    ----------
    mask, affine
        (X, Y, Z), 0 or NaN outside the brain, and its voxel-to-world affine in mm.
    frame
        One of `FRAMES`.

    Raises
    ------
    InputError
        No voxel of the mask is in the frame.
    """
    mask = np.nan_to_num(mask) != 0
    brain = to_fsl_grid(mask.astype(np.uint8), affine, order=0) != 0
    fsl_index = np.flatnonzero(brain)
    position = np.stack(np.unravel_index(fsl_index, FSL_SHAPE))  # (3, voxel)
    inside, model_position = frame.place(position)
    if not inside.any():
        raise InputError(
            "the brain mask has no voxel where the brain is in MNI space; check that the mask is "
            "not empty and is in a standard space"
        )
    return BrainVoxels(
        fsl_index=fsl_index[inside],
        model_index=np.ravel_multi_index(tuple(model_position), MODEL_SHAPE),
        n_outside=int((~inside).sum()),
    )


@lru_cache(maxsize=1)
def template_brain() -> np.ndarray:
    """Return the brain of the template MNI152NLin6Asym, bool on the FSL grid (91, 109, 91).

    The file is TemplateFlow's `tpl-MNI152NLin6Asym_res-02_desc-brain_mask.nii.gz`.
    """
    with resources.as_file(resources.files("swift_bids") / "data/template_brain.nii.gz") as file:
        image = nib.Nifti1Image.from_filename(file)
        return to_fsl_grid(np.asarray(image.dataobj), image.affine, order=0) != 0


def voxel_centers() -> np.ndarray:
    """Return the centres of all voxels of the FSL grid, float64 (voxel, 3) in mm, in C order."""
    index = np.stack(np.unravel_index(np.arange(math.prod(FSL_SHAPE)), FSL_SHAPE), axis=-1)
    return nib.affines.apply_affine(FSL_AFFINE, index)


def slab_extent(fsl_index: np.ndarray) -> tuple[int, int, int]:
    """Return the extent of flat FSL positions (voxel,) along x, y, z in mm, between outer edges."""
    position = np.unravel_index(fsl_index, FSL_SHAPE)
    x, y, z = (2 * int(axis.max() - axis.min() + 1) for axis in position)
    return x, y, z


def flat_storage_index(
    shape: tuple[int, ...], affine: np.ndarray, fsl_index: np.ndarray
) -> np.ndarray:
    """Return the positions of flat FSL voxels in a volume stored in Fortran order (NIfTI's).

    This works only if `is_fsl_grid` is true. The function reorients an image of indices in the same
    way as the data, so that both always agree.
    """
    storage = np.arange(math.prod(shape)).reshape(shape, order="F")
    return to_fsl_grid(storage, affine, order=0).reshape(-1)[fsl_index]


def _to_las(affine: np.ndarray) -> np.ndarray:
    """Return nibabel's orientation transform from an affine's storage order to LAS."""
    return nib.orientations.ornt_transform(io_orientation(affine), axcodes2ornt("LAS"))
