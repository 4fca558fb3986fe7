"""Raw BOLD run + transforms -> the brain mask in the template, and where its voxels are in the run.

fMRIPrep resamples a run once, from the raw volumes to the template, through all transforms at a
time. The app does the same for the brain voxels of the network's grid only. A voxel centre of the
template maps to a point of the run through

    displacement field -> affine -> coregistration -> voxels of the BOLD reference
    -> head motion of each volume -> shift along the phase-encoding axis

The part before head motion is the same for all volumes, so this step computes it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.geometry import fieldmap as fieldmaps
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE, Frame
from swift_bids.geometry.itk import read_affines, read_composite
from swift_bids.geometry.multilabel import carry_mask
from swift_bids.inputs.bold_reader import scaling, stored_volumes, volume_rows
from swift_bids.inputs.mask import load_image, mask_voxels
from swift_bids.inputs.transforms import Fieldmap, Transforms
from swift_bids.steps.slice_timing import corrected_blocks


@dataclass(frozen=True)
class RawPoints:
    """Where the brain voxels of the network's grid are in a raw run.

    Attributes
    ----------
    position
        float64 (brain voxel, 3): voxels of the BOLD reference, in the order of
        `swift_bids.geometry.grid.BrainVoxels`.
    head_motion
        float64 (volume, 4, 4): voxels of the BOLD reference to voxels of each volume.
    axis, shift
        Phase-encoding axis, and float64 (brain voxel,) shift along it in voxels.
    gain
        float64 (brain voxel,): what to multiply the interpolated values with.
    slice_shifts
        float64 (slice,): as in `swift_bids.inputs.transforms.Transforms`.
    order
        Order of the splines: 1 or 3.
    """

    position: np.ndarray
    head_motion: np.ndarray
    axis: int
    shift: np.ndarray
    gain: np.ndarray
    slice_shifts: np.ndarray
    order: int = 3

    def save(self, file: str | Path) -> None:
        """Write an `.npz` file."""
        np.savez(file, **vars(self))

    @classmethod
    def load(cls, file: str | Path) -> RawPoints:
        """Read what `save` wrote."""
        with np.load(file) as content:
            return cls(**{name: content[name][()] for name in content.files})

    @contextmanager
    def rows(
        self, bold: nib.Nifti1Image, bold_file: str | Path, first_volume: int, folder: Path
    ) -> Iterator[Iterator[np.ndarray]]:
        """Yield an iterator over the brain voxels of the run, float32 (volume, brain voxel) blocks.

        Values are interpolated by splines; outside the field of view they are 0.

        Parameters
        ----------
        bold, bold_file
            The raw run opened by `swift_bids.inputs.bold_reader.open_bold`, and its name for
            messages.
        first_volume, folder
            Number of dummy scans, and a folder for a temporary file, if slice timing is corrected.
        """
        from scipy.ndimage import map_coordinates, spline_filter

        shape = bold.shape[:3]
        with ExitStack() as stack:
            if len(self.slice_shifts):
                scaled: Callable[[np.ndarray], np.ndarray] = np.asarray
                blocks = stack.enter_context(
                    corrected_blocks(bold, bold_file, self.slice_shifts, first_volume, folder)
                )
            else:
                scaled, blocks = scaling(bold), stored_volumes(bold, bold_file)

            def values_at(number: int, volume: np.ndarray) -> np.ndarray:
                voxels = np.nan_to_num(scaled(volume), posinf=0, neginf=0)
                knots = voxels.reshape(shape, order="F")
                if self.order > 1:
                    knots = spline_filter(knots, self.order)
                position = self.in_volume(number)
                values = map_coordinates(knots, position, np.float64, self.order, prefilter=False)
                return values * self.gain

            yield volume_rows(blocks, len(self.position), values_at)

    def in_volume(self, number: int) -> np.ndarray:
        """Voxel coordinates (3, brain voxel) in a volume of the run."""
        position = nib.affines.apply_affine(self.head_motion[number], self.position).T
        position[self.axis] += self.shift
        return position


def locate(
    affine: np.ndarray, mask_file: str | Path, transforms: Transforms, frame: Frame
) -> tuple[nib.Nifti1Image, RawPoints]:
    """Find the brain voxels of the network's grid in a raw run.

    Parameters
    ----------
    affine
        Voxel-to-world affine of the raw run in mm.
    mask_file
        Brain mask, on the grid of the BOLD reference or of the anatomical image.
    transforms, frame
        Files of the run; position of the FSL 2 mm grid in the network's input.

    Returns
    -------
    mask : nibabel.Nifti1Image
        The brain mask on the FSL 2 mm grid.
    points : RawPoints

    Raises
    ------
    InputError
        A file cannot be read, or no voxel of the mask is in the frame.
    """
    coregistration = _single_affine(transforms.coregistration)
    template = read_composite(transforms.template)
    index = np.arange(np.prod(FSL_SHAPE))
    centers = _voxel_centers(index)
    mask = load_image(mask_file)
    inside = np.nan_to_num(np.asarray(mask.dataobj)) != 0
    to_mask = np.linalg.inv(mask.affine)
    if transforms.functional_mask:  # ANTs interpolates fields linearly, nitransforms by splines
        points = nib.affines.apply_affine(coregistration, template.apply(centers, order=1))
        brain = carry_mask(inside, nib.affines.apply_affine(to_mask, points))
    else:
        points = template.apply(centers)
        brain = _nearest(inside, nib.affines.apply_affine(to_mask, points))
    located = nib.Nifti1Image(brain.reshape(FSL_SHAPE).astype(np.uint8), FSL_AFFINE)
    centers = _voxel_centers(mask_voxels(located, mask_file, frame).fsl_index)

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
    points_in_run = RawPoints(
        position=nib.affines.apply_affine(to_voxels, points),
        head_motion=to_voxels @ read_affines(transforms.head_motion) @ affine,
        axis=axis,
        shift=shift,
        gain=gain,
        slice_shifts=np.array(transforms.slice_shifts),
        order={"cubic": 3, "linear": 1}[transforms.interpolation],
    )
    return located, points_in_run


def _voxel_centers(fsl_index: np.ndarray) -> np.ndarray:
    """Flat positions in the FSL grid -> (voxel, 3) in mm."""
    index = np.stack(np.unravel_index(fsl_index, FSL_SHAPE), axis=-1)
    return nib.affines.apply_affine(FSL_AFFINE, index)


def _single_affine(file: str) -> np.ndarray:
    affines = read_affines(file)
    if len(affines) != 1:
        raise InputError(
            f"{file}: contains {len(affines)} transforms instead of one; fetch it or create it "
            f"again"
        )
    return affines[0]


def _nearest(mask: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Nearest-neighbour values of a mask (point,), false outside its grid."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(mask.astype(np.uint8), position.T, order=0) != 0


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
