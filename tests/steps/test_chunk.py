"""The division of a run into chunks, dummy scans and framewise displacement."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from swift_bids.base.errors import InputError
from swift_bids.geometry.resample_time import Series
from swift_bids.inputs.confounds import count_dummy_scans, displacement_in, read_confounds
from swift_bids.steps.chunk import chunk_rows, plan_chunks
from swift_bids.steps.volume_faults import FAULTS, Faults


def native(n_volumes, tr=0.8, dummies=0):
    return Series(n_volumes, tr, dummies, tr)


def test_chunks_start_after_the_dummy_scans_and_the_tail_is_dropped():
    plan = plan_chunks(native(65, 0.8, 3))
    assert plan["start"].tolist() == [3, 23, 43]
    assert plan["stop"].tolist() == [23, 43, 63]
    assert plan["model_start"].tolist() == [0, 20, 40]
    assert plan["onset"].tolist() == pytest.approx([2.4, 18.4, 34.4])
    assert plan["duration"].tolist() == pytest.approx([16.0] * 3)
    assert plan["padded"].tolist() == [0, 0, 0]
    assert plan["included"].all()
    assert plan["mean_fd"].isna().all()
    assert plan["censored"].isna().all()


def test_motion_of_each_chunk():
    moved = np.full(40, 0.1)
    moved[0] = np.nan
    moved[20:30] = 0.7
    plan = plan_chunks(native(40), moved, fd_threshold=0.5, max_censored=0.4)
    assert plan["mean_fd"].tolist() == pytest.approx([0.1, 0.4])
    assert plan["censored"].tolist() == [0.0, 0.5]
    assert plan["included"].tolist() == [True, False]


def with_faults(n_volumes, **volumes):
    """Faults of a run, such as `empty=[3]`."""
    codes = np.zeros(n_volumes, np.int8)
    for name, numbers in volumes.items():
        codes[numbers] = FAULTS.index(name) + 1
    return replace(Faults.none(n_volumes), codes=codes)


def test_volumes_that_were_not_measured_are_censored():
    faults = with_faults(40, empty=[3], repeated=[4, 25], outlier=[6, 26], incomplete=[7])
    plan = plan_chunks(native(40), faults=faults)
    assert plan["n_faulty"].tolist() == [4, 2]
    assert plan["censored"].tolist() == [0.1, 0.05]
    assert plan["mean_fd"].isna().all()
    moved = np.full(40, 0.1)
    moved[[3, 10]] = 0.9
    plan = plan_chunks(native(40), moved, faults, max_censored=0.1)
    assert plan["censored"].tolist() == pytest.approx([0.15, 0.05])
    assert plan["included"].tolist() == [False, True]
    only_outliers = plan_chunks(native(40), faults=with_faults(40, outlier=[6]))
    assert only_outliers["censored"].isna().all()
    with pytest.raises(InputError, match=r"more than 0% of the volumes are censored .* repeated"):
        plan_chunks(native(40), faults=faults, max_censored=0)


def test_a_run_resampled_in_time():
    """At TR 2 s, 31 volumes are 60 s: 76 volumes of 0.8 s, three chunks."""
    moved = np.arange(31.0)
    plan = plan_chunks(Series(31, 2.0, 0, 0.8), moved, fd_threshold=9.5)
    assert plan["model_start"].tolist() == [0, 20, 40]
    assert plan["onset"].tolist() == pytest.approx([0, 16, 32])
    assert plan["duration"].tolist() == pytest.approx([16] * 3)
    assert plan["start"].tolist() == [0, 8, 16]
    assert plan["stop"].tolist() == [9, 17, 25]  # 15.2, 31.2 and 47.2 s lie between two volumes
    assert plan["mean_fd"].tolist() == [4, 12, 20]
    assert plan["censored"].tolist() == pytest.approx([0, 7 / 9, 1])


@pytest.mark.parametrize(
    ("length", "stride", "tail", "first"),
    [
        (65, 20, "drop", [0, 20, 40]),
        (65, 20, "overlap", [0, 20, 40, 45]),
        (65, 20, "pad", [0, 20, 40, 60]),
        (60, 20, "overlap", [0, 20, 40]),
        (60, 20, "pad", [0, 20, 40]),
        (45, 10, "drop", [0, 10, 20]),
        (45, 10, "overlap", [0, 10, 20, 25]),
        (45, 10, "pad", [0, 10, 20, 30]),
        (55, 30, "drop", [0, 30]),
        (55, 30, "pad", [0, 30]),  # the next chunk would start at 60
        (65, 30, "pad", [0, 30, 60]),
    ],
)
def test_stride_and_tail(length, stride, tail, first):
    plan = plan_chunks(native(length), stride=stride, tail=tail)
    assert plan["model_start"].tolist() == first
    assert plan["padded"].tolist() == [max(0, f + 20 - length) for f in first]
    assert plan["stop"].max() <= length
    assert plan["duration"].iloc[-1] == pytest.approx(0.8 * (20 - plan["padded"].iloc[-1]))


def test_a_short_chunk_is_filled_up_by_reflection():
    assert chunk_rows(0, 20, 20).tolist() == list(range(20))
    assert chunk_rows(40, 45, 20).tolist() == [40, 41, 42, 43, 44, *range(43, 28, -1)]
    assert chunk_rows(0, 4, 20).tolist() == [0, 1, 2, 3, 2, 1] * 3 + [0, 1]
    assert chunk_rows(0, 1, 20).tolist() == [0] * 20


@pytest.mark.parametrize(("volumes", "dummies"), [(19, 0), (24, 5), (0, 0)])
def test_short_runs_are_rejected(volumes, dummies):
    with pytest.raises(InputError, match="too short"):
        plan_chunks(native(volumes, 0.8, dummies))


def test_short_runs_are_filled_up_on_request():
    plan = plan_chunks(native(17, 0.8, 2), np.full(17, 0.3), short_runs="pad")
    assert plan[["start", "stop", "model_start", "padded"]].values.tolist() == [[2, 17, 0, 5]]
    assert plan["duration"].tolist() == pytest.approx([12.0])
    with pytest.raises(InputError, match="too short"):
        plan_chunks(native(5, 0.8, 5), short_runs="pad")


def test_a_run_with_motion_in_every_chunk_is_rejected():
    with pytest.raises(InputError, match="--max-censored"):
        plan_chunks(native(20), np.full(20, 9.0), max_censored=0.5)


def test_dummy_scans_of_all_versions_of_fmriprep():
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
    moved = displacement_in(confounds, 2, file)
    assert np.isnan(moved[0])
    assert moved[1] == 0.25
    with pytest.raises(InputError, match=r"has 2 rows but the run has 4 volumes"):
        displacement_in(confounds, 4, file)
    assert np.isnan(displacement_in(confounds, 3, file)).tolist() == [True, False, True]
    assert np.isnan(displacement_in(confounds, 1, file)).tolist() == [True]
    assert displacement_in(confounds.drop(columns="framewise_displacement"), 2, file) is None


def test_a_missing_confounds_table_is_rejected(tmp_path):
    with pytest.raises(InputError, match="cannot be read as a confounds table"):
        read_confounds(tmp_path / "absent.tsv")
