"""What a participant's page shows of all runs together, and the ratings that it saves."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from app import require_program
from playwright.sync_api import sync_playwright
from safetensors.numpy import load_file, save_file

from swift_bids.reports.runs_together import (
    HEIGHT,
    WIDTH,
    differences_between_runs,
    displacement_of,
    index_of_runs,
    mean_tokens_of,
    motion_of_runs,
)


def motion_in(folder, names, thresholds):
    return motion_of_runs(names, [displacement_of(folder, name) for name in names], thresholds)


def differences_in(folder, names):
    return differences_between_runs([mean_tokens_of(folder, name, "swift") for name in names])


def test_runs_are_listed_by_session():
    names = [
        "sub-1_ses-a_task-rest_run-1_space-X_res-2",
        "sub-1_ses-a_task-nback_acq-mb_space-X_res-2",
        "sub-1_ses-b_task-rest_run-1_space-X_res-2",
    ]
    assert index_of_runs(names) == [
        ("ses-a", [(1, "task-rest run-1"), (2, "task-nback acq-mb")]),
        ("ses-b", [(3, "task-rest run-1")]),
    ]
    assert index_of_runs(["sub-1_task-rest_space-X"]) == [("", [(1, "task-rest")])]
    assert index_of_runs(["sub-1_space-X"]) == [("", [(1, "run")])]
    spaces = index_of_runs(["sub-1_task-rest_space-X", "sub-1_task-rest_space-Y"])
    assert spaces == [("", [(1, "task-rest space-X"), (2, "task-rest space-Y")])]


def write_motion(folder, name, values):
    file = folder / "sub-1" / "func" / f"{name}_desc-volumes_timeseries.tsv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"framewise_displacement": values})
    table.to_csv(file, sep="\t", na_rep="n/a", index=False)


def test_all_runs_have_one_scale_of_motion(tmp_path):
    still, moving = np.full(50, 0.1), np.full(100, 0.2)
    still[0], moving[60] = np.nan, 1.0
    write_motion(tmp_path, "sub-1_task-a", still)
    write_motion(tmp_path, "sub-1_task-b", moving)
    write_motion(tmp_path, "sub-1_task-c", [np.nan, np.nan])
    names = [f"sub-1_task-{task}" for task in "abcd"]
    found = motion_in(tmp_path, names, [0.5] * 4)
    assert (found["highest"], found["longest"]) == (1.05, 100)
    first, second = ([p.split(",") for p in run["points"].split()] for run in found["runs"])
    assert (len(first), len(second)) == (50, 100)
    assert float(first[-1][0]) == pytest.approx(WIDTH * 49 / 99, abs=0.1)  # half as long
    assert float(first[10][1]) == pytest.approx(HEIGHT * (1 - 0.1 / 1.05), abs=0.1)
    assert float(second[60][1]) == pytest.approx(HEIGHT * (1 - 1 / 1.05), abs=0.1)
    assert found["runs"][0]["threshold"] == pytest.approx(HEIGHT * (1 - 0.5 / 1.05))
    assert not found["runs"][1]["cut"]


def test_long_runs_keep_their_peaks_and_large_peaks_are_cut(tmp_path):
    values = np.full(4321, 0.1)
    values[777] = 30.0
    write_motion(tmp_path, "sub-1_task-a", values)
    found = motion_in(tmp_path, ["sub-1_task-a"], [0.5])
    (run,) = found["runs"]
    heights = [float(point.split(",")[1]) for point in run["points"].split()]
    assert len(heights) <= 1000
    assert min(heights) == 0.0
    assert found["highest"] == 2.0
    assert run["cut"]


def test_runs_without_motion_have_no_figure(tmp_path):
    assert motion_in(tmp_path, ["sub-1_task-a"], [0.5]) is None


def write_positions(folder, name, tokens):
    file = folder / "sub-1" / "func" / f"{name}_desc-swift_positions.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"positions": np.stack([tokens, np.zeros_like(tokens)]).astype(np.float32)}, file)


def test_the_part_that_differs_is_named(tmp_path):
    """x of the tokens increases to the left, y forward, z up."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((288, 2, 2, 2))
    changed = tokens.copy()
    changed[:, 1, 0, 1] *= 1.5  # left, back, top
    write_positions(tmp_path, "sub-1_task-a", tokens)
    write_positions(tmp_path, "sub-1_task-b", changed)
    found = differences_in(tmp_path, ["sub-1_task-a", "sub-1_task-b"])
    assert [(p["height"], p["side"], p["depth"]) for p in found][:4] == [
        ("top", "left", "front"),
        ("top", "left", "back"),
        ("top", "right", "front"),
        ("top", "right", "back"),
    ]
    most = max(found, key=lambda part: part["shade"])
    assert (most["side"], most["depth"], most["height"]) == ("left", "back", "top")
    assert most["value"] == pytest.approx(0.4, abs=1e-6)  # 0.5 of a mean length of 1.25
    assert [part["value"] for part in found if part is not most] == [0.0] * 7
    assert differences_in(tmp_path, ["sub-1_task-a"]) is None
    damaged = tmp_path / "sub-1/func/sub-1_task-d_desc-swift_positions.safetensors"
    damaged.write_bytes(b"\x08")
    assert differences_in(tmp_path, ["sub-1_task-a", "sub-1_task-d"]) is None
    assert differences_in(tmp_path, ["sub-1_task-a", "sub-1_task-c"]) is None


def test_positions_average_to_the_embedding(demo):
    """Also for a run of which one chunk is left out."""
    files = sorted(demo.glob("swift_bids/sub-*/**/*_positions.safetensors"))
    assert len(files) == 7
    for file in files:
        positions = load_file(file)["positions"]
        stem = str(file).removesuffix("positions.safetensors")
        embedding = pd.read_csv(f"{stem}embedding.tsv", sep="\t").filter(regex=r"^swift\d")
        mean = positions[0].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(mean, embedding.to_numpy()[0], rtol=1e-5, atol=1e-6)
        tokens = load_file(f"{stem}tokens.safetensors")["tokens"].astype(np.float64)
        included = pd.read_csv(f"{stem}timeseries.tsv", sep="\t")["included"].to_numpy(bool)
        spread = tokens[included].std(axis=(0, 5))
        np.testing.assert_allclose(positions[1], spread, rtol=1e-4, atol=1e-6)


def test_the_page_lists_sessions_motion_and_differences(demo):
    page = (demo / "swift_bids" / "sub-01.html").read_text()
    index = re.search(r'<ul class="index">.*?</ul>', page, re.DOTALL).group()
    assert re.findall(r"<strong>(.*?)</strong>", index) == ["ses-1", "ses-2"]
    assert re.findall(r'href="#run-(\d)"', index) == ["1", "2", "3", "4"]
    assert page.count("<polyline") == 4
    assert page.count("Where the runs differ") == 1
    assert "desc-chunks" not in page  # two chunks say little about each other
    other = (demo / "swift_bids" / "sub-03.html").read_text()
    assert "<polyline" not in other
    assert "Where the runs differ" not in other


def test_ratings_are_saved_as_a_table(demo, tmp_path):
    chromium = require_program("chromium")
    page_file = demo / "swift_bids" / "sub-01.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(page_file.as_uri())
        rated = page.locator("fieldset.rating")
        assert rated.count() == 4
        rated.nth(0).locator("input[value=acceptable]").check()
        rated.nth(2).locator("input[value=exclude]").check()
        rated.nth(2).locator("input[type=text]").fill("ghost\tin  the front")
        rated.nth(3).locator("input[type=text]").fill("look again")
        page.fill("#rater", "AB")
        with page.expect_download() as started:
            page.click("#save-ratings")
        assert started.value.suggested_filename == "sub-01_desc-ratings.tsv"
        started.value.save_as(tmp_path / "ratings.tsv")
        assert page.inner_text("#n-rated") == "3 run(s) saved"
        browser.close()
    with open(tmp_path / "ratings.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    names = [
        f"sub-01_ses-{s}_task-rest_run-{r}_space-MNI152NLin6Asym_res-2"
        for s, r in ((1, 1), (2, 1), (2, 2))
    ]
    assert [row["name"] for row in rows] == names
    assert [row["rating"] for row in rows] == ["acceptable", "exclude", "n/a"]
    assert [row["comment"] for row in rows] == ["n/a", "ghost in the front", "look again"]
    assert {row["rater"] for row in rows} == {"AB"}
