"""B-spline coefficients of a fieldmap (sdcflows) -> the field in Hz -> how far voxels shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np


@dataclass(frozen=True)
class Field:
    """A fieldmap in Hz on the grid of its reference image.

    Attributes
    ----------
    hz
        float32 (X, Y, Z).
    affine
        Voxel-to-world affine in mm.
    """

    hz: np.ndarray
    affine: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """The field in Hz (point,) at points (point, 3) in mm, by cubic splines; 0 outside."""
        from scipy.ndimage import map_coordinates

        position = nib.affines.apply_affine(np.linalg.inv(self.affine), points)
        return map_coordinates(self.hz.astype(np.float64), position.T, order=3)


def evaluate(coefficients: Sequence[nib.Nifti1Image], reference: nib.Nifti1Image) -> Field:
    """Evaluate a fieldmap at the voxels of its reference image.

    Parameters
    ----------
    coefficients
        Tensor-product cubic B-splines, one image of knots per level; the levels add up.
    reference
        The image that the fieldmap was estimated on; its axes are parallel to those of the knots.

    Raises
    ------
    ValueError
        The axes are not parallel.
    """
    grid = nib.as_closest_canonical(reference)
    hz = np.zeros(grid.shape[:3])
    for level in coefficients:
        knots = nib.as_closest_canonical(level)
        to_knots = np.linalg.inv(knots.affine) @ grid.affine
        along = np.diag(np.diag(to_knots[:3, :3]))
        if not np.allclose(to_knots[:3, :3], along, atol=1e-3):
            raise ValueError("its axes are not parallel to those of its reference image")
        weights = [
            _cubic_b_spline(
                along[axis, axis] * np.arange(grid.shape[axis])[:, None]
                + to_knots[axis, 3]
                - np.arange(knots.shape[axis])
            )
            for axis in range(3)
        ]
        values = np.asarray(knots.dataobj, dtype=np.float64).reshape(knots.shape[:3])
        hz += np.einsum("abc,ia,jb,kc->ijk", values, *weights, optimize=True)
    return Field(hz.astype(np.float32), grid.affine)


def _cubic_b_spline(distance: np.ndarray) -> np.ndarray:
    """The cubic B-spline at a distance in knots (Unser 1999, doi:10.1109/79.799930, eq. 6)."""
    d = np.abs(distance)
    near = 2 / 3 - d**2 + d**3 / 2
    return np.where(d < 1, near, np.where(d < 2, (2 - d) ** 3 / 6, 0))


def voxel_shift(hz: np.ndarray, direction: str, readout_time: float) -> tuple[int, np.ndarray]:
    """Return the axis along which a field shifts the signal, and the shift in voxels.

    Parameters
    ----------
    hz
        Field in Hz.
    direction
        PhaseEncodingDirection, such as `j-`: an axis of the stored image.
    readout_time
        TotalReadoutTime in s.
    """
    sign = -1 if direction.endswith("-") else 1
    return "ijk".index(direction[0]), sign * readout_time * hz
