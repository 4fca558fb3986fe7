"""Confounds with more or fewer rows than the run has volumes, as some fMRIPrep versions write."""

import json

import numpy as np
import pandas as pd
import pytest
from app import query, run_app
from make_data import write_run

N_VOLUMES = 22
DUMMY = "non_steady_state_outlier00"


def table(n_rows, first="n/a", columns=()):
    """Framewise displacement of 0.2 mm, and 0.9 mm in the last row."""
    values = [first, *["0.2"] * (n_rows - 2), "0.9"]
    frame = pd.DataFrame({"framewise_displacement": values} | dict.fromkeys(columns, 0))
    return frame.to_csv(sep="\t", index=False)


def only_run(root, **selection):
    runs, problems = query(root, **selection)
    assert problems == {}
    (run,) = runs
    return run


@pytest.mark.parametrize("n_rows", [21, 23])
def test_one_row_of_difference_is_used(tmp_path, n_rows):
    write_run(tmp_path / "in", "1", confounds=table(n_rows))
    run = only_run(tmp_path / "in")
    assert run.confounds is not None
    (warning,) = run.warnings
    assert warning.startswith(f"its confounds table has {n_rows} rows for 22 volumes, as some")
    out = tmp_path / "out"
    call = (tmp_path / "in", out, "participant", "--random-weights", "--tail", "overlap")
    assert run_app(*call).returncode == 0
    (file,) = out.glob("sub-1/func/*_desc-swift_timeseries.tsv")
    first, last = pd.read_csv(file, sep="\t")["mean_fd"]
    assert first == pytest.approx(0.2)
    # volumes 2 to 21: with 21 rows the last is unknown, and 0.9 belongs to volume 20
    expected = [0.2] * 18 + [0.9] if n_rows == 21 else [0.2] * 20
    assert last == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("n_rows", "first"), [(21, "0.2"), (23, "0.2"), (20, "n/a"), (300, "n/a"), (2, "n/a")]
)
def test_other_tables_are_not_used(tmp_path, n_rows, first):
    write_run(tmp_path / "in", "1", confounds=table(n_rows, first))
    out = tmp_path / "out"
    call = (tmp_path / "in", out, "participant", "--random-weights")
    done = run_app(*call)
    assert done.returncode == 0
    assert f"has {n_rows} rows for 22 volumes and is not used" in done.stdout
    (file,) = out.glob("sub-1/func/*_qc.json")
    qc = json.loads(file.read_text())
    assert qc["Motion"] == {
        "confounds": False,
        "mean_fd": None,
        "max_chunk_fd": None,
        "censored": None,
        "not_measured": 0.0,
    }
    assert not any("confounds" in source for source in qc["Sources"])
    assert any("and is not used" in warning for warning in qc["Warnings"])
    done = run_app(*call, "--max-censored", "0.5", "--force")
    assert done.returncode == 1
    assert (
        f"has {n_rows} rows but the run has 22 volumes; the file belongs to another" in done.stdout
    )


def test_dummy_scans_of_a_table_that_is_not_used_do_not_count(tmp_path):
    write_run(tmp_path, "1", confounds=table(30, columns=[DUMMY]))
    assert only_run(tmp_path).first_volume == 0
    assert only_run(tmp_path, dummy_scans=2).first_volume == 2


def test_dummy_scans_of_a_table_that_is_used(tmp_path):
    write_run(tmp_path, "1", confounds=table(23, columns=[DUMMY]))
    assert only_run(tmp_path).first_volume == 1


def test_blank_lines_are_no_rows(tmp_path):
    write_run(tmp_path, "1", confounds=table(22) + "\n\n")
    assert only_run(tmp_path).warnings == ()
