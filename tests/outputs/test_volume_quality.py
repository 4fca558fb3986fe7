"""Sentences about faulty volumes and dummy scans."""

import pytest

from swift_bids.outputs.volume_quality import volume_verdicts

NOTHING = {
    "empty": [],
    "repeated": [],
    "incomplete": [],
    "outlier": [],
    "outlier_intensity": [],
    "incomplete_part": "",
    "steps": [],
    "step_sizes": [],
    "unsteady": 0,
    "dummy_scans_from": "table",
}


def said(robust=False, total=300, dummy=0, **faults):
    return volume_verdicts(NOTHING | faults, {"total": total, "dummy": dummy}, robust)


@pytest.mark.parametrize(
    ("volumes", "named"),
    [
        ([0], "Volume 1 of 300 is"),
        ([0, 1], "Volumes 1 to 2 of 300 are"),
        ([4, 9], "Volumes 5 and 10 of 300 are"),
        ([4, 6, 7, 8, 20], "Volumes 5, 7 to 9 and 21 of 300 are"),
        ([*range(0, 30, 2)], "Volumes 1, 3, 5, 7, 9, 11 and 9 others of 300 are"),
    ],
)
def test_volumes_are_named_and_counted_from_1(volumes, named):
    ((good, sentence),) = said(empty=volumes)
    assert not good
    assert sentence.startswith(f"{named} empty and count")


def test_outliers_with_and_without_robust_normalisation():
    faults = {"outlier": [11, 40], "outlier_intensity": [3.012, 0.8]}
    ((good, sentence),) = said(**faults)
    assert (good, sentence) == (
        False,
        "The intensity of volumes 12 and 41 of 300 is 80% to 301% of the usual. This changes the "
        "mean and standard deviation of the run, and with them all of its tokens; "
        "--robust-normalisation leaves them out of both.",
    )
    (_, sentence), (good, note) = said(robust=True, **faults)
    assert sentence.endswith("The mean and standard deviation of the run leave them out.")
    assert good
    assert note.startswith("Mean, standard deviation and background were computed without")
    assert said(robust=True) == []


def test_a_step_down():
    ((good, sentence),) = said(steps=[99], step_sizes=[-0.0512])
    assert not good
    assert sentence.startswith("From volume 100 of 300 on, the intensity is 5.1% lower than before")


@pytest.mark.parametrize(
    ("source", "dummy", "unsteady", "expected"),
    [
        ("table", 4, 4, None),
        ("table", 4, 3, None),
        ("table", 4, 2, "The confounds table has 4 dummy scans, but the first 2 volumes are not"),
        ("table", 4, 0, "The confounds table has 4 dummy scans, but all volumes are steady by fM"),
        (
            "table",
            3,
            1,
            "The confounds table has 3 dummy scans, but the first volume is not steady",
        ),
        ("table", 0, 2, "The confounds table has no dummy scans, but the first 2 volumes are not"),
        ("table", 1, 3, "The confounds table has 1 dummy scan, but the first 3 volumes are not"),
        ("flag", 9, 2, None),
        ("flag", 0, 2, "The app omits no dummy scans (--dummy-scans), but the first 2 volumes"),
        ("training", 0, 1, None),
        (
            "training",
            0,
            3,
            "The app omits no dummy scans (as in training), but the first 3 volumes",
        ),
    ],
)
def test_dummy_scans_of_the_table_and_of_the_data(source, dummy, unsteady, expected):
    found = said(dummy=dummy, unsteady=unsteady, dummy_scans_from=source)
    if expected is None:
        assert found == []
        return
    ((good, sentence),) = found
    assert not good
    assert sentence.startswith(expected)
    assert "steady by fMRIPrep's rule (outliers at the start, among the first 40" in sentence


def test_dummy_scans_found_in_the_data_are_no_reason_to_worry():
    ((good, sentence),) = said(dummy=3, unsteady=3, dummy_scans_from="data")
    assert good
    assert sentence.endswith("and omits 3.")
    ((good, sentence),) = said(dummy_scans_from="data")
    assert good
    assert sentence.endswith("and found none.")
