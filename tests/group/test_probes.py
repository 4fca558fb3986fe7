"""Probes of planted and shuffled columns, baselines, covariates and groups."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import (
    balanced_accuracy_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from swift_bids.base.errors import UsageError
from swift_bids.group.columns import (
    as_target,
    choose_targets,
    covariate_matrix,
    group_codes,
)
from swift_bids.group.probes import ridge
from swift_bids.group.probes.predict import scores_of_classes
from swift_bids.group.probes.probe import fit_probe
from swift_bids.group.probes.ridge import ALPHAS, fit_ridges
from swift_bids.group.probes.scores import metrics

N = 80


@pytest.fixture(autouse=True)
def few_bootstraps(monkeypatch):
    monkeypatch.setattr("swift_bids.group.probes.scores.N_BOOTSTRAPS", 60)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def classes():
    return np.arange(N) % 2


@pytest.fixture(scope="module")
def features(classes):
    """The embedding contains the class; connectivity is noise with many edges."""
    rng = np.random.default_rng(1)
    embedding = rng.standard_normal((N, 40))
    embedding[:, :10] += 0.8 * classes[:, None]
    connectivity = rng.standard_normal((N, 300))
    return {"embedding": embedding, "connectivity": connectivity}


def row(table, features, metric):
    (match,) = table[(table["features"] == features) & (table["metric"] == metric)].to_dict(
        "records"
    )
    return match


def test_planted_classes_are_predicted_and_shuffled_ones_are_not(rng, classes, features):
    named = pd.Series(np.where(classes, "case", "control"))
    table, reason = fit_probe(as_target("planted", named), features, n_permutations=19)
    assert reason is None
    own = row(table, "embedding", "auroc")
    assert own["value"] > 0.9
    assert own["p"] == 1 / 20
    assert own["low"] < own["value"] < own["high"]
    assert own["chance"] == pytest.approx(0.5, abs=0.06)
    assert own["classes"] == "case: 40, control: 40"
    assert row(table, "embedding", "balanced_accuracy")["value"] > 0.8
    noise = row(table, "connectivity", "auroc")
    assert noise["low"] < 0.5 < noise["high"]
    assert noise["gain"] == pytest.approx(own["value"] - noise["value"])
    assert noise["gain_low"] > 0
    assert row(table, "dummy", "balanced_accuracy")["value"] == 0.5
    assert row(table, "dummy", "auroc")["value"] == 0.5

    shuffled = pd.Series(rng.permutation(named))
    table, _ = fit_probe(as_target("shuffled", shuffled), features, n_permutations=19)
    own = row(table, "embedding", "auroc")
    assert 0.3 < own["value"] < 0.7
    assert own["p"] > 0.05


def test_random_labels_score_at_chance_on_average(features):
    """The mean over twelve draws lies within 0.06 of 0.5; a single draw varies too much."""
    values = []
    for seed in range(12):
        labels = pd.Series(np.random.default_rng(seed).permutation(np.arange(N) % 2))
        only = {"embedding": features["embedding"][:, 10:]}
        table, _ = fit_probe(as_target("x", labels), only, n_permutations=1)
        values.append([row(table, "embedding", m)["value"] for m in ("balanced_accuracy", "auroc")])
    assert np.abs(np.mean(values, axis=0) - 0.5).max() < 0.06


def test_a_number_is_predicted_reproducibly(rng, features):
    age = pd.Series(50 + 5 * features["embedding"][:, 12] + rng.standard_normal(N))
    table, _ = fit_probe(as_target("age", age), features, n_permutations=19)
    assert row(table, "embedding", "r2")["value"] > 0.6
    assert row(table, "embedding", "pearson_r")["value"] > 0.8
    assert row(table, "embedding", "mae")["p"] == 1 / 20
    assert row(table, "dummy", "r2")["value"] < 0.01
    assert row(table, "dummy", "mae")["gain_high"] < 0  # the embedding's error is smaller
    assert set(table["metric"]) == {"r2", "mae", "pearson_r"}
    again, _ = fit_probe(as_target("age", age), features, n_permutations=19)
    pd.testing.assert_frame_equal(table, again)


def test_three_classes(rng):
    labels = np.arange(N) % 3
    x = rng.standard_normal((N, 20)) + np.eye(3)[labels] @ rng.standard_normal((3, 20)) * 1.5
    table, _ = fit_probe(
        as_target("site", pd.Series(list("abc"))[labels]), {"embedding": x}, n_permutations=9
    )
    assert row(table, "embedding", "auroc")["value"] > 0.9
    assert row(table, "dummy", "balanced_accuracy")["value"] == pytest.approx(1 / 3)


def test_covariates_are_removed_within_the_folds(rng, classes):
    """The features contain the class only through a covariate, so removing it removes the class."""
    covariate = classes + 0.1 * rng.standard_normal(N)
    x = rng.standard_normal((N, 10)) + 3 * covariate[:, None]
    target = as_target("x", pd.Series(classes))
    plain, _ = fit_probe(target, {"embedding": x}, n_permutations=1)
    assert row(plain, "embedding", "auroc")["value"] > 0.95
    table = pd.DataFrame({"age": covariate})
    without, _ = fit_probe(target, {"embedding": x}, covariate_matrix(table, ["age"])[0], None, 1)
    assert row(without, "embedding", "auroc")["value"] < 0.7


def test_a_feature_that_equals_a_covariate_is_removed(rng):
    """Its rounding errors used to be scaled up, and then predicted age."""
    motion = rng.random((N, 2))
    age = pd.Series(50 + 20 * motion[:, 0] + rng.standard_normal(N))
    sets = {"embedding": rng.standard_normal((N, 5)), "motion": motion}
    covariates = motion[:, :1].copy()
    table, _ = fit_probe(as_target("age", age), sets, covariates, None, n_permutations=19)
    assert row(table, "motion", "r2")["value"] < 0.05


def test_p_values_with_a_covariate_are_not_too_small(rng):
    """x and y share only the covariate, so at most about one p in five is 0.2 or smaller."""
    low = 0
    for seed in range(20):
        own = np.random.default_rng(seed)
        c = own.standard_normal(40)
        x = c[:, None] + own.standard_normal((40, 5))
        y = as_target("y", pd.Series(c + own.standard_normal(40)))
        table, _ = fit_probe(y, {"embedding": x}, c[:, None], None, n_permutations=19)
        low += row(table, "embedding", "r2")["p"] <= 0.2
    assert low <= 9  # binomial(20, 0.2): 99 % within


def test_p_values_with_families_and_single_participants_as_groups(rng):
    """Permuting only within groups used to change nothing, so every p was 1."""
    x = rng.standard_normal((60, 5))
    y = pd.Series(x[:, 0] + 0.1 * rng.standard_normal(60))
    alone = np.arange(60)
    pairs = np.concatenate([np.arange(40), np.repeat(np.arange(40, 50), 2)])
    for groups in (alone, pairs):
        table, _ = fit_probe(as_target("y", y), {"embedding": x}, None, groups, 39)
        assert row(table, "embedding", "r2")["p"] == 1 / 40
        assert row(table, "embedding", "r2")["chance"] < 0.1
    classes = pd.Series(np.where(np.repeat(rng.permutation(np.repeat([0, 1], 10)), 3), "a", "b"))
    x[:, 0] += 3 * (classes == "a")
    families = np.repeat(np.arange(20), 3)
    table, _ = fit_probe(as_target("c", classes), {"embedding": x}, None, families, 39)
    assert row(table, "embedding", "auroc")["p"] == 1 / 40


def test_too_few_permutations_give_no_p_value(rng):
    """With two sites of each class, the labels have only six orders."""
    site = np.repeat(np.arange(4), 20)
    classes = pd.Series(np.array(["a", "a", "b", "b"])[site])
    x = rng.standard_normal((N, 3)) + 2 * (site >= 2)[:, None]
    table, reason = fit_probe(as_target("y", classes), {"embedding": x}, None, site, 39)
    assert reason is None
    assert row(table, "embedding", "auroc")["value"] > 0.8
    assert np.isnan(row(table, "embedding", "auroc")["p"])
    assert row(table, "embedding", "auroc")["n_permutations"] == 0


def test_too_few_participants_with_all_covariates(classes, features):
    covariates = np.full((N, 1), np.nan)
    covariates[:9] = np.arange(9.0)[:, None]
    table, reason = fit_probe(as_target("x", pd.Series(classes)), features, covariates, None, 9)
    assert table.empty
    assert reason == (
        "after excluding participants who lack a covariate, group, site or baseline, 9 of 9 "
        "participants have a value; a probe needs 20"
    )


def test_groups_are_never_split(rng):
    """Features that encode the site do not predict a class that depends only on the site."""
    site = np.repeat(np.arange(8), 10)
    y = rng.permutation(np.repeat([0, 1], 4))[site]
    x = np.eye(8)[site] * 5 + 0.1 * rng.standard_normal((N, 8))
    target = as_target("x", pd.Series(y))
    split, _ = fit_probe(target, {"embedding": x}, n_permutations=1)
    kept, reason = fit_probe(target, {"embedding": x}, None, site, 1)
    assert row(split, "embedding", "auroc")["value"] > 0.95
    assert reason is None
    assert row(kept, "embedding", "auroc")["value"] < 0.75
    one, reason = fit_probe(target, {"embedding": x}, None, np.zeros(N, int), 1)
    assert one.empty
    assert "all participants are in one group" in reason
    two, reason = fit_probe(
        as_target("x", pd.Series(site >= 4)), {"embedding": x}, None, site >= 4, 1
    )
    assert two.empty
    assert "the training part of a fold has too few participants" in reason


def test_participants_without_a_value_are_excluded(classes, features):
    values = pd.Series(np.where(classes, "a", "b"))
    values[:10] = "n/a"
    covariates = np.ones((N, 1))
    covariates[20] = np.nan
    table, _ = fit_probe(as_target("x", values), features, covariates, None, n_permutations=1)
    assert table["n_participants"].unique().tolist() == [69]


def column(*parts):
    return pd.Series([value for value, count in parts for _ in range(count)])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (column(("a", 20), ("b", 20)), None),
        (column(("1", 20), ("2", 20)), None),
        (pd.Series(np.arange(40) * 1.5), None),
        (column(("a", 40)), "all participants have the same value, a"),
        (column(("a", 35), ("b", 5)), "a class has too few participants (b: 5)"),
        (column(("a", 10), ("n/a", 30)), "10 of 40 participants have a value; a probe needs 20"),
        (pd.Series([f"x{i}" for i in range(40)]), "text with 40 different values"),
        (pd.Series([np.nan] * 40), "0 of 40 participants have a value"),
    ],
)
def test_columns_that_qualify_as_targets(values, reason):
    targets, not_probed, _ = choose_targets(pd.DataFrame({"c": values}), ["c"], None)
    assert len(targets) == (reason is None)
    assert (reason or "") in not_probed.get("c", "")


def test_columns_are_read_as_numbers_or_classes():
    assert as_target("x", pd.Series(["1", "2", "n/a", "1.0"])).classes == ("1", "2")
    number = as_target("x", pd.Series(["1.5", "2", "n/a", "3", "4", "5", "6"]))
    assert number.classes == ()
    assert number.known.tolist() == [True, True, False, True, True, True, True]
    mixed = as_target("x", pd.Series(["1", "two", " 1 "]))
    assert (mixed.classes, mixed.values.tolist()) == (("1", "two"), [0, 1, 0])


def test_unknown_columns_are_rejected():
    table = pd.DataFrame({"participant_id": ["sub-1"], "age": ["3"], "name": ["x"]})
    for call in (
        lambda: choose_targets(table, ["age"], ["agee"]),
        lambda: covariate_matrix(table, ["agee"])[0],
        lambda: group_codes(table, "agee"),
    ):
        with pytest.raises(UsageError, match=r"agee: .* in participants\.tsv; did you mean age\?"):
            call()
    with pytest.raises(UsageError, match=r"in participants\.tsv; its columns are age$"):
        choose_targets(table, ["age"], ["height"])
    texts = pd.DataFrame({"c": [f"x{i}" for i in range(40)]})
    with pytest.raises(UsageError, match="is text with 40 different"):
        covariate_matrix(texts, ["c"])[0]


def test_covariates_and_groups_from_a_table():
    table = pd.DataFrame({"site": ["a", "b", "n/a", "c"], "age": ["1", "2", "3", "9"]})
    matrix = covariate_matrix(table, ["site"])[0]
    expected = [[0, 0], [1, 0], [np.nan, np.nan], [0, 1]]
    np.testing.assert_array_equal(matrix, expected)
    assert group_codes(table, "site").tolist() == [0, 1, -1, 2]
    assert covariate_matrix(table, [])[0] is None
    assert group_codes(table, None) is None


def samples(rng, n):
    """Bootstrap samples of n participants: how often each has every one, and who is in it."""
    chosen = rng.integers(n, size=(5, n))
    return np.stack([np.bincount(c, minlength=n) for c in chosen]).astype(float), chosen


@pytest.mark.parametrize("n_classes", [2, 3])
def testscores_of_classes_equal_those_of_scikit_learn(rng, n_classes):
    """With ties, and with classes of different sizes."""
    y = np.sort(rng.integers(n_classes, size=60) * rng.integers(2, size=60))
    y[:n_classes] = np.arange(n_classes)
    scores = rng.standard_normal((60, n_classes)).round(1) + np.eye(n_classes)[y]
    predicted = np.column_stack([scores.argmax(axis=1), scores])
    design = SimpleNamespace(classes=[str(i) for i in range(n_classes)])
    counts, chosen = samples(rng, 60)
    found = metrics(y, predicted, design, counts)
    everybody = metrics(y, predicted, design)
    for number, who in enumerate([np.arange(60), *chosen]):
        own = everybody if number == 0 else {k: v[number - 1 : number] for k, v in found.items()}
        of_class = y[who][:, None] == np.arange(n_classes)
        if not of_class.any(axis=0).all():
            assert np.isnan(own["auroc"]).all()
            continue
        assert own["auroc"] == pytest.approx([roc_auc_score(of_class, scores[who])], rel=1e-12)
        accuracy = balanced_accuracy_score(y[who], predicted[who, 0])
        assert own["balanced_accuracy"] == pytest.approx([accuracy], rel=1e-12)


def test_scores_of_numbers_equal_those_of_scikit_learn(rng):
    y = 1e4 + rng.standard_normal(50)
    predicted = y + rng.standard_normal(50)
    counts, chosen = samples(rng, 50)
    found = metrics(y, predicted, SimpleNamespace(classes=()), counts)
    for number, who in enumerate(chosen):
        assert found["r2"][number] == pytest.approx(r2_score(y[who], predicted[who]), rel=1e-9)
        error = mean_absolute_error(y[who], predicted[who])
        assert found["mae"][number] == pytest.approx(error, rel=1e-9)
        correlation = np.corrcoef(y[who], predicted[who])[0, 1]
        assert found["pearson_r"][number] == pytest.approx(correlation, rel=1e-9)
    flat = metrics(y, np.full(50, 3.0), SimpleNamespace(classes=()))
    assert np.isnan(flat["pearson_r"]).all()
    assert np.isnan(metrics(np.ones(50), y, SimpleNamespace(classes=()))["r2"]).all()


@pytest.mark.parametrize(("n", "p"), [(60, 20), (40, 300)])
def test_ridges_equal_those_of_scikit_learn(rng, n, p):
    x, x_test = rng.standard_normal((n, p)), rng.standard_normal((7, p))
    x -= x.mean(axis=0)
    y = 5 + x[:, :3] @ rng.standard_normal((3, 4)) + 2 * rng.standard_normal((n, 4))
    fitted = fit_ridges(x, y, x_test)
    predicted, left_out = fitted.predicted, fitted.left_out
    for own, target, without in zip(predicted.T, y.T, left_out.T):
        fitted = RidgeCV(ALPHAS).fit(x, target)
        np.testing.assert_allclose(own, fitted.predict(x_test), atol=1e-10)
        others = [np.delete(np.arange(n), i) for i in range(n)]
        expected = [
            Ridge(fitted.alpha_).fit(x[kept], target[kept]).predict(x[i : i + 1])[0]
            for i, kept in enumerate(others)
        ]
        np.testing.assert_allclose(without, expected, atol=1e-10)


def test_many_targets_are_fitted_in_parts(rng, monkeypatch):
    x = rng.standard_normal((50, 8))
    x -= x.mean(axis=0)
    y = x @ rng.standard_normal((8, 30)) + 3 * rng.standard_normal((50, 30))
    weights = rng.random((50, 30))
    expected = fit_ridges(x, y, x[:6], weights=weights, n_together=3)
    monkeypatch.setattr(ridge, "_MAX_TARGETS", 7)
    found = fit_ridges(x, y, x[:6], weights=weights, n_together=3)
    for part in ("predicted", "left_out", "error"):
        np.testing.assert_allclose(getattr(found, part), getattr(expected, part), atol=1e-9)


def test_the_penalty_is_chosen_for_groups_that_are_left_out(rng):
    x = rng.standard_normal((60, 10))
    x -= x.mean(axis=0)
    groups = np.repeat([0, 1, 2, 3, 3, 3], 10)
    y = x[:, :1] + rng.standard_normal((60, 1)) + 2 * (groups == 3)[:, None]
    fitted = fit_ridges(x, y, x[:5], groups)
    predicted, left_out = fitted.predicted, fitted.left_out
    errors, expected = [], []
    for alpha in ALPHAS:
        own = np.empty(60)
        for group in range(4):
            at = groups == group
            own[at] = Ridge(alpha).fit(x[~at], y[~at, 0]).predict(x[at])
        errors.append(np.square(own - y[:, 0]).sum())
        expected.append(own)
    best = int(np.argmin(errors))
    np.testing.assert_allclose(left_out[:, 0], expected[best], atol=1e-10)
    fitted = Ridge(ALPHAS[best]).fit(x, y[:, 0])
    np.testing.assert_allclose(predicted[:, 0], fitted.predict(x[:5]), atol=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_are_told_apart_as_by_a_linear_discriminant_analysis(rng, monkeypatch, n_classes):
    """Without a penalty; classes of different sizes count the same."""
    monkeypatch.setattr(ridge, "ALPHAS", np.array([1e-9]))
    y = np.repeat(np.arange(n_classes), [150, 40, 110][:n_classes])
    x = rng.standard_normal((len(y), 6)) + np.eye(n_classes, 6)[y] * 2
    x -= x.mean(axis=0)
    x_test = rng.standard_normal((400, 6))
    scores = scores_of_classes([(x, x_test)], y[None], None, n_classes)[0][0]
    priors = np.full(n_classes, 1 / n_classes)
    expected = LinearDiscriminantAnalysis(priors=priors).fit(x, y).predict(x_test)
    assert (scores.argmax(axis=1) == expected).mean() > 0.97
    if n_classes == 2:
        direction = LinearDiscriminantAnalysis().fit(x, y).decision_function(x_test)
        assert np.corrcoef(scores[:, 1] - scores[:, 0], direction)[0, 1] == pytest.approx(1)
