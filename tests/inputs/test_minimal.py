"""fMRIPrep's minimal level: which files belong together, and sentences about missing ones."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from app import query, run_app
from make_data import write_derivative
from minimal_trees import TREES, copy_tree, query_tree

from swift_bids.base.errors import UsageError
from swift_bids.inputs import minimal_runs
from swift_bids.inputs.index import UnreadableFolderError
from swift_bids.inputs.raw_header import affine_of, count_unsteady, find_dummy_scans, readout_time

SPACE = "space-MNI152NLin6Asym_res-2"


def only_problem(tree, **selection):
    runs, problems = query_tree(tree, **selection)
    assert runs == []
    (reason,) = problems.values()
    return reason


def test_a_run_with_a_fieldmap():
    """Two levels of coefficients, a fieldmap transform without desc, an inherited readout time."""
    (run,), problems = query_tree("two_levels")
    assert problems == {}
    assert run.name == f"sub-01_ses-1_task-rest_{SPACE}"
    folder = TREES["two_levels"]
    func = folder / "minimal" / "sub-01" / "ses-1" / "func"
    stem = "sub-01_ses-1_task-rest"
    assert run.bold == str(folder / "raw" / "sub-01" / "ses-1" / "func" / f"{stem}_bold.nii.gz")
    assert run.mask.file == str(func / f"{stem}_desc-brain_mask.nii.gz")
    assert (run.confounds, run.repetition_time, run.n_volumes) == (None, 0.8, 20)
    transforms = run.transforms
    assert run.mask.kind == "functional"
    assert transforms.template.endswith("anat/sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5")
    assert transforms.reference == str(func / f"{stem}_desc-hmc_boldref.nii.gz")
    fieldmap = transforms.fieldmap
    ends = [file.split("_desc-")[1] for file in fieldmap.coefficients]
    assert ends == ["coeff0_fieldmap.nii.gz", "coeff1_fieldmap.nii.gz"]
    assert fieldmap.registration.endswith("from-boldref_to-auto00000_mode-image_xfm.txt")
    assert fieldmap.reference.endswith("_desc-epi_fieldmap.nii.gz")
    assert (fieldmap.direction, fieldmap.readout_time) == ("j-", 0.05)
    assert set(transforms.files) < set(run.files)


def test_the_anatomy_of_another_session():
    (run,), _ = query_tree("plain")
    assert "/ses-1/anat/" in run.transforms.template
    assert run.mask.file.endswith("ses-1/anat/sub-01_ses-1_desc-brain_mask.nii.gz")
    assert run.mask.kind == "anatomical"
    assert run.transforms.fieldmap is None


def copy_anatomy(tree, session):
    """Copy the anatomy of session 1 to another session."""
    source = tree / "minimal" / "sub-01" / "ses-1" / "anat"
    target = source.parents[1] / f"ses-{session}" / "anat"
    target.mkdir()
    for file in source.iterdir():
        shutil.copy(file, target / file.name.replace("ses-1", f"ses-{session}"))


def test_the_anatomy_of_its_own_session_comes_first(tmp_path):
    tree = copy_tree("plain", tmp_path)
    copy_anatomy(tree, "2")
    (run,), _ = query_tree(tree)
    assert "/ses-2/anat/" in run.transforms.template
    assert "/ses-2/anat/" in run.mask.file


def test_the_anatomy_of_several_other_sessions_is_ambiguous(tmp_path):
    tree = copy_tree("plain", tmp_path)
    (tree / "minimal" / "sub-01" / "ses-3").mkdir()
    copy_anatomy(tree, "3")
    assert "several anatomical images, none of them from its session" in only_problem(tree)


def test_other_characters_in_the_id_of_a_fieldmap(tmp_path):
    """fMRIPrep removes them from the transform's name, in some versions only the underscores."""
    tree = copy_tree("fieldmap", tmp_path)
    func = tree / "minimal" / "sub-01" / "func"
    for file in func.glob("*to-auto00000*"):
        file.rename(func / file.name.replace("auto00000", "auto.00000"))
    (run,), problems = query_tree(tree)
    assert problems == {}
    assert len(run.transforms.fieldmap.coefficients) == 1


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("raw/**/*_bold.nii.gz", "its raw BOLD file sub-01_task-rest_bold.nii.gz is not in"),
        ("minimal/**/*_desc-coreg_xfm.txt", "has no transform to the anatomical image"),
        ("minimal/**/*_boldref.nii.gz", "has no BOLD reference"),
        (
            "minimal/**/*_to-MNI152NLin6Asym_*.h5",
            "has no transform from the anatomical image to MNI152NLin6Asym (available: "
            "MNI152NLin2009cAsym); run fMRIPrep --level minimal with --output-spaces "
            "MNI152NLin6Asym",
        ),
        (
            "minimal/**/*_mask.nii.gz",
            "has no brain mask (sub-01_task-rest_desc-brain_mask.nii.gz, or",
        ),
        ("minimal/**/*_desc-coeff_fieldmap.nii.gz", "its fieldmap auto00000 is incomplete"),
        ("minimal/**/*_desc-epi_fieldmap.nii.gz", "its fieldmap auto00000 is incomplete"),
    ],
)
def test_missing_files(tmp_path, pattern, reason):
    tree = copy_tree("fieldmap", tmp_path)
    for file in tree.glob(pattern):
        file.unlink()
    assert reason in only_problem(tree)


def test_without_a_functional_mask_the_anatomical_one_is_used(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    (tree / "minimal/sub-01/func/sub-01_task-rest_desc-brain_mask.nii.gz").unlink()
    (run,), _ = query_tree(tree)
    assert run.mask.file.endswith("anat/sub-01_desc-brain_mask.nii.gz")
    assert run.mask.kind == "anatomical"


@pytest.mark.parametrize("lacking", ["TotalReadoutTime", "PhaseEncodingDirection"])
def test_a_fieldmap_without_metadata_is_not_applied(tmp_path, lacking):
    tree = copy_tree("fieldmap", tmp_path)
    for file in (tree / "raw").glob("**/*_bold.json"):
        content = json.loads(file.read_text())
        content.pop(lacking, None)
        file.write_text(json.dumps(content))
    (run,), _ = query_tree(tree)
    assert run.transforms.fieldmap is None
    assert run.warnings == (
        f"its fieldmap auto00000 is not applied, because the raw sidecars lack {lacking}; fMRIPrep "
        f"would not apply it either",
    )


def write_settings(folder, text):
    folder.mkdir(parents=True)
    (folder / "fmriprep.toml").write_text(f"[workflow]\n{text}\n")


def test_settings_of_fmriprep(tmp_path):
    """Those of the last call, or of one for the run's session."""
    tree = copy_tree("two_levels", tmp_path)
    (tree / "raw" / "task-rest_bold.json").unlink()
    log = tree / "minimal" / "sub-01" / "log"
    write_settings(log / "20240101-000000_x", "dummy_scans = 1")
    write_settings(log / "20240201-000000_x", "dummy_scans = 3\nfallback_total_readout_time = 0.03")
    (run,), _ = query_tree(tree, short_runs="pad")
    assert run.first_volume == 3
    assert run.transforms.fieldmap.readout_time == 0.03
    (run,), _ = query_tree(tree, short_runs="pad", dummy_scans=2)
    assert run.first_volume == 2
    write_settings(log.parent / "ses-1" / "log" / "20230101-000000_x", "dummy_scans = 4")
    (run,), _ = query_tree(tree, short_runs="pad")
    assert run.first_volume == 4


def test_a_fieldmap_of_another_session(tmp_path):
    tree = copy_tree("two_levels", tmp_path)
    participant = tree / "minimal" / "sub-01"
    (participant / "ses-2").mkdir()
    shutil.move(participant / "ses-1" / "fmap", participant / "ses-2" / "fmap")
    for file in (participant / "ses-2" / "fmap").iterdir():
        file.rename(file.with_name(file.name.replace("ses-1", "ses-2")))
    (run,), _ = query_tree(tree)
    assert all("/ses-2/fmap/" in file for file in run.transforms.fieldmap.coefficients)


def copy_fieldmap(tree, old, new):
    fmap = tree / "minimal" / "sub-01" / "fmap"
    for file in list(fmap.iterdir()):
        if old in file.name:
            shutil.copy(file, fmap / file.name.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "_fmapid",
            "_acq-x_fmapid",
            "there are several fieldmaps auto00000 (sub-01, sub-01_acq-x)",
        ),
        (
            "desc-coeff",
            "desc-coeff0",
            "has files of two fMRIPrep versions (desc-coeff, desc-coeff0)",
        ),
    ],
)
def test_files_of_several_fieldmaps(tmp_path, old, new, reason):
    """Their coefficients must not be added up as if they were levels of one."""
    tree = copy_tree("fieldmap", tmp_path)
    copy_fieldmap(tree, old, new)
    assert reason in only_problem(tree)


def test_transforms_to_several_fieldmaps(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    (file,) = tree.glob("minimal/**/*_from-boldref_to-auto00000_*.txt")
    shutil.copy(file, file.with_name(file.name.replace("auto00000", "auto00001")))
    assert "has transforms to several fieldmaps (auto00000, auto00001)" in only_problem(tree)


def test_magnitude_data(tmp_path):
    """fMRIPrep keeps part-mag in the names of images, but not in those of transforms."""
    tree = copy_tree("fieldmap", tmp_path)
    for pattern in (
        "raw/**/func/*",
        "minimal/**/*_boldref.nii.gz",
        "minimal/**/func/*_mask.nii.gz",
    ):
        for file in tree.glob(pattern):
            file.rename(file.with_name(file.name.replace("task-rest_", "task-rest_part-mag_")))
    shutil.copy(
        tree / "raw/sub-01/func/sub-01_task-rest_part-mag_bold.nii.gz",
        tree / "raw/sub-01/func/sub-01_task-rest_part-phase_bold.nii.gz",
    )
    (run,), problems = query_tree(tree)
    assert problems == {}
    assert run.bold.endswith("part-mag_bold.nii.gz")
    assert run.mask.file.endswith("part-mag_desc-brain_mask.nii.gz")


def test_a_truncated_raw_file(tmp_path, small_bundle):
    """The search for dummy scans does not end at it; the step that reads the whole file says it."""
    tree = copy_tree("fieldmap", tmp_path)
    (file,) = tree.glob("raw/**/*_bold.nii.gz")
    file.write_bytes(file.read_bytes()[:20_000])
    call = (tree / "raw", tmp_path / "out", "participant", "-d", tree / "minimal")
    done = run_app(*call, "--weights", small_bundle)
    assert done.returncode == 1
    assert f"{file}: cannot be read" in done.stdout
    assert "damaged or incomplete; fetch it or create it again" in done.stdout


def test_a_raw_file_without_an_sform(tmp_path):
    """nibabel would take its sform of zeros; fMRIPrep takes the qform."""
    tree = copy_tree("fieldmap", tmp_path)
    (file,) = tree.glob("raw/**/*_bold.nii.gz")
    image = nib.load(file)
    image.header.set_qform(image.affine, 1)
    header = image.header.copy()
    header["srow_x"] = header["srow_y"] = header["srow_z"] = 0
    header["sform_code"], header["vox_offset"] = 1, 352
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[:348] = header.binaryblock
    file.write_bytes(gzip.compress(content))
    (run,), problems = query_tree(tree)
    assert problems == {}
    assert np.allclose(affine_of(nib.load(run.bold).header), image.affine, atol=1e-3)


@pytest.mark.parametrize(
    "pattern",
    [
        "raw/**/*_bold.nii.gz",
        "minimal/**/*_desc-hmc_xfm.txt",
        "minimal/**/*_to-MNI152NLin6Asym_*.h5",
        "minimal/**/*_desc-coeff_fieldmap.nii.gz",
    ],
)
def test_content_that_datalad_has_not_fetched(tmp_path, pattern):
    tree = copy_tree("fieldmap", tmp_path)
    (file,) = tree.glob(pattern)
    file.unlink()
    file.symlink_to("../.git/annex/objects/absent")
    assert only_problem(tree) == (
        f"the content of {file} is missing; fetch it (datalad get {file})"
    )


def test_all_files_that_are_not_fetched_are_named_at_once(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    files = [f for p in ("raw/**/*_bold.nii.gz", "**/*.h5", "**/*.txt") for f in tree.glob(p)]
    for file in files:
        file.unlink()
        file.symlink_to("../.git/annex/objects/absent")
    reason = only_problem(tree)
    assert "the content of 5 files is missing; fetch it (datalad get " in reason
    assert all(str(file) in reason for file in files if "2009c" not in file.name)


@pytest.mark.parametrize("echoes", [None, ["1"]])
def test_several_echoes_are_refused(tmp_path, echoes):
    tree = copy_tree("fieldmap", tmp_path)
    func = tree / "raw" / "sub-01" / "func"
    bold = func / "sub-01_task-rest_bold.nii.gz"
    for echo in (1, 2):
        shutil.copy(bold, func / f"sub-01_task-rest_echo-{echo}_bold.nii.gz")
    bold.unlink()
    reason = only_problem(tree, echoes=echoes)
    assert "has 2 echoes, which fMRIPrep combines after the minimal level" in reason


def test_transforms_of_another_run_are_noticed(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    (file,) = tree.glob("minimal/**/*_desc-hmc_xfm.txt")
    text = file.read_text()
    file.write_text(text[: text.index("#Transform 19")])
    assert "has 19 transforms, but the raw run has 20 volumes" in only_problem(tree)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a transform file of ITK"),
        ("#Insight Transform File V1.0\n", "contains no transform"),
        (
            "#Insight Transform File V1.0\n#Transform 0\nTransform: BSplineTransform_double_3_3\n"
            "Parameters: 1 2 3\nFixedParameters: 0 0 0\n",
            "transform 0 (BSplineTransform_double_3_3) is not affine or incomplete",
        ),
    ],
)
def test_a_damaged_text_file(tmp_path, text, reason):
    tree = copy_tree("fieldmap", tmp_path)
    (file,) = tree.glob("minimal/**/*_desc-hmc_xfm.txt")
    file.write_text(text)
    assert reason in only_problem(tree)


def test_options_of_the_resampling():
    (run,), _ = query_tree("fieldmap", interpolation="linear", jacobian=True)
    assert run.transforms.interpolation == "linear"
    assert run.transforms.fieldmap.jacobian
    (run,), _ = query_tree("plain", jacobian=True)
    assert run.transforms.fieldmap is None


def test_which_runs_are_selected():
    assert query_tree("plain", sessions=["2"])[0]
    assert query_tree("plain", resolutions=["02"])[0]
    assert query_tree("plain", filters={"bold": {"session": "2"}})[0]


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (
            {"tasks": ["rst"]},
            "no run matches your selection; this participant has sub-01_ses-2_task",
        ),
        (
            {"spaces": ["MNI152NLin2009cAsym"]},
            "raw BOLD is resampled only to MNI152NLin6Asym at 2 mm",
        ),
        ({"resolutions": ["native"]}, "raw BOLD is resampled only to MNI152NLin6Asym at 2 mm"),
        ({"filters": {"bold": {"task": "x"}}}, "no raw run matches --bids-filter-file"),
    ],
)
def test_runs_that_are_not_selected(selection, reason):
    assert reason in only_problem("plain", **selection)


@pytest.fixture
def with_full_level(tmp_path):
    """A tree with a preprocessed BOLD file of the same run."""
    tree = copy_tree("fieldmap", tmp_path)
    bold = write_derivative(tree / "minimal", "sub-01_task-rest", shape=(4, 5, 6), n_volumes=20)
    return tree, bold


def test_a_preprocessed_run_comes_first(with_full_level):
    tree, bold = with_full_level
    (run,), _ = query_tree(tree)
    assert (run.bold, run.raw_transforms) == (str(bold), None)


def test_from_raw(with_full_level):
    tree, _ = with_full_level
    (run,), problems = query_tree(tree, from_raw=True)
    assert problems == {}
    assert run.bold.startswith(str(tree / "raw"))


def test_a_run_that_cannot_be_resampled_keeps_its_first_problem(tmp_path):
    """The user has asked for a preprocessed file."""
    tree = copy_tree("fieldmap", tmp_path)
    space = "space-MNIPediatricAsym_cohort-1_res-2"
    write_derivative(
        tree / "minimal", "sub-01_task-rest", space=space, shape=(4, 5, 6), n_volumes=20
    )
    for file in tree.glob("minimal/**/*.h5"):
        file.unlink()
    assert "available: MNIPediatricAsym" in only_problem(tree)


def test_from_raw_needs_the_raw_dataset():
    with pytest.raises(UsageError, match=r"--from-raw: the raw dataset is unknown"):
        query(TREES["fieldmap"] / "minimal", from_raw=True)


def test_a_preprocessed_run_that_is_not_fetched_is_not_replaced(with_full_level):
    tree, bold = with_full_level
    bold.unlink()
    bold.symlink_to("../.git/annex/objects/absent")
    assert "datalad get" in only_problem(tree)
    assert str(bold) in only_problem(tree)


def test_a_raw_folder_that_cannot_be_read(monkeypatch):
    def refuse(raw, participants):
        raise UnreadableFolderError(participants[0])

    monkeypatch.setattr(minimal_runs, "open_layout", refuse)
    reason = only_problem("fieldmap")
    assert "raw/sub-01, or a folder in it, cannot be read; check its permissions" in reason


def test_a_run_in_another_space_is_resampled(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    write_derivative(
        tree / "minimal", "sub-01_task-rest", space="space-T1w", shape=(4, 5, 6), n_volumes=20
    )
    (run,), problems = query_tree(tree)
    assert problems == {}
    assert run.transforms is not None


def test_where_the_raw_dataset_is(tmp_path):
    tree = copy_tree("fieldmap", tmp_path)
    minimal, raw = tree / "minimal", tree / "raw"
    runs, problems = query(minimal)
    assert runs == []
    assert "give the raw dataset with --raw" in problems["sub-01"]
    for arguments in ({"bids_dir": minimal, "raw": raw}, {"bids_dir": raw, "derivatives": minimal}):
        assert len(query(**arguments)[0]) == 1
    description = json.loads((minimal / "dataset_description.json").read_text())
    for url in ("../raw", raw.as_uri(), str(raw)):
        about = description | {"SourceDatasets": [{"URL": "https://example.org"}, {"URL": url}]}
        (minimal / "dataset_description.json").write_text(json.dumps(about))
        assert len(query(minimal)[0]) == 1
    (minimal / "dataset_description.json").write_text(json.dumps(description))
    (minimal / "sourcedata").mkdir()
    raw.rename(minimal / "sourcedata" / "raw")
    assert len(query(minimal)[0]) == 1


def test_the_app_embeds_a_raw_run(tmp_path, small_bundle):
    """Outputs are named as those of the full level, and say what was done."""
    folder, output = TREES["fieldmap"], tmp_path / "out"
    call = (folder / "minimal", output, "participant", "--raw", folder / "raw")
    call += ("--weights", small_bundle, "-w", tmp_path / "work")
    done = run_app(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    stem = output / "sub-01" / "func" / f"sub-01_task-rest_{SPACE}"
    about = json.loads((stem.parent / f"{stem.name}_desc-swift_embedding.json").read_text())
    sources = about["Sources"]
    assert sources[0] == "bids:raw:sub-01/func/sub-01_task-rest_bold.nii.gz"
    assert "bids:fmriprep:sub-01/fmap/sub-01_fmapid-auto00000_desc-coeff_fieldmap.nii.gz" in sources
    assert len(sources) == 9
    preprocessing = about["Preprocessing"]
    assert preprocessing["SpatialInterpolation"] == (
        "cubic B-spline, one resampling from the raw BOLD"
    )
    assert preprocessing["DistortionCorrected"] is True
    assert preprocessing["SliceTimingCorrected"] is False
    assert preprocessing["BrainMask"] == "functional"
    qc = json.loads((stem.parent / f"{stem.name}_desc-swift_qc.json").read_text())
    assert qc["Motion"]["mean_fd"] > 0.5
    links = json.loads((output / "dataset_description.json").read_text())["DatasetLinks"]
    assert links["raw"].endswith("raw")
    again = run_app(*call)
    assert "skipped: 1 run(s) already done" in again.stdout
    listed = json.loads(run_app(*call, "--dry-run=json").stdout)
    assert [run["level"] for run in listed["runs"]] == ["minimal"]
    header, row = (line.split() for line in run_app(*call, "--dry-run").stdout.splitlines()[1:3])
    assert dict(zip(header, row))["confounds"] == "motion"


@pytest.mark.parametrize(
    ("sform", "sform_code", "qform_code", "expected"),
    [
        (1, 1, 1, "sform"),
        (1, 1, 0, "sform"),
        (0, 0, 1, "qform"),
        (2, 1, 1, "qform"),  # voxel sizes of the sform contradict the header
        (0, 1, 1, "qform"),  # an sform of zeros
        (0, 0, 0, "base"),
        (2, 1, 0, "base"),
    ],
)
def test_orientation_as_in_fmriprep(sform, sform_code, qform_code, expected):
    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6, 7))
    header.set_zooms((3, 3, 3, 1))
    good = nib.affines.from_matvec(np.diag([3.0, 3, 3]), [1, 2, 3])
    qform = nib.affines.from_matvec(np.diag([-3.0, 3, 3]), [9, 8, 7])
    header.set_qform(qform, qform_code)
    affine = sform * good
    affine[3, 3] = 1
    header.set_sform(affine, sform_code)
    answers = {"sform": good, "qform": qform, "base": header.get_base_affine()}
    assert np.allclose(affine_of(header), answers[expected])


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"TotalReadoutTime": 0.03, "EffectiveEchoSpacing": 9}, 0.03),
        ({"EffectiveEchoSpacing": 0.0005}, 0.0005 * 63),
        ({"EchoSpacing": 0.001, "ParallelReductionFactorInPlane": 2}, 0.001 * 31),
        ({"EchoSpacing": 0.001}, None),
        ({"WaterFatShift": 12, "EPIFactor": 39, "MagneticFieldStrength": 3}, 756 / (434.215 * 40)),
        ({"WaterFatShift": 12, "EPIFactor": 39, "ImagingFrequency": 127.7}, 756 / (434.1047 * 40)),
        ({"WaterFatShift": 12, "EPIFactor": 39}, None),
        ({}, None),
    ],
)
def test_readout_time(metadata, expected):
    time = readout_time(metadata, lambda: 64)
    assert time == (expected and pytest.approx(expected, rel=1e-5))
    assert readout_time(metadata, lambda: 64, 0.02) == (time or 0.02)


@pytest.mark.parametrize("value", ["n/a", "0.05 s", [0.05], -0.05, True, float("nan")])
@pytest.mark.parametrize("name", ["TotalReadoutTime", "EffectiveEchoSpacing"])
def test_a_readout_time_that_is_no_number(tmp_path, name, value):
    tree = copy_tree("fieldmap", tmp_path)
    (tree / "raw" / "task-rest_bold.json").write_text(json.dumps({name: value}))
    assert f"in its raw sidecars, {name} is {value!r} instead of a positive" in only_problem(tree)


@pytest.mark.parametrize("max_values", [20_000_000, 50 * 40])
def test_dummy_scans_in_the_data(tmp_path, monkeypatch, max_values):
    """In a large image, some of the voxels are enough."""
    monkeypatch.setattr("swift_bids.inputs.raw_header._MAX_VALUES", max_values)
    rng = np.random.default_rng(0)
    means = np.r_[1.5, 1.2, np.ones(48)] * 500
    data = rng.normal(means, 5, (6, 6, 6, 50)).astype(np.float32)
    file = tmp_path / "bold.nii.gz"
    nib.Nifti1Image(data, np.eye(4)).to_filename(file)
    assert find_dummy_scans(str(file)) == 2
    data[:2] = np.nan
    nib.Nifti1Image(data, np.eye(4)).to_filename(file)
    assert find_dummy_scans(str(file)) == 2
    file.write_bytes(file.read_bytes()[:2000])
    assert find_dummy_scans(str(file)) == 0
    nib.Nifti1Image(np.ones((2, 2, 2, 9), np.int16), np.eye(4)).to_filename(file)
    assert find_dummy_scans(str(file)) == 0


@pytest.mark.parametrize("equal", [0, 500])
def test_equal_volumes_are_no_dummy_scans(equal):
    """With a deviation of 0, all of the first 40 volumes used to count."""
    means = np.random.default_rng(0).normal(500, 5, 60)
    means[10:34] = equal
    assert count_unsteady(means) == 0
