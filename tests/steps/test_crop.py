"""Holes and islands of brain masks."""

import nibabel as nib
import numpy as np
import pytest

from swift_bids.geometry.frames import FRAMES, FSL_AFFINE, FSL_SHAPE
from swift_bids.steps.crop import crop


@pytest.mark.parametrize(
    ("holes", "islands"),
    [(0, 0), (125, 0), (0, 27), (125, 27)],
)
def test_holes_and_islands_are_counted(tmp_path, holes, islands):
    brain = np.zeros(FSL_SHAPE, np.uint8)
    brain[20:70, 20:90, 10:70] = 1
    if holes:
        brain[40:45, 40:45, 40:45] = 0
        brain[20:25, 50:55, 50:55] = 0  # open to the outside, so not a hole
    if islands:
        brain[40:43, 93:96, 30:33] = 1
    nib.Nifti1Image(brain, FSL_AFFINE).to_filename(tmp_path / "mask.nii")
    coverage = crop(tmp_path / "mask.nii", FRAMES["ukb"], tmp_path / "index.npy")
    assert (coverage.n_holes, coverage.n_islands) == (holes, islands)
    assert coverage.n_voxels == brain.sum()
