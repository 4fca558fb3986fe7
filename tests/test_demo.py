"""The dataset and the outputs of `make demo`."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import PATIENCE, require_program, run_app
from bids.layout import BIDSLayout
from safetensors.numpy import load_file

from swift_bids.demo import write_real_run

RUNS = {
    "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-1_space-MNI152NLin6Asym_res-2",
    "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-2_space-MNI152NLin6Asym_res-2",
    "sub-01/ses-2/func/sub-01_ses-2_task-rest_run-1_space-MNI152NLin6Asym_res-2",
    "sub-01/ses-2/func/sub-01_ses-2_task-rest_run-2_space-MNI152NLin6Asym_res-2",
    "sub-02/ses-1/func/sub-02_ses-1_task-rest_run-1_space-MNI152NLin6Asym_res-2",
    "sub-02/ses-1/func/sub-02_ses-1_task-rest_run-2_space-MNI152NLin6Asym_res-2",
    "sub-03/func/sub-03_task-real_space-MNI152NLin6Asym",
}
SUFFIXES = ("timeseries", "embedding", "tokens", "qc")


def test_the_data_have_the_layout_of_fmriprep(demo):
    bolds = sorted((demo / "fmriprep").rglob("*_desc-preproc_bold.nii.gz"))
    names = {str(b.relative_to(demo / "fmriprep")).split("_desc-")[0] for b in bolds}
    assert names == RUNS
    for bold in bolds[:-1]:
        image = nib.load(bold)
        assert image.shape == (91, 109, 91, 50)
        assert image.header.get_zooms() == pytest.approx((2, 2, 2, 0.8))
        folder, run = bold.parent, bold.name.split("_space-")[0]
        table = pd.read_csv(folder / f"{run}_desc-confounds_timeseries.tsv", sep="\t")
        assert len(table) == 50
        assert np.isnan(table["framewise_displacement"][0])
        assert table["non_steady_state_outlier01"].tolist() == [0, 1] + [0] * 48


@pytest.mark.long
def test_the_group_page_of_make_demo_has_content_in_every_section(tmp_path):
    call = [sys.executable, "-m", "swift_bids.demo", tmp_path]
    subprocess.run(call, check=True, cwd=tmp_path)
    weights = ("--weights", tmp_path / "weights", "--random-weights")
    folders = (tmp_path / "fmriprep", tmp_path / "out")
    assert run_app(*folders, "participant", *weights).returncode == 0
    assert run_app(*folders, "group").returncode == 0
    probes = pd.read_csv(tmp_path / "out/group_desc-swift_probes.tsv", sep="\t", na_values="n/a")
    auroc = probes[probes["metric"] == "auroc"].set_index(["target", "features"])
    assert auroc.loc[("group", "embedding"), "value"] > 0.95
    assert auroc.loc[("group", "embedding"), "p"] < 0.02
    assert (auroc.loc["group"].loc[["motion", "acquisition", "dummy"], "value"] < 0.9).all()
    page = (tmp_path / "out/group.html").read_text()
    assert "group can be predicted from the mean embedding" in page
    for sentence in ("Not done: ", "The app probed no column", "is unknown"):
        assert sentence not in page


def test_the_data_have_the_same_bytes_every_time(tmp_path, monkeypatch):
    """gzip can store the time in a file."""
    for seconds, name in ((1e9, "first"), (1.1e9, "second")):
        monkeypatch.setattr("time.time", lambda seconds=seconds: seconds)
        write_real_run(tmp_path / name)
    first = {file.name: file.read_bytes() for file in (tmp_path / "first").rglob("*.nii.gz")}
    assert len(first) == 2
    assert first == {f.name: f.read_bytes() for f in (tmp_path / "second").rglob("*.nii.gz")}


def test_motion_in_the_confounds_is_visible_in_the_image(demo):
    """After a large displacement, a volume differs more from the one before."""
    bold = next((demo / "fmriprep").rglob("sub-02*run-2*_bold.nii.gz"))
    data = np.asarray(nib.load(bold).dataobj[20:70, 20:90, 20:70]).astype(np.float32)
    change = np.square(np.diff(data, axis=3)).mean(axis=(0, 1, 2))[2:]
    table = pd.read_csv(str(bold).split("_space-")[0] + "_desc-confounds_timeseries.tsv", sep="\t")
    moved = table["framewise_displacement"].to_numpy()[3:]
    assert np.corrcoef(change, moved**2)[0, 1] > 0.5


def test_every_output_exists_and_records_its_origin(demo):
    for run in RUNS:
        for suffix in SUFFIXES:
            file = demo / "swift_bids" / f"{run}_desc-swift_{suffix}.json"
            about = json.loads(file.read_text())
            model = about["Model"]
            assert model["RandomWeights"] is True
            assert model["Weights"] == "weights/model.safetensors"
            assert len(model["WeightsSHA256"]) == 64
            assert about["GeneratedBy"][0]["Name"] == "swift_bids"
            assert about["Preprocessing"]["Frame"] == "ukb"
            assert about["Sources"][0] == f"bids:fmriprep:{run}_desc-preproc_bold.nii.gz"
            for source in about["Sources"]:
                assert (demo / "fmriprep" / source.removeprefix("bids:fmriprep:")).is_file()


def test_files_have_the_permissions_of_any_new_file(demo, tmp_path):
    """safetensors itself would write files that only their owner can read."""
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    written = [*(demo / "swift_bids").rglob("*"), *(demo / "weights").iterdir()]
    assert {file.stat().st_mode for file in written if file.is_file()} == {usual}


def test_tables_and_tokens_agree(demo):
    for run in RUNS:
        stem = str(demo / "swift_bids" / f"{run}_desc-swift_")
        tokens = load_file(stem + "tokens.safetensors")["tokens"]
        chunks = pd.read_csv(stem + "timeseries.tsv", sep="\t")
        features = [f"swift{i:03d}" for i in range(288)]
        assert tokens.shape == (len(chunks), 288, 2, 2, 2, 20)
        np.testing.assert_allclose(chunks[features], tokens.mean((2, 3, 4, 5)), atol=1e-5)
        described = json.loads(open(stem + "timeseries.json").read())
        assert set(chunks.columns) <= set(described)
        expected = [0, 8] if "sub-03" in run else [2, 22]
        assert chunks["start"].tolist() == expected


def test_the_work_folder_needs_less_than_600_kb_per_volume(demo):
    """The runs cover whole brains, and the app keeps a work folder given with -w."""
    runs = [path for path in (demo / "work").glob("*/sub_0[12]*")]
    assert len(runs) == 6
    size = sum(f.stat().st_size for run in runs for f in run.rglob("*") if f.is_file())
    assert 0.4e6 < size / (6 * 50) < 0.6e6


def test_the_group_table_contains_every_run(demo):
    table = pd.read_csv(demo / "swift_bids" / "group_desc-swift_embedding.tsv", sep="\t")
    described = json.loads((demo / "swift_bids" / "group_desc-swift_embedding.json").read_text())
    about = {"Description", "GeneratedBy", "Embeddings", "Settings"}
    assert set(table.columns) | about == set(described)
    assert sorted(table["name"]) == sorted(run.split("/")[-1] for run in RUNS)
    assert table["random_weights"].all()
    assert table["n_chunks"].tolist() == [2] * 7
    for run in RUNS:
        file = demo / "swift_bids" / f"{run}_desc-swift_embedding.tsv"
        own = pd.read_csv(file, sep="\t")
        row = table[table["name"] == run.split("/")[-1]].iloc[0]
        assert row[own.columns].astype(float).equals(own.iloc[0].astype(float))


def test_participants_are_listed(demo):
    assert (demo / "swift_bids" / "participants.tsv").read_text() == (
        "participant_id\nsub-01\nsub-02\nsub-03\n"
    )


def test_runs_of_one_participant_resemble_each_other(demo):
    table = pd.read_csv(demo / "swift_bids" / "group_desc-swift_embedding.tsv", sep="\t")
    table = table[table["participant_id"] != "sub-03"]
    x = table.filter(regex=r"^swift\d").to_numpy()
    x = x - x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    similarity = x @ x.T - 2 * np.eye(6)
    nearest = table["participant_id"].to_numpy()[similarity.argmax(1)]
    assert nearest.tolist() == table["participant_id"].tolist()


def test_the_log_has_plain_lines_and_ends_with_the_summary(demo):
    lines = (demo / "participant.log").read_text().splitlines()
    assert "is read as fMRIPrep derivatives" in lines[0]
    assert "RANDOM WEIGHTS: the embeddings of this call mean nothing" in lines
    assert sum(line.startswith("[") and ": done in " in line for line in lines) == 7
    assert lines[-1] == "done: 7 run(s)"
    assert "\r" not in "".join(lines)
    assert (demo / "group.log").read_text().splitlines()[-1].startswith("7 run(s) of 3")


def test_the_bids_validator_finds_no_problem(demo):
    program = require_program("bids-validator-deno")
    call = [program, "--format", "json", demo / "swift_bids"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert json.loads(done.stdout)["issues"]["issues"] == []


def test_pybids_reads_the_outputs(demo):
    layout = BIDSLayout(demo / "swift_bids", validate=False, config=["bids", "derivatives"])
    found = layout.get(desc="swift", suffix="timeseries", extension=".tsv", subject="01")
    assert {(f.entities["session"], int(f.entities["run"])) for f in found} == {
        ("1", 1),
        ("1", 2),
        ("2", 1),
        ("2", 2),
    }
    assert layout.description["GeneratedBy"][0]["Name"] == "swift_bids"
