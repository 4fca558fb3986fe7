"""Names of outputs, tables, and writing files that are either complete or absent."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from swift_bids.base.errors import OutputError
from swift_bids.base.files import write_atomically
from swift_bids.geometry.resample_time import Series
from swift_bids.outputs.paths import figure_path, output_path
from swift_bids.outputs.provenance import Provenance, bids_uri
from swift_bids.outputs.tables import write_table
from swift_bids.steps.aggregate import aggregate
from swift_bids.steps.chunk import plan_chunks


def test_output_names_keep_every_entity_of_the_bold_file():
    run = "sub-1_ses-b_task-a_acq-x_ce-c_rec-r_dir-AP_run-2_echo-1_part-mag_space-S_cohort-3_res-2"
    file = output_path("/out", run, "swift", "embedding", ".tsv")
    assert file == Path(f"/out/sub-1/ses-b/func/{run}_desc-swift_embedding.tsv")
    assert output_path("/out", "sub-1_task-a", "swift", "qc", ".json").parent == Path(
        "/out/sub-1/func"
    )
    figure = figure_path("/out", "sub-1_ses-b_task-a", "input")
    assert figure == Path("/out/sub-1/figures/sub-1_ses-b_task-a_desc-input_bold.png")


@pytest.mark.parametrize(
    ("root", "raw", "uri"),
    [
        ("/data", None, "bids:fmriprep:sub-1/func/a.nii.gz"),
        ("/derivatives", "/data", "bids:raw:sub-1/func/a.nii.gz"),
        ("/data", "/data/sub-1", "bids:raw:func/a.nii.gz"),  # the raw dataset lies inside
        ("/data/sub-1", "/data", "bids:fmriprep:func/a.nii.gz"),
    ],
)
def test_bids_uri(root, raw, uri):
    provenance = Provenance(None, None, "cpu", root, raw_root=raw)
    assert bids_uri("/data/sub-1/func/a.nii.gz", provenance) == uri


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    file = tmp_path / "table.tsv"
    file.write_text("old")

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OutputError, match=r"cannot be read or written .disk full.; check"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.tsv"]


def test_temporary_files_have_unique_names(tmp_path):
    """Processes in two containers can have the same process ID, and used to share a file."""
    names = []

    def write(path):
        names.append(path.name)
        path.touch()

    for _ in range(2):
        write_atomically(tmp_path / "a.tsv", write)
    assert len(set(names)) == 2


def test_tables_follow_the_bids_format(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": [True, False]})
    write_table(tmp_path / "t.tsv", table)
    assert (tmp_path / "t.tsv").read_bytes() == b"a\tb\tc\n1\t0.5\ttrue\n2\tn/a\tfalse\n"


def test_numbers_in_tables_are_written_as_people_write_them(tmp_path):
    table = pd.DataFrame(
        {
            "onset": [0.72 * 20, 0.1 + 0.2, 1e-7 / 3, np.nan, 1e20],
            "feature": np.array([0.1, 1 / 3, 16777217, 1e-7, np.nan], np.float32),
        }
    )
    write_table(tmp_path / "t.tsv", table)
    rows = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()[1:]]
    assert [onset for onset, _ in rows] == ["14.4", "0.3", "3.333333333e-08", "n/a", "1e+20"]
    features = [feature for _, feature in rows[:-1]]
    assert np.array(features, np.float32).tolist() == table["feature"][:-1].tolist()
    write_table(tmp_path / "t.tsv", pd.DataFrame({"a": [1234.56789]}), digits=6)
    assert (tmp_path / "t.tsv").read_text() == "a\n1234.57\n"


def test_chunks_average_tokens_and_runs_average_included_chunks():
    tokens = np.random.default_rng(0).random((3, 4, 2, 2, 2, 20), dtype=np.float32)
    moved = np.full(60, 0.2)
    moved[20:40] = 0.9
    plan = plan_chunks(Series(60, 1.0, 0, 1.0), moved, max_censored=0.5)
    done = aggregate(tokens, plan, "swift")
    expected = tokens.astype(float).mean(axis=(2, 3, 4, 5))
    features = [f"swift{i:03d}" for i in range(4)]
    np.testing.assert_allclose(done.chunks[features], expected, rtol=1e-6)
    run = done.run.iloc[0]
    mean = expected[[0, 2]].mean(0)
    np.testing.assert_allclose(run[features].astype(float), mean, rtol=1e-6)
    assert (run["n_chunks"], run["n_included"]) == (3, 2)
    assert run["mean_fd"] == pytest.approx(0.2)
    assert run["censored"] == 0
    cosine = expected[0] @ expected[1] / np.linalg.norm(expected[0]) / np.linalg.norm(expected[1])
    assert done.similarity[0, 1] == pytest.approx(cosine)
    assert done.chunks["distance"][1] == pytest.approx(
        1 - expected[1] @ mean / np.linalg.norm(expected[1]) / np.linalg.norm(mean)
    )
