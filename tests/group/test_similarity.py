"""Similarity of runs, duplicates, outliers, and identification of participants."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from benchmarks.outlier_limits import batched_distances, simulate
from swift_bids.group import identification as module
from swift_bids.group.identification import identification
from swift_bids.group.outliers import outlier_limit, outliers, squared_distances
from swift_bids.group.similarity import centred, duplicates, nearest_neighbours, similarity_matrix


def people(n_participants, n_runs, noise=0.7, seed=0, n_features=288):
    """Features (run, feature) float32 that differ between participants, and their labels."""
    rng = np.random.default_rng(seed)
    persons = np.repeat(rng.standard_normal((n_participants, n_features)), n_runs, axis=0)
    features = 100 + persons + noise * rng.standard_normal(persons.shape)
    labels = np.repeat([f"sub-{i:03d}" for i in range(n_participants)], n_runs)
    names = [f"{label}_run-{i}" for i, label in enumerate(labels)]
    return features.astype(np.float32), pd.DataFrame({"participant_id": labels, "name": names})


def test_similarity_is_the_cosine_after_centring():
    features, table = people(4, 2)
    matrix = similarity_matrix(features, table["name"])
    rows = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    a, b = rows[1], rows[6]
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert matrix.iloc[1, 6] == pytest.approx(expected, abs=6e-5)
    assert np.diag(matrix) == pytest.approx(1)


def test_neighbours_are_those_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr("swift_bids.group.similarity._BLOCK", 7)
    features, table = people(10, 3)
    rows = centred(features)
    matrix = pd.DataFrame(rows @ rows.T, table["name"], table["name"])
    neighbours = nearest_neighbours(features, table["name"])
    assert len(neighbours) == 30 * 10
    for name in table["name"]:
        own = neighbours[neighbours["name"] == name]
        expected = matrix[name].drop(name).sort_values(ascending=False)[:10]
        assert own["neighbour"].tolist() == expected.index.tolist()
        np.testing.assert_allclose(own["similarity"], expected, atol=1e-4)
    assert len(nearest_neighbours(features[:3], table["name"][:3])) == 6


def test_only_runs_of_different_participants_are_duplicates():
    features, table = people(12, 2)
    assert duplicates(features, table).empty
    features[5] = features[14] + 0.001
    found = duplicates(features, table)
    assert found[["name", "other"]].values.tolist() == [[table["name"][5], table["name"][14]]]
    assert found["relative_distance"][0] < 0.01
    features[9] = features[8]  # two runs of one participant may be alike
    assert len(duplicates(features, table)) == 1
    assert duplicates(features[:4], table[:4]).empty


def test_identical_runs_are_duplicates_however_many_there_are():
    features, table = people(3, 1)
    features[2] = features[0]
    assert duplicates(features, table)[["name", "other"]].values.tolist() == [
        [table["name"][0], table["name"][2]]
    ]
    features, table = people(10, 1)
    features[:9] = features[0]
    assert {*duplicates(features, table)["name"], *duplicates(features, table)["other"]} == set(
        table["name"][:9]
    )
    features[0] *= 1 + 1e-3  # far beyond the others, which are no duplicates for that
    features[1:] = people(10, 1, seed=5)[0][1:]
    assert duplicates(features, table).empty


def test_outliers_are_found_and_do_not_hide_each_other():
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((200, 5)) @ rng.standard_normal((5, 288))).astype(np.float32)
    distance, outlier, n_components = outliers(features, np.arange(200))
    assert 1 <= n_components <= 10
    assert outlier.sum() <= 1
    features[:20] += 3 * features.std(axis=0) * np.sign(rng.standard_normal(288))
    distance, outlier, _ = outliers(features, np.arange(200))
    assert outlier[:20].all()
    assert outlier[20:].mean() < 0.05
    assert distance[:20].min() > np.median(distance[20:])


def test_too_few_or_equal_runs_have_no_outliers():
    features, _ = people(19, 1)
    distance, outlier, n_components = outliers(features, np.arange(19))
    assert (n_components, outlier.any(), np.isnan(distance).all()) == (0, False, True)
    assert outliers(np.ones((30, 8), np.float32), np.arange(30))[2] == 0
    features, _ = people(48, 1)
    features[:30] = features[0]  # half of the runs have no scatter
    assert outliers(features, np.arange(48))[2] == 0


@pytest.mark.parametrize(("n_participants", "n_runs"), [(20, 1), (60, 1), (24, 2), (10, 6)])
def test_runs_without_outliers_have_none(n_participants, n_runs):
    """With the chi-squared distribution 1.4 of 20 runs, 3.7 of 60, and 17 of 24 pairs were."""
    found = 0
    for seed in range(20):
        features, table = people(n_participants, n_runs, seed=seed)
        found += outliers(features, pd.factorize(table["participant_id"])[0])[1].sum()
    assert found <= 20 * n_participants * n_runs * 0.005


#: Runs of each participant, components, share of the variance between participants: none of them
#: a cell of the table.
CASES = {
    "independent": ([1] * 65, 5, 0.0),
    "few": ([1] * 25, 2, 0.0),
    "pairs": ([2] * 50, 3, 0.5),
    "one component": ([3] * 12, 1, 0.7),
    "unequal": ([1] * 30 + [4] * 20, 6, 0.4),
    "many": ([2] * 150, 8, 0.75),
}


@pytest.mark.parametrize("case", CASES)
def test_outlier_limits_agree_with_a_short_simulation(case):
    """One run in 1,000 is above the limit; the simulation has 30,000 runs, of which 30 should be.

    scikit-learn's own estimator confirms the quick one that the table is made with.
    """
    sizes, n_components, share = CASES[case]
    sizes = np.array(sizes)
    distances = simulate(sizes, n_components, share, 30_000)
    above = (distances > outlier_limit(sizes, n_components, share)).sum()
    assert 10 <= above <= 75
    scores = np.random.default_rng(1).standard_normal((2, sizes.sum(), n_components))
    expected = np.stack([squared_distances(of_one) for of_one in scores])
    np.testing.assert_allclose(batched_distances(scores), expected, rtol=1e-9)


def test_limits_beyond_the_table():
    """Very many runs have the limit of the chi-squared distribution."""
    assert outlier_limit(np.ones(10**7, int), 4, 0.0) == pytest.approx(chi2.ppf(0.999, 4), rel=1e-3)
    # runs that are more alike than in the table: extrapolated, up to a point
    pairs = np.full(30, 2)
    assert outlier_limit(pairs, 2, 1.0) == outlier_limit(pairs, 2, 0.995)
    assert outlier_limit(pairs, 2, 0.99) > outlier_limit(pairs, 2, 0.97)
    assert np.isfinite(outlier_limit(np.array([20]), 1, 0.0))


def by_metric(table, features="embedding"):
    return table[table["features"] == features].set_index("metric")


def brute_force(features, labels):
    rows = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ unit.T
    first, precision, within, between = [], [], [], []
    for run, label in enumerate(labels):
        others = [i for i in range(len(labels)) if i != run]
        order = sorted(others, key=lambda i: -similarity[run, i])
        hits = [labels[i] == label for i in order]
        within += [similarity[run, i] for i in others if labels[i] == label]
        between += [similarity[run, i] for i in others if labels[i] != label]
        if any(hits):
            first.append(hits[0])
            at = np.flatnonzero(hits) + 1
            precision.append(np.mean(np.arange(1, len(at) + 1) / at))
    groups = [rows[labels == label] for label in np.unique(labels)]
    inside = sum(((g - g.mean(0)) ** 2).sum() for g in groups) / (len(rows) - len(groups))
    total = (rows**2).sum() / (len(rows) - 1)
    return {
        "rank1": np.mean(first),
        "map": np.mean(precision),
        "idiff": 100 * (np.mean(within) - np.mean(between)),
        "i2c2": 1 - inside / total,
    }


@pytest.mark.parametrize("noise", [0.7, 3.0])
def test_metrics_equal_brute_force(noise):
    features, table = people(8, 3, noise)
    keep = np.arange(24) != 5  # participants with different numbers of runs, one with one
    keep[[0, 1]] = False
    found = identification(
        {"embedding": features[keep]}, table["participant_id"][keep], n_permutations=20
    )
    expected = brute_force(features[keep], table["participant_id"][keep].to_numpy())
    values = by_metric(found)["value"]
    assert values.to_dict() == pytest.approx(expected, abs=1e-5)
    assert found["n_participants"].unique().tolist() == [7]


def test_participants_are_told_apart_or_not():
    features, table = people(20, 2)
    motion = np.random.default_rng(3).standard_normal((40, 2))
    sets = {"embedding": features, "motion": motion}
    found = identification(sets, table["participant_id"], n_permutations=199)
    assert by_metric(found)["value"]["rank1"] == 1
    assert (by_metric(found)["p"] == 1 / 200).all()
    assert (by_metric(found, "motion")["p"] > 0.05).all()
    assert by_metric(found)["chance"]["rank1"] == pytest.approx(1 / 39, abs=0.02)
    again = identification(sets, table["participant_id"], n_permutations=199)
    pd.testing.assert_frame_equal(found, again)


def test_p_values_under_the_null_are_uniform():
    """Random labels: about one p in ten is below 0.1."""
    low = 0
    for seed in range(60):
        features, table = people(12, 2, seed=seed, noise=0, n_features=20)
        features = np.random.default_rng(seed).standard_normal(features.shape)
        found = identification({"embedding": features}, table["participant_id"], 49, seed)
        low += by_metric(found)["p"]["idiff"] <= 0.1
    assert 1 <= low <= 14  # binomial(60, 0.1): 99.9 % within


def test_many_runs_are_sampled(monkeypatch):
    features, table = people(150, 2)
    monkeypatch.setattr(module, "MAX_QUERIES", 100)
    found = identification({"embedding": features}, table["participant_id"], n_permutations=9)
    assert found["n_queries"].unique().tolist() == [100]
    assert by_metric(found)["value"]["rank1"] == 1


def test_constant_motion_identifies_nobody():
    _, table = people(6, 2)
    found = identification({"motion": np.full((12, 2), 0.1)}, table["participant_id"], 9)
    assert by_metric(found, "motion")["value"]["i2c2"] == 0
    assert by_metric(found, "motion")["p"]["i2c2"] == 1


def test_identification_needs_two_participants_with_repeated_runs():
    features, table = people(5, 1)
    assert identification({"embedding": features}, table["participant_id"]).empty
    assert identification({"embedding": features}, pd.Series(["sub-1"] * 5)).empty
