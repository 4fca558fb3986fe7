"""Test-retest reliability of the features."""

import numpy as np
import pandas as pd
import pytest

from swift_bids.group.load import MEANS, SUMS, Embedded
from swift_bids.group.reliability import intraclass_correlation, rating, reliability


def test_the_published_example_of_shrout_and_fleiss():
    """Six persons, four measurements: ICC(1,1) is 0.17, with the limits -0.13 and 0.72."""
    scores = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    )
    values, codes = scores.reshape(-1, 1).astype(float), np.repeat(np.arange(6), 4)
    icc, low, high = intraclass_correlation(values, codes)
    assert (round(icc[0], 2), round(low[0], 2), round(high[0], 2)) == (0.17, -0.13, 0.72)


@pytest.mark.parametrize("true", [0.2, 0.6, 0.9])
def test_the_interval_contains_the_true_value_in_95_percent(true):
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(40), rng.integers(2, 5, 40))
    people = rng.standard_normal((40, 2000)) * np.sqrt(true)
    noise = rng.standard_normal((len(codes), 2000)) * np.sqrt(1 - true)
    icc, low, high = intraclass_correlation(people[codes] + noise, codes)
    assert np.median(icc) == pytest.approx(true, abs=0.02)
    assert ((low < true) & (true < high)).mean() == pytest.approx(0.95, abs=0.02)


def runs_of(features, sessions):
    """Runs of participants, one row per session and run."""
    n_people, n_sessions, n_runs, n_features = features.shape
    index = pd.MultiIndex.from_product([range(n_people), range(n_sessions), range(n_runs)])
    table = index.to_frame(index=False, name=["participant_id", "session_id", "run_id"])
    table["participant_id"] = "sub-" + table["participant_id"].astype(str)
    table["session_id"] = table["session_id"].astype(str) if sessions else None
    table = table.assign(name=table.index.astype(str), n_included=1)
    table = table.assign(**dict.fromkeys((*MEANS, *SUMS), 1))
    return Embedded(table, features.reshape(-1, n_features).astype(np.float32), "swift")


def test_sessions_are_compared_if_there_are_any_and_runs_otherwise():
    rng = np.random.default_rng(0)
    person = rng.standard_normal((30, 1, 1, 4))
    session = rng.standard_normal((30, 2, 1, 4))
    features = person + 2 * session + 0.01 * rng.standard_normal((30, 2, 3, 4))
    table, reason = reliability(runs_of(features, sessions=True))
    assert reason is None
    assert table["feature"].tolist() == ["swift000", "swift001", "swift002", "swift003"]
    assert (table["repeated"] == "session").all()
    assert (table["n_participants"].unique(), table["n_measurements"].unique()) == (30, 60)
    assert table["icc"].between(-0.2, 0.6).all()  # 1 of 5 parts of the variance is the person's
    runs, _ = reliability(runs_of(features[:, :1], sessions=False))
    assert (runs["repeated"] == "run").all()
    assert (runs["icc"] > 0.99).all()
    assert (runs["rating"] == "excellent").all()


def test_few_participants_have_no_reliability():
    table, reason = reliability(runs_of(np.ones((4, 1, 2, 3)), sessions=False))
    assert table.empty
    assert reason == "4 participants have two runs or more; the estimates need 5"


def test_features_without_variance_have_no_rating():
    rng = np.random.default_rng(0)
    features = np.zeros((8, 1, 2, 3))
    features[..., 1] = rng.standard_normal((8, 1, 1))  # the same in both runs
    features[..., 2] = rng.standard_normal((8, 1, 2))
    table, _ = reliability(runs_of(features, sessions=False))
    assert np.isnan(table["icc"][0])
    assert table["rating"][0] == "n/a"
    assert table.loc[1, ["icc", "low", "high"]].tolist() == [1, 1, 1]
    assert table["rating"][1] == "excellent"


def test_ratings_are_those_of_koo_and_li():
    values = (-0.2, 0.49, 0.5, 0.74, 0.75, 0.9, 1)
    assert [rating(value) for value in values] == [
        "poor",
        "poor",
        "moderate",
        "moderate",
        "good",
        "excellent",
        "excellent",
    ]
