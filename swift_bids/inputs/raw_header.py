"""The raw BOLD's header and metadata -> orientation, distortion and dummy scans, by fMRIPrep's
rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.inputs.bold_reader import UNREADABLE, scaling, stored_image, stored_volumes

#: Volumes in which fMRIPrep looks for dummy scans, and the percentile at which it clips values.
_DUMMY_VOLUMES, _CLIP_PERCENTILE = 40, 99.8
#: Values that are read to find them: 80 MB of float32.
_MAX_VALUES = 20_000_000
_BROKEN: tuple[type[Exception], ...] = (InputError, *UNREADABLE)


def load_header(bold: str) -> nib.Nifti1Header:
    """Read the header of a BOLD file; raise InputError if it cannot be read."""
    try:
        with stored_image(bold) as (image, _):
            return image.header
    except UNREADABLE as error:
        raise InputError(
            f"{bold}: cannot be read ({error}) because it is damaged or not a NIfTI file; fetch it "
            f"or create it again"
        ) from error


def affine_of(header: nib.Nifti1Header) -> np.ndarray:
    """Return the voxel-to-world affine in mm that fMRIPrep uses.

    This is nibabel's, except that fMRIPrep takes the qform if the voxel sizes of the sform
    contradict the header (niworkflows' ValidateImage).
    """
    sform, sform_code = header.get_sform(coded=False), int(header["sform_code"])
    valid_sform = np.linalg.det(sform) != 0 and np.allclose(
        nib.affines.voxel_sizes(sform), header.get_zooms()[:3]
    )
    if sform_code > 0 and valid_sform:
        return sform
    try:
        qform = header.get_qform(coded=True)[0]
    except ValueError:  # a quaternion that is no rotation
        qform = None
    return header.get_base_affine() if qform is None else qform


def readout_time(
    metadata: Mapping[str, Any], n_lines: Callable[[], int], fallback: float | None = None
) -> float | None:
    """Return the total readout time in s, or None if the metadata do not contain it.

    Without TotalReadoutTime, it follows from the echo spacing or from Philips' water-fat shift, as
    in sdcflows (`get_trt`).

    Parameters
    ----------
    metadata
        Content of the raw sidecars.
    n_lines
        Returns the number of voxels along the phase-encoding axis; reads the image.
    fallback
        The value to use if the metadata contain none of these.

    Raises
    ------
    ValueError
        A value is not a positive number.
    """
    if total := _number(metadata, "TotalReadoutTime"):
        return total
    if spacing := _number(metadata, "EffectiveEchoSpacing"):
        return spacing * (n_lines() - 1)
    spacing, factor = (
        _number(metadata, name) for name in ("EchoSpacing", "ParallelReductionFactorInPlane")
    )
    if spacing and factor:
        return spacing * (n_lines() // factor - 1)
    shift, epi_factor = (_number(metadata, name) for name in ("WaterFatShift", "EPIFactor"))
    frequency = (_number(metadata, "ImagingFrequency") or 0) * 3.39941  # MHz to Hz of shift
    frequency = frequency or (_number(metadata, "MagneticFieldStrength") or 0) * 144.7383333
    if shift and epi_factor and frequency:
        return shift / (frequency * (epi_factor + 1)) * (n_lines() - 1)
    return fallback


def _number(metadata: Mapping[str, Any], name: str) -> float | None:
    """A positive number in the metadata; None if it is absent or 0."""
    value = metadata.get(name)
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
        raise ValueError(f"{name} is {value!r} instead of a positive number")
    return float(value)


def find_dummy_scans(bold: str) -> int:
    """Count the volumes of a file before the signal is steady, as fMRIPrep does.

    This is niworkflows' NonsteadyStatesDetector: `count_unsteady` with the mean over all voxels, or
    over evenly chosen ones of a large image. The count is 0 for a file that cannot be read, which
    the step that reads all of it will report.
    """
    try:
        with stored_image(bold) as (image, _):
            rows: list[np.ndarray] = []
            scaled = scaling(image)
            every = -(-math.prod(image.shape[:3]) * _DUMMY_VOLUMES // _MAX_VALUES)
            for block in stored_volumes(image, bold):
                rows.extend(scaled(block[:, ::every]).astype(np.float32))
                if len(rows) >= _DUMMY_VOLUMES:
                    break
    except _BROKEN:
        return 0
    values = np.nan_to_num(np.stack(rows[:_DUMMY_VOLUMES]), posinf=0, neginf=0)
    values = np.clip(values, 0, np.percentile(values, _CLIP_PERCENTILE))
    return count_unsteady(values.mean(axis=1))


def count_unsteady(means: np.ndarray) -> int:
    """Count the volumes at the start of a run before the first whose mean is no outlier among those
    of the first 40, (volume,).

    An outlier is further from the median than 3.5 times the median absolute deviation, divided by
    0.6745 (Iglewicz and Hoaglin 1993).
    """
    from nipype.algorithms.confounds import is_outlier

    first = means[:_DUMMY_VOLUMES]
    # is_outlier divides by this deviation: it is 0 if most volumes are empty or equal
    deviation = np.median(np.abs(first - np.median(first)))
    return is_outlier(first) if deviation > 0 else 0


def slice_shifts(
    metadata: Mapping[str, Any], n_slices: int, repetition_time: float, reference: float
) -> tuple[float, ...]:
    """Return how much later than it was acquired each slice is wanted, in volumes.

    Parameters
    ----------
    metadata
        With SliceTiming in s, and SliceEncodingDirection (`k` or `k-`) if it differs from `k`.
    n_slices, repetition_time
        Of the run; s.
    reference
        The time to which slices are shifted, as a share of the time from the first to the last
        slice: fMRIPrep's `--slice-time-ref`.

    Returns
    -------
    tuple of float
        Empty if all slices were acquired at the same time.

    Raises
    ------
    ValueError
        The metadata do not fit the run.
    """
    times = metadata.get("SliceTiming")
    if times is None:
        raise ValueError("the raw sidecars contain no SliceTiming")
    direction = metadata.get("SliceEncodingDirection", "k")
    if direction not in ("k", "k-"):
        raise ValueError(f"SliceEncodingDirection is {direction!r} instead of 'k' or 'k-'")
    if not isinstance(times, list) or len(times) != n_slices:
        raise ValueError(f"SliceTiming does not have one value for each of the {n_slices} slices")
    if not all(isinstance(t, (int, float)) and 0 <= t <= repetition_time for t in times):
        raise ValueError(
            f"SliceTiming has values other than numbers from 0 to {repetition_time:g} s"
        )
    acquired = np.array(times, dtype=np.float64)
    if direction == "k-":
        acquired = acquired[::-1]
    first, last = acquired.min(), acquired.max()
    if first == last:
        return ()
    wanted = round(first + reference * (last - first), 3)
    return tuple(((wanted - acquired) / repetition_time).tolist())
