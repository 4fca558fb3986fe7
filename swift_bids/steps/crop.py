"""Brain mask + frame -> index map from columns of the matrix to positions in the 96^3 input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swift_bids.geometry.frames import FSL_SHAPE, Frame
from swift_bids.geometry.grid import slab_extent, template_brain
from swift_bids.inputs.mask import load_image, mask_voxels

#: Volume of a voxel of 2 mm.
_VOXEL_ML = 8e-3


@dataclass(frozen=True)
class Coverage:
    """How much of the brain the network sees.

    Except for `n_outside` and `size_ratio`, all values refer to the part of the mask inside the
    frame.

    Attributes
    ----------
    n_voxels, n_outside
        Number of brain voxels (2 mm) inside and outside the frame.
    template_share
        Share of the MNI152 template's brain that the run's mask covers.
    size_ratio
        Number of voxels in the mask divided by the number in the template's brain.
    dice
        Dice overlap between the run's mask and the template's brain.
    extent_mm
        Extent of the mask along x, y, z, in mm.
    n_holes, n_islands
        Number of voxels that the mask encloses but does not contain, and of voxels that are not
        connected with its largest part.
    """

    n_voxels: int
    n_outside: int
    template_share: float
    size_ratio: float
    dice: float
    extent_mm: tuple[int, int, int]
    n_holes: int
    n_islands: int

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in mL, also outside the frame."""
        return (self.n_voxels + self.n_outside) * _VOXEL_ML


def crop(mask_file: str | Path, frame: Frame, index_file: str | Path) -> Coverage:
    """Write the index map of a run and return how much of the brain it covers.

    Parameters
    ----------
    mask_file
        3D brain mask in a standard (MNI) space.
    frame
        Position of the FSL 2 mm grid in the network's 96^3 input.
    index_file
        `.npy` to write: int64 (brain voxel,), the flat C-order position in 96^3 of each column of
        the matrix that `swift_bids.steps.normalise.normalise` writes for the same mask and frame.
    """
    from scipy.ndimage import binary_fill_holes, label  # slow to import

    mask = load_image(mask_file)
    voxels = mask_voxels(mask, mask_file, frame)
    np.save(index_file, voxels.model_index)
    brain = np.zeros(FSL_SHAPE, dtype=bool)
    brain.reshape(-1)[voxels.fsl_index] = True
    template = template_brain()
    shared = int((brain & template).sum())
    return Coverage(
        n_voxels=len(voxels.fsl_index),
        n_outside=voxels.n_outside,
        template_share=shared / int(template.sum()),
        size_ratio=(len(voxels.fsl_index) + voxels.n_outside) / int(template.sum()),
        dice=2 * shared / (int(brain.sum()) + int(template.sum())),
        extent_mm=slab_extent(voxels.fsl_index),
        n_holes=int(binary_fill_holes(brain).sum() - brain.sum()),
        n_islands=int(brain.sum() - np.bincount(label(brain)[0].reshape(-1))[1:].max()),
    )
