"""participants.tsv as people write it: limits, commas, codes, spellings, rare levels."""

import shutil

import numpy as np
import pandas as pd
import pytest
from app import run_app

from benchmarks.group import write_outputs
from swift_bids.base.errors import UsageError
from swift_bids.group.clean import clean_columns
from swift_bids.group.columns import as_target, choose_targets, covariate_matrix

IDS = [f"sub-{i:02d}" for i in range(40)]
AGES = [str(20 + i % 30) for i in range(40)]


def clean(values, *codes):
    """The cleaned column, and what is said about it."""
    table = pd.DataFrame({"participant_id": IDS[: len(values)], "x": values})
    cleaned, notes = clean_columns(table, codes)
    return cleaned["x"].tolist(), notes


def with_cells(cells, values=AGES):
    values = list(values)
    for row, cell in cells.items():
        values[row] = cell
    return values


@pytest.mark.parametrize(
    ("cell", "read"),
    [("89+", "89"), ("89 +", "89"), (">89", "89"), (">= 89", "89"), ("<5", "5"), ("89.5+", "89.5")],
)
def test_limits_are_read_as_their_number(cell, read):
    values, notes = clean(with_cells({7: cell}))
    assert values == with_cells({7: read})
    assert notes == [f"x: {cell} of sub-07 is read as the number, although it is only a limit"]
    assert as_target("x", pd.Series(values)).classes == ()


def test_many_limits_are_named_once():
    values, notes = clean(with_cells(dict.fromkeys(range(10), "89+")))
    assert values[:10] == ["89"] * 10
    assert notes == [
        "x: 89+ of sub-00, 89+ of sub-01, 89+ of sub-02 and 7 more is read as the number, although "
        "it is only a limit"
    ]


def test_decimal_commas():
    values, notes = clean([f"{i},5" for i in range(20, 60)])
    assert values == [f"{i}.5" for i in range(20, 60)]
    assert notes == [
        "x: 20,5 of sub-00, 21,5 of sub-01, 22,5 of sub-02 and 37 more is read with a decimal comma"
    ]
    values, _ = clean(with_cells({3: "31,25", 4: "89+"}))
    assert values == with_cells({3: "31.25", 4: "89"})
    thousands = ["1,200", "2,300", "n/a", *["900"] * 37]
    assert clean(thousands) == (thousands, [])  # commas of thousands: not numbers


def test_ranges_among_numbers():
    values, notes = clean(with_cells({2: "18-38", 5: "40 - 49"}))
    assert values == with_cells({2: "n/a", 5: "n/a"})
    assert notes == [
        "x: 18-38 of sub-02, 40 - 49 of sub-05 is a range of numbers and counts as missing"
    ]
    bands = ["18-38", "39-60"] * 20
    assert clean(bands) == (bands, [])  # classes


@pytest.mark.parametrize("values", [AGES, with_cells({3: "n/a"}), ["a", "b"] * 20, ["1", "2"] * 20])
def test_ordinary_columns_stay_as_they_are(values):
    assert clean(values) == (values, [])


@pytest.mark.parametrize("code", ["-999", "999", "9999", "-9", "888", "777", "-99", "999.0"])
def test_numbers_that_look_like_codes(code):
    values, notes = clean(with_cells({3: code, 9: code}))
    assert values == with_cells({3: code, 9: code})
    plain = code.removesuffix(".0")
    assert notes == [
        f"x: {code} of sub-03, {code} of sub-09 looks like a code for a missing value, but counts "
        f"as a number; if it is a code, give --missing-code {plain}"
    ]
    values, notes = clean(with_cells({3: code, 9: code}), plain)
    assert (values[3], values[9], notes) == ("n/a", "n/a", [])


@pytest.mark.parametrize(
    "values",
    [
        [str(90 + i % 12) for i in range(40)],  # 99 is one of many
        [str(i % 40 + 60) for i in range(40)],  # 99 is near the others
        [str(950 + i % 60) for i in range(40)],  # volumes around 999
        [str(i % 7 - 9) for i in range(40)],  # -9 among negative numbers
        ["99", "1", "n/a"],  # too few others
    ],
)
def test_numbers_that_are_no_codes(values):
    assert clean(values) == (values, [])


@pytest.mark.parametrize("code", ["unknown", "-999", "?", "999"])
def test_codes_that_the_user_names(code):
    values, _ = clean(with_cells({5: code}), code)
    assert values == with_cells({5: "n/a"})


def test_spellings_of_a_level():
    values, notes = clean(["M", "m", "F", "f", "F", "M", "M", "n/a"])
    assert values == ["M", "M", "F", "F", "F", "M", "M", "n/a"]
    assert notes == [
        "x: f and F are the same level, F",
        "x: m and M are the same level, M",
    ]
    assert clean(["True", "TRUE", "false", "True"])[0] == ["True", "True", "false", "True"]
    assert clean([" M", "M "])[0] == ["M", "M"]


def test_a_rare_level_is_left_out():
    sex = ["M"] * 20 + ["F"] * 19 + ["O"]
    targets, not_probed, notes = choose_targets(pd.DataFrame({"sex": sex}), ["sex"], None)
    assert not_probed == {}
    assert notes == ["sex: its probe leaves out classes with fewer than 10 participants (O: 1)"]
    assert targets[0].classes == ("F", "M")
    assert targets[0].counts == {"F": 19, "M": 20}
    assert np.isnan(targets[0].values).tolist() == [False] * 39 + [True]


def test_covariates_that_say_nothing():
    table = pd.DataFrame({"a": ["x"] * 40, "b": AGES, "site": ["s1", "s2"] * 20})
    matrix, notes = covariate_matrix(table, ["a", "b"])
    assert matrix.shape == (40, 1)
    assert notes == ["--covariate a: is the same for all participants, so it is left out"]
    matrix, notes = covariate_matrix(table, ["a"])
    assert matrix is None


def test_covariates_of_the_groups_that_are_held_out():
    table = pd.DataFrame({"site": ["s1", "s2"] * 20, "scanner": ["p", "q"] * 20, "sex": "MMFF"})
    table["sex"] = ["M", "M", "F", "F"] * 10
    for name in ("site", "scanner"):
        with pytest.raises(UsageError, match=rf"--covariate {name}: its effect cannot be removed"):
            covariate_matrix(table, [name], "site")
    matrix, _ = covariate_matrix(table, ["sex"], "site")
    assert matrix.shape == (40, 1)


@pytest.fixture(scope="module")
def made_up(made_once):
    return made_once("clean", _make_up) / "data"


def _make_up(folder):
    write_outputs(folder / "data", 40, 1, connectivity=False)


def test_the_group_level_says_what_it_read(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    file = root / "fmriprep" / "participants.tsv"
    table = pd.read_csv(file, sep="\t", dtype=str)
    table.loc[3, "age"] = "89+"
    table.loc[5, "age"] = "999"
    table.loc[2, "planted"] = "CASE"
    table["participant_id"] = [
        own if row % 2 else str(int(own.removeprefix("sub-")))
        for row, own in enumerate(table.iloc[:, 0])
    ]
    text = table.to_csv(sep="\t", index=False).replace("shuffled", "site", 1)
    file.write_text(text)
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "9")
    done = run_app(*call, "--target", "age", "planted")
    assert done.returncode == 0, done.stdout + done.stderr
    for sentence in (
        "age: 89+ of sub-00004 is read as the number, although it is only a limit",
        "age: 999 of sub-00006 looks like a code for a missing value",
        "planted: CASE and case are the same level, case",
        "has several columns named site; the second one is called site.1",
        "20 participant_id(s) differ from the folders by zeros, such as sub-1, which is taken for "
        "sub-00001",
    ):
        assert sentence in done.stdout
    page = (root / "swift" / "group.html").read_text()
    assert "89+ of sub-00004 is read as the number" in page
    probes = pd.read_csv(root / "swift/group_desc-swift_probes.tsv", sep="\t")
    ages = probes[probes["target"] == "age"].set_index(["features", "metric"])
    assert ages.loc[("embedding", "r2"), "n_participants"] == 40
    done = run_app(*call, "--target", "age", "--missing-code", "999")
    assert "looks like a code" not in done.stdout
    probes = pd.read_csv(root / "swift/group_desc-swift_probes.tsv", sep="\t")
    without = probes[probes["target"] == "age"].set_index(["features", "metric"])
    assert without.loc[("embedding", "r2"), "n_participants"] == 39
    assert without.loc[("embedding", "mae"), "value"] < ages.loc[("embedding", "mae"), "value"]
