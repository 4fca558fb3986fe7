"""--mask: which brain mask a run is read with, and where its voxels are."""

import json

import nibabel as nib
import numpy as np
import pytest
from app import query, run_app
from cohort_trees import write_hcp, write_ukb
from make_data import AFFINE, FSL_AFFINE, FSL_SHAPE, SHAPE, file_of, write_run
from minimal_trees import TREES, copy_tree, query_tree
from template_trees import OTHER

from swift_bids.base.errors import InputError, UsageError
from swift_bids.geometry.grid import template_brain, voxel_centers
from swift_bids.geometry.itk import read_composite
from swift_bids.geometry.multilabel import carry_mask
from swift_bids.group.load import mask_of
from swift_bids.inputs.brain_mask import TEMPLATE_MASK, BrainMask
from swift_bids.inputs.find_mask import find_anatomical_mask, masks_in_order
from swift_bids.inputs.transforms import GridWarp
from swift_bids.outputs.provenance import resampling_metadata
from swift_bids.steps.template_mask import mask_in_template

STANDARD = "space-MNI152NLin6Asym_res-2_desc-brain_mask.nii.gz"


def write_anatomical(root, label="1", name=STANDARD, affine=AFFINE, shape=SHAPE):
    """A T1w brain mask in the template: all voxels but the outermost ones."""
    brain = np.zeros(shape, np.uint8)
    brain[2:-2, 2:-2, 2:-2] = 1
    file = root / f"sub-{label}" / "anat" / f"sub-{label}_{name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(brain, affine).to_filename(file)
    return file


def only_run(root, *masks):
    runs, problems = query(root, masks=masks)
    assert problems == {}
    (run,) = runs
    return run


def qc_of(out, label="1"):
    (file,) = out.glob(f"sub-{label}/func/*_qc.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("mask", "variant", "order"),
    [
        ("auto", "contrastive", ("bold", "anat")),
        ("auto", "hcp-sex", ("anat", "bold")),
        ("anat", "contrastive", ("anat",)),
        ("bold", "hcp-sex", ("bold",)),
        ("template", "contrastive", ("template",)),
    ],
)
def test_which_masks_are_tried(mask, variant, order):
    assert masks_in_order(mask, variant) == order


def test_paths_of_masks(tmp_path):
    file = tmp_path / "mask.nii.gz"
    with pytest.raises(UsageError, match=r"mask\.nii\.gz: does not exist; choose auto, bold, anat"):
        masks_in_order(str(file), "contrastive")
    file.touch()
    assert masks_in_order(str(file), "contrastive") == (str(file),)
    pattern = str(tmp_path / "sub-{participant}.nii.gz")
    assert masks_in_order(pattern, "contrastive") == (pattern,)
    with pytest.raises(UsageError, match=r"\{subject\} is unknown; .* \{participant\} and"):
        masks_in_order("{subject}.nii.gz", "contrastive")


def test_the_anatomical_mask_of_the_template_comes_first(tmp_path):
    bold = write_run(tmp_path, "1")
    assert only_run(tmp_path, "bold", "anat").mask == BrainMask(
        "functional", str(file_of(bold, "mask")), on_grid_of_run=True
    )
    runs, problems = query(tmp_path, masks=("anat",))
    assert runs == []
    assert "has no anatomical brain mask, neither in its space" in str(problems)
    native = write_anatomical(tmp_path, name="desc-brain_mask.nii.gz")
    transform = native.with_name("sub-1_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5")
    transform.touch()
    expected = BrainMask("anatomical", str(native), steps=(str(transform),))
    assert only_run(tmp_path, "anat").mask == expected
    standard = write_anatomical(tmp_path)
    write_anatomical(tmp_path, name="space-MNI152NLin6Asym_desc-brain_mask.nii.gz")
    write_anatomical(tmp_path, name=f"space-{OTHER}_res-2_desc-brain_mask.nii.gz")
    assert only_run(tmp_path, "anat").mask == BrainMask("anatomical", str(standard))
    assert only_run(tmp_path, "anat", "bold").mask.kind == "anatomical"


def test_a_run_without_functional_mask_takes_the_anatomical_one(tmp_path):
    bold = write_run(tmp_path, "1")
    standard = write_anatomical(tmp_path)
    file_of(bold, "mask").unlink()
    run = only_run(tmp_path, "bold", "anat")
    assert run.mask.file == str(standard)
    assert run.warnings == (
        "it has no functional brain mask in its space, so the anatomical one is used",
    )
    assert only_run(tmp_path, "anat").warnings == ()
    _, problems = query(tmp_path, masks=("bold",))
    assert "has no functional brain mask in its space" in str(problems)


def test_the_anatomy_of_the_own_session(tmp_path):
    """In the template or not, before that of another session."""
    folder = tmp_path / "anat"
    names = [f"sub-1_ses-{s}_space-X_res-2_desc-brain_mask.nii.gz" for s in "abc"]
    files = [folder / name for name in names]
    run = "sub-1_ses-b_task-rest_space-X"
    assert find_anatomical_mask(run, "X", files).file.endswith(
        "ses-b_space-X_res-2_desc-brain_mask.nii.gz"
    )
    functional = folder / "sub-1_ses-b_task-rest_space-X_desc-brain_mask.nii.gz"
    assert find_anatomical_mask(run, "X", [functional]) is None
    assert find_anatomical_mask(run, "X", files[:1]).file == str(files[0])
    with pytest.raises(InputError, match="of 2 other sessions, and none of its own"):
        find_anatomical_mask(run, "X", [files[0], files[2]])
    native = folder / "sub-1_ses-b_desc-brain_mask.nii.gz"
    transform = folder / "sub-1_ses-b_from-T1w_to-X_mode-image_xfm.h5"
    found = find_anatomical_mask(run, "X", [files[0], native, transform])
    assert (found.file, found.steps) == (str(native), (str(transform),))
    elsewhere = tmp_path / "perf" / names[1]
    assert find_anatomical_mask(run, "X", [elsewhere]) is None


def test_the_anatomy_of_the_same_cohort(tmp_path):
    name = "sub-1_space-X_cohort-{}_res-2_desc-brain_mask.nii.gz"
    files = [tmp_path / "anat" / name.format(number) for number in (1, 5)]
    found = find_anatomical_mask("sub-1_task-rest_space-X_cohort-5_res-2", "X", files)
    assert found.file == str(files[1])


def test_the_anatomy_in_the_space_of_a_warped_run(tmp_path):
    """The mask takes the way of the run."""
    standard = tmp_path / "anat" / f"sub-1_space-{OTHER}_res-2_desc-brain_mask.nii.gz"
    warp = GridWarp(("/x/tpl.h5",))
    found = find_anatomical_mask(f"sub-1_task-a_space-{OTHER}", OTHER, [standard], warp)
    assert found == BrainMask("anatomical", str(standard), steps=("/x/tpl.h5",))
    better = tmp_path / "anat" / f"sub-1_{STANDARD}"
    found = find_anatomical_mask(f"sub-1_task-a_space-{OTHER}", OTHER, [standard, better], warp)
    assert found == BrainMask("anatomical", str(better))


def test_several_anatomies_do_not_keep_a_run_from_its_functional_mask(tmp_path):
    write_run(tmp_path, "1")
    for session in "ab":
        write_anatomical(tmp_path, name=f"ses-{session}_{STANDARD}")
    assert only_run(tmp_path, "anat", "bold").mask.kind == "functional"
    _, problems = query(tmp_path, masks=("anat",))
    assert "anatomical images of 2 other sessions" in str(problems)


def test_the_template_is_the_same_for_everybody():
    assert mask_in_template(TEMPLATE_MASK).sum() == 228_483
    assert (mask_in_template(TEMPLATE_MASK) == template_brain().reshape(-1)).all()
    assert TEMPLATE_MASK.files == []


@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_on_the_grid_of_the_network_is_not_interpolated(tmp_path, flip):
    brain = np.random.default_rng(0).random(FSL_SHAPE) > 0.5
    stored, affine = brain, FSL_AFFINE
    if flip:  # the same voxels, stored from left to right
        stored, affine = brain[::-1], FSL_AFFINE @ np.diag([-1.0, 1, 1, 1])
        affine[:3, 3] = [-90, -126, -72]
    file = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(stored.astype(np.uint8), affine).to_filename(file)
    found = mask_in_template(BrainMask("file", str(file)))
    np.testing.assert_array_equal(found, brain.reshape(-1))


def test_a_native_mask_is_carried_by_ants_rule():
    """At the places to which the participant's transform leads."""
    tree = TREES["plain"] / "minimal/sub-01/ses-1/anat"
    native = tree / "sub-01_ses-1_desc-brain_mask.nii.gz"
    transform = tree / "sub-01_ses-1_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5"
    found = mask_in_template(BrainMask("anatomical", str(native), steps=(str(transform),)))
    image = nib.load(native)
    points = read_composite(transform).apply(voxel_centers(), order=1)
    position = nib.affines.apply_affine(np.linalg.inv(image.affine), points)
    expected = carry_mask(np.asarray(image.dataobj) > 0, position)
    np.testing.assert_array_equal(found, expected)
    assert 150_000 < found.sum() < 300_000


def test_masks_of_raw_runs(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    (run,), _ = query_tree(tree, masks=("anat",))
    assert run.mask.kind == "anatomical"
    assert run.mask.steps == (run.transforms.template,)
    assert run.mask.rule == "MultiLabel"
    (in_template,), _ = query_tree(tree, masks=("template",))
    assert in_template.mask == TEMPLATE_MASK
    (tree / "minimal/sub-01/func/sub-01_task-rest_desc-brain_mask.nii.gz").unlink()
    (instead,), _ = query_tree(tree)  # the same mask, carried in another way
    assert (instead.mask.file, instead.mask.rule) == (run.mask.file, "nearest neighbour")
    kinds = [mask_of(resampling_metadata(one)) for one in (run, instead, in_template)]
    assert kinds == ["anatomical", "anatomical by nearest neighbour", "template"]
    _, problems = query_tree(tree, masks=("bold",))
    assert "has no functional brain mask (sub-01_task-rest_desc-brain_mask.nii.gz" in str(problems)


def test_a_file_for_each_participant(tmp_path):
    for label in "12":
        write_run(tmp_path / "in", label)
    masks = tmp_path / "masks"
    masks.mkdir()
    brain = np.zeros(FSL_SHAPE, np.uint8)
    brain[15:75, 10:100, 10:70] = 1
    nib.Nifti1Image(brain, FSL_AFFINE).to_filename(masks / "1.nii.gz")
    out = tmp_path / "out"
    call = (tmp_path / "in", out, "participant", "--random-weights")
    done = run_app(*call, "--mask", masks / "{participant}.nii.gz")
    assert done.returncode == 1
    assert f"{masks / '2.nii.gz'}: does not exist; --mask says that it is" in done.stdout
    qc = qc_of(out)
    assert qc["Coverage"]["n_voxels"] == 60 * 90 * 60
    assert qc["Preprocessing"]["BrainMask"] == "file"
    assert mask_of(qc["Preprocessing"]) == f"file {masks}/{{participant}}.nii.gz"
    assert (masks / "1.nii.gz").as_uri() in qc["Sources"]
    assert "The brain mask, a file of --mask, has 2.59 litres" in (out / "sub-1.html").read_text()
    settings = next(out.glob("sub-1/log/*/swift_bids.toml")).read_text()
    assert f'mask = "{masks}/{{participant}}.nii.gz"' in settings


def test_outputs_of_different_masks_are_of_different_kinds(tmp_path):
    for label in "12":
        write_run(tmp_path / "in", label)
    out = tmp_path / "out"
    call = (tmp_path / "in", out, "participant", "--random-weights")
    listed = run_app(*call, "--dry-run", "--mask", "template").stdout
    assert "template" in listed.splitlines()[2]
    assert run_app(*call, "--participant-label", "1").returncode == 0
    done = run_app(*call, "--mask", "template")
    assert "embedding again: it was made with other settings (BrainMask" in done.stdout
    qc = qc_of(out)
    assert qc["Coverage"]["n_voxels"] == 228_483
    assert [source.split("_desc-")[1] for source in qc["Sources"]] == [
        "preproc_bold.nii.gz",
        "confounds_timeseries.tsv",
    ]
    assert "the brain of the template MNI152NLin6Asym" in (out / "sub-1.html").read_text()
    assert run_app(*call, "--participant-label", "1").returncode == 0
    done = run_app(tmp_path / "in", out, "group")
    assert done.returncode == 2
    assert "mask: functional (1 run), template (1 run)" in done.stderr


@pytest.mark.parametrize(("mask", "own"), [("bold", "anat"), ("anat", "bold")])
def test_masks_that_a_cohort_does_not_have(tmp_path, mask, own):
    root = tmp_path / "in"
    root.mkdir()
    {"anat": write_hcp, "bold": write_ukb}[own](root)
    done = run_app(root, tmp_path / "out", "participant", "--mask", mask, "--random-weights")
    assert done.returncode == 2
    assert f"--mask {mask} does not work for" in done.stderr
    assert f"choose {own}, template or a file" in done.stderr
    done = run_app(root, tmp_path / "out", "participant", "--dry-run=json", "--mask", "template")
    assert {run["mask_kind"] for run in json.loads(done.stdout)["runs"]} == {"template"}
    for file in [*root.rglob("brainmask_fs*"), *root.rglob("mask.nii.gz")]:
        file.unlink()  # another mask does not need them
    done = run_app(root, tmp_path / "out", "participant", "--dry-run=json", "--mask", "template")
    assert done.returncode == 0
    done = run_app(root, tmp_path / "out", "participant", "--dry-run")
    assert "brain mask" in done.stdout
    assert done.returncode == 1
