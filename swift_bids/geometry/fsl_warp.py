"""FSL's displacement field -> where points of the template are in a run.

FSL measures points in scaled millimetres: voxel times voxel size, with x counted from the other
side if the determinant of the affine is positive. At each voxel of the template, a field contains
either the scaled millimetres of the source image (absolute), or their difference to those of the
template (relative). The header does not tell which. See `fsl.transform.fnirt` of fslpy, FSL's own
Python library, and `convertwarp` and `applywarp` of FSL (Andersson et al. 2007).
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

#: NIfTI intents of FSL's files with coefficients of splines or of the discrete cosine transform.
_COEFFICIENTS = (2007, 2008, 2009)


def to_scaled_mm(voxels: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Convert voxels (..., 3) of an image to FSL's scaled millimetres."""
    return _flipped(voxels, shape, affine) * nib.affines.voxel_sizes(affine)


def from_scaled_mm(points: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Convert FSL's scaled millimetres (..., 3) to voxels of an image."""
    return _flipped(points / nib.affines.voxel_sizes(affine), shape, affine)


def _flipped(voxels: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    if np.linalg.det(affine[:3, :3]) < 0:
        return voxels
    flipped = np.array(voxels, dtype=np.float64)
    flipped[..., 0] = shape[0] - 1 - flipped[..., 0]
    return flipped


def source_points(field: nib.Nifti1Image, points: np.ndarray) -> np.ndarray:
    """Map points of the template to scaled millimetres of the source image.

    Parameters
    ----------
    field
        Displacement field (X, Y, Z, 3).
    points
        (point, 3) in mm of the template. Between the voxels of the field, values are interpolated
        linearly.

    Returns
    -------
    numpy.ndarray
        (point, 3), NaN outside the field.

    Raises
    ------
    ValueError
        The image is not a displacement field.
    """
    from scipy.ndimage import map_coordinates

    if field.header["intent_code"] in _COEFFICIENTS:
        raise ValueError(
            "contains spline coefficients instead of displacements; convert it with fnirtfileutils "
            "--outformat=field"
        )
    if len(field.shape) != 4 or field.shape[3] != 3:
        raise ValueError(f"has the shape {field.shape} instead of (X, Y, Z, 3)")
    values = np.asarray(field.dataobj, dtype=np.float32)
    if not np.isfinite(values).any():
        raise ValueError("contains no finite value; unpack or create it again")
    voxels = nib.affines.apply_affine(np.linalg.inv(field.affine), points)
    own = to_scaled_mm(voxels, field.shape[:3], field.affine)
    found = np.stack(
        [map_coordinates(values[..., i], voxels.T, np.float64, 1, cval=np.nan) for i in range(3)],
        axis=1,
    )
    return found if is_absolute(values, field.affine) else found + own


def is_absolute(values: np.ndarray, affine: np.ndarray) -> bool:
    """Whether a field (X, Y, Z, 3) contains coordinates rather than displacements.

    As fslpy's `detectDeformationType`: of both readings, the one whose displacements vary less.
    """
    shape = values.shape[:3]
    own = to_scaled_mm(np.moveaxis(np.indices(shape), 0, -1), shape, affine)
    spread = [np.nanstd(v, axis=(0, 1, 2)).sum() for v in (values, values - own)]
    return bool(spread[0] > spread[1])
