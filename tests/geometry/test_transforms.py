"""Readers of transforms and fieldmaps on real files (tests/data/transforms)."""

import h5py
import nibabel as nib
import nitransforms as nt
import numpy as np
import pandas as pd
import pytest
from app import ROOT
from minimal_trees import TREES

from swift_bids.base.errors import InputError
from swift_bids.geometry.fieldmap import Field, evaluate, voxel_shift
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.itk import read_affines, read_composite
from swift_bids.geometry.motion import PARAMETERS, motion_parameters
from swift_bids.geometry.multilabel import carry_mask

DATA = ROOT / "tests" / "data" / "transforms"
RUN = "sub-01_task-mixedgamblestask_run-01"
HEAD_MOTION = DATA / f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
pytestmark = pytest.mark.filterwarnings("ignore:Reference space not set")


def points(n, spread=60):
    return np.random.default_rng(0).normal(0, spread, (n, 3))


@pytest.mark.parametrize("file", [DATA / "hmc-itk.tfm", HEAD_MOTION])
def test_affines_are_those_of_nitransforms(file):
    affines = read_affines(file)
    assert len(affines) >= 8
    assert affines == pytest.approx(nt.linear.load(file, fmt="itk").matrix, abs=1e-6)


def test_motion_parameters_are_those_of_mcflirt():
    """Of a real run; the transforms have six digits."""
    reference = nib.load(DATA / f"{RUN}_desc-hmc_boldref.nii.gz")
    parameters = motion_parameters(read_affines(HEAD_MOTION), reference)
    expected = pd.read_csv(DATA / f"{RUN}_desc-motion_timeseries.tsv", sep="\t")
    assert parameters == pytest.approx(expected[list(PARAMETERS)].to_numpy(), abs=5e-4)


def test_a_composite_of_ants_is_that_of_nitransforms():
    file = DATA / "affine-antsComposite.h5"
    mapped = read_composite(file).apply(points(50))
    assert mapped == pytest.approx(nt.manip.load(file, fmt="h5").map(points(50)), abs=1e-4)
    assert np.abs(mapped - points(50)).max() > 5


def test_a_displacement_field_is_that_of_nitransforms():
    (file,) = TREES["plain"].glob("minimal/**/*_to-MNI152NLin6Asym_*.h5")
    mapped = read_composite(file).apply(points(500))
    assert mapped == pytest.approx(nt.manip.load(file, fmt="h5").map(points(500)), abs=1e-3)


def write_field(file, shape, origin, spacing, field, misspelt=True, **options):
    """Write a displacement field (z, y, x, 3) in mm, RAS+, as ITK does."""
    name = "Tranform" if misspelt else "Transform"
    with h5py.File(file, "w") as content:
        for number, kind in enumerate(("CompositeTransform", "DisplacementFieldTransform")):
            group = content.create_group(f"TransformGroup/{number}")
            group["TransformType"] = [f"{kind}_double_3_3".encode()]
        lps = np.multiply(origin, (-1, -1, 1))
        fixed = [*shape, *lps, *[spacing] * 3, -1, 0, 0, 0, -1, 0, 0, 0, 1]
        group[f"{name}FixedParameters"] = np.array(fixed, dtype=np.float64)
        values = (field * (-1, -1, 1)).astype(np.float32).reshape(-1)
        group.create_dataset(f"{name}Parameters", data=values, **options)


@pytest.mark.parametrize(
    ("misspelt", "options"),
    [(True, {}), (False, {"compression": "gzip"}), (True, {"chunks": (3 * 93 * 111 * 92,)})],
)
def test_voxel_centres_on_the_grid_of_a_field_are_looked_up(tmp_path, misspelt, options):
    """As on the 1 mm grid of fMRIPrep's fields; here 2 mm, to be small. The displacement tells the
    axes apart; interpolation would not reproduce its jumps."""
    shape, origin = (93, 111, 92), (-92, -128, -72)
    k, j, i = np.indices(shape[::-1])
    field = np.stack([i % 3, 5 + j % 4, -k % 5], axis=-1)
    write_field(tmp_path / "x.h5", shape, origin, 2, field, misspelt, **options)
    index = np.stack(np.unravel_index(np.arange(0, np.prod(FSL_SHAPE), 1009), FSL_SHAPE), -1)
    centers = nib.affines.apply_affine(FSL_AFFINE, index)
    moved = read_composite(tmp_path / "x.h5").apply(centers)
    i, j, k = ((centers - origin) / 2).astype(int).T
    expected = np.stack([i % 3, 5 + j % 4, -k % 5], axis=-1)
    assert (moved - centers == expected).all()


def test_points_outside_a_field_stay(tmp_path):
    write_field(tmp_path / "x.h5", (4, 5, 6), (0, 0, 0), 2, np.ones((6, 5, 4, 3)))
    given = np.array([[-2.0, 0, 0], [0, 10, 0], [0, 0, 12.5], [2, 2, 2], [1, 1, 1]])
    inside = np.array([[0], [0], [0], [1], [1]])
    transform = read_composite(tmp_path / "x.h5")
    assert transform.apply(given, order=1) == pytest.approx(given + inside)
    on_grid = [0, 1, 3]
    assert (transform.apply(given[on_grid]) == (given + inside)[on_grid]).all()


@pytest.mark.parametrize("damage", ["text", "type", "size", "empty"])
def test_a_damaged_composite(tmp_path, damage):
    file = tmp_path / "x.h5"
    write_field(file, (4, 5, 6), (0, 0, 0), 2, np.ones((6, 5, 4, 3)))
    if damage == "text":
        file.write_text("no HDF5")
    else:
        with h5py.File(file, "a") as content:
            group = content["TransformGroup/1"]
            if damage == "type":
                del group["TransformType"]
                group["TransformType"] = [b"BSplineTransform_double_3_3"]
            elif damage == "size":
                del group["TranformParameters"]
                group["TranformParameters"] = np.ones(7)
            else:
                del content["TransformGroup"]
    with pytest.raises(InputError, match=r"x.h5: cannot be read as a composite transform of ITK"):
        read_composite(file)


def test_a_fieldmap_is_that_of_sdcflows():
    """On real coefficients of TOPUP, on an oblique grid. TOPUP's own field differs by about 1 Hz,
    because sdcflows corrects the position of the knots."""
    truth = np.load(DATA / "topup-field.npz")
    coefficients = nib.load(DATA / "topup-coeff-fixed.nii.gz")
    grid = nib.Nifti1Image(np.zeros(truth["shape"], np.uint8), truth["affine"])
    field = evaluate([coefficients], grid)
    hz = field.hz.reshape(-1)[truth["index"]]
    assert hz == pytest.approx(truth["sdcflows"], abs=1e-3)
    assert np.abs(truth["sdcflows"]).max() > 50
    assert np.median(np.abs(hz - truth["topup"])) < 2
    # the field belongs to positions, not to the order in which they are stored
    flipped = evaluate([coefficients], nib.Nifti1Image(grid.dataobj[::-1], flip_x(grid)))
    assert flipped.at(centers_of(grid)) == pytest.approx(field.at(centers_of(grid)), abs=1e-3)


def flip_x(image):
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = image.shape[0] - 1
    return image.affine @ flip


def centers_of(image):
    index = np.stack(np.unravel_index(np.arange(0, np.prod(image.shape), 997), image.shape), -1)
    return nib.affines.apply_affine(image.affine, index)


def test_coefficients_on_rotated_axes_are_refused():
    turned = nib.affines.from_matvec([[40, 3, 0], [-3, 40, 0], [0, 0, 40]], [0, 0, 0])
    knots = nib.Nifti1Image(np.ones((4, 4, 4)), turned)
    reference = nib.Nifti1Image(np.ones((9, 9, 9)), np.diag([9, 9, 9, 1]))
    with pytest.raises(ValueError, match="not parallel"):
        evaluate([knots], reference)


def test_a_field_is_zero_outside_its_grid():
    field = Field(np.ones((5, 6, 7), np.float32), np.diag([2, 2, 2, 1]))
    assert field.at(np.array([[0.0, 0, 0], [8, 10, 12], [9, 0, 0]])) == pytest.approx([1, 1, 0])


@pytest.mark.parametrize(
    ("direction", "axis", "shift"), [("i", 0, 2), ("j-", 1, -2), ("k", 2, 2), ("k-", 2, -2)]
)
def test_direction_of_the_shift(direction, axis, shift):
    found, shifts = voxel_shift(np.array([40.0, -20]), direction, 0.05)
    assert found == axis
    assert shifts == pytest.approx([shift, -shift / 2])


def test_a_mask_is_carried_by_the_weight_of_a_gaussian():
    """Half-way between a plane of brain and a plane without, nothing is decided by rounding."""
    mask = np.zeros((20, 20, 20), bool)
    mask[:10] = True  # brain up to x = 9.5, in voxels
    x = np.array([2.0, 9.0, 9.45, 9.55, 10, 17])
    position = np.stack([x, np.full(6, 9.3), np.full(6, 8.8)], axis=1)
    assert carry_mask(mask, position).tolist() == [True, True, True, False, False, False]
    outside = np.array([[-0.6, 9, 9], [19.6, 9, 9], [3, 25, 9]])
    assert not carry_mask(np.ones((20, 20, 20), bool), outside).any()


def test_a_thin_mask_is_lost_where_most_of_the_weight_is_outside():
    mask = np.zeros((20, 20, 20), bool)
    mask[10, 10, 10] = True
    assert not carry_mask(mask, np.array([[10.0, 10, 10]])).any()
