"""Brain voxels of runs on other grids: cubic splines, gaps, and how near they are to the truth."""

import nibabel as nib
import numpy as np
import pytest
from app import ROOT
from scipy.ndimage import map_coordinates

from swift_bids.geometry.frames import FRAMES, FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import voxel_centers
from swift_bids.inputs.bold_reader import open_bold
from swift_bids.inputs.brain_mask import functional_mask
from swift_bids.inputs.transforms import GridWarp
from swift_bids.steps.bold_points import BoldPoints
from swift_bids.steps.locate_warped import locate_warped

GRIDS = {
    "3 mm": ((65, 77, 65), nib.affines.from_matvec(3 * np.eye(3), [-96, -132, -78])),
    "2.5 mm": ((78, 92, 78), nib.affines.from_matvec(2.5 * np.eye(3), [-96, -132, -78])),
    "half a voxel off": (
        (97, 115, 97),
        nib.affines.from_matvec(2 * np.eye(3), [-97, -133, -79]),
    ),
    "oblique": (
        (80, 90, 80),
        nib.affines.from_matvec(
            2.6 * np.array([[0.995, -0.1, 0], [0.1, 0.995, 0], [0, 0, 1.0]]), [-100, -130, -80]
        ),
    ),
}


def signal(points):
    """Structure of the size of gyri, in the range of BOLD values."""
    waves = np.sin(points / [4.1, 4.7, 3.9] + [0.2, 0.9, 1.7]).sum(axis=-1)
    return (1000 + 100 * waves).astype(np.float32)


def centers(shape, affine):
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def rows_of(bold_file, points, folder):
    with open_bold(bold_file) as bold, points.rows(bold, bold_file, 0, folder) as blocks:
        return np.concatenate(list(blocks))


def write_run(folder, data, affine, brain):
    bold, mask = folder / "bold.nii", folder / "mask.nii"
    nib.Nifti1Image(data, affine).to_filename(bold)
    nib.Nifti1Image(brain.astype(np.uint8), affine).to_filename(mask)
    return bold, mask


@pytest.mark.parametrize("name", GRIDS)
def test_cubic_splines_are_nearer_to_the_truth_than_linear_interpolation(tmp_path, name):
    shape, affine = GRIDS[name]
    world = centers(shape, affine)
    brain = np.linalg.norm((world - [0, -18, 10]) / [66, 84, 60], axis=-1) < 1
    data = np.stack([signal(world), 2 * signal(world)], axis=-1)
    bold, mask = write_run(tmp_path, data, affine, brain)
    deviation = {}
    for interpolation in ("cubic", "linear"):
        warp = GridWarp(interpolation=interpolation)
        located, points = locate_warped(bold, functional_mask(mask), warp, FRAMES["ukb"])
        rows = rows_of(bold, points, tmp_path)
        inside = np.asarray(located.dataobj).reshape(-1) > 0
        kept, _ = FRAMES["ukb"].place(np.stack(np.unravel_index(np.flatnonzero(inside), FSL_SHAPE)))
        expected = signal(voxel_centers()[inside][kept])
        deviation[interpolation] = np.sqrt(np.mean((rows[0] - expected) ** 2)) / expected.std()
        assert rows[1] == pytest.approx(2 * rows[0], rel=1e-4)
    assert deviation["cubic"] < 0.35 * deviation["linear"]
    # the mask is that of the same ellipsoid, sampled at 2 mm
    direct = np.linalg.norm((voxel_centers() - [0, -18, 10]) / [66, 84, 60], axis=-1) < 1
    assert (inside != direct).sum() < 0.03 * direct.sum()


def some_points(n=400, shape=(12, 14, 10)):
    return np.random.default_rng(0).random((n, 3)) * (np.array(shape) - 1)


@pytest.mark.parametrize("order", [1, 3])
def test_voxels_far_from_the_brain_do_not_matter(tmp_path, order):
    """The app filters only a box around the brain; the result is that of the whole volume."""
    data = np.random.default_rng(0).normal(1000, 100, (50, 60, 55, 1)).astype(np.float32)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "bold.nii")
    position = [20, 0.5, 40] + np.random.default_rng(1).random((500, 3)) * [9, 8, 14]
    rows = rows_of(tmp_path / "bold.nii", BoldPoints(position, order), tmp_path)
    expected = map_coordinates(data[..., 0], position.T, order=order)
    assert rows[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("order", [1, 3])
def test_where_a_volume_has_no_signal_there_is_none(tmp_path, order):
    """Splines must not spread values into an empty region; they would count as brain."""
    data = np.zeros((12, 14, 10, 2), np.float32)
    data[:6] = np.random.default_rng(0).normal(1000, 100, (6, 14, 10, 2))
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "bold.nii")
    position = some_points()
    rows = rows_of(tmp_path / "bold.nii", BoldPoints(position, order), tmp_path)
    empty = position[:, 0] > 6
    assert 50 < empty.sum() < 350
    assert (rows[:, empty] == 0).all()
    assert (rows[:, ~empty] != 0).all()


@pytest.mark.parametrize("order", [1, 3])
def test_values_next_to_one_that_is_not_finite_are_unknown(tmp_path, order):
    data = np.random.default_rng(0).normal(1000, 100, (12, 14, 10, 2)).astype(np.float32)
    data[5, 6, 4, 0] = np.nan
    data[5, 6, 4, 1] = np.inf
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "bold.nii")
    position = np.concatenate([some_points(2000), [[4.0, 6, 4], [5, 6, 4]]])
    rows = rows_of(tmp_path / "bold.nii", BoldPoints(position, order), tmp_path)
    near = (np.abs(position - [5, 6, 4]) < 1).all(axis=1)  # not the neighbouring voxel itself
    assert near.sum() > 5
    assert (np.isnan(rows) == near).all()


def test_the_mask_of_a_shifted_grid_stays_within_a_tenth_of_a_voxel(tmp_path):
    """By nearest neighbour, a shift by half a voxel would move the whole mask by half a voxel."""
    shifted = FSL_AFFINE.copy()
    shifted[:3, 3] += [-1, 1, 1]
    world = centers(FSL_SHAPE, shifted)
    brain = np.linalg.norm((world - [0, -18, 10]) / [66, 84, 60], axis=-1) < 1
    bold, mask = write_run(tmp_path, np.ones((*FSL_SHAPE, 1), np.int16), shifted, brain)
    located, _ = locate_warped(bold, functional_mask(mask), GridWarp(), FRAMES["ukb"])
    found = np.asarray(located.dataobj) > 0
    center = nib.affines.apply_affine(FSL_AFFINE, np.argwhere(found).mean(axis=0))
    assert center == pytest.approx([0, -18, 10], abs=0.2)
    assert found.sum() == pytest.approx(brain.sum(), rel=0.01)  # a Gaussian shrinks it


FMRIPREP = np.load(ROOT / "tests/data/minimal/other_grids.npz")


@pytest.mark.parametrize("name", [n for n in FMRIPREP.files if f"{n} affine" in FMRIPREP.files])
def test_other_grids_that_fmriprep_made_lead_to_its_result_on_the_grid(tmp_path, name):
    """The same raw volume, resampled by fMRIPrep to both grids (tests/data/minimal)."""
    data, affine = FMRIPREP[name][..., None], FMRIPREP[f"{name} affine"]
    nib.Nifti1Image(data, affine).to_filename(tmp_path / "bold.nii")
    position = nib.affines.apply_affine(np.linalg.inv(affine), FMRIPREP["centers"])
    expected = FMRIPREP["values"]
    deviation = {}
    for order in (1, 3):
        rows = rows_of(tmp_path / "bold.nii", BoldPoints(position, order), tmp_path)
        deviation[order] = np.sqrt(np.mean((rows[0] - expected) ** 2)) / expected.std()
    assert deviation[3] < 0.15 * deviation[1]
    assert deviation[3] < 1e-3
