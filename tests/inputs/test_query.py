"""The runs that the app finds in a dataset, and its messages about the others."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from app import query
from make_data import SHAPE, SPACE, file_of, write_derivative

from swift_bids.base.errors import UsageError
from swift_bids.inputs.dataset import find_derivatives
from swift_bids.inputs.filters import read_filter_file
from swift_bids.inputs.index import check_database_dir

SMALL = {"shape": (4, 5, 6), "n_volumes": 21}


def test_a_run_and_its_files(tmp_path):
    header = "framewise_displacement\tnon_steady_state_outlier00\n"
    bold = write_derivative(
        tmp_path,
        "sub-01_ses-a_task-rest_dir-AP_run-01",
        confounds=header + "n/a\t1\n" + 20 * "0.1\t0\n",
        **SMALL,
    )
    runs, problems = query(tmp_path)
    assert problems == {}
    (run,) = runs
    assert run.name == f"sub-01_ses-a_task-rest_dir-AP_run-01_{SPACE}"
    assert run.participant == "01"
    assert run.bold == str(bold)
    assert run.mask.file == str(bold).replace("desc-preproc_bold", "desc-brain_mask")
    assert run.confounds.endswith("run-01_desc-confounds_timeseries.tsv")
    assert (run.space, run.repetition_time) == ("MNI152NLin6Asym", 0.8)
    assert (run.n_volumes, run.first_volume, run.warnings) == (21, 1, ())


def test_labels_with_a_common_beginning_are_different_participants(tmp_path):
    for label in ("1", "10", "11"):
        write_derivative(tmp_path, f"sub-{label}_task-a", **SMALL)
    runs, _ = query(tmp_path, participants=["sub-1", "11"])
    assert [run.participant for run in runs] == ["1", "11"]


def test_an_unknown_participant_is_reported_with_similar_labels(tmp_path):
    write_derivative(tmp_path, "sub-patient01_task-a", **SMALL)
    write_derivative(tmp_path, "sub-x_task-a", **SMALL)
    runs, problems = query(tmp_path, participants=["patient1", "x"])
    assert [run.participant for run in runs] == ["x"]
    assert "no such participant" in problems["sub-patient1"]
    assert "(patient01" in problems["sub-patient1"]


def test_the_preferred_space_and_resolution_is_used(tmp_path):
    spaces = [
        "space-MNI152NLin2009cAsym_res-2",
        "space-MNI152NLin6Asym",
        "space-MNI152NLin6Asym_res-2",
        "space-MNI152NLin6Asym_res-1",
        "space-T1w",
        "",
    ]
    for space in spaces:
        write_derivative(tmp_path, "sub-1_task-a", space=space, **SMALL)
    runs, problems = query(tmp_path)
    assert [run.name for run in runs] == ["sub-1_task-a_space-MNI152NLin6Asym_res-2"]
    runs, _ = query(tmp_path, spaces=["MNI152NLin2009cAsym"])
    assert [run.space for run in runs] == ["MNI152NLin2009cAsym"]
    assert problems == {}


def test_the_message_about_a_missing_space_lists_the_existing_ones(tmp_path):
    write_derivative(tmp_path, "sub-1_task-a", space="space-T1w", **SMALL)
    write_derivative(tmp_path, "sub-1_task-a", space="", **SMALL)
    write_derivative(tmp_path, "sub-2_task-a", **SMALL)
    runs, problems = query(tmp_path)
    assert [run.participant for run in runs] == ["2"]
    reason = problems["sub-1_task-a"]
    assert "no preprocessed BOLD in MNI152NLin6Asym or MNI152NLin2009cAsym" in reason
    assert "(available: T1w, native space)" in reason


def test_the_message_about_a_missing_mask_lists_the_existing_ones(tmp_path):
    write_derivative(tmp_path, "sub-1_task-a", mask=False, **SMALL)
    write_derivative(tmp_path, "sub-1_task-a", space="", **SMALL)
    runs, problems = query(tmp_path)
    assert runs == []
    assert "no brain mask in its space" in problems[f"sub-1_task-a_{SPACE}"]
    assert "(available: native space)" in problems[f"sub-1_task-a_{SPACE}"]
    write_derivative(tmp_path, "sub-2_task-a", mask=False, **SMALL)
    write_derivative(tmp_path, "sub-3_task-a", space="", **SMALL)
    problems = query(tmp_path)[1]
    assert (
        "in its space or in any other space; copy sub-2_task-a" in problems[f"sub-2_task-a_{SPACE}"]
    )
    assert "native space); run fMRIPrep" in problems["sub-3_task-a"]  # no other space to choose


def test_sessions_and_tasks(tmp_path):
    for session in "ab":
        for task in ("rest", "nback"):
            write_derivative(tmp_path, f"sub-1_ses-{session}_task-{task}", **SMALL)
    write_derivative(tmp_path, "sub-2_task-rest", **SMALL)
    runs, problems = query(tmp_path, sessions=["b"], tasks=["rest"])
    assert [run.name for run in runs] == [f"sub-1_ses-b_task-rest_{SPACE}"]
    assert problems == {"sub-2": "no run matches your selection; this participant has tasks rest"}
    runs, _ = query(tmp_path, filters={"bold": {"task": "nback", "session": ["a"]}})
    assert [run.name for run in runs] == [f"sub-1_ses-a_task-nback_{SPACE}"]


def test_runs_echoes_and_resolutions(tmp_path):
    for run in ("01", "2", "3"):
        write_derivative(tmp_path, f"sub-1_task-a_run-{run}", **SMALL)
    write_derivative(tmp_path, "sub-1_task-a_run-2", space="space-MNI152NLin6Asym", **SMALL)
    write_derivative(tmp_path, "sub-1_task-a_run-2", space="space-MNI152NLin6Asym_res-1", **SMALL)
    runs, problems = query(tmp_path, runs=["1", "03"])
    assert [run.name for run in runs] == [f"sub-1_task-a_run-{n}_{SPACE}" for n in ("01", "3")]
    (run,), _ = query(tmp_path, runs=["2"])
    assert run.name == f"sub-1_task-a_run-2_{SPACE}"
    space = "sub-1_task-a_run-2_space-MNI152NLin6Asym"
    assert run.others == (space, f"{space}_res-1")
    for choice in ({"resolutions": ["1"]}, {"spaces": ["MNI152NLin6Asym:res-1"]}):
        (run,), _ = query(tmp_path, runs=["2"], **choice)
        assert run.name == f"{space}_res-1"
    (run,), _ = query(tmp_path, runs=["2"], resolutions=["native"])
    assert run.name == space
    _, problems = query(tmp_path, resolutions=["3"], runs=["1"])
    reason = problems["sub-1_task-a_run-01"]
    assert "Asym at resolution 3 (available: MNI152NLin6Asym:res-2); choose one with" in reason
    _, problems = query(tmp_path, runs=["7"])
    expected = "no run matches your selection; this participant has tasks a, runs 1, 2, 3"
    assert problems == {"sub-1": expected}


def test_a_selected_echo_uses_the_common_mask_and_confounds(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", confounds="csf\n" + "1\n" * 21, **SMALL)
    write_derivative(tmp_path, "sub-1_task-a_echo-2", mask=False, **SMALL)
    (run,), problems = query(tmp_path, echoes=["2"])
    assert problems == {}
    assert run.name == f"sub-1_task-a_echo-2_{SPACE}"
    assert run.mask.file == str(bold).replace("preproc_bold", "brain_mask")
    assert run.confounds.endswith("sub-1_task-a_desc-confounds_timeseries.tsv")
    _, problems = query(tmp_path, tasks=["b"], echoes=["2"])
    assert problems["sub-1"].endswith("this participant has tasks a, echoes 2")
    bold.unlink()
    _, problems = query(tmp_path)
    assert "except single echoes; choose them with --echo-idx" in problems["sub-1"]


def even(n, step=0.8):
    return [round(step * volume, 4) for volume in range(n)]


@pytest.mark.parametrize(
    ("sidecar", "tr", "reason"),
    [
        ({"VolumeTiming": even(22)}, 0.8, None),
        ({"VolumeTiming": even(22, 0.735)}, 0.735, None),
        ({"VolumeTiming": [1.5 + time for time in even(22)]}, 0.8, None),
        ({"VolumeTiming": even(22), "RepetitionTime": 0.9}, 0.9, None),
        ({"VolumeTiming": [0, 2, float("nan"), 6, 8]}, None, "its volumes are not evenly spaced"),
        ({"VolumeTiming": [0, 2, 9, 11]}, None, "its volumes are not evenly spaced in time"),
        ({"VolumeTiming": [0.8]}, None, "their VolumeTiming is not a list of times"),
        ({"VolumeTiming": [0, "0.8"]}, None, "their VolumeTiming is not a list of times"),
        ({"VolumeTiming": [0.8, 0]}, None, "their VolumeTiming is not a list of times"),
    ],
)
def test_even_volume_timing_is_a_tr(tmp_path, sidecar, tr, reason):
    bold = write_derivative(tmp_path, "sub-1_task-a", **SMALL)
    file_of(bold, "sidecar").write_text(json.dumps(sidecar))
    runs, problems = query(tmp_path)
    assert [run.repetition_time for run in runs] == ([tr] if tr else [])
    assert [reason in problem for problem in problems.values()] == ([True] if reason else [])


def test_dummy_scans_without_a_table_come_from_the_data(tmp_path):
    rng = np.random.default_rng(0)
    data = 1000 + 20 * rng.standard_normal((*SHAPE, 30))
    data[..., :3] *= [1.8, 1.4, 1.2]
    options = {"data": data.astype(np.float32)}
    write_derivative(tmp_path, "sub-1_task-a", **options)
    write_derivative(tmp_path, "sub-1_task-b", confounds="csf\n" + "1\n" * 30, **options)
    table = "non_steady_state_outlier00\tcsf\n" + "0\t1\n" * 30
    write_derivative(tmp_path, "sub-1_task-c", confounds=table, **options)
    runs, _ = query(tmp_path)
    found = [(run.first_volume, run.dummy_scans_from) for run in runs]
    assert found == [(3, "data"), (0, "table"), (1, "table")]
    runs, _ = query(tmp_path, dummy_scans=2)
    assert {(run.first_volume, run.dummy_scans_from) for run in runs} == {(2, "flag")}


def test_participants_can_be_excluded_and_split_into_batches(tmp_path):
    for label in "12345":
        write_derivative(tmp_path, f"sub-{label}_task-a", **SMALL)
    dataset = find_derivatives(tmp_path)
    assert dataset.choose(excluded=["sub-2", "4"]) == (["1", "3", "5"], [])
    batches = [dataset.choose(batch=(i, 2))[0] for i in (1, 2)]
    assert batches == [["1", "3", "5"], ["2", "4"]]
    assert dataset.choose(batch=(6, 6)) == ([], [])
    reported = [len(dataset.choose(["1", "9"], batch=(i, 2))[1]) for i in (1, 2)]
    assert reported == [1, 0]  # only in the first batch


def test_a_kept_index_sees_what_changed(tmp_path):
    root, kept = tmp_path / "in", tmp_path / "index"
    write_derivative(root, "sub-1_ses-a_task-a", **SMALL)
    before = sorted(p for p in root.rglob("*"))
    for _ in range(2):
        assert len(query(root, database_dir=kept)[0]) == 1
    (first,) = kept.iterdir()
    write_derivative(root, "sub-1_ses-a_task-b", **SMALL)
    assert len(query(root, database_dir=kept)[0]) == 2
    (second,) = kept.iterdir()  # in place of the first
    assert first != second
    for file in root.rglob("*task-a*"):
        file.unlink()
    (run,), _ = query(root, database_dir=kept)
    assert "task-b" in run.name
    assert not [p for p in root.rglob("*") if p not in before and "task-b" not in p.name]
    with pytest.raises(UsageError, match="lies in the input"):
        check_database_dir(root / "index", find_derivatives(root))


def test_more_participants_than_fit_in_one_index(tmp_path, monkeypatch):
    monkeypatch.setattr("swift_bids.inputs.query.PARTICIPANTS_PER_INDEX", 2)
    for label in "12345":
        write_derivative(tmp_path, f"sub-{label}_task-a", **SMALL)
    runs, problems = query(tmp_path, participants=["5", "1", "3", "2", "9"])
    assert [run.participant for run in runs] == ["5", "1", "3", "2"]
    assert list(problems) == ["sub-9"]


def test_single_echoes_and_surfaces_do_not_count_as_runs(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", **SMALL)
    write_derivative(tmp_path, "sub-1_task-a_echo-1", **SMALL)
    (bold.parent / "sub-1_task-a_space-fsLR_den-91k_bold.dtseries.nii").touch()
    (bold.parent / "sub-1_task-a_hemi-L_space-fsaverage5_bold.func.gii").touch()
    runs, problems = query(tmp_path)
    assert [run.bold for run in runs] == [str(bold)]
    assert problems == {}


def test_a_warning_about_a_header_without_repetition_time(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", tr=0.8, **SMALL)
    image = nib.load(bold)
    image.header.set_zooms((*image.header.get_zooms()[:3], 0))
    nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header).to_filename(bold)
    (run,), _ = query(tmp_path)
    assert run.repetition_time == 0.8
    assert "the header's TR (0 s) differs" in run.warnings[0]


def test_no_warning_about_a_header_in_milliseconds(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", tr=0.8, **SMALL)
    image = nib.load(bold)
    image.header.set_zooms((*image.header.get_zooms()[:3], 800))
    image.header.set_xyzt_units("mm", "msec")
    nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header).to_filename(bold)
    (run,), _ = query(tmp_path)
    assert run.warnings == ()


def test_repetition_time_is_inherited_and_compared_with_the_header(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", tr=1.0, **SMALL)
    sidecar = bold.with_name(bold.name.replace(".nii.gz", ".json"))
    sidecar.write_text("{}")
    _, problems = query(tmp_path)
    assert "RepetitionTime" in problems[f"sub-1_task-a_{SPACE}"]
    (tmp_path / "task-a_bold.json").write_text(json.dumps({"RepetitionTime": 2.5}))
    (run,), problems = query(tmp_path)
    assert problems == {}
    assert run.repetition_time == 2.5
    assert run.warnings == (
        "the header's TR (1 s) differs from the sidecar's (2.5 s); the app uses the sidecar's, so "
        "check that it is right",
    )
    sidecar.write_text(json.dumps({"RepetitionTime": 1.25}))
    assert query(tmp_path)[0][0].repetition_time == 1.25


def test_the_message_about_unfetched_content_says_how_to_fetch_it(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", **SMALL)
    bold.unlink()
    bold.symlink_to(tmp_path / ".git" / "annex" / "absent")
    runs, problems = query(tmp_path)
    assert runs == []
    assert f"datalad get {bold}" in problems[f"sub-1_task-a_{SPACE}"]


def test_a_copy_in_another_folder_is_ignored(tmp_path):
    bold = write_derivative(tmp_path, "sub-1_task-a", **SMALL)
    for folder in ("backup", "derivatives/xcp_d"):
        write_derivative(tmp_path / folder, "sub-1_task-a", **SMALL)
    runs, problems = query(tmp_path)
    assert [run.bold for run in runs] == [str(bold)]
    assert problems == {}


def test_unusable_runs_are_found_before_the_workflow(tmp_path):
    write_derivative(tmp_path, "sub-1_task-a", **SMALL | {"n_volumes": 19})
    write_derivative(tmp_path, "sub-2_task-a", tr=800, **SMALL)
    bold = write_derivative(tmp_path, "sub-3_task-a", **SMALL)
    content = bytearray(gzip.decompress(bold.read_bytes()))
    content[280:296] = bytes(16)  # srow_x of the NIfTI header
    bold.write_bytes(gzip.compress(content))
    damaged = write_derivative(tmp_path, "sub-4_task-a", **SMALL)
    damaged.with_name(damaged.name.replace(".nii.gz", ".json")).write_text("{")
    runs, problems = query(tmp_path)
    assert "has 19 volumes" in problems[f"sub-1_task-a_{SPACE}"]
    assert "in seconds (found 800); correct sub-2_task-a" in problems[f"sub-2_task-a_{SPACE}"]
    assert f"{bold}: its affine is singular or not finite" in problems[f"sub-3_task-a_{SPACE}"]
    assert "_bold.json: is not valid JSON" in problems[f"sub-4_task-a_{SPACE}"]
    assert runs == []


def test_unreadable_and_3d_images(tmp_path):
    write_derivative(tmp_path, "sub-1_task-a", **SMALL).write_bytes(b"nothing")
    bold = write_derivative(tmp_path, "sub-2_task-a", **SMALL)
    mask = str(bold).replace("preproc_bold", "brain_mask")
    bold.write_bytes(open(mask, "rb").read())
    _, problems = query(tmp_path)
    assert "cannot be read" in problems[f"sub-1_task-a_{SPACE}"]
    assert "3 dimensions" in problems[f"sub-2_task-a_{SPACE}"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "; run fMRIPrep with --output-spaces MNI152NLin6Asym:res-2"),
        (["task-a_space-fsLR_den-91k_bold.dtseries.nii"], "only surface or CIFTI"),
        (["task-a_hemi-L_space-fsaverage5_bold.func.gii"], "only surface or CIFTI"),
        (
            [
                "task-a_desc-coreg_boldref.nii.gz",
                "task-a_desc-hmc_boldref.nii.gz",
                "task-a_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt",
                "task-a_desc-brain_mask.nii.gz",
            ],
            "only the references and transforms that fMRIPrep --level minimal writes; give the raw "
            "dataset with --raw, so that the app can resample it",
        ),
    ],
)
def test_participant_without_volumes(tmp_path, files, message):
    write_derivative(tmp_path, "sub-1_task-a", **SMALL)
    (tmp_path / "sub-2" / "func").mkdir(parents=True)
    for name in files:
        (tmp_path / "sub-2" / "func" / f"sub-2_{name}").touch()
    runs, problems = query(tmp_path)
    assert [run.participant for run in runs] == ["1"]
    assert problems["sub-2"].startswith("has no preprocessed BOLD image")
    assert message in problems["sub-2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"t1w": {}}', "t1w; the app reads only bold, confounds and mask, so remove"),
        ('["bold"]', "must look like"),
    ],
)
def test_filter_file(tmp_path, content, message):
    file = tmp_path / "filter.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_filter_file(file)
    file.write_text('{"bold": {"session": "Query.NONE"}}')
    write_derivative(tmp_path, "sub-1_task-a", **SMALL)
    write_derivative(tmp_path, "sub-1_ses-x_task-a", **SMALL)
    for wrong, reason in (('{"taskk": "a"}', "taskk"), ('{"session": "Query.FOO"}', "FOO")):
        file.write_text(f'{{"bold": {wrong}}}')
        with pytest.raises(UsageError, match=f"--bids-filter-file: bold: .*{reason}"):
            query(tmp_path, filters=read_filter_file(file))
    file.write_text('{"bold": {"task": "other"}}')
    _, problems = query(tmp_path, filters=read_filter_file(file))
    assert "that match --bids-filter-file" in problems["sub-1"]
    file.write_text('{"bold": {"session": "Query.NONE"}}')
    runs, _ = query(tmp_path, filters=read_filter_file(file))
    assert [run.name for run in runs] == [f"sub-1_task-a_{SPACE}"]
