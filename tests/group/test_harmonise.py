"""Effects of sites are removed from the features of probes by ComBat."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from app import run_app

from benchmarks.group import write_outputs
from swift_bids.base.errors import UsageError
from swift_bids.group.columns import as_target, site_column
from swift_bids.group.probes.design import Design, make_folds, permuted_targets
from swift_bids.group.probes.features import ConnectivityMatrices, Table
from swift_bids.group.probes.harmonise import Harmonised, check_installed, harmonise
from swift_bids.group.probes.probe import fit_probe

SITES = np.arange(120) % 3


@pytest.fixture
def features():
    """Each site shifts and scales the features; the target moves five of them."""
    rng = np.random.default_rng(0)
    target = rng.standard_normal(120)
    x = rng.standard_normal((120, 40))
    x[:, :5] += 0.7 * target[:, None]
    shift, scale = rng.normal(0, 2, (3, 40)), rng.uniform(0.6, 1.6, (3, 40))
    return x * scale[SITES] + shift[SITES], target


def test_means_and_variances_of_the_training_part_become_alike(features):
    x, _ = features
    train = np.arange(90)
    found = harmonise(x, SITES, train)
    for before, after, largest in (
        (x[train], found[train], 0.25),
        (x[90:], found[90:], 0.6),
    ):
        sites = SITES[: len(before)] if len(before) == 90 else SITES[90:]
        means = np.stack([after[sites == s].mean(axis=0) for s in range(3)])
        was = np.stack([before[sites == s].mean(axis=0) for s in range(3)])
        assert np.abs(means - means.mean(axis=0)).mean() < largest
        assert np.abs(was - was.mean(axis=0)).mean() > 1.2
    spread = np.stack([found[train][SITES[train] == s].std(axis=0) for s in range(3)])
    assert (spread.max(axis=0) / spread.min(axis=0)).mean() < 1.3


def test_the_test_part_does_not_change_the_fit(features):
    x, _ = features
    train = np.arange(90)
    other = x.copy()
    other[90:] = 7 * other[90:] - 5
    first, second = harmonise(x, SITES, train), harmonise(other, SITES, train)
    np.testing.assert_array_equal(first[train], second[train])


def test_constant_features_stay_as_they_are(features):
    x = features[0].copy()
    x[:, 3] = 4.0
    found = harmonise(x, SITES, np.arange(90))
    assert (found[:, 3] == 4.0).all()
    assert np.isfinite(found).all()


def test_the_site_is_not_predictable_any_more_and_the_target_better(features):
    x, target = features
    sets = {"embedding": Harmonised(Table(x), SITES), "not harmonised": x}
    site, _ = fit_probe(as_target("site", pd.Series(SITES)), sets, n_permutations=19)
    auroc = site[site["metric"] == "auroc"].set_index("features")["value"]
    assert auroc["not harmonised"] > 0.98
    assert auroc["embedding"] < 0.6
    age, _ = fit_probe(as_target("age", pd.Series(target)), sets, n_permutations=19)
    r2 = age[age["metric"] == "r2"].set_index("features")
    assert r2.loc["embedding", "value"] > r2.loc["not harmonised", "value"] + 0.01
    assert r2.loc["embedding", "p"] == 1 / 20


def test_versions_of_features_are_harmonised_one_by_one():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((30, 6, 40))
    matrices = ConnectivityMatrices(a @ a.transpose(0, 2, 1) / 40)
    sites, train = np.arange(30) % 2, np.arange(24)
    found = Harmonised(matrices, sites).versions(train)
    plain = matrices.versions(train)
    assert list(found) == list(plain) == ["correlation", "partial correlation", "tangent"]
    for name in found:
        np.testing.assert_array_equal(found[name], harmonise(plain[name], sites, train))


def test_small_sites_are_left_out():
    """A site of many sessions of few participants is small."""
    table = pd.DataFrame({"site": ["a"] * 12 + ["b"] * 10 + ["c"] * 12 + [None]})
    table["participant_id"] = [*range(22), *np.arange(12) % 3, 40]
    target, note = site_column(table, "site")
    assert target.classes == ("a", "b")
    assert np.isnan(target.values[-13:]).all()
    assert note == (
        "--harmonise site: probes leave out values with fewer than 10 participants (c: 3)"
    )
    with pytest.raises(UsageError, match="fewer than two of its values have 10 participants"):
        site_column(table[12:], "site")


def test_folds_without_enough_of_a_site_are_a_reason(features):
    """Each of these used to be a traceback of combatlearn."""
    x, target = features
    sets = {"embedding": Harmonised(Table(x), SITES)}
    known = target.copy()
    known[(SITES == 2) & (np.arange(120) > 30)] = np.nan  # 10 of the third site are left
    few = known.copy()
    few[(SITES == 2) & (np.arange(120) > 3)] = np.nan  # one is left
    schools = SITES * 10 + np.arange(120) // 12
    one_city = np.where(SITES == 2, 99, schools)
    for values, groups, n in ((known, None, 90), (few, None, 80), (target, schools, 120)):
        table, reason = fit_probe(as_target("age", pd.Series(values)), sets, None, groups, 5, SITES)
        assert reason is None
        assert table["n_participants"].unique() == n
    _, reason = fit_probe(as_target("age", pd.Series(target)), sets, None, one_city, 5, SITES)
    assert reason == (
        "the training part of a fold has too few participants of a site, whose effects "
        "--harmonise could not remove"
    )


def test_many_sites_are_probed_as_well(features):
    x, _ = features
    sites = np.arange(120) % 12
    target = as_target("site", pd.Series([f"s{site:02d}" for site in sites]))
    sets = {"embedding": Harmonised(Table(x), sites), "not harmonised": x}
    table, reason = fit_probe(target, sets, n_permutations=5, sites=sites)
    assert reason is None
    assert table["n_permutations"].max() == 5
    _, reason = fit_probe(target, sets, n_permutations=5)
    assert "at most 10 classes" in reason


def test_targets_are_permuted_within_sites(features):
    """Whole families only swap with families of the same site."""
    rng = np.random.default_rng(0)
    y = SITES + 0.1 * rng.random(120)
    families = np.repeat(np.arange(60), 2)
    sites = SITES[::2].repeat(2)
    for groups, own in ((None, SITES), (families, sites)):
        values = own + 0.1 * rng.random(120) if groups is not None else y
        design = Design(values, (), None, groups, own)
        permuted = permuted_targets(design, make_folds(design, 0), 20)
        assert len(permuted) == 20
        assert (np.floor(permuted) == own).all()
        assert (permuted != values).mean() > 0.8
    mixed = np.arange(120) // 4  # members of a family at several sites
    design = Design(y, (), None, mixed, SITES)
    assert (np.floor(permuted_targets(design, make_folds(design, 0), 20)) == SITES).all()


def test_features_that_do_not_vary_stay_as_they_are():
    values = np.ones((20, 3))
    assert harmonise(values, np.arange(20) % 2, np.arange(16)) is values


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps combatlearn"):
        check_installed()


def test_the_app_harmonises_and_shows_the_site_before_and_after(tmp_path):
    write_outputs(tmp_path, 45, 1, connectivity=True)
    call = (tmp_path / "fmriprep", tmp_path / "swift", "group", "--permutations", "19")
    done = run_app(*call, "--target", "planted", "--harmonise", "site")
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "swift/group_desc-swift_probes.tsv", sep="\t", na_values="n/a")
    sets = table.groupby("target")["features"].agg(set)
    assert sets["site"] == {"embedding", "not harmonised", "dummy"}
    assert {"positions", "tokens", "connectivity", "acquisition"} < sets["planted"]
    page = (tmp_path / "swift/group.html").read_text()
    assert "After the effects of site were removed" in page
    for wrong, message in (
        (("--group-by", "site"), "that no training set contains cannot be removed"),
        (("--covariate", "site"), "the column is also a --covariate"),
        (("--target", "site"), "the column is also a --target"),
    ):
        refused = run_app(*call, "--harmonise", "site", *wrong)
        assert refused.returncode == 2
        assert message in refused.stderr
    refused = run_app(*call, "--harmonise", "site", "--target", "none")
    assert "--target none asks for no probe" in refused.stderr
    refused = run_app(*call, "--harmonise", "age")
    assert "--harmonise age: fewer than two of its values" in refused.stderr
