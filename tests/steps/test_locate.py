"""Raw BOLD runs in the template, against fMRIPrep's own resampler (tests/data/minimal/make.py)."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from minimal_trees import TREES, query_tree

from swift_bids.geometry.frames import FRAMES, FSL_SHAPE
from swift_bids.geometry.motion import motion_parameters
from swift_bids.inputs.bold_reader import open_bold
from swift_bids.inputs.brain_mask import NEAREST, BrainMask
from swift_bids.inputs.mask import mask_voxels
from swift_bids.inputs.raw_header import affine_of
from swift_bids.inputs.run_confounds import confounds_of
from swift_bids.selftest import make_network
from swift_bids.steps import locate as module
from swift_bids.steps.bold_points import BoldPoints
from swift_bids.steps.embed import embed_chunks
from swift_bids.steps.locate import locate
from swift_bids.steps.normalise import normalise


@pytest.fixture(scope="module")
def runs():
    return {name: query_tree(name)[0][0] for name in TREES}


def truth_of(name):
    return dict(np.load(TREES[name] / "truth.npz"))


def mask_of(truth):
    n = np.prod(FSL_SHAPE)
    return np.unpackbits(truth["mask"], count=n).astype(bool)


def largest_deviation(run, truth, transforms=None, expected="values"):
    """Of the BOLD from fMRIPrep's, relative to its standard deviation."""
    affine = affine_of(nib.load(run.bold).header)
    # the anatomical mask in all cases, because it is quicker to compute
    transforms = replace(transforms or run.transforms)
    template = run.transforms.template
    native = template.split("_from-")[0] + "_desc-brain_mask.nii.gz"
    anatomical = BrainMask("anatomical", native, steps=(template,), rule=NEAREST)
    mask, points = locate(affine, anatomical, transforms, FRAMES["ukb"])
    brain = np.asarray(mask.dataobj).reshape(-1) != 0
    position = np.stack(np.unravel_index(np.flatnonzero(brain), FSL_SHAPE))
    inside, _ = FRAMES["ukb"].place(position)
    columns = dict(zip(np.flatnonzero(brain)[inside], range(inside.sum())))
    known = [number for number, index in enumerate(truth["index"]) if index in columns]
    assert len(known) > 500
    with open_bold(run.bold) as bold, points.rows(bold, run.bold, 0, Path()) as blocks:
        rows = np.concatenate(list(blocks))
    ours = rows[:, [columns[truth["index"][number]] for number in known]]
    theirs = truth[expected][:, known]
    return np.abs(ours[: len(theirs)] - theirs).max() / truth["std"]


@pytest.mark.parametrize("name", TREES)
def test_values_are_those_of_fmriprep(runs, name):
    assert largest_deviation(runs[name], truth_of(name)) < 1e-4


@pytest.mark.parametrize("name", TREES)
def test_tokens_are_those_of_fmripreps_output(runs, name, tmp_path):
    """From the raw run to the network's output; tests/data/minimal/tokens.py made the others."""
    run, frame = runs[name], FRAMES["ukb"]
    mask, points = locate(affine_of(nib.load(run.bold).header), run.mask, run.transforms, frame)
    mask.to_filename(tmp_path / "mask.nii.gz")
    statistics = normalise(
        run.bold, tmp_path / "mask.nii.gz", frame, run.series, tmp_path / "m.npy", points=points
    )
    index = mask_voxels(mask, "mask", frame).model_index
    matrix = np.load(tmp_path / "m.npy")
    tokens = embed_chunks(matrix, index, [0], statistics.background, make_network())
    expected = truth_of(name)["tokens"].astype(np.float64)
    difference = tokens.reshape(-1)[::4] - expected
    assert np.sqrt((difference**2).mean() / (expected**2).mean()) < 1e-3
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", TREES)
def test_linear_interpolation_is_that_of_fmriprep(runs, name):
    run, truth = runs[name], truth_of(name)
    transforms = replace(run.transforms, interpolation="linear")
    assert largest_deviation(run, truth, transforms, "linear") < 1e-4
    assert largest_deviation(run, truth, transforms) > 0.02


@pytest.mark.parametrize("name", ["fieldmap", "two_levels"])
def test_the_jacobian_is_that_of_fmriprep(runs, name):
    run, truth = runs[name], truth_of(name)
    fieldmap = replace(run.transforms.fieldmap, jacobian=True)
    transforms = replace(run.transforms, fieldmap=fieldmap)
    assert largest_deviation(run, truth, transforms, "jacobian") < 1e-4
    assert largest_deviation(run, truth, transforms) > 0.02


@pytest.mark.parametrize("name", TREES)
def test_masks_are_those_of_ants(runs, name):
    run = runs[name]
    affine = affine_of(nib.load(run.bold).header)
    mask, _ = locate(affine, run.mask, run.transforms, FRAMES["ukb"])
    differ = (np.asarray(mask.dataobj).reshape(-1) != 0) != mask_of(truth_of(name))
    # without a functional mask, a point may lie half-way between two voxels
    assert differ.sum() <= (0 if run.mask.on_grid_of_run else 3)


def test_a_functional_mask_by_nearest_neighbour(runs):
    """In the place of ANTs' rule, which smooths the edge of a mask of 8 mm."""
    run = runs["fieldmap"]
    affine = affine_of(nib.load(run.bold).header)
    ragged = replace(run.mask, rule=NEAREST)
    mask, _ = locate(affine, ragged, run.transforms, FRAMES["ukb"])
    found = np.asarray(mask.dataobj).reshape(-1) != 0
    differ = found != mask_of(truth_of("fieldmap"))
    assert 0.02 * found.sum() < differ.sum() < 0.2 * found.sum()


@pytest.mark.parametrize("name", TREES)
def test_motion_is_that_of_fmriprep(runs, name):
    confounds = confounds_of(runs[name])
    truth = truth_of(name)["motion"]
    assert confounds.iloc[:, :6].to_numpy() == pytest.approx(truth, abs=1e-6)
    moved = np.abs(np.diff(truth, axis=0)) @ [1, 1, 1, 50, 50, 50]
    displacement = confounds["framewise_displacement"].to_numpy()
    assert np.isnan(displacement[0])
    assert displacement[1:] == pytest.approx(moved, abs=1e-5)
    assert moved.mean() > 1


def without_head_motion(monkeypatch, run):
    original = module.read_affines
    still = lambda file: np.eye(4)[None].repeat(20, 0)  # noqa: E731
    monkeypatch.setattr(
        module,
        "read_affines",
        lambda file: still(file) if file == run.transforms.head_motion else original(file),
    )
    return run.transforms


def inverted(file_kind):
    def make(monkeypatch, run):
        original = module.read_affines
        inverse = lambda file: np.linalg.inv(original(file))  # noqa: E731
        wrong = getattr(run.transforms, file_kind, None) or run.transforms.fieldmap.registration
        monkeypatch.setattr(
            module, "read_affines", lambda file: (inverse if file == wrong else original)(file)
        )
        return run.transforms

    return make


def other_fieldmap(**changes):
    def make(_, run):
        return replace(run.transforms, fieldmap=replace(run.transforms.fieldmap, **changes))

    return make


def other_order(monkeypatch, run):
    """The affine before the displacement field."""
    original = module.read_composite

    def swapped(file):
        composite = original(file)
        return replace(composite, parts=composite.parts[::-1])

    monkeypatch.setattr(module, "read_composite", swapped)
    return run.transforms


@pytest.mark.parametrize(
    "mistake",
    [
        without_head_motion,
        inverted("head_motion"),
        inverted("coregistration"),
        inverted("registration"),
        other_order,
        other_fieldmap(direction="j"),
        other_fieldmap(direction="i-"),
        other_fieldmap(readout_time=0.055),
        lambda _, run: replace(run.transforms, fieldmap=None),
    ],
)
def test_a_mistake_in_the_geometry_is_noticed(runs, monkeypatch, mistake):
    """Otherwise the tests above could pass by chance."""
    run = runs["two_levels"]
    transforms = mistake(monkeypatch, run)
    assert largest_deviation(run, truth_of("two_levels"), transforms) > 0.05


def test_a_missing_level_of_the_fieldmap_is_noticed(runs):
    run = runs["two_levels"]
    fieldmap = run.transforms.fieldmap
    one = replace(fieldmap, coefficients=fieldmap.coefficients[:1])
    transforms = replace(run.transforms, fieldmap=one)
    assert largest_deviation(run, truth_of("two_levels"), transforms) > 0.05


def test_points_are_the_same_after_saving(tmp_path):
    rng = np.random.default_rng(0)
    points = BoldPoints(
        rng.random((5, 3)), 1, rng.random((2, 4, 4)), 1, rng.random(5), np.ones(5), np.ones(3)
    )
    points.save(tmp_path / "points.npz")
    again = BoldPoints.load(tmp_path / "points.npz")
    assert (again.in_volume(1) == points.in_volume(1)).all()
    assert (again.axis, again.order) == (1, 1)


def test_values_outside_the_field_of_view_are_zero(tmp_path):
    data = np.full((4, 5, 6, 2), 7, np.int16)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "bold.nii")
    position = np.array([[0, 0, 0], [3, 4, 5], [-0.1, 0, 0], [3.1, 4, 5], [1.5, 2.5, 2.5]])
    points = BoldPoints(position, head_motion=np.stack([np.eye(4)] * 2))
    with open_bold(tmp_path / "bold.nii") as bold:
        with points.rows(bold, "bold.nii", 0, tmp_path) as blocks:
            (rows,) = blocks
    assert rows == pytest.approx(np.array([[7, 7, 0, 0, 7]] * 2), abs=1e-5)


def test_motion_parameters_of_a_known_rotation():
    """A turn about the axis of z through the centre of gravity has no translation."""
    data = np.zeros((9, 9, 9))
    data[4, 4, 4] = 1
    affine = nib.affines.from_matvec(np.diag([-2.0, 2, 2]), [8, -8, -8])  # the centre is at 0
    angle = 0.1
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    parameters = motion_parameters(np.stack([np.eye(4), turn]), nib.Nifti1Image(data, affine))
    assert parameters[0] == pytest.approx(np.zeros(6), abs=1e-12)
    assert parameters[1, :5] == pytest.approx(np.zeros(5), abs=1e-12)
    assert abs(parameters[1, 5]) == pytest.approx(angle)
