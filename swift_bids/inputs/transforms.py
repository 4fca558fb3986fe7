"""The files with which the app resamples a run to the training template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fieldmap:
    """How a fieldmap distorts a run.

    Attributes
    ----------
    registration
        Transform from the BOLD reference to the fieldmap.
    coefficients
        B-spline coefficients in Hz, one image per level; the levels add up.
    reference
        Image on whose grid the fieldmap was estimated.
    direction, readout_time
        PhaseEncodingDirection and TotalReadoutTime (s) of the run.
    jacobian
        Whether to multiply intensities by the Jacobian of the distortion, as fMRIPrep does.
    """

    registration: str
    coefficients: tuple[str, ...]
    reference: str
    direction: str
    readout_time: float
    jacobian: bool = False


@dataclass(frozen=True)
class Transforms:
    """From the voxels of a raw BOLD run to MNI152NLin6Asym.

    Attributes
    ----------
    head_motion
        Transforms from each volume to the BOLD reference.
    reference
        The BOLD reference of head motion.
    coregistration
        Transform from the BOLD reference to the anatomical image.
    template
        Transform from the anatomical image to MNI152NLin6Asym.
    fieldmap
        None if the run is not corrected for distortion.
    slice_shifts
        How much later than it was acquired each slice is wanted, in volumes; empty if slice timing
        is not corrected.
    interpolation
        `cubic` or `linear`.
    """

    head_motion: str
    reference: str
    coregistration: str
    template: str
    fieldmap: Fieldmap | None = None
    slice_shifts: tuple[float, ...] = ()
    interpolation: str = "cubic"

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        files = [self.head_motion, self.reference, self.coregistration, self.template]
        if self.fieldmap is not None:
            files += [self.fieldmap.registration, *self.fieldmap.coefficients]
            files.append(self.fieldmap.reference)
        return files


@dataclass(frozen=True)
class FslWarp:
    """From the voxels of a run with aligned volumes to MNI152NLin6Asym, by FSL.

    Attributes
    ----------
    field
        FNIRT's displacement field, on a grid of the template.
    interpolation
        `cubic` or `linear`.
    """

    field: str
    interpolation: str = "cubic"

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        return [self.field]


@dataclass(frozen=True)
class GridWarp:
    """From a run on another grid, in another template or not, to the grid of the training data.

    Attributes
    ----------
    steps
        Composite transforms (`.h5`), which map a point of MNI152NLin6Asym to the template of the
        run in this order. Without steps, the app takes the coordinates of the run in mm for those
        of the training template.
    interpolation
        `cubic` or `linear`.
    """

    steps: tuple[str, ...] = ()
    interpolation: str = "cubic"

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        return list(self.steps)


def transforms_from_dict(content: Mapping[str, Any]) -> Transforms | FslWarp | GridWarp:
    """Build one of the classes above from the output of `dataclasses.asdict`."""
    if "field" in content:
        return FslWarp(**content)
    if "steps" in content:
        return GridWarp(**{**content, "steps": tuple(content["steps"])})
    fieldmap = content["fieldmap"]
    if fieldmap is not None:
        coefficients = tuple(fieldmap["coefficients"])
        fieldmap = Fieldmap(**{**fieldmap, "coefficients": coefficients})
    shifts = tuple(content["slice_shifts"])
    return Transforms(**{**content, "fieldmap": fieldmap, "slice_shifts": shifts})
