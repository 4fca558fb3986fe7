"""The plan of chunks, dummy scans and framewise displacement."""

import numpy as np
import pandas as pd
import pytest

from swift_bids.chunk import (
    count_dummy_scans,
    framewise_displacement,
    plan_chunks,
    read_confounds,
)
from swift_bids.errors import InputError


def test_chunks_start_after_the_dummy_scans_and_the_tail_is_dropped():
    plan = plan_chunks(65, 0.8, first_volume=3)
    assert plan["start"].tolist() == [3, 23, 43]
    assert plan["stop"].tolist() == [23, 43, 63]
    assert plan["onset"].tolist() == pytest.approx([2.4, 18.4, 34.4])
    assert plan["duration"].tolist() == pytest.approx([16.0] * 3)
    assert plan["included"].all()
    assert plan["mean_fd"].isna().all()
    assert plan["censored"].isna().all()


def test_motion_of_each_chunk():
    moved = np.full(40, 0.1)
    moved[0] = np.nan
    moved[20:30] = 0.7
    plan = plan_chunks(40, 2.0, displacement=moved, fd_threshold=0.5, max_censored=0.4)
    assert plan["mean_fd"].tolist() == pytest.approx([0.1, 0.4])
    assert plan["censored"].tolist() == [0.0, 0.5]
    assert plan["included"].tolist() == [True, False]


@pytest.mark.parametrize(("volumes", "dummies"), [(19, 0), (24, 5), (0, 0)])
def test_short_runs_are_refused(volumes, dummies):
    with pytest.raises(InputError, match="too short"):
        plan_chunks(volumes, 2.0, dummies)


def test_a_run_without_any_quiet_chunk_is_refused():
    with pytest.raises(InputError, match="--max-censored"):
        plan_chunks(20, 2.0, displacement=np.full(20, 9.0), max_censored=0.5)


def test_dummy_scans_of_any_fmriprep():
    columns = [
        "non_steady_state_outlier00",
        "non_steady_state_outlier_1",
        "motion_outlier00",
        "csf",
    ]
    assert count_dummy_scans(pd.DataFrame(columns=columns)) == 2


def test_confounds_table(tmp_path):
    file = tmp_path / "confounds.tsv"
    file.write_text("\ufeffframewise_displacement\tcsf\nn/a\t1\n0.25\tn/a\n", encoding="utf-8")
    confounds = read_confounds(file)
    moved = framewise_displacement(confounds, 2, file)
    assert np.isnan(moved[0])
    assert moved[1] == 0.25
    with pytest.raises(InputError, match=r"has 2 rows but the run has 3 volumes"):
        framewise_displacement(confounds, 3, file)
    assert framewise_displacement(confounds.drop(columns="framewise_displacement"), 2, file) is None


def test_no_table_at_all(tmp_path):
    with pytest.raises(InputError, match="no confounds table"):
        read_confounds(tmp_path / "absent.tsv")
