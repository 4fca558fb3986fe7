"""The raw BOLD's header and metadata -> orientation, distortion and dummy scans, by fMRIPrep's
rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.inputs.bold_reader import UNREADABLE

#: Volumes in which fMRIPrep looks for dummy scans, and the percentile at which it clips values.
_DUMMY_VOLUMES, _CLIP_PERCENTILE = 40, 99.8


def load_header(bold: str) -> nib.Nifti1Header:
    """Read the header of a BOLD file; raise InputError if it cannot be read."""
    try:
        return cast(nib.Nifti1Image, nib.load(bold)).header
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


def readout_time(metadata: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
    """Return the total readout time in s, or None if the metadata do not contain it.

    Without TotalReadoutTime, it follows from the echo spacing, as BIDS and sdcflows define it.
    """
    total = metadata.get("TotalReadoutTime")
    if total:
        return float(total)
    n_lines = shape["ijk".index(metadata["PhaseEncodingDirection"][0])]
    if spacing := metadata.get("EffectiveEchoSpacing"):
        return float(spacing) * (n_lines - 1)
    spacing, factor = (metadata.get(n) for n in ("EchoSpacing", "ParallelReductionFactorInPlane"))
    if spacing and factor:
        return float(spacing) * (int(n_lines // factor) - 1)
    return None


def count_raw_dummy_scans(bold: nib.Nifti1Image) -> int:
    """Count the volumes before the signal is steady, as niworkflows' NonsteadyStatesDetector does.

    Volumes at the start count until the first whose mean is no outlier among the first 40.
    """
    from nipype.algorithms.confounds import is_outlier

    values = np.asarray(bold.dataobj[..., :_DUMMY_VOLUMES], dtype=np.float32)
    values = np.clip(values, 0, np.percentile(values, _CLIP_PERCENTILE))
    means = values.mean(axis=(0, 1, 2))
    return is_outlier(means) if np.ptp(means) > 0 else 0
