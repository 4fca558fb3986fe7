"""Orientation, frames and resampling: the position of each voxel in the network's input."""

import nibabel as nib
import numpy as np
import pytest
from app import ROOT
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nilearn.datasets import load_mni152_brain_mask

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FRAMES, FSL_AFFINE, FSL_SHAPE, space_note
from swift_bids.geometry.grid import (
    brain_voxels,
    is_fsl_grid,
    slab_extent,
    template_brain,
    to_fsl_grid,
)


def stored_as(volume, axes):
    """Return the same volume at the same position in another storage order, e.g. RAS."""
    image = nib.Nifti1Image(volume, FSL_AFFINE)
    turn = ornt_transform(io_orientation(FSL_AFFINE), axcodes2ornt(tuple(axes)))
    return image.as_reoriented(turn)


@pytest.mark.parametrize("axes", ["LAS", "RAS", "LPI", "PIR", "SAL"])
def test_fsl_grid_is_unchanged_in_any_storage_order(axes):
    volume = np.random.default_rng(0).random(FSL_SHAPE, dtype=np.float32)
    image = stored_as(volume, axes)
    assert "".join(nib.aff2axcodes(image.affine)) == axes
    assert is_fsl_grid(image.shape, image.affine)
    np.testing.assert_array_equal(to_fsl_grid(image.get_fdata(), image.affine, 1), volume)


def test_other_grids_are_not_the_fsl_grid():
    shifted = FSL_AFFINE.copy()
    shifted[0, 3] += 1.0  # half a voxel, as MNI152NLin2009cAsym res-2
    assert not is_fsl_grid(FSL_SHAPE, shifted)
    assert not is_fsl_grid((97, 115, 97), FSL_AFFINE)
    # rotated about a diagonal of the grid, so that two corners do not move
    axis = FSL_AFFINE[:3, :3] @ np.array(FSL_SHAPE)
    turn = nib.quaternions.angle_axis2mat(0.02, axis / np.linalg.norm(axis))
    turned = nib.affines.from_matvec(turn @ FSL_AFFINE[:3, :3], FSL_AFFINE[:3, 3])
    assert not is_fsl_grid(FSL_SHAPE, turned)


def test_left_stays_left_when_resampled():
    """A blob at x = -40 mm (left) in a 3 mm RAS grid is at x = -40 mm in the FSL grid."""
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = [-90, -126, -72]
    grid = np.stack(np.meshgrid(*map(np.arange, (61, 73, 61)), indexing="ij"), -1) @ np.diag(
        [3] * 3
    )
    position = grid + affine[:3, 3]
    blob = np.exp(-np.square(position - [-40, 20, 30]).sum(-1) / 200).astype(np.float32)
    found = np.unravel_index(to_fsl_grid(blob, affine, 1).argmax(), FSL_SHAPE)
    assert np.allclose(nib.affines.apply_affine(FSL_AFFINE, found), [-40, 20, 30], atol=2)


@pytest.mark.parametrize(
    ("frame", "voxel", "place"),
    [
        ("hcp", (45, 54, 45), (48, 48, 53)),
        ("hcp", (8, 8, 0), (11, 2, 8)),
        ("hcp", (82, 100, 80), (85, 94, 88)),
        ("ukb", (45, 54, 45), (48, 47, 48)),
        ("ukb", (0, 7, 0), (3, 0, 3)),
        ("ukb", (90, 102, 90), (93, 95, 93)),
    ],
)
def test_frames(frame, voxel, place):
    """The frames have the same offsets and limits as the original data loaders."""
    mask = np.zeros(FSL_SHAPE)
    mask[voxel] = 1
    found = brain_voxels(mask, FSL_AFFINE, FRAMES[frame])
    assert np.unravel_index(found.model_index[0], (96, 96, 96)) == place
    world = nib.affines.apply_affine(FSL_AFFINE, voxel)
    np.testing.assert_allclose(nib.affines.apply_affine(FRAMES[frame].affine, place), world)


def test_voxels_outside_the_frame_are_counted():
    mask = np.zeros(FSL_SHAPE)
    mask[45, 54, 45] = mask[45, 101, 45] = mask[7, 54, 45] = mask[45, 54, 81] = 1
    assert brain_voxels(mask, FSL_AFFINE, FRAMES["hcp"]).n_outside == 3
    assert brain_voxels(mask, FSL_AFFINE, FRAMES["ukb"]).n_outside == 0


def test_nan_in_a_mask_is_not_brain():
    mask = np.full(FSL_SHAPE, np.nan)
    mask[45, 54, 45] = 1
    assert len(brain_voxels(mask, FSL_AFFINE, FRAMES["ukb"]).fsl_index) == 1


def test_an_empty_mask_is_rejected():
    with pytest.raises(InputError, match="no voxel"):
        brain_voxels(np.zeros(FSL_SHAPE), FSL_AFFINE, FRAMES["ukb"])


def test_a_note_warns_about_another_template():
    assert space_note("MNI152NLin6Asym") is None
    assert "MNI152NLin2009cAsym is another template" in space_note("MNI152NLin2009cAsym")


def test_template_brain_is_that_of_templateflow():
    """The mask of MNI152NLin6Asym, which is FSL's, flipped from left to right."""
    assert template_brain().sum() == 228_483
    assert (
        nib.load(ROOT / "swift_bids" / "data" / "template_brain.nii.gz").header["descrip"]
        == b"FSL3.3"
    )
    nilearn = load_mni152_brain_mask(resolution=2)
    other = to_fsl_grid(np.asarray(nilearn.dataobj), nilearn.affine, order=0) != 0
    overlap = (template_brain() & other).sum()
    assert 2 * overlap / (template_brain().sum() + other.sum()) == pytest.approx(0.969, abs=1e-3)


def test_template_brain_has_the_size_and_position_of_a_brain():
    brain = template_brain()
    assert brain.shape == FSL_SHAPE
    assert 220_000 < brain.sum() < 245_000  # x 8 mm^3: about 1.9 litres, as in the MNI152
    centre = np.argwhere(brain).mean(0)
    assert np.allclose(nib.affines.apply_affine(FSL_AFFINE, centre), [0, -20, 8], atol=6)


def test_slab_extent_is_in_mm():
    box = np.zeros(FSL_SHAPE, bool)
    box[10:20, 30:31, 40:43] = True
    assert slab_extent(np.flatnonzero(box)) == (20, 2, 6)
