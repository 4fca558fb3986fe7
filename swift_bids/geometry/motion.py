"""Head-motion transforms -> the motion parameters of FSL's MCFLIRT and framewise displacement."""

from __future__ import annotations

import nibabel as nib
import numpy as np

#: Columns of `motion_parameters`, with fMRIPrep's names.
PARAMETERS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
#: Radius of the head in mm (Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018).
_HEAD_RADIUS = 50


def motion_parameters(head_motion: np.ndarray, reference: nib.Nifti1Image) -> np.ndarray:
    """Return translations in mm and rotations in radians (volume, 6), as MCFLIRT defines them.

    FSL's coordinates are voxels times voxel sizes, with x reversed if the affine has a positive
    determinant. Translations are those of the centre of gravity of the reference image; rotations
    satisfy M = Rx(-rot_x) Ry(-rot_y) Rz(-rot_z).

    Parameters
    ----------
    head_motion
        (volume, 4, 4): points of the reference in mm to points of each volume.
    reference
        The image to which the volumes were aligned.
    """
    from scipy.ndimage import center_of_mass
    from scipy.spatial.transform import Rotation

    zooms = nib.affines.voxel_sizes(reference.affine)
    to_fsl = np.diag([*zooms, 1.0])
    values = np.asarray(reference.dataobj, dtype=np.float64)
    if np.linalg.det(reference.affine) > 0:
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = reference.shape[0] - 1
        to_fsl, values = to_fsl @ flip, values[::-1]
    center = zooms * np.array(center_of_mass(values - values.min()))
    from_world = to_fsl @ np.linalg.inv(reference.affine)
    # FSL's matrices map points of the volume to those of the reference
    fsl = from_world @ np.linalg.inv(head_motion) @ np.linalg.inv(from_world)
    matrix, offset = fsl[:, :3, :3], fsl[:, :3, 3]
    translations = matrix @ center + offset - center
    rotations = -Rotation.from_matrix(matrix).as_euler("XYZ")
    return np.hstack([translations, rotations])


def framewise_displacement(parameters: np.ndarray) -> np.ndarray:
    """Return the framewise displacement in mm (volume,) of Power et al. 2012; NaN for the first
    volume."""
    change = np.abs(np.diff(parameters, axis=0)) * ([1] * 3 + [_HEAD_RADIUS] * 3)
    return np.concatenate([[np.nan], change.sum(axis=1)])
