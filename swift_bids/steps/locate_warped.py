"""Preprocessed run on another grid -> its brain mask on the grid of the network, and its voxels.

The volumes of such a run are aligned already, so a voxel of the template has one place in all of
them. A mask on the grid of the run is carried as the pipeline of the run would carry it: by nearest
neighbour as FSL's applywarp, or by ANTs' MultiLabel rule as fMRIPrep. The edge of a mask carried by
the latter is four times nearer to that of a mask made in the template.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import Frame
from swift_bids.geometry.fsl_warp import from_scaled_mm, source_points
from swift_bids.geometry.grid import voxel_centers
from swift_bids.geometry.itk import read_composite
from swift_bids.inputs.bold_reader import open_image, stored_image
from swift_bids.inputs.brain_mask import BrainMask
from swift_bids.inputs.mask import check_same_grid, load_image, located_mask
from swift_bids.inputs.transforms import FslWarp, GridWarp
from swift_bids.steps.bold_points import SPLINE_ORDER, BoldPoints
from swift_bids.steps.template_mask import carried, mask_in_template


def locate_warped(
    bold_file: str | Path, mask: BrainMask, warp: FslWarp | GridWarp, frame: Frame
) -> tuple[nib.Nifti1Image, BoldPoints]:
    """Find the brain voxels of the network's grid in a run with aligned volumes.

    Parameters
    ----------
    bold_file, mask
        4D BOLD, and its brain mask.
    warp, frame
        Files that lead to the template; position of the FSL 2 mm grid in the network's input.

    Returns
    -------
    located : nibabel.Nifti1Image
        The brain mask on the FSL 2 mm grid.
    points : BoldPoints

    Raises
    ------
    InputError
        A file cannot be read, does not fit the others, or no voxel of the mask is in the frame.
    """
    with stored_image(bold_file) as (bold, _):
        position = _in_run(warp, voxel_centers(), bold)
        if mask.on_grid_of_run:
            image = load_image(str(mask.file))
            check_same_grid(bold, bold_file, image, str(mask.file))
            brain = carried(mask, image, position)
        else:
            brain = mask_in_template(mask)
    located, index = located_mask(brain, mask, frame)
    return located, BoldPoints(position[index], SPLINE_ORDER[warp.interpolation])


def _in_run(warp: FslWarp | GridWarp, points: np.ndarray, run: nib.Nifti1Image) -> np.ndarray:
    """Points (point, 3) in mm of the template -> voxels of an image on the grid of the run; points
    where the warp is unknown are outside the grid."""
    if isinstance(warp, GridWarp):
        for file in warp.steps:
            points = read_composite(file).apply(points)
        return nib.affines.apply_affine(np.linalg.inv(run.affine), points)
    with open_image(warp.field) as field:
        try:
            source = source_points(field, points)
        except ValueError as error:
            raise InputError(f"{warp.field}: {error}") from error
    shape = run.shape[:3]
    position = from_scaled_mm(source, shape, run.affine)
    if not ((position >= 0) & (position < shape)).all(axis=1).any():
        raise InputError(
            f"{warp.field}: leads to no voxel of the run; check that both belong together, or "
            f"unpack them again"
        )
    return np.nan_to_num(position, nan=-1e6)
