"""Saved probes: the same numbers as a fit by other means, and what they are applied to."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from app import run_app
from safetensors.numpy import load_file
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from benchmarks.group import write_outputs
from swift_bids.base.errors import UsageError
from swift_bids.group.columns import Target
from swift_bids.group.probes.predict import scores_of_classes
from swift_bids.group.probes.ridge import ALPHAS
from swift_bids.group.probes.saved import fit_to_all, read_probes, write_probes

MODEL, PREDICTIONS = "group_desc-swift_model.safetensors", "group_desc-swift_predictions.tsv"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 20)) * RNG.uniform(0.1, 10, 20) + 5
Y = X[:, 0] + 0.1 * X[:, 3] + 0.5 * RNG.standard_normal(60)
NEW = RNG.standard_normal((8, 20)) * 3 + 5


def test_numbers_are_those_of_a_ridge_regression():
    values = np.where(np.arange(60) == 7, np.nan, Y)
    probe = fit_to_all(Target("age", (), values), X, None)
    kept = ~np.isnan(values)
    assert probe.n_participants == 59
    z = StandardScaler().fit(X[kept])
    expected = [
        Ridge(alpha).fit(z.transform(X[kept]), Y[kept]).predict(z.transform(NEW))
        for alpha in ALPHAS
    ]
    differences = np.abs(np.array(expected) - probe.predict(NEW)[:, 0]).max(axis=1)
    assert differences.min() < 1e-8
    assert np.sort(differences)[1] > 1e-3  # only one penalty gives these numbers


def test_scores_of_classes_are_those_of_the_probe():
    classes = (Y > np.median(Y)).astype(float) + (Y > np.quantile(Y, 0.8))
    probe = fit_to_all(Target("x", ("a", "b", "c"), classes), X, None)
    z = StandardScaler().fit(X)
    expected, _ = scores_of_classes([(z.transform(X), z.transform(NEW))], classes[None], None, 3)
    np.testing.assert_allclose(probe.predict(NEW), expected[0], atol=1e-9)


def test_groups_decide_the_penalty_together():
    groups = np.repeat(np.arange(6), 10)
    groups[:3] = -1  # unknown
    probe = fit_to_all(Target("age", (), Y), X, groups)
    assert probe.n_participants == 57


def test_files_keep_every_digit(tmp_path):
    probes = [fit_to_all(Target(name, (), Y), X, None) for name in ("age", "IQ (full scale)")]
    write_probes(tmp_path / "m.safetensors", probes, {"Description": "made up"})
    again, about = read_probes(tmp_path / "m.safetensors")
    assert about["Description"] == "made up"
    assert [probe.target for probe in again] == ["age", "IQ (full scale)"]
    for probe, expected in zip(again, probes):
        np.testing.assert_array_equal(probe.predict(NEW), expected.predict(NEW))
    content = (tmp_path / "m.safetensors").read_bytes()
    write_probes(tmp_path / "m.safetensors", probes, {"Description": "made up"})
    assert (tmp_path / "m.safetensors").read_bytes() == content
    (tmp_path / "m.safetensors").write_bytes(content[:-9])
    with pytest.raises(UsageError, match="cannot be read with its"):
        read_probes(tmp_path / "m.safetensors")


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """60 participants: probes of the first 40, and a folder with the embeddings of the others."""
    root = tmp_path_factory.mktemp("predict") / "data"
    write_outputs(root, 60, 2, connectivity=False)
    new = root / "new"
    new.mkdir()
    for number in range(41, 61):
        shutil.move(root / "swift" / f"sub-{number:05d}", new)
        shutil.rmtree(root / "fmriprep" / f"sub-{number:05d}")
    call = ("--target", "planted", "age", "--permutations", "1")
    done = run_app(root / "fmriprep", root / "swift", "group", *call)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_other_participants_are_predicted(groups):
    done = run_app("predict", groups / "swift", groups / "new")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RANDOM WEIGHTS" in done.stdout
    found = pd.read_csv(groups / "new" / PREDICTIONS, sep="\t")
    assert found["participant_id"].tolist() == [f"sub-{n:05d}" for n in range(41, 61)]
    known = pd.read_csv(groups / "fmriprep" / "participants.tsv", sep="\t")
    known = known.set_index("participant_id").loc[found["participant_id"]]
    # it is planted: 0.25 x direction of 288 features, against noise of 1.2
    assert (found["planted"].to_numpy() == known["planted"].to_numpy()).mean() >= 0.8
    larger = found["planted_case"] > found["planted_control"]
    assert (found["planted"] == np.where(larger, "case", "control")).all()
    assert np.corrcoef(found["age"], known["age"])[0, 1] > 0.2
    about = json.loads((groups / "new" / PREDICTIONS.replace(".tsv", ".json")).read_text())
    assert about["age"]["Description"] == "Predicted age, by a probe of 40 participants"
    assert about["Probes"]["File"] == str(groups / "swift" / MODEL)
    assert about["Embeddings"][0]["weights_sha256"] == "0" * 64
    tensors = load_file(groups / "swift" / MODEL)
    assert tensors["planted.coefficients"].shape == (2, 288)
    assert tensors["age.coefficients"].shape == (1, 288)


def test_some_targets_and_participants(groups):
    call = ("predict", groups / "swift" / MODEL, groups / "new", "--target", "age")
    done = run_app(*call, "--participant-label", "sub-00050", "00051")
    assert done.returncode == 0, done.stdout + done.stderr
    found = pd.read_csv(groups / "new" / PREDICTIONS, sep="\t")
    assert found["participant_id"].tolist() == ["sub-00050", "sub-00051"]
    assert "planted" not in found
    done = run_app("predict", groups / "swift", groups / "new", "--target", "sex")
    assert done.returncode == 2
    assert "has no such probe, but planted, age" in done.stderr


def test_other_embeddings_are_refused(groups, tmp_path):
    other = shutil.copytree(groups / "new", tmp_path / "other")
    for file in other.glob("sub-*/func/*_embedding.json"):
        about = json.loads(file.read_text())
        about["Preprocessing"]["Frame"] = "hcp"
        file.write_text(json.dumps(about))
    done = run_app("predict", groups / "swift", other)
    assert done.returncode == 2
    assert "made from other embeddings (frame ukb instead of hcp)" in done.stderr
    done = run_app("predict", groups / "new", groups / "new")
    assert done.returncode == 2
    assert "or the output folder of a group level that saved probes of SwiFT" in done.stderr
    done = run_app("predict", groups / "swift", tmp_path)
    assert done.returncode == 2
    assert "has no embeddings" in done.stderr


def test_the_name_of_the_weights_does_not_matter(groups, tmp_path):
    other = shutil.copytree(groups / "new", tmp_path / "other")
    for number, file in enumerate(sorted(other.glob("sub-*/func/*_embedding.json"))):
        about = json.loads(file.read_text())
        about["Model"]["Weights"] = f"copy {number % 2}"
        file.write_text(json.dumps(about))
    done = run_app("predict", groups / "swift", other)
    assert done.returncode == 0, done.stdout + done.stderr


def test_probes_with_covariates_are_not_saved(groups, tmp_path):
    root = shutil.copytree(groups, tmp_path / "data")
    call = ("--target", "planted", "--permutations", "1", "--covariate", "age")
    done = run_app(root / "fmriprep", root / "swift", "group", *call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (root / "swift" / MODEL).exists()
    assert not (root / "swift" / MODEL).with_suffix(".json").exists()
