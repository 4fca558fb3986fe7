"""Functional connectivity of runs and participants, and its three versions."""

import json

import numpy as np
import pandas as pd
import pytest
from nilearn.connectome import ConnectivityMeasure
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import Ridge

from swift_bids.group.columns import as_target
from swift_bids.group.connectivity import (
    collect_connectivity,
    correlations,
    partial_correlations,
    upper_triangle,
)
from swift_bids.group.probes.features import Components, ConnectivityMatrices, logarithms
from swift_bids.group.probes.probe import fit_probe
from swift_bids.group.probes.ridge import fit_best_ridges, fit_ridges

N_PARCELS = 8


def series_of(rng, n_people, n_volumes=150):
    common = rng.standard_normal((N_PARCELS, N_PARCELS))
    mixing = common + 0.4 * rng.standard_normal((n_people, N_PARCELS, N_PARCELS))
    signals = rng.standard_normal((n_people, n_volumes, N_PARCELS)) @ mixing
    return signals / signals.std(axis=1, keepdims=True)


def covariances_of(series):
    return np.stack([LedoitWolf().fit(one).covariance_ for one in series])


@pytest.mark.parametrize(
    ("kind", "function"),
    [("correlation", correlations), ("partial correlation", partial_correlations)],
)
def test_correlations_are_those_of_nilearn(kind, function):
    series = series_of(np.random.default_rng(0), 6)
    measure = ConnectivityMeasure(
        cov_estimator=LedoitWolf(), kind=kind, vectorize=True, discard_diagonal=True
    )
    expected = np.arctanh(measure.fit_transform(list(series)))
    matrices = measure.inverse_transform(np.tanh(expected), np.ones((6, N_PARCELS)))
    found = function(covariances_of(series))
    np.testing.assert_allclose(np.tanh(found), upper_triangle(matrices, k=1), atol=1e-5)


def test_tangents_are_those_of_nilearn_at_the_same_mean():
    """nilearn's geometric mean and the log-Euclidean one lie close together."""
    series = series_of(np.random.default_rng(0), 40)
    train = np.arange(30)
    measure = ConnectivityMeasure(cov_estimator=LedoitWolf(), kind="tangent")
    measure.fit(list(series[train]))
    expected = upper_triangle(measure.transform(list(series)), k=0)
    found = ConnectivityMatrices(covariances_of(series)).versions(train)["tangent"]
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    # exactly, at the mean that was used
    covariances = covariances_of(series)
    mean = logarithms(covariances)[train].mean(axis=0)
    values, vectors = np.linalg.eigh(mean)
    whitening = (vectors * np.exp(-values / 2)) @ vectors.T
    for person in (0, 35):
        whitened = whitening @ covariances[person] @ whitening
        own, directions = np.linalg.eigh(whitened)
        log = (directions * np.log(own)) @ directions.T
        np.testing.assert_allclose(found[person], log[np.triu_indices(N_PARCELS)], atol=1e-8)


def test_the_mean_of_the_tangent_comes_from_the_training_part_alone():
    covariances = covariances_of(series_of(np.random.default_rng(0), 20))
    others = covariances.copy()
    others[15:] *= np.linspace(1, 3, N_PARCELS)[:, None] * np.linspace(1, 3, N_PARCELS)
    train = np.arange(15)
    first, second = (
        ConnectivityMatrices(c).versions(train)["tangent"] for c in (covariances, others)
    )
    np.testing.assert_array_equal(first[:15], second[:15])
    assert np.abs(first[15:] - second[15:]).min(axis=1).max() > 1e-3


def test_the_version_that_predicts_left_out_samples_best_is_chosen():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 60, 5))
    x -= x.mean(axis=1, keepdims=True)
    y = np.stack([x[0] @ np.ones(5), x[1] @ np.ones(5)], axis=1)
    y += 0.1 * rng.standard_normal(y.shape)
    pairs = [(x[0], x[0][:7]), (x[1], x[1][:7])]
    best = fit_best_ridges(pairs, y)
    assert best.version.tolist() == [0, 1]
    for target in (0, 1):
        own = fit_ridges(x[target], y[:, [target]], x[target][:7])
        np.testing.assert_allclose(best.predicted[:, target], own.predicted[:, 0], atol=1e-12)
        assert best.error[target] == pytest.approx(own.error[0])


def test_a_probe_of_connectivity_finds_an_effect_on_partial_correlations():
    """The effect is on one direct connection, which correlations blur."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal(80)
    precision = np.tile(np.eye(N_PARCELS) * 2, (80, 1, 1))
    precision[:, range(7), range(1, 8)] = precision[:, range(1, 8), range(7)] = -0.9
    precision[:, 2, 3] = precision[:, 3, 2] = -0.5 + 0.25 * np.tanh(y)
    covariances = np.linalg.inv(precision)
    noise = rng.standard_normal((80, N_PARCELS, 400))
    noisy = np.linalg.cholesky(covariances) @ noise
    covariances = noisy @ noisy.transpose(0, 2, 1) / 400
    sets = {
        "embedding": rng.standard_normal((80, 3)),
        "connectivity": ConnectivityMatrices(covariances.astype(np.float32)),
    }
    table, reason = fit_probe(as_target("y", pd.Series(y)), sets, n_permutations=19)
    assert reason is None
    rows = table[table["metric"] == "r2"].set_index("features")
    assert rows.loc["connectivity", "value"] > 0.4
    assert rows.loc["connectivity", "p"] == 1 / 20
    assert rows.loc["connectivity", "n_features"] == N_PARCELS * (N_PARCELS + 1) // 2
    assert pd.isna(rows.loc["embedding", "chosen"])
    shares = dict(part.rsplit(" ", 1) for part in rows.loc["connectivity", "chosen"].split(", "))
    assert sum(int(share.rstrip("%")) for share in shares.values()) == pytest.approx(100, abs=2)
    assert set(shares) & {"tangent", "partial correlation"}


def test_components_are_fitted_to_the_training_part():
    rng = np.random.default_rng(0)
    low = rng.standard_normal((50, 3)) * [9, 6, 3]
    values = low @ rng.standard_normal((3, 400)) + 0.01 * rng.standard_normal((50, 400))
    train = np.arange(40)
    versions = Components(values).versions(train)
    assert [v.shape[1] for v in versions.values()] == [10, 30, 39]
    scores = versions["10 components"][:, :3]
    fitted = np.column_stack([np.ones(40), scores[train]])
    coefficients = np.linalg.lstsq(fitted, low[train], rcond=None)[0]
    found = np.column_stack([np.ones(50), scores]) @ coefficients
    np.testing.assert_allclose(found, low, atol=0.05)
    changed = values.copy()
    changed[45] += 100
    np.testing.assert_allclose(
        Components(changed).versions(train)["10 components"][:45, :3], scores[:45], atol=1e-8
    )


def write_series(folder, name, table, **about):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_seg-made_desc-denoised_timeseries.tsv"
    table.to_csv(file, sep="\t", na_rep="n/a", index=False)
    about = {"Atlas": {"Name": "made", "SHA256": "0"}, "ConfoundsStrategy": "simple"} | about
    file.with_suffix(".json").write_text(json.dumps(about))


def test_runs_are_averaged_and_missing_parcels_filled(tmp_path):
    series = series_of(np.random.default_rng(0), 24)
    columns = [f"p{i}" for i in range(N_PARCELS)]
    names = [f"sub-{n // 2:02d}_task-a_run-{n % 2}" for n in range(24)]
    for number, (name, one) in enumerate(zip(names, series)):
        table = pd.DataFrame(one, columns=columns)
        if number == 0:
            table["p3"] = np.nan  # the other run has it
        if number in (2, 3):
            table["p5"] = np.nan  # a twelfth of the participants lacks it
        if number < 12:
            table["p7"] = np.nan  # half of them do
        write_series(tmp_path / name.split("_")[0] / "func", name, table)
    weights = np.where(np.arange(24) % 2, 1, 3)
    runs = pd.DataFrame({"name": names, "n_included": weights})
    found = collect_connectivity(tmp_path, runs, runs["name"].str[:6])
    assert found.problems == ()
    assert "8 parcels (made), confounds strategy simple, of 24 of 24 runs" in found.note
    assert found.by_unit.shape == (12, 7, 7)
    own = covariances_of(series[22:])[:, :7, :7]
    expected = np.average(own, axis=0, weights=[3, 1])
    np.testing.assert_allclose(found.by_unit[11], expected, rtol=0.2, atol=0.05)
    without = [LedoitWolf().fit(one).covariance_[3, 4] for one in series[[1]][:, :, :7]]
    assert found.by_unit[0][3, 4] == pytest.approx(without[0], abs=0.05)
    assert np.linalg.eigvalsh(found.by_unit).min() > 0
    assert found.by_unit[1][5, 6] == pytest.approx(
        np.mean(np.delete(found.by_unit[:, 5, 6], 1)), rel=0.2
    )
    assert found.by_run.shape == (24, 21)


def test_means_of_runs_with_different_gaps_have_positive_eigenvalues(tmp_path):
    """Three runs that each lack another parcel used to give NaN or a crash."""
    rng = np.random.default_rng(0)
    lowest = []
    for repeat in range(20):
        signals = rng.standard_normal((3, 40, 2)) @ rng.standard_normal((3, 2, 6))
        signals += 0.05 * rng.standard_normal(signals.shape)
        folder = tmp_path / str(repeat)
        for run, one in enumerate(signals):
            table = pd.DataFrame(one / one.std(axis=0))
            table[run] = np.nan
            write_series(folder / "sub-0" / "func", f"sub-0_task-a_run-{run}", table)
        runs = pd.DataFrame({"name": [f"sub-0_task-a_run-{n}" for n in range(3)], "n_included": 1})
        found = collect_connectivity(folder, runs, runs["name"].str[:5])
        lowest.append(np.linalg.eigvalsh(found.by_unit)[0, 0])
        versions = ConnectivityMatrices(found.by_unit.repeat(4, axis=0)).versions(np.arange(3))
        assert all(np.isfinite(values).all() for values in versions.values())
    assert min(lowest) > 0


def test_runs_too_short_for_all_regressors_are_counted(tmp_path):
    series = series_of(np.random.default_rng(0), 2)
    for number, omitted in enumerate(([], ["a_comp_cor_07"])):
        name = f"sub-{number}_task-a"
        table = pd.DataFrame(series[number])
        write_series(tmp_path / f"sub-{number}" / "func", name, table, OmittedRegressors=omitted)
    runs = pd.DataFrame({"name": ["sub-0_task-a", "sub-1_task-a"], "n_included": 1})
    note = collect_connectivity(tmp_path, runs, runs["name"]).note
    assert note.endswith("of 2 of 2 runs, of which 1 are too short for all regressors")


def test_other_confounds_are_not_mixed(tmp_path):
    series = series_of(np.random.default_rng(0), 2)
    for number, strategy in enumerate(("simple", "compcor")):
        name = f"sub-{number}_task-a"
        table = pd.DataFrame(series[number])
        write_series(tmp_path / f"sub-{number}" / "func", name, table, ConfoundsStrategy=strategy)
    runs = pd.DataFrame({"name": ["sub-0_task-a", "sub-1_task-a"], "n_included": 1})
    found = collect_connectivity(tmp_path, runs, runs["name"])
    assert found.by_unit is None
    assert "embed all runs with the same --atlas and --confounds-strategy" in found.note


def test_a_run_without_signals_left_has_no_connectivity_and_is_no_problem(tmp_path):
    """Scrubbing can leave out all volumes of a run."""
    series = series_of(np.random.default_rng(0), 3)
    for number in range(3):
        table = pd.DataFrame(series[number] if number else np.nan * series[number])
        write_series(tmp_path / f"sub-{number}" / "func", f"sub-{number}_task-a", table)
    runs = pd.DataFrame({"name": [f"sub-{n}_task-a" for n in range(3)], "n_included": 1})
    found = collect_connectivity(tmp_path, runs, runs["name"])
    assert found.problems == ()
    assert np.isnan(found.by_unit).all(axis=(1, 2)).tolist() == [True, False, False]


def test_ridge_on_tangents_equals_scikit_learn():
    """The whole chain of a fold, without a choice of versions."""
    rng = np.random.default_rng(0)
    covariances = covariances_of(series_of(rng, 30)).astype(np.float64)
    train, test = np.arange(24), np.arange(24, 30)
    x = ConnectivityMatrices(covariances).versions(train)["tangent"]
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    y = rng.standard_normal((24, 1))
    found = fit_best_ridges([(x[train], x[test])], y)
    expected = [
        Ridge(alpha).fit(x[train], y[:, 0]).predict(x[test]) for alpha in 10.0 ** np.arange(-1, 6)
    ]
    assert min(np.abs(found.predicted[:, 0] - e).max() for e in expected) < 1e-8
