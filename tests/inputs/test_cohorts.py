"""Data of HCP, ABCD and UK Biobank in their own layouts (--input-type)."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import query, run_app
from cohort_trees import (
    AFFINE,
    SHAPE,
    UKB_AFFINE,
    UKB_SHAPE,
    displacement,
    in_run,
    motion,
    write_abcd,
    write_full,
    write_hcp,
    write_hcp_run,
    write_image,
    write_ukb,
)
from make_data import write_derivative, write_run
from safetensors.numpy import load_file

from swift_bids.base.errors import InputError, UsageError
from swift_bids.geometry.frames import FRAMES
from swift_bids.geometry.grid import voxel_centers
from swift_bids.inputs.brain_mask import NEAREST, functional_mask
from swift_bids.inputs.cohort_files import RUNS_OF, hcp_runs
from swift_bids.inputs.confounds import read_confounds
from swift_bids.inputs.dataset import find_derivatives
from swift_bids.inputs.layouts import LAYOUTS
from swift_bids.inputs.transforms import FslWarp, GridWarp
from swift_bids.steps.locate_warped import locate_warped

SUFFIX = "_space-MNI152NLin6Asym_res-2"


@pytest.fixture(scope="module")
def hcp(tmp_path_factory):
    root = tmp_path_factory.mktemp("hcp")
    write_hcp(root)
    return root


@pytest.fixture(scope="module")
def abcd(tmp_path_factory):
    root = tmp_path_factory.mktemp("abcd")
    write_abcd(root)
    return root


@pytest.fixture(scope="module")
def ukb(tmp_path_factory):
    root = tmp_path_factory.mktemp("ukb")
    write_ukb(root)
    return root


def names(runs):
    return [run.name.removesuffix(SUFFIX) for run in runs]


# --- which layout


def test_auto_recognises_each_layout_and_says_so(hcp, abcd, ukb, tmp_path):
    write_run(tmp_path, "01")
    for root, kind in ((hcp, "hcp"), (abcd, "abcd"), (ukb, "ukb"), (tmp_path, "fmriprep")):
        dataset = find_derivatives(root)
        assert dataset.input_type == kind
        assert dataset.interpretation == f"bids_dir {root} is read as {LAYOUTS[kind].title}"


def test_a_folder_named_fmri_beside_the_participants_changes_nothing(tmp_path):
    write_run(tmp_path, "01")
    (tmp_path / "fMRI").mkdir()
    assert find_derivatives(tmp_path).input_type == "fmriprep"


def test_nibabies_is_recognised_by_its_description(tmp_path):
    write_run(tmp_path, "01")
    description = tmp_path / "dataset_description.json"
    content = json.loads(description.read_text()) | {"GeneratedBy": [{"Name": "NiBabies"}]}
    description.write_text(json.dumps(content))
    assert find_derivatives(tmp_path).input_type == "nibabies"


def test_a_given_layout_must_fit_the_folder(abcd, hcp):
    with pytest.raises(UsageError, match=r"no <id>/MNINonLinear folder; it looks like output"):
        find_derivatives(abcd, input_type="hcp")
    with pytest.raises(UsageError, match=f"one participant, so give {hcp} "):
        find_derivatives(hcp / "100307")


def test_derivatives_of_a_raw_dataset_may_be_a_cohort(abcd, tmp_path):
    (tmp_path / "sub-NDARINV00000000").mkdir()
    dataset = find_derivatives(tmp_path, abcd)
    assert (dataset.input_type, dataset.raw) == ("abcd", tmp_path)


# --- which runs, with which files


def test_runs_of_hcp(hcp, caplog):
    runs, problems = query(hcp)
    assert problems == {}
    assert names(runs) == [
        "sub-100307_task-rest_dir-LR_run-1",
        "sub-100307_task-rest_dir-RL_run-2",
        "sub-100307_task-wm_dir-RL_run-1",
    ]
    own = hcp / "100307" / "MNINonLinear"
    first, second, task = runs
    assert first.bold == str(own / "Results/rfMRI_REST1_LR/rfMRI_REST1_LR.nii.gz")
    assert first.mask.file == str(own / "Results/rfMRI_REST1_LR/brainmask_fs.2.nii.gz")
    assert first.confounds == str(own / "Results/rfMRI_REST1_LR/Movement_Regressors.txt")
    assert second.mask.file == str(own / "Results/rfMRI_REST2_RL/brainmask_fs.2.0.nii.gz")
    assert task.mask.file == str(own / "brainmask_fs.2.nii.gz")
    assert {run.repetition_time for run in runs} == {0.72}
    assert {(run.space, run.denoising) for run in runs} == {("MNI152NLin6Asym", "none")}
    assert {run.transforms for run in runs} == {GridWarp()}  # the grid of these trees is 8 mm


def test_runs_that_are_left_out_are_named(tmp_path, caplog):
    caplog.set_level("INFO", logger="swift_bids")
    write_hcp_run(write_hcp(tmp_path), "tfMRI_WM_LR_copy")
    query(tmp_path)
    assert (
        "left out: 2 run(s) at 7 T or with unknown names: rfMRI_REST1_7T_PA, tfMRI_WM_LR_copy"
        in caplog.text
    )


def test_runs_of_hcp_development_and_of_other_acquisitions(tmp_path):
    for run in ("rfMRI_REST1a_AP", "rfMRI_REST1b_AP", "tfMRI_CARIT_PA"):
        write_hcp_run(tmp_path / "hcp/HCD0001305_V1_MR/MNINonLinear/Results", run)
    runs, problems = query(tmp_path / "hcp", participants=["HCD0001305_V1_MR"])
    assert problems == {}
    assert names(runs) == [
        "sub-HCD0001305V1MR_task-carit_dir-PA_run-1",
        "sub-HCD0001305V1MR_task-rest_acq-a_dir-AP_run-1",
        "sub-HCD0001305V1MR_task-rest_acq-b_dir-AP_run-1",
    ]
    write_hcp_run(
        tmp_path / "abcd/sub-X/ses-2/files/MNINonLinear/Results",
        "ses-2_task-rest_acq-mb6_run-01",
        mask="brainmask_fs.2.0.nii.gz",
    )
    runs, _ = query(tmp_path / "abcd")
    assert names(runs) == ["sub-X_ses-2_task-rest_acq-mb6_run-01"]


def test_runs_of_abcd_in_the_names_of_two_releases(abcd):
    runs, problems = query(abcd)
    assert problems == {}
    assert names(runs) == [
        "sub-NDARINV00000000_ses-2YearFollowUpYArm1_task-rest_run-02",
        "sub-NDARINV00000000_ses-baselineYear1Arm1_task-MID_run-01",
        "sub-NDARINV00000000_ses-baselineYear1Arm1_task-rest_run-1",
    ]
    assert {Path(run.mask.file).name for run in runs} == {"brainmask_fs.2.0.nii.gz"}
    assert {run.repetition_time for run in runs} == {0.8}


def test_runs_of_ukb(ukb):
    (run,), problems = query(ukb)
    ica = ukb / "1000017_20227_2_0/fMRI/rfMRI.ica"
    assert problems == {}
    assert run.name == f"sub-1000017_ses-2_task-rest{SUFFIX}"
    assert run.bold == str(ica / "filtered_func_data_clean.nii.gz")
    assert run.mask.file == str(ica / "mask.nii.gz")
    assert run.confounds == str(ica / "mc/prefiltered_func_data_mcf.par")
    assert run.transforms == FslWarp(str(ica / "reg/example_func2standard_warp.nii.gz"))
    assert (run.repetition_time, run.denoising) == (0.735, "ICA-FIX")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("1000017_20227_3_0", "sub-1000017_ses-3_task-rest"),
        ("1000017_20227_2_1", "sub-1000017_ses-2_task-rest_run-2"),
        ("1000017", "sub-1000017_task-rest"),
    ],
)
def test_names_of_folders_of_ukb(tmp_path, folder, name):
    write_ukb(tmp_path, folder)
    runs, _ = query(tmp_path)
    assert names(runs) == [name]


def test_the_header_has_the_tr_of_a_run_of_ukb_without_sidecar(tmp_path):
    ica = write_ukb(tmp_path)
    (ica.parent / "rfMRI.json").unlink()
    (run,), _ = query(tmp_path)
    assert run.repetition_time == 0.735


def test_runs_are_selected_by_session_task_and_run(hcp, abcd):
    runs, _ = query(hcp, tasks=["rest"], runs=["2"])
    assert names(runs) == ["sub-100307_task-rest_dir-RL_run-2"]
    runs, _ = query(abcd, sessions=["2YearFollowUpYArm1"], runs=["2"])
    assert names(runs) == ["sub-NDARINV00000000_ses-2YearFollowUpYArm1_task-rest_run-02"]
    runs, problems = query(hcp, tasks=["motor"])
    assert runs == []
    assert problems == {
        "sub-100307": "no run matches your selection; this participant has tasks rest, wm, "
        "runs 1, 2"
    }


def test_ica_fix_chooses_the_file(hcp, ukb):
    runs, problems = query(hcp, ica_fix="on")
    (run,) = runs
    assert Path(run.bold).name == "rfMRI_REST1_LR_hp2000_clean.nii.gz"
    assert run.denoising == "ICA-FIX"
    assert "no BOLD file after ICA-FIX, but rfMRI_REST2_RL.nii.gz" in "".join(problems.values())
    (run,), _ = query(ukb, ica_fix="off")
    assert (Path(run.bold).name, run.denoising) == ("filtered_func_data.nii.gz", "none")


# --- motion


def test_motion_files_have_the_units_of_fmripreps_table(hcp, ukb):
    results = hcp / "100307/MNINonLinear/Results"
    for file, seed in (
        (results / "rfMRI_REST1_LR/Movement_Regressors.txt", 1),
        (ukb / "1000017_20227_2_0/fMRI/rfMRI.ica/mc/prefiltered_func_data_mcf.par", 1),
    ):
        table = read_confounds(file)
        expected = motion(seed)
        assert list(table) == [
            *("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"),
            "framewise_displacement",
        ]
        assert table.iloc[:, :6].to_numpy() == pytest.approx(expected, abs=1e-6)
        fd = table["framewise_displacement"].to_numpy()
        assert fd == pytest.approx(displacement(expected), abs=1e-5, nan_ok=True)


def test_relative_rms_stands_in_for_motion_parameters(tmp_path):
    folder = write_hcp(tmp_path) / "rfMRI_REST1_LR"
    (folder / "Movement_Regressors.txt").unlink()
    runs, _ = query(tmp_path, tasks=["rest"], runs=["1"])
    assert runs[0].confounds == str(folder / "Movement_RelativeRMS.txt")
    assert "relative RMS displacement" in runs[0].warnings[0]
    table = read_confounds(runs[0].confounds)
    expected = np.loadtxt(folder / "Movement_RelativeRMS.txt")
    assert np.isnan(table["framewise_displacement"][0])
    assert table["framewise_displacement"][1:].tolist() == expected[1:].tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2 3\n4 5 6\n", "has 3 columns instead of 6"),
        ("a b\n", "cannot be read as motion"),
        ("\n", "is empty; copy it again"),
    ],
)
def test_damaged_motion_files_are_named(tmp_path, content, message):
    file = tmp_path / "Movement_Regressors.txt"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        read_confounds(file)


# --- what is missing


def test_missing_pieces_of_hcp_are_named(tmp_path):
    results = write_hcp(tmp_path)
    (results / "rfMRI_REST1_LR/rfMRI_REST1_LR.nii.gz").unlink()
    (results / "rfMRI_REST2_RL/rfMRI_REST2_RL.nii.gz").unlink()
    (tmp_path / "100307/MNINonLinear/brainmask_fs.2.nii.gz").unlink()
    write_hcp_run(results, "tfMRI_MOTOR_LR")
    for file in (results / "tfMRI_MOTOR_LR").iterdir():
        file.unlink()
    runs, problems = query(tmp_path)
    assert runs == []
    reasons = {name.removesuffix(SUFFIX)[11:]: reason for name, reason in problems.items()}
    assert (
        "has no BOLD file before ICA-FIX, but rfMRI_REST1_LR_hp2000_clean.nii.gz; choose it "
        in (reasons["task-rest_dir-LR_run-1"])
    )
    assert "has only CIFTI files" in reasons["task-rest_dir-RL_run-2"]
    assert "has no brain mask (brainmask_fs.2.nii.gz)" in reasons["task-wm_dir-RL_run-1"]
    assert "has no BOLD file; copy the run again" in reasons["task-motor_dir-LR_run-1"]


def test_two_files_after_ica_fix_are_refused(tmp_path):
    folder = write_hcp(tmp_path) / "rfMRI_REST1_LR"
    shutil.copy(folder / "rfMRI_REST1_LR.nii.gz", folder / "rfMRI_REST1_LR_hp0_clean.nii.gz")
    _, problems = query(tmp_path, ica_fix="on", tasks=["rest"], runs=["1"])
    assert "several files after ICA-FIX" in "".join(problems.values())


def test_a_participant_without_runs_is_named(tmp_path):
    write_hcp(tmp_path)
    (tmp_path / "100408/MNINonLinear").mkdir(parents=True)
    runs, problems = query(tmp_path)
    assert len(runs) == 3
    assert "contains no files" in problems["sub-100408"]
    (tmp_path / "100408/MNINonLinear/T1w.nii.gz").write_bytes(b"")
    _, problems = query(tmp_path)
    assert problems["sub-100408"] == (
        f"{tmp_path / '100408'}: contains no run; copy the participant again"
    )


def test_a_run_in_two_folders_is_refused(tmp_path):
    results = write_abcd(tmp_path) / "ses-baselineYear1Arm1/files/MNINonLinear/Results"
    write_hcp_run(results, "task-rest1", mask="brainmask_fs.2.0.nii.gz")
    _, problems = query(tmp_path)
    (reason,) = problems.values()
    assert "there are 2 folders of this run" in reason


def test_a_mask_of_abcd_may_lack_its_resolution(tmp_path):
    run = "ses-baselineYear1Arm1_task-rest_run-1"
    folder = write_abcd(tmp_path) / "ses-baselineYear1Arm1/files/MNINonLinear/Results" / run
    (folder / "brainmask_fs.2.0.nii.gz").rename(folder / "brainmask_fs.nii.gz")
    runs, problems = query(tmp_path)
    assert problems == {}
    assert Path(runs[2].mask.file).name == "brainmask_fs.nii.gz"


def test_missing_pieces_of_ukb_are_named(tmp_path):
    (tmp_path / "1000017_20227_2_0.zip").write_bytes(b"PK")
    (tmp_path / "1000025_20227_2_0/fMRI").mkdir(parents=True)
    without_field = (
        write_ukb(tmp_path, "1000033_20227_2_0") / "reg/example_func2standard_warp.nii.gz"
    )
    without_field.unlink()
    runs, problems = query(tmp_path)
    assert runs == []
    reasons = {name.removesuffix(SUFFIX): reason for name, reason in problems.items()}
    zipped, failed, incomplete = (
        reasons[f"sub-{label}_ses-2_task-rest"] for label in ("1000017", "1000025", "1000033")
    )
    folder = tmp_path / "1000017_20227_2_0"
    assert zipped == f"{folder}.zip: is not unpacked; run unzip -d {folder} {folder}.zip"
    assert (
        failed
        == f"{tmp_path / '1000025_20227_2_0'}: is incomplete, it has no fMRI/rfMRI.ica; "
        + ("unpack it again")
    )
    write_image(tmp_path / "1000025_20227_2_0/fMRI/rfMRI.nii.gz", np.ones((2, 2, 2), np.int16))
    _, problems = query(tmp_path, participants=["1000025"])
    assert "UK Biobank leaves it out if the run did not" in "".join(problems.values())
    assert incomplete.startswith(f"{without_field} (the field that leads to MNI space) is missing")


def test_a_zip_file_beside_its_folder_is_no_second_run(tmp_path):
    write_ukb(tmp_path)
    (tmp_path / "1000017_20227_2_0.zip").write_bytes(b"PK")
    runs, problems = query(tmp_path)
    assert (len(runs), problems) == (1, {})


def test_a_header_without_tr_is_refused(tmp_path):
    folder = write_hcp(tmp_path) / "rfMRI_REST1_LR"
    bold = folder / "rfMRI_REST1_LR.nii.gz"
    image = nib.load(bold)
    image.header["pixdim"][4] = 0
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(bold)
    _, problems = query(tmp_path, tasks=["rest"], runs=["1"])
    assert "its header gives a TR of 0 s, which cannot be right" in "".join(problems.values())


def test_one_bad_folder_costs_its_own_run_only(tmp_path):
    results = write_hcp(tmp_path)
    shutil.rmtree(results / "rfMRI_REST2_RL")
    (results / "rfMRI_REST2_RL").symlink_to("/nowhere")
    runs, problems = query(tmp_path)
    assert len(runs) == 2
    (reason,) = problems.values()
    assert reason.startswith(f"{results / 'rfMRI_REST2_RL'}: cannot be read (No such file or direc")
    assert "datalad get -n" in reason


def test_an_unreadable_participant_does_not_stop_the_others(tmp_path, monkeypatch):
    """A patch raises the system's error, because root, who may run the tests, can read any file."""
    write_hcp(tmp_path)
    write_hcp(tmp_path, "100408")

    def refuse(label, folder):
        if label == "100408":
            raise PermissionError(13, "Permission denied", str(folder))
        return hcp_runs(label, folder)

    monkeypatch.setitem(RUNS_OF, "hcp", refuse)
    runs, problems = query(tmp_path)
    assert len(runs) == 3
    assert problems == {
        "sub-100408": f"{tmp_path / '100408'}: cannot be read (Permission denied); check its "
        "permissions"
    }


def test_a_participant_may_lack_its_content_or_have_7_tesla_only(tmp_path):
    write_hcp_run(tmp_path / "100408/MNINonLinear/Results", "rfMRI_REST1_7T_PA")
    (tmp_path / "100307/MNINonLinear").mkdir(parents=True)
    _, problems = query(tmp_path)
    assert "contains no files (in a DataLad dataset, run datalad get -n" in problems["sub-100307"]
    assert "only runs that the app leaves out (rfMRI_REST1_7T_PA)" in problems["sub-100408"]


@pytest.mark.parametrize("content", [{"RepetitionTime": 735}, {}])
def test_a_sidecar_of_ukb_with_a_wrong_tr_is_named_and_one_without_is_no_problem(tmp_path, content):
    sidecar = write_ukb(tmp_path).parent / "rfMRI.json"
    sidecar.write_text(json.dumps(content))
    runs, problems = query(tmp_path)
    if content:
        assert "found 735); correct rfMRI.json" in "".join(problems.values())
    else:
        assert [run.repetition_time for run in runs] == [0.735]


def test_a_damaged_sidecar_of_ukb_costs_its_own_run_only(tmp_path):
    (write_ukb(tmp_path).parent / "rfMRI.json").write_text("{")
    write_ukb(tmp_path, "1000025_20227_2_0")
    runs, problems = query(tmp_path)
    assert len(runs) == 1
    assert "rfMRI.json: is not valid JSON" in "".join(problems.values())


def test_a_zip_file_that_is_not_fetched_or_has_spaces_in_its_path(tmp_path):
    folder = tmp_path / "UK Biobank"
    folder.mkdir()
    (folder / "1000017_20227_2_0.zip").symlink_to("/nowhere")
    (folder / "1000025_20227_2_0.zip").write_bytes(b"PK")
    _, problems = query(folder)
    absent, zipped = problems.values()
    assert "1000017_20227_2_0.zip is missing; fetch it (datalad get '" in absent
    assert f"run unzip -d '{folder}/1000025_20227_2_0' '{folder}/1000025_20227_2_0.zip'" in zipped


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["1000017_20227_2_0"], 1), (["sub-1000017"], 1), (["1000018"], 0)],
)
def test_participants_have_the_names_of_their_folders_too(ukb, labels, expected):
    runs, problems = query(ukb, participants=labels)
    assert (len(runs), len(problems)) == (expected, 1 - expected)


def test_an_error_says_where_the_data_may_be(hcp, ukb, tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    (above / "HCP_1200").symlink_to(hcp)
    with pytest.raises(UsageError, match=f"; {above / 'HCP_1200'} does, so give that folder"):
        find_derivatives(above)
    with pytest.raises(UsageError, match="like UK Biobank data, so leave out --input-type"):
        find_derivatives(ukb, input_type="fmriprep")


def test_the_output_must_not_lie_in_a_participants_folder(hcp, small_bundle):
    output = hcp / "100307" / "swift"
    done = run_app(hcp, output, "participant", "--weights", small_bundle)
    assert done.returncode == 2
    assert "lies in the input's data; choose another" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"from_raw": True}, "--from-raw"),
        ({"spaces": ["MNI152NLin2009cAsym"]}, "only in MNI152NLin6Asym at 2 mm"),
        ({"filters": {"bold": {"task": "rest"}}}, "--bids-filter-file does not work for data of"),
    ],
)
def test_flags_of_fmripreps_layout_are_refused(hcp, selection, message):
    with pytest.raises(UsageError, match=message):
        query(hcp, **selection)


@pytest.mark.parametrize("space", ["MNIInfant_cohort-2", "UNCInfant_cohort-1"])
def test_templates_of_infants_are_refused(tmp_path, space):
    write_derivative(tmp_path, "sub-01_task-a", f"space-{space}")
    write_run(tmp_path, "02")
    for selection in ({}, {"spaces": [space.split("_")[0]]}):
        _, problems = query(tmp_path, participants=["01"], **selection)
        (reason,) = problems.values()
        assert "cannot read an infant template" in reason
    runs, problems = query(tmp_path, participants=["02"])
    assert (len(runs), problems) == (1, {})


# --- the whole app


def test_hcp_and_fmripreps_layout_give_the_same_bytes(hcp, tmp_path, small_bundle):
    full = tmp_path / "full"
    for run, seed in (("task-rest_dir-LR_run-1", 1), ("task-wm_dir-RL_run-1", 3)):
        write_full(full, f"sub-100307_{run}", seed, 0.72)
    flags = ["participant", "--weights", small_bundle]
    done = run_app(hcp, tmp_path / "own", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_app(full, tmp_path / "out", *flags).returncode == 0
    for file in (tmp_path / "out").rglob("*_tokens.safetensors"):
        own = tmp_path / "own" / file.relative_to(tmp_path / "out")
        assert (load_file(own)["tokens"] == load_file(file)["tokens"]).all()
        table = file.name.replace("tokens.safetensors", "timeseries.tsv")
        fd, expected = (pd.read_csv(f.with_name(table), sep="\t")["mean_fd"] for f in (own, file))
        assert fd.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)
    (sidecar,) = (tmp_path / "own").rglob("*task-wm*_embedding.json")
    about = json.loads(sidecar.read_text())
    place = "bids:hcp:100307/MNINonLinear"
    assert about["Sources"] == [
        f"{place}/Results/tfMRI_WM_RL/tfMRI_WM_RL.nii.gz",
        f"{place}/brainmask_fs.2.nii.gz",
        f"{place}/Results/tfMRI_WM_RL/Movement_Regressors.txt",
    ]
    assert about["Preprocessing"]["InputType"] == "hcp"
    links = json.loads((tmp_path / "own/dataset_description.json").read_text())["DatasetLinks"]
    assert list(links) == ["hcp"]
    page = (tmp_path / "own/sub-100307.html").read_text()
    assert "Glasser" in page
    assert "preprocessed by fMRIPrep" not in page
    assert run_app(hcp, tmp_path / "own", "group", "--permutations", "9").returncode == 0


def test_the_voxels_of_ukb_are_where_the_field_leads(ukb):
    ica = ukb / "1000017_20227_2_0/fMRI/rfMRI.ica"
    bold, mask = ica / "filtered_func_data_clean.nii.gz", ica / "mask.nii.gz"
    warp = FslWarp(str(ica / "reg/example_func2standard_warp.nii.gz"))
    located, points = locate_warped(bold, functional_mask(mask, NEAREST), warp, FRAMES["ukb"])
    centers = voxel_centers()
    expected = nib.affines.apply_affine(np.linalg.inv(UKB_AFFINE), in_run(centers))
    inside = np.asarray(nib.load(mask).dataobj)
    nearest = np.rint(expected).astype(int)
    within = ((nearest >= 0) & (nearest < UKB_SHAPE)).all(axis=1)
    on_field = np.abs(
        nib.affines.apply_affine(np.linalg.inv(AFFINE), centers) - (np.array(SHAPE) - 1) / 2
    )
    within &= (on_field <= (np.array(SHAPE) - 1) / 2).all(axis=1)
    brain = np.zeros(len(centers), bool)
    brain[within] = inside[tuple(nearest[within].T)] > 0
    found = np.asarray(located.dataobj).reshape(-1) > 0
    assert (found != brain).mean() < 0.002  # the field is interpolated linearly
    assert found.sum() > 50_000
    kept = FRAMES["ukb"].place(np.stack(np.unravel_index(np.flatnonzero(found), located.shape)))[0]
    assert points.position == pytest.approx(expected[found][kept], abs=0.03)


def test_ukb_is_embedded_from_its_own_space(ukb, tmp_path, small_bundle):
    done = run_app(ukb, tmp_path, "participant", "--weights", small_bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    (sidecar,) = tmp_path.rglob("*_embedding.json")
    about = json.loads(sidecar.read_text())
    how = about["Preprocessing"]
    assert how["Space"] == "MNI152NLin6Asym"
    assert how["SpatialInterpolation"] == "cubic B-spline, one resampling from the space of the run"
    assert how["WarpedWith"] == "FNIRT's displacement field"
    assert (how["InputType"], how["Denoising"]) == ("ukb", "ICA-FIX")
    assert about["Sources"][3].endswith("reg/example_func2standard_warp.nii.gz")
    page = (tmp_path / "sub-1000017.html").read_text()
    assert "Warped to MNI152NLin6Asym" in page
    assert "Alfaro-Almagro" in page


def test_a_mask_on_another_grid_than_the_run_is_refused(tmp_path):
    ica = write_ukb(tmp_path)
    write_image(ica / "mask.nii.gz", np.ones(SHAPE, np.float32))
    warp = FslWarp(str(ica / "reg/example_func2standard_warp.nii.gz"))
    bold = ica / "filtered_func_data_clean.nii.gz"
    with pytest.raises(InputError, match="is not on the grid of"):
        locate_warped(bold, functional_mask(ica / "mask.nii.gz", NEAREST), warp, FRAMES["ukb"])


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "contains no finite value"), (9e4, "leads to no voxel of the run")],
)
def test_a_field_that_leads_nowhere_is_named(tmp_path, value, message):
    ica = write_ukb(tmp_path)
    field = ica / "reg/example_func2standard_warp.nii.gz"
    image = nib.load(field)
    data = np.full(image.shape, value, np.float32)
    nib.Nifti1Image(data, image.affine, image.header).to_filename(field)
    bold = ica / "filtered_func_data_clean.nii.gz"
    with pytest.raises(InputError, match=rf"_warp\.nii\.gz: {message}"):
        locate_warped(
            bold, functional_mask(ica / "mask.nii.gz", NEAREST), FslWarp(str(field)), FRAMES["ukb"]
        )


def test_two_cohorts_in_one_output_keep_their_links(hcp, ukb, tmp_path, small_bundle):
    flags = ["participant", "--weights", small_bundle]
    for root, name in ((hcp, "hcp"), (ukb, "ukb")):
        assert run_app(root, tmp_path, *flags).returncode == 0
        links = json.loads((tmp_path / "dataset_description.json").read_text())["DatasetLinks"]
        assert links[name].endswith(root.name)
    assert list(links) == ["hcp", "ukb"]
    done = run_app(ukb, tmp_path, "group")
    assert "denoising: none (3 runs), ICA-FIX (1 run)" in done.stderr


def test_a_table_of_participants_may_have_the_cohorts_own_labels(tmp_path, small_bundle):
    write_hcp(tmp_path / "in")
    (tmp_path / "in/participants.tsv").write_text("participant_id\tage\n100307\t26-30\n")
    flags = ["participant", "--weights", small_bundle, "--task-id", "wm"]
    assert run_app(tmp_path / "in", tmp_path / "out", *flags).returncode == 0
    table = pd.read_csv(tmp_path / "out/participants.tsv", sep="\t")
    assert table.to_dict("list") == {"participant_id": ["sub-100307"], "age": ["26-30"]}


def test_a_dry_run_shows_the_new_names(hcp, tmp_path):
    done = run_app(hcp, tmp_path, "participant", "--dry-run")
    assert done.returncode == 0
    assert "read as data of the Human Connectome Project" in done.stdout
    assert f"sub-100307_task-rest_dir-LR_run-1{SUFFIX}" in done.stdout
