"""What the group level says of brain masks."""

import shutil

import numpy as np
import pandas as pd
import pytest
from app import run_app

from benchmarks.group import write_outputs
from swift_bids.group.columns import Target
from swift_bids.group.load import collect_runs
from swift_bids.group.mask_effects import associated_with_mask
from swift_bids.inputs.run_filter import RunFilter

COLUMNS = ["mask_volume", "template_dice", "mean_intensity"]


@pytest.fixture(scope="module")
def made_up(made_once):
    """60 participants; the older, the smaller their masks."""
    return made_once("masks", _make_up) / "data"


def _make_up(folder):
    root = folder / "data"
    write_outputs(root, 60, 1, connectivity=False)
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "19")
    done = run_app(*call, "--target", "age", "planted")
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "log").write_text(done.stdout)


def probes_of(root):
    return pd.read_csv(root / "swift/group_desc-swift_probes.tsv", sep="\t", na_values="n/a")


def test_masks_are_columns_and_a_baseline(made_up):
    people = pd.read_csv(made_up / "swift/group_desc-participants_embedding.tsv", sep="\t")
    (file,) = made_up.glob("swift/sub-00001/func/*_embedding.tsv")
    of_run = pd.read_csv(file, sep="\t")
    assert people.loc[0, COLUMNS].tolist() == pytest.approx(of_run.loc[0, COLUMNS].tolist())
    probes = probes_of(made_up)
    own = probes[(probes["target"] == "age") & (probes["metric"] == "r2")].set_index("features")
    assert {"embedding", "motion", "acquisition", "dummy"} <= set(own.index)
    # age moves the masks by 69 mL (standard deviation), and 60 mL are noise
    assert own.loc["acquisition", "value"] > 0.3
    assert own.loc["acquisition", "n_features"] == 4


def test_an_associated_target_is_a_warning(made_up):
    log, page = (made_up / "log").read_text(), (made_up / "swift/group.html").read_text()
    assert "age is associated with the volume of the brain masks (Spearman's rho -0." in log
    assert "planted is associated" not in log
    assert "Correct for it with --covariate mask_volume" in page
    assert page.count("is associated with the volume of the brain mask") == 1


def test_how_well_embeddings_predict_the_volume(made_up):
    probes = probes_of(made_up)
    own = probes[probes["target"] == "mask_volume"]
    assert set(own["features"]) == {"embedding", "dummy"}
    r2 = own[own["metric"] == "r2"].set_index("features").loc["embedding", "value"]
    page = (made_up / "swift/group.html").read_text()
    assert f"The embeddings predict the volume of the brain mask with R² {r2:.2f} (p = " in page


def test_the_volume_as_a_target(made_up, tmp_path):
    """It is not associated with itself, and no feature of itself."""
    root = shutil.copytree(made_up, tmp_path / "data")
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "9")
    done = run_app(*call, "--target", "mask_volume")
    assert done.returncode == 0, done.stdout
    assert "is associated with" not in done.stdout
    assert set(probes_of(root)["features"]) == {"embedding", "motion", "dummy"}
    page = (root / "swift/group.html").read_text()
    assert "too few permutations to rule out chance" in page


def test_the_same_mask_for_everybody_is_associated_with_nothing():
    """Means over runs differ in their last digits."""
    site = np.arange(60) % 2
    table = pd.DataFrame({"mask_volume": 1827.864 + 2e-13 * site})
    assert associated_with_mask([Target("site", ("A", "B"), site.astype(float))], table) == {}


def test_the_volume_as_a_covariate(made_up, tmp_path):
    """Age then explains less, and the volume is neither a target nor a warning."""
    root = shutil.copytree(made_up, tmp_path / "data")
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "19")
    done = run_app(*call, "--target", "age", "--covariate", "mask_volume")
    assert done.returncode == 0, done.stdout
    assert "is associated with the volume" not in done.stdout
    probes = probes_of(root)
    assert "mask_volume" not in set(probes["target"])
    rows = probes[probes["metric"] == "r2"].set_index("features")
    assert rows.loc["acquisition", "value"] < 0.1


def test_outputs_of_version_0_5_0_have_no_volume(made_up, tmp_path):
    root = shutil.copytree(made_up, tmp_path / "data")
    for file in root.glob("swift/sub-*/func/*_embedding.tsv"):
        pd.read_csv(file, sep="\t").drop(columns=COLUMNS).to_csv(file, sep="\t", index=False)
    runs, problems = collect_runs(root / "swift", RunFilter())
    assert problems == []
    assert runs.table[COLUMNS].isna().all(axis=None)
    call = (root / "fmriprep", root / "swift", "group", "--permutations", "19")
    done = run_app(*call, "--target", "age")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "baseline acquisition is omitted: 60 of 60 participants lack it" in done.stdout


def test_how_often_unrelated_targets_are_called_associated():
    """At most 5 % of the calls, whatever the number of targets; a relation is found."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        table = pd.DataFrame({"mask_volume": rng.normal(1500, 100, 60)})
        numbers = [Target(f"n{i}", (), rng.normal(size=60)) for i in range(3)]
        classes = [
            Target(f"c{i}", ("a", "b"), rng.integers(0, 2, 60).astype(float)) for i in range(2)
        ]
        found += bool(associated_with_mask([*numbers, *classes], table))
    assert 2 <= found <= 18
    sex = np.arange(60) % 2
    table["mask_volume"] += 150 * sex
    related = associated_with_mask([Target("sex", ("F", "M"), sex.astype(float))], table)
    assert list(related) == ["sex"]
    medians = [table["mask_volume"][sex == code].median() for code in (0, 1)]
    assert related["sex"].startswith(f"F {medians[0]:.0f} mL, M {medians[1]:.0f} mL; p < 0.001")
