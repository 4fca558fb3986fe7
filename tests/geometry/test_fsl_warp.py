"""FSL's displacement fields against a formula, fslpy and nitransforms, on real files."""

from pathlib import Path

import fsl.tests.test_transform
import nibabel as nib
import nitransforms
import numpy as np
import pytest
from fsl.data.image import Image
from fsl.transform.fnirt import readFnirt
from nitransforms.io.fsl import FSLDisplacementsField

from swift_bids.geometry.fsl_warp import from_scaled_mm, source_points, to_scaled_mm

FSLPY = Path(fsl.tests.test_transform.__file__).parent / "testdata" / "nonlinear"
REAL_WARP = (
    Path(nitransforms.__file__).parent / "tests/data/ds-005_sub-01_from-OASIS_to-T1_warp_fsl.nii.gz"
)
SHAPE = (12, 14, 10)


def affine_of(side, zoom, origin):
    return nib.affines.from_matvec(np.diag([side * zoom, zoom, zoom]), origin)


def inner_points(image, n=200):
    """Points in mm inside a field, also between its voxels."""
    rng = np.random.default_rng(0)
    voxels = 1 + rng.random((n, 3)) * (np.array(image.shape[:3]) - 3)
    return nib.affines.apply_affine(image.affine, voxels)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("template_side", [-1, 1])
@pytest.mark.parametrize("run_side", [-1, 1])
def test_a_field_of_a_formula_leads_to_its_points(run_side, template_side, absolute):
    """A turn by 0.1 rad and a shift, whatever the handedness of both images."""
    template = affine_of(template_side, 8, [-template_side * 44, -50, -30])
    run, run_shape = affine_of(run_side, 2.4, [-run_side * 50, -60, -40]), (44, 50, 33)
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])

    def in_run(points):
        return points @ turn.T + [3.0, -2.0, 1.5]

    voxels = np.moveaxis(np.indices(SHAPE), 0, -1)
    world = in_run(nib.affines.apply_affine(template, voxels))
    in_voxels = nib.affines.apply_affine(np.linalg.inv(run), world)
    values = to_scaled_mm(in_voxels, run_shape, run)
    if not absolute:
        values = values - to_scaled_mm(voxels, SHAPE, template)
    field = nib.Nifti1Image(values.astype(np.float32), template)
    points = inner_points(field)
    found = from_scaled_mm(source_points(field, points), run_shape, run)
    assert nib.affines.apply_affine(run, found) == pytest.approx(in_run(points), abs=1e-4)


def test_scaled_millimetres_count_x_from_the_other_side_of_a_right_handed_image():
    left, right = affine_of(-1, 2, [0, 0, 0]), affine_of(1, 2, [0, 0, 0])
    assert to_scaled_mm(np.array([3, 4, 5]), SHAPE, left).tolist() == [6, 8, 10]
    assert to_scaled_mm(np.array([3, 4, 5]), SHAPE, right).tolist() == [16, 8, 10]
    assert from_scaled_mm(np.array([16.0, 8, 10]), SHAPE, right).tolist() == [3, 4, 5]


@pytest.mark.parametrize("name", ["displacementfield", "displacementfield_no_premat"])
def test_fields_of_fnirt_are_those_of_fslpy(name):
    source, template = (Image(str(FSLPY / f"{n}.nii.gz")) for n in ("src", "ref"))
    expected = readFnirt(str(FSLPY / f"{name}.nii.gz"), source, template)
    image = nib.load(FSLPY / f"{name}.nii.gz")
    voxels = np.moveaxis(np.indices(image.shape[:3]), 0, -1).reshape(-1, 3)
    points = nib.affines.apply_affine(image.affine, voxels)
    found = from_scaled_mm(source_points(image, points), source.shape, source.nibImage.affine)
    assert found == pytest.approx(expected.transform(points, "world", "voxel"), abs=1e-3)
    moved = nib.affines.apply_affine(source.nibImage.affine, found) - points
    assert np.abs(moved).max() > 1


def test_a_real_warp_is_that_of_nitransforms():
    image = nib.load(REAL_WARP)
    expected = FSLDisplacementsField.from_image(nib.load(REAL_WARP))
    rng = np.random.default_rng(0)
    on_grid = rng.integers(0, image.shape[:3], (500, 3))
    points = nib.affines.apply_affine(image.affine, on_grid)
    found = from_scaled_mm(source_points(image, points), image.shape[:3], image.affine)
    moved = nib.affines.apply_affine(image.affine, found) - points
    assert moved == pytest.approx(np.asarray(expected.dataobj)[tuple(on_grid.T)], abs=1e-4)
    assert np.abs(moved).max() > 3


@pytest.mark.parametrize("absolute", [False, True])
def test_a_missing_value_does_not_change_how_a_field_is_read(absolute):
    affine = affine_of(-1, 8, [44, -50, -30])
    own = to_scaled_mm(np.moveaxis(np.indices(SHAPE), 0, -1), SHAPE, affine)
    values = 3.0 + own * absolute
    values[0, 0, 0] = np.nan
    field = nib.Nifti1Image(values.astype(np.float32), affine)
    points = inner_points(field)
    found = from_scaled_mm(source_points(field, points), SHAPE, affine)
    expected = nib.affines.apply_affine(np.linalg.inv(affine), points) + 3 / 8
    known = ~np.isnan(found).any(axis=1)
    assert known.sum() > 150
    assert found[known] == pytest.approx(expected[known], abs=1e-4)


def test_points_outside_a_field_are_unknown():
    field = nib.Nifti1Image(np.ones((*SHAPE, 3), np.float32), np.eye(4))
    assert np.isnan(source_points(field, np.array([[-0.5, 0, 0], [0, 0, 9.5]]))).all()


def test_other_images_are_refused():
    coefficients = nib.load(FSLPY / "coefficientfield.nii.gz")
    with pytest.raises(ValueError, match=r"spline coefficients .* fnirtfileutils"):
        source_points(coefficients, np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"shape \(12, 14, 10\) instead"):
        source_points(nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4)), np.zeros((1, 3)))
