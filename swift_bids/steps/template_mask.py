"""Brain masks on other grids -> the brain voxels of the FSL 2 mm grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from swift_bids.geometry.grid import is_fsl_grid, template_brain, to_fsl_grid, voxel_centers
from swift_bids.geometry.itk import read_composite
from swift_bids.geometry.multilabel import carry_mask
from swift_bids.inputs.brain_mask import MULTI_LABEL, BrainMask
from swift_bids.inputs.mask import inside_of, load_image, nearest


def carried(mask: BrainMask, image: nib.Nifti1Image, position: np.ndarray) -> np.ndarray:
    """Evaluate the image of a mask at voxel positions (point, 3) by its rule, bool (point,)."""
    carry = carry_mask if mask.rule == MULTI_LABEL else nearest
    return carry(inside_of(image), position)


def mask_in_template(mask: BrainMask) -> np.ndarray:
    """Whether each voxel of the FSL 2 mm grid is brain, bool (voxel,) in C order.

    Parameters
    ----------
    mask
        A mask that is in the template, or from whose space `steps` lead there.

    Raises
    ------
    InputError
        A file cannot be read.
    """
    if mask.file is None:
        return template_brain().reshape(-1)
    image = load_image(mask.file)
    if not mask.steps and is_fsl_grid(image.shape, image.affine):
        return to_fsl_grid(inside_of(image), image.affine, order=0).reshape(-1)
    # ANTs interpolates displacement fields linearly, nitransforms by cubic splines
    order = 1 if mask.rule == MULTI_LABEL else 3
    points = voxel_centers()
    for step in mask.steps:
        points = read_composite(step).apply(points, order)
    return carried(mask, image, nib.affines.apply_affine(np.linalg.inv(image.affine), points))
