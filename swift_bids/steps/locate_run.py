"""A run and its brain mask -> the mask on the network's grid, and its voxels in the run."""

from __future__ import annotations

import nibabel as nib

from swift_bids.geometry.frames import Frame
from swift_bids.inputs.brain_mask import BrainMask
from swift_bids.inputs.mask import located_mask
from swift_bids.inputs.raw_header import affine_of, load_header
from swift_bids.inputs.transforms import FslWarp, GridWarp, Transforms
from swift_bids.steps.bold_points import BoldPoints
from swift_bids.steps.locate import locate
from swift_bids.steps.locate_warped import locate_warped
from swift_bids.steps.template_mask import mask_in_template


def locate_run(
    bold_file: str,
    mask: BrainMask,
    transforms: Transforms | FslWarp | GridWarp | None,
    frame: Frame,
) -> tuple[nib.Nifti1Image, BoldPoints | None]:
    """Find the brain voxels of the network's grid in a run.

    Parameters
    ----------
    bold_file, mask, transforms
        As `swift_bids.inputs.run.Run` describes them.
    frame
        Position of the FSL 2 mm grid in the network's input.

    Returns
    -------
    located : nibabel.Nifti1Image
        The brain mask on the FSL 2 mm grid.
    points : BoldPoints or None
        None without transforms: the run is on this grid, and is not interpolated.

    Raises
    ------
    InputError
        A file cannot be read, or no voxel of the mask is in the frame.
    """
    if isinstance(transforms, Transforms):
        return locate(affine_of(load_header(bold_file)), mask, transforms, frame)
    if transforms is not None:
        return locate_warped(bold_file, mask, transforms, frame)
    return located_mask(mask_in_template(mask), mask, frame)[0], None
