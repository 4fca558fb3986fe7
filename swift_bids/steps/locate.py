"""Raw BOLD run + transforms -> the brain mask in the template, and where its voxels are in the run.

fMRIPrep resamples a run once, from the raw volumes to the template, through all transforms at a
time. The app does the same for the brain voxels of the network's grid only. A voxel centre of the
template maps to a point of the run through

    displacement field -> affine -> coregistration -> voxels of the BOLD reference
    -> head motion of each volume -> shift along the phase-encoding axis

The part before head motion is the same for all volumes, so this step computes it once.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.geometry import fieldmap as fieldmaps
from swift_bids.geometry.frames import Frame
from swift_bids.geometry.grid import voxel_centers
from swift_bids.geometry.itk import read_affines, read_composite
from swift_bids.inputs.brain_mask import BrainMask
from swift_bids.inputs.mask import load_image, located_mask
from swift_bids.inputs.transforms import Fieldmap, Transforms
from swift_bids.steps.bold_points import SPLINE_ORDER, BoldPoints
from swift_bids.steps.template_mask import carried, mask_in_template


def locate(
    affine: np.ndarray, mask: BrainMask, transforms: Transforms, frame: Frame
) -> tuple[nib.Nifti1Image, BoldPoints]:
    """Find the brain voxels of the network's grid in a raw run.

    Parameters
    ----------
    affine
        Voxel-to-world affine of the raw run in mm.
    mask, transforms, frame
        Files of the run; position of the FSL 2 mm grid in the network's input.

    Returns
    -------
    located : nibabel.Nifti1Image
        The brain mask on the FSL 2 mm grid.
    points : BoldPoints

    Raises
    ------
    InputError
        A file cannot be read, or no voxel of the mask is in the frame.
    """
    coregistration = _single_affine(transforms.coregistration)
    template = read_composite(transforms.template)
    centers = voxel_centers()
    if mask.on_grid_of_run:
        image = load_image(str(mask.file))
        # ANTs interpolates fields linearly, nitransforms by splines
        points = nib.affines.apply_affine(coregistration, template.apply(centers, order=1))
        position = nib.affines.apply_affine(np.linalg.inv(image.affine), points)
        brain = carried(mask, image, position)
    else:
        brain = mask_in_template(mask)
    located, index = located_mask(brain, mask, frame)
    centers = centers[index]

    def in_reference(points: np.ndarray) -> np.ndarray:
        return nib.affines.apply_affine(coregistration, template.apply(points))

    points = in_reference(centers)
    axis, shift, gain = 0, np.zeros(len(centers)), np.ones(len(centers))
    if transforms.fieldmap is not None:
        field = _Distortion(transforms.fieldmap)
        axis, shift = field.shift(points)
        if transforms.fieldmap.jacobian:
            step = 2 * np.eye(3)[axis]  # mm along the axis of the template's grid with this number
            _, after = field.shift(in_reference(centers + step))
            _, before = field.shift(in_reference(centers - step))
            # fMRIPrep's shift is that of an image whose axes point to right, anterior and superior
            sign = -1 if nib.aff2axcodes(affine)[axis] in "LPI" else 1
            gain = 1 + sign * (after - before) / 2
    to_voxels = np.linalg.inv(affine)
    points_in_run = BoldPoints(
        position=nib.affines.apply_affine(to_voxels, points),
        head_motion=to_voxels @ read_affines(transforms.head_motion) @ affine,
        axis=axis,
        shift=shift,
        gain=gain,
        slice_shifts=np.array(transforms.slice_shifts),
        order=SPLINE_ORDER[transforms.interpolation],
    )
    return located, points_in_run


def _single_affine(file: str) -> np.ndarray:
    affines = read_affines(file)
    if len(affines) != 1:
        raise InputError(
            f"{file}: contains {len(affines)} transforms instead of one; fetch it or create it "
            f"again"
        )
    return affines[0]


class _Distortion:
    """The shifts of voxels that a fieldmap describes."""

    def __init__(self, fieldmap: Fieldmap) -> None:
        coefficients = [load_image(file) for file in fieldmap.coefficients]
        try:
            self._field = fieldmaps.evaluate(coefficients, load_image(fieldmap.reference))
        except ValueError as error:
            raise InputError(f"{fieldmap.coefficients[0]}: {error}; create it again") from error
        self._to_fieldmap = np.linalg.inv(_single_affine(fieldmap.registration))
        self._direction, self._readout_time = fieldmap.direction, fieldmap.readout_time

    def shift(self, points: np.ndarray) -> tuple[int, np.ndarray]:
        """Axis and shift in voxels at points (point, 3) of the BOLD reference in mm."""
        hz = self._field.at(nib.affines.apply_affine(self._to_fieldmap, points))
        return fieldmaps.voxel_shift(hz, self._direction, self._readout_time)
