"""The output folder as a whole: how other tools read it, and that its content is reproducible."""

import json
import logging
import subprocess

import bids2table
import pandas as pd
import pytest
from app import PATIENCE, require_program, run_app
from bids.layout import BIDSLayout
from containers import run_files
from make_data import SPACE, write_derivative

from swift_bids.inputs.dataset import find_derivatives
from swift_bids.outputs.dataset import participants_of, write_participants

RUNS = (
    "sub-1_ses-b_task-a_acq-x_dir-AP_run-02",
    "sub-1_ses-b_task-a_acq-x_dir-PA_run-02",
    "sub-1_ses-b_task-a_acq-x_run-1_echo-2",
    "sub-2_task-a",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory, small_bundle):
    """A raw dataset, its derivatives, and two outputs of the same call, with group tables."""
    folder = tmp_path_factory.mktemp("derivative")
    raw, fmriprep = folder / "raw", folder / "fmriprep"
    raw.mkdir()
    about = {"Name": "raw", "BIDSVersion": "1.8.0", "Authors": ["A", "B"], "License": "CC0"}
    (raw / "dataset_description.json").write_text(json.dumps(about))
    (raw / "participants.tsv").write_text("participant_id\tage\tsex\nsub-1\t30\tF\nsub-3\t9\tM\n")
    described = {"age": {"Description": "Age", "Units": "year"}}
    (raw / "participants.json").write_text(json.dumps(described))
    (raw / "sub-1").mkdir()
    for run in RUNS:
        write_derivative(fmriprep, run, confounds="framewise_displacement\n" + "0.1\n" * 22)
    for name in ("first", "second"):
        call = (raw, folder / name, "participant", "-d", fmriprep, "--echo-idx", "2")
        weights = ("--weights", small_bundle)
        assert run_app(*call, *weights, "--participant-label", "1").returncode == 0
        call = (raw, folder / name, "participant", "-d", fmriprep, *weights)
        done = run_app(*call)
        assert done.returncode == 0, done.stdout
        assert run_app(raw, folder / name, "group", "-d", fmriprep).returncode == 0
    return folder


def test_every_run_has_separate_files(written):
    names = {p.name for p in (written / "first").rglob("*_embedding.tsv")}
    assert names == {f"{run}_{SPACE}_desc-swift_embedding.tsv" for run in RUNS} | {
        "group_desc-swift_embedding.tsv",
        "group_desc-participants_embedding.tsv",
    }


def test_the_same_call_gives_the_same_bytes(written):
    """Except for logs and status.tsv, which contain dates and ids."""
    first, second = (run_files(written / name) for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert len([name for name in first if name.endswith((".tsv", ".safetensors"))]) >= 14
    assert [name for name in first if first[name] != second[name]] == []


def test_the_bids_validator_reports_no_issues(written):
    program = require_program("bids-validator-deno")
    call = [program, "--format", "json", written / "first"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=PATIENCE)
    assert json.loads(done.stdout)["issues"]["issues"] == []
    assert done.returncode == 0


def test_participants_columns_are_copied_from_the_input(written):
    table = pd.read_csv(written / "first" / "participants.tsv", sep="\t", keep_default_na=False)
    assert table.to_dict("list") == {
        "participant_id": ["sub-1", "sub-2"],
        "age": ["30", "n/a"],
        "sex": ["F", "n/a"],
    }
    about = json.loads((written / "first" / "participants.json").read_text())
    assert about["age"] == {"Description": "Age", "Units": "year"}
    assert "sex" not in about  # the input does not describe it


def test_a_damaged_participants_table_is_reported_and_not_copied(tmp_path, caplog):
    write_derivative(tmp_path / "in", "sub-1_task-a", shape=(2, 2, 2))
    (tmp_path / "in" / "participants.tsv").write_text("name\tage\nsub-1\t3\n")
    (tmp_path / "out" / "sub-1").mkdir(parents=True)
    logging.getLogger("swift_bids").propagate = True
    dataset = find_derivatives(tmp_path / "in")
    write_participants(tmp_path / "out", *participants_of(tmp_path / "out", dataset))
    assert (tmp_path / "out" / "participants.tsv").read_text() == "participant_id\nsub-1\n"
    assert "has no column participant_id, but name, age; rename one" in caplog.text


def test_the_citation_describes_the_settings(written):
    text = (written / "first" / "logs" / "CITATION.md").read_text()
    assert "the HCP" not in text
    assert "96 x 96 x 96 frame of the UKB training data. Chunks of 20 volumes, side by side" in text
    assert "variant contrastive, weights" in text
    assert "random" not in text
    assert "were interpolated linearly to 0.8 s. Intensities were z-scored with one mean" in text
    bibliography = (written / "first" / "logs" / "CITATION.bib").read_text()
    assert bibliography.count("@") == 10


def test_pybids_and_bids2table_find_the_outputs(written):
    layout = BIDSLayout(written / "first", validate=False, config=["bids", "derivatives"])
    found = layout.get(desc="swift", suffix="embedding", extension=".tsv", subject="1")
    assert sorted((f.entities.get("direction"), f.entities.get("echo")) for f in found[:2]) == [
        ("AP", None),
        ("PA", None),
    ]
    table = bids2table.index_dataset(written / "first").to_pandas()
    table = table[(table["desc"] == "swift") & (table["suffix"] == "embedding")]
    tables = table[(table["ext"] == ".tsv") & table["sub"].notna()]
    assert sorted(zip(tables["sub"], tables["acq"].fillna(""), tables["dir"].fillna(""))) == [
        ("1", "x", ""),
        ("1", "x", "AP"),
        ("1", "x", "PA"),
        ("2", "", ""),
    ]
