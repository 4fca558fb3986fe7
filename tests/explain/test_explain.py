"""swift-bids explain: it finds where a planted signal is, exactly, and not by chance."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from app import run_app
from make_data import FSL_AFFINE, FSL_SHAPE
from planted import INDEX, REGION, XYZ, write_cohort, write_tiny_bundle
from sklearn.metrics import roc_auc_score

from swift_bids import SwiFT
from swift_bids.explain.attribution import Score, integrated_gradients, occlusion
from swift_bids.explain.maps import mean_run, to_template
from swift_bids.geometry.frames import FRAMES
from swift_bids.group.kept_runs import kept_runs
from swift_bids.group.load import collect_runs
from swift_bids.group.probes.saved import SavedProbe, read_probes
from swift_bids.inputs.run_filter import RunFilter

#: Positions of the planted brain in the FSL grid.
IN_TEMPLATE = tuple(XYZ - np.array(FRAMES["ukb"].offset)[:, None])
#: Eighths of the planted brain, numbered from 1 on.
EIGHTH = 1 + 4 * (XYZ[0] >= 48) + 2 * (XYZ[1] >= 48) + (XYZ[2] >= 48)
MAP = "group_space-MNI152NLin6Asym_res-2_desc-swiftplanted_attribution"
TABLE = "group_desc-swiftplanted_attribution"


@pytest.fixture(scope="session")
def cohort(made_once):
    """30 participants with a planted signal, their saved probes, and an atlas of eighths."""

    def make(folder):
        bundle = write_tiny_bundle(folder / "weights")
        output = write_cohort(folder / "data", bundle, 30, amplitude=2.0)
        call = ("group", "--target", "planted", "age", "--permutations", "1")
        done = run_app(folder / "data" / "fmriprep", output, *call)
        assert done.returncode == 0, done.stdout + done.stderr
        numbers = np.zeros(FSL_SHAPE, np.int16)
        numbers[IN_TEMPLATE] = EIGHTH
        nib.Nifti1Image(numbers, FSL_AFFINE).to_filename(folder / "atlas.nii.gz")

    return made_once("explain", make) / "data" / "swift"


@pytest.fixture(scope="session")
def explained(made_once, cohort):
    """The explanation of the probe of the planted signal: its folder, and the log."""

    def make(folder):
        atlas = cohort.parents[1] / "atlas.nii.gz"
        call = ("--target", "planted", "--max-runs", "12", "--atlas", atlas)
        done = run_app("explain", cohort, cohort, *call)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "log").write_text(done.stdout)

    return cohort, (made_once("explained", make) / "log").read_text()


def test_the_map_finds_the_planted_region(explained):
    folder, log = explained
    image = nib.load(folder / f"{MAP}.nii.gz")
    assert image.shape == FSL_SHAPE
    np.testing.assert_array_equal(image.affine, FSL_AFFINE)
    values = np.abs(image.get_fdata()[IN_TEMPLATE])
    assert roc_auc_score(REGION, values) > 0.9
    assert np.abs(image.get_fdata()).sum() == pytest.approx(values.sum())  # nothing elsewhere
    about = json.loads((folder / f"{MAP}.json").read_text())
    assert about["Checks"]["CompletenessError"] < 0.01
    assert about["Probe"]["Target"] == "planted"
    assert len(about["Sources"]) == 12
    assert about["Sources"][0].startswith("bids::sub-00001/func/")
    assert log.endswith(f"{TABLE}.html\n")


def test_a_randomised_head_gives_another_map(explained):
    folder, _ = explained
    similarity = json.loads((folder / f"{MAP}.json").read_text())["Checks"]
    assert abs(similarity["SimilarityToRandomisedHead"]) < 0.5
    page = (folder / f"{TABLE}.html").read_text()
    assert "in random order, the map does not resemble this one" in page
    assert "add up to the difference between its score" in page


def test_the_attributions_of_each_run_add_up(explained):
    folder, _ = explained
    runs = pd.read_csv(folder / f"{TABLE}runs.tsv", sep="\t")
    known = pd.read_csv(folder / "participants.tsv", sep="\t").set_index("participant_id")
    assert len(runs) == 12
    assert runs["completeness_error"].max() < 0.01
    owners = runs["name"].str.split("_").str[0]
    assert (runs["explained"].to_numpy() == known.loc[owners, "planted"].to_numpy()).mean() > 0.9
    # the mean of the runs' differences is the sum of the map, and of all parcels
    image = nib.load(folder / f"{MAP}.nii.gz").get_fdata()
    assert image.sum() == pytest.approx(runs["difference"].mean(), rel=0.01)
    parcels = pd.read_csv(folder / f"{TABLE}.tsv", sep="\t")
    assert parcels["attribution"].sum() == pytest.approx(runs["difference"].mean(), rel=0.01)
    assert parcels["parcel"].tolist()[-1] == "outside the parcels"
    assert np.isnan(parcels["attribution"].iloc[-1])  # all voxels are in a parcel


def test_parcels_and_occlusion_find_the_planted_eighth(explained):
    folder, _ = explained
    parcels = pd.read_csv(folder / f"{TABLE}.tsv", sep="\t").set_index("parcel")
    in_region = np.bincount(EIGHTH[REGION], minlength=9)[1:]
    largest = int(in_region.argmax()) + 1
    assert parcels.index[0] == str(largest)
    assert parcels["occlusion"].idxmax() == str(largest)
    about = json.loads((folder / f"{TABLE}.json").read_text())
    assert about["occlusion"]["Description"].startswith("Fall of the score")


@pytest.fixture(scope="module")
def parts(cohort):
    """The network, its probes, and a run."""
    network = SwiFT.from_file(cohort.parents[1] / "weights" / "model.safetensors")
    probes, _ = read_probes(cohort / "group_desc-swift_model.safetensors")
    runs, _ = collect_runs(cohort, RunFilter(participants=["00001", "00002"]))
    return (
        network.requires_grad_(False),
        {p.target: p for p in probes},
        runs,
        kept_runs(cohort, runs, pytest.fail),
    )


def test_the_score_is_that_of_the_probe(parts):
    network, probes, runs, kept = parts
    rows = torch.from_numpy(kept[0].matrix[0:20].astype(np.float32))[None]
    embedding = runs.features[:1].astype(np.float64)
    for target, output in (("planted", 0), ("planted", 1), ("age", 0)):
        outputs = probes[target].predict(embedding)[0]
        expected = outputs[output] - (np.delete(outputs, output).mean() if len(outputs) > 1 else 0)
        score = Score(network, probes[target], output, INDEX, 0.0)
        assert float(score(rows)) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_more_classes_are_compared_with_the_mean_of_the_others(parts):
    network, *_ = parts
    coefficients = np.zeros((3, 96))
    zero, one = np.zeros(96), np.ones(96)
    probe = SavedProbe("x", ("a", "b", "c"), 9, zero, one, coefficients, np.array([1.0, 2.0, 6.0]))
    score = Score(network, probe, 2, INDEX, 0.0)
    assert float(score(torch.zeros(1, 20, INDEX.size))) == pytest.approx(4.5)


def test_integrals_are_refined_until_they_add_up():
    class Bent(torch.nn.Module):
        """|x - 0.9| has a bend that few steps miss."""

        def forward(self, rows):
            return (rows - 0.9).abs().sum(dim=(1, 2))

    found = integrated_gradients(Bent(), torch.ones(1, 3), torch.zeros(1, 3))
    assert found.n_steps > 8
    assert found.error < 0.01
    assert found.difference == pytest.approx(3 * (0.1 - 0.9), rel=1e-5)


def test_occlusion_replaces_a_parcel_by_the_baseline():
    class Sum(torch.nn.Module):
        def forward(self, rows):
            return rows.sum(dim=(1, 2))

    rows = torch.arange(8.0).view(2, 4)
    falls = occlusion(Sum(), rows, torch.ones(2, 4), np.array([0, 1, 3, 3]))
    np.testing.assert_allclose(falls, [0 + 4 - 2, 1 + 5 - 2, np.nan, 2 + 3 + 6 + 7 - 4])


def test_the_baseline_is_the_mean_of_the_runs(parts):
    *_, kept = parts
    mean = mean_run(kept)
    both = np.concatenate([run.matrix[0:20].astype(np.float64) for run in kept])
    np.testing.assert_allclose(mean[INDEX], both.mean(axis=0), atol=1e-6)
    assert np.isnan(mean).sum() == mean.size - INDEX.size


@pytest.mark.parametrize("frame", FRAMES.values(), ids=lambda frame: frame.name)
def test_maps_keep_their_place(frame):
    values = np.zeros((96, 96, 96))
    values[40, 50, 60] = 1
    image = to_template(values.reshape(-1), frame)
    (place,) = np.argwhere(image.get_fdata())
    np.testing.assert_allclose(image.affine @ [*place, 1], frame.affine @ [40, 50, 60, 1])


def test_numbers_and_an_empty_baseline(cohort):
    call = ("--target", "age", "--max-runs", "2", "--no-occlusion", "--baseline", "background")
    done = run_app("explain", cohort, cohort, *call)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(cohort / "group_desc-swiftage_attributionruns.tsv", sep="\t")
    assert runs["explained"].tolist() == ["age", "age"]
    assert runs["completeness_error"].max() < 0.01
    parcels = pd.read_csv(cohort / "group_desc-swiftage_attribution.tsv", sep="\t")
    assert "occlusion" not in parcels
    assert len(parcels) == 201
    page = (cohort / "group_desc-swiftage_attribution.html").read_text()
    assert "an input that consists of background alone" in page


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "contains the probes planted, age; give --target"),
        (["--target", "sex"], "--target sex: is not among them"),
        (["--target", "age", "--weights", "nowhere"], "weights nowhere: no such file"),
    ],
)
def test_commands_that_cannot_run_say_why(cohort, flags, told):
    done = run_app("explain", cohort, cohort, *flags)
    assert done.returncode == 2
    assert told in done.stderr
