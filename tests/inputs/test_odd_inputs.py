"""Unusual folders, file names and flags, each with the expected result."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from app import query, run_app
from make_data import SPACE, write_derivative
from test_query import SMALL

from swift_bids.base.errors import UsageError
from swift_bids.cli.values import parse_labels
from swift_bids.execution.progress import Progress
from swift_bids.inputs.dataset import find_derivatives
from swift_bids.inputs.filters import read_filter_file
from swift_bids.outputs.dataset import check_output_dir


@pytest.mark.parametrize("copy", ["sub-01_old", "sub-01.bak", "sub-01_A"])
def test_a_folder_beside_a_participant_is_not_the_participant(tmp_path, copy):
    """The app used to read the mask in such a folder."""
    write_derivative(tmp_path, "sub-01_task-a", **SMALL)
    shutil.copytree(tmp_path / "sub-01", tmp_path / copy)
    write_derivative(tmp_path / "x", "sub-01_task-b", **SMALL)  # a run that exists only in the copy
    for file in (tmp_path / "x" / "sub-01" / "func").iterdir():
        shutil.move(file, tmp_path / copy / "func")
    (run,), _ = query(tmp_path, participants=["01"])
    assert {file.split("/")[-3] for file in (run.bold, run.mask.file)} == {"sub-01"}


def test_mask_and_confounds_come_from_the_folder_of_the_bold(tmp_path):
    write_derivative(tmp_path, "sub-02_task-a", confounds="a\n" + "1\n" * 21, **SMALL)
    folder = tmp_path / "sub-02"
    shutil.copytree(folder / "func", folder / "old" / "func")
    for bold in (folder / "old" / "func").glob("*_bold.nii.gz"):
        bold.unlink()
    (run,), problems = query(tmp_path)
    assert {"/".join(f.split("/")[-3:-1]) for f in (run.bold, run.mask.file, run.confounds)} == {
        "sub-02/func"
    }
    assert problems == {}


def test_duplicate_names_and_files_of_other_participants_are_rejected(tmp_path):
    bold = write_derivative(tmp_path, "sub-02_task-a", **SMALL)
    shutil.copytree(bold.parent, tmp_path / "sub-02" / "old" / "func")
    write_derivative(tmp_path, "sub-01_task-a", **SMALL)
    stray = write_derivative(tmp_path / "x", "sub-02_task-stray", **SMALL)
    for file in stray.parent.iterdir():
        shutil.copy(file, tmp_path / "sub-01" / "func")
    shutil.rmtree(tmp_path / "x")
    runs, problems = query(tmp_path)
    assert [run.name for run in runs] == [f"sub-01_task-a_{SPACE}"]
    assert "there are 2 files with this name" in problems[f"sub-02_task-a_{SPACE}"]
    assert "folder of another participant" in problems[f"sub-02_task-stray_{SPACE}"]


@pytest.mark.parametrize(
    "above", ["ses-1", "study_task-rest", "out_space-T1w", "echo_echo-1", "x_res-1", "anat/func"]
)
def test_folders_above_the_dataset_do_not_count_as_entities(tmp_path, above):
    root = tmp_path / above / "fp"
    write_derivative(root, "sub-01_task-nback", confounds="a\n" + "1\n" * 21, **SMALL)
    (run,), problems = query(root, tasks=["nback"], resolutions=["2"])
    assert (run.space, run.name) == ("MNI152NLin6Asym", f"sub-01_task-nback_{SPACE}")
    assert run.bold.startswith(f"{root}/sub-01/func/")
    assert run.confounds.startswith(f"{root}/sub-01/func/")
    assert problems == {}
    assert query(root, sessions=["1"])[0] == []


def test_messages_about_inherited_sidecars_give_the_real_path(tmp_path):
    root = tmp_path / "ses-1" / "fp"
    bold = write_derivative(root, "sub-01_task-a", **SMALL)
    bold.with_name(bold.name.replace(".nii.gz", ".json")).unlink()
    (root / "task-a_bold.json").write_text("[]")
    _, problems = query(root)
    assert f"{root}/task-a_bold.json: contains list" in problems[f"sub-01_task-a_{SPACE}"]


def test_messages_give_the_real_paths(tmp_path):
    """Messages do not contain the temporary link that pybids reads."""
    root = tmp_path / "ses-1" / "fp"
    bold = write_derivative(root, "sub-02_task-a", **SMALL)
    shutil.copytree(bold.parent, root / "sub-02" / "old" / "func")
    (reason,) = query(root)[1].values()
    assert f"{bold}, {root}/sub-02/old/func/{bold.name}" in reason


@pytest.mark.parametrize("run", ["sub-01_task-my_task", "sub-01_A_task-rest"])
def test_names_that_are_not_valid_in_bids_are_rejected(tmp_path, run):
    bold = write_derivative(tmp_path, "sub-01_task-x", **SMALL)
    for file in list(bold.parent.iterdir()):
        file.rename(bold.parent / file.name.replace("sub-01_task-x", run))
    runs, problems = query(tmp_path)
    assert runs == []
    assert "is not an entity with a label" in next(iter(problems.values()))


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ("[]", "contains list instead of names and values"),
        ("null", "contains NoneType"),
        ('{"RepetitionTime": true}', "no RepetitionTime in seconds (found True)"),
        (None, "datalad get"),
    ],
)
def test_a_bad_sidecar_affects_only_its_own_run(tmp_path, sidecar, message):
    bold = write_derivative(tmp_path, "sub-01_task-a", **SMALL)
    write_derivative(tmp_path, "sub-02_task-a", **SMALL)
    own = bold.with_name(bold.name.replace(".nii.gz", ".json"))
    own.unlink()
    if sidecar is None:
        own.symlink_to("../../.git/annex/objects/absent.json")
    else:
        own.write_text(sidecar)
    runs, problems = query(tmp_path)
    assert [run.participant for run in runs] == ["02"]
    assert message in problems[f"sub-01_task-a_{SPACE}"]


def test_unknown_time_units_in_a_header_are_ignored(tmp_path):
    bold = write_derivative(tmp_path, "sub-01_task-a", **SMALL)
    image = nib.load(bold)
    image.header["xyzt_units"] = 255
    nib.Nifti1Image(image.get_fdata(), image.affine, image.header).to_filename(bold)
    (run,), _ = query(tmp_path)
    assert run.repetition_time == 0.8


def test_only_sidecars_that_apply_are_inherited(tmp_path):
    bold = write_derivative(tmp_path, "sub-01_task-a_run-1", **SMALL)
    bold.with_name(bold.name.replace(".nii.gz", ".json")).unlink()
    for name, tr in (("bold", 2.5), ("task-a_bold", 1.1), ("task-a_acq-mb_bold", 0.5)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"RepetitionTime": tr}))
    (run,), _ = query(tmp_path, target_tr="native")
    assert run.repetition_time == 1.1


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ({"desc": "denoised"}, "desc cannot be chosen"),
        ({"taskk": "x"}, "taskk is not an entity; did you mean task"),
        ({"return_type": "id"}, "return_type is not an entity"),
        ({"invalid_filters": "drop"}, "invalid_filters is not an entity"),
        ({"task": "re[", "regex_search": True}, "bold"),
    ],
)
def test_filters_that_are_not_entities_are_rejected(tmp_path, entities, message):
    write_derivative(tmp_path / "in", "sub-01_task-a", **SMALL)
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"bold": entities}))
    with pytest.raises(UsageError, match=r"--bids-filter-file: bold") as error:
        query(tmp_path / "in", filters=read_filter_file(file))
    assert message in str(error.value)


def test_a_space_can_include_a_resolution(tmp_path):
    six = "space-MNI152NLin6Asym"
    write_derivative(tmp_path, "sub-01_task-a", space=f"{six}_res-02", **SMALL)
    write_derivative(tmp_path, "sub-01_task-a", space=six, **SMALL)
    names = {
        res: [run.name for run in query(tmp_path, spaces=[f"MNI152NLin6Asym:res-{res}"])[0]]
        for res in ("2", "02", "native", "1")
    }
    assert names["2"] == names["02"] == [f"sub-01_task-a_{six}_res-02"]
    assert names["native"] == [f"sub-01_task-a_{six}"]
    assert names["1"] == []


def test_a_warning_about_labels_that_no_run_has(tmp_path, caplog):
    write_derivative(tmp_path, "sub-01_task-rest", **SMALL)
    assert len(query(tmp_path, tasks=["rest", "typo"])[0]) == 1
    assert "no run matches task-typo; check for typing errors" in caplog.text


def test_an_empty_participant_folder_is_reported(tmp_path):
    write_derivative(tmp_path, "sub-01_task-rest", **SMALL)
    (tmp_path / "sub-02").mkdir()
    assert "datalad get -n" in query(tmp_path)[1]["sub-02"]


def test_a_damaged_index_is_reported(tmp_path):
    write_derivative(tmp_path / "in", "sub-01_task-rest", **SMALL)
    query(tmp_path / "in", database_dir=tmp_path / "db")
    for file in (tmp_path / "db").rglob("*.sqlite"):
        file.write_bytes(b"random" * 100)
    with pytest.raises(UsageError, match=r"is damaged .*; remove it"):
        query(tmp_path / "in", database_dir=tmp_path / "db")


def test_another_dataset_is_not_overwritten(tmp_path):
    write_derivative(tmp_path / "in", "sub-01_task-rest", **SMALL)
    dataset = find_derivatives(tmp_path / "in")
    other = tmp_path / "raw"
    other.mkdir()
    (other / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    with pytest.raises(UsageError, match="contains another dataset"):
        check_output_dir(other, dataset)
    ours = {"GeneratedBy": [{"Name": "swift_bids"}]}
    (other / "dataset_description.json").write_text(json.dumps(ours))
    assert check_output_dir(other, dataset) == other


def test_labels_from_files(tmp_path):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\nsub-01\t33\nsub-02\t44\n")
    assert parse_labels(f"@{table}") == ["sub-01", "sub-02"]
    (tmp_path / "list.txt").write_text("01 # mine\n02, 03\n")
    assert parse_labels(f"@{tmp_path / 'list.txt'}") == ["01", "02", "03"]
    assert parse_labels("01,02") == ["01", "02"]


def test_progress_accepts_cached_nodes(caplog):
    """nipype reports only the end of such a node, and the app logs it."""
    caplog.set_level("DEBUG", "swift_bids")
    run = type("Run", (), {"name": "sub-01_task-a"})()
    with Progress({"wf": run}, {"wf": 1}, lambda run: 0) as progress:
        progress.on_node("wf", "normalise", "end")
    assert "sub-01_task-a: normalise took 0.00 s" in caplog.text


def test_calls_with_nothing_to_do_and_a_dry_run(tmp_path, small_bundle):
    write_derivative(tmp_path / "in", "sub-01_task-rest", n_volumes=22)
    call = (tmp_path / "in", tmp_path / "out")
    weights = ("--weights", small_bundle)
    empty = run_app(*call, "participant", "--batch", "2/2", *weights)
    assert (empty.returncode, "no participant is left in batch 2/2" in empty.stderr) == (2, True)
    odd = run_app(*call, "participant", "-w", tmp_path / "w[1]", *weights)
    assert odd.returncode == 2
    assert "nipype cannot work in a folder with [ ]" in odd.stderr
    batch = run_app(*call, "group", "--batch", "1/2")
    assert (batch.returncode, "for the participant level" in batch.stderr) == (2, True)
    dry = run_app(*call, "participant", "--dry-run=json", "--participant-label", "01", "77")
    answer = json.loads(dry.stdout)
    assert [run["name"] for run in answer["runs"]] == [f"sub-01_task-rest_{SPACE}"]
    assert answer["problems"][0]["name"] == "sub-77"


def test_a_rerun_from_the_work_folder(tmp_path, small_bundle):
    """With several processes, nodes in nipype's cache used to break the call."""
    write_derivative(tmp_path / "in", "sub-01_task-rest", n_volumes=22)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    for _ in range(2):
        done = run_app(*call, "-w", tmp_path / "work", "--nprocs", "2", "--force")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "done: 1 run(s)"


@pytest.mark.parametrize("zooms", [(8, 8, 8, 1, 0.8), (8, 8, 8, 0.8, 0)])
def test_the_tr_of_five_dimensions(tmp_path, zooms):
    """Some programs write the TR to the place of the dropped axis."""
    bold = write_derivative(tmp_path, "sub-1_task-a")
    image = nib.load(bold)
    data = np.asarray(image.dataobj)[..., None, :]
    changed = nib.Nifti1Image(data, image.affine)
    changed.header.set_zooms(zooms)
    changed.to_filename(bold)
    (run,), _ = query(tmp_path)
    assert (run.n_volumes, run.warnings) == (22, ())
