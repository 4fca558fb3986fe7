"""swift-bids finetune: it finds what a probe of the frozen network misses, and nothing in noise."""

import json
import shutil
import sys
import types

import numpy as np
import pandas as pd
import pytest
from app import run_app
from planted import write_cohort, write_tiny_bundle
from safetensors.numpy import load_file

from swift_bids.finetune import evaluate
from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.load import class_with

TRAINING = ("--epochs", "8", "--learning-rate", "3e-4")


@pytest.fixture(scope="session")
def cohort(made_once):
    """40 participants with a planted signal; their outputs."""

    def make(folder):
        bundle = write_tiny_bundle(folder / "weights")
        write_cohort(folder / "data", bundle, 40, amplitude=0.4)

    return made_once("planted", make) / "data" / "swift"


@pytest.fixture(scope="session")
def fine_tuned(made_once, cohort):
    """The folder of a network that was fine-tuned on the planted signal, and the log."""

    def make(folder):
        done = run_app("finetune", cohort, "--target", "planted", "--folds", "2", *TRAINING)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "log").write_text(done.stdout)

    folder = made_once("fine_tuned", make)
    return cohort / "finetuned" / "planted", (folder / "log").read_text()


def auroc(folder):
    scores = pd.read_csv(folder / "scores.tsv", sep="\t")
    return scores[scores["metric"] == "auroc"].set_index("features")


def test_it_finds_what_the_frozen_probe_misses(fine_tuned):
    folder, log = fine_tuned
    rows = auroc(folder)
    assert rows.loc["fine-tuned", "value"] > 0.9
    assert rows.loc["fine-tuned", "low"] > 0.8
    assert rows.loc["embedding", "low"] < 0.5
    assert rows.loc["fine-tuned", "gain_high"] < -0.1  # embedding minus fine-tuned
    for baseline in ("motion", "acquisition", "connectivity", "dummy"):
        assert rows.loc[baseline, "value"] < 0.65, baseline
    assert "planted: 40 participants, 40 runs, 40 chunks" in log
    assert "fold 2 of 2, epoch 8: loss 0." in log
    page = (folder / "finetune.html").read_text()
    assert "Fine-tuning helps: the difference is 0." in page
    assert "<strong>Random weights.</strong>" not in page
    assert "connectivity" in page


def test_each_participant_is_predicted_by_a_network_that_has_not_seen_them(fine_tuned, cohort):
    folder, _ = fine_tuned
    found = pd.read_csv(folder / "predictions.tsv", sep="\t")
    known = pd.read_csv(cohort / "participants.tsv", sep="\t")
    assert found["participant_id"].tolist() == known["participant_id"].tolist()
    assert found["planted"].tolist() == known["planted"].tolist()
    assert found.groupby("fold").size().tolist() == [20, 20]
    assert (found["planted"] == found["predicted_planted"]).mean() > 0.8
    larger = found["predicted_planted_case"] > found["predicted_planted_control"]
    assert (found["predicted_planted"] == np.where(larger, "case", "control")).all()
    about = json.loads((folder / "predictions.json").read_text())
    assert about["predicted_planted_case"] == {"Description": "Score of planted case"}
    assert about["Settings"]["learning_rate"] == 3e-4
    assert len(about["Sources"]) == 40
    assert about["Sources"][0].startswith("bids::sub-00001/func/sub-00001_task-rest_run-1_")
    curves = pd.read_csv(folder / "curves.tsv", sep="\t")
    assert curves.groupby("training", sort=False)["best"].sum().to_dict() == {
        "fold 1 of 2": 1,
        "fold 2 of 2": 1,
        "all participants": 1,
    }
    of_all = curves[curves["training"] == "all participants"]
    assert of_all["validation"].min() < 0.5 < of_all["validation"].iloc[0]


def test_the_bundle_is_weights_for_the_app(fine_tuned, cohort, tmp_path):
    folder, _ = fine_tuned
    assert not (folder / "checkpoints").exists()
    backbone = read_backbone(folder / "model.safetensors", class_with)
    assert backbone.about["target"] == "planted"
    assert backbone.about["fine_tuned_from"] == "weights/model.safetensors"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: swift_bids\n")
    assert "| classes | case: 20, control: 20 |" in card
    assert "starting weights | weights/model.safetensors, SHA-256" in card
    assert "| fine-tuned | auroc | 0.9" in card or "| fine-tuned | auroc | 1.0" in card
    # the head predicts other participants from embeddings of these weights, and of no others
    probe = load_file(folder / "head.safetensors")
    assert probe["planted.coefficients"].shape == (2, 96)
    new = write_cohort(tmp_path / "new", folder, 20, amplitude=0.4)
    done = run_app("predict", folder, new)
    assert done.returncode == 0, done.stdout + done.stderr
    found = pd.read_csv(new / "group_desc-swift_predictions.tsv", sep="\t")
    known = pd.read_csv(new / "participants.tsv", sep="\t")
    assert (found["planted"] == known["planted"]).mean() > 0.9
    # its scores would be too good for participants that it has learned from
    call = ("finetune", new, "--target", "planted", "--folds", "0", "--epochs", "1")
    done = run_app(*call, "--freeze", "backbone")
    assert done.returncode == 0, done.stdout + done.stderr
    told = "were fine-tuned on planted; if they learned from these participants, all scores are too"
    for name in ("README.md", "finetune.html"):
        assert told in (new / "finetuned" / "planted" / name).read_text()
    done = run_app("predict", folder, cohort)
    assert done.returncode == 2
    assert "its probes were made from other embeddings (weights_sha256" in done.stderr


def test_shuffled_labels_stay_at_chance(cohort):
    call = ("finetune", cohort, "--target", "shuffled", "--folds", "2", "--name", "noise")
    call += ("--participant-label", *(f"{number:05d}" for number in range(1, 31)))
    done = run_app(*call, "--epochs", "3", "--learning-rate", "3e-4")
    assert done.returncode == 0, done.stdout + done.stderr
    row = auroc(cohort / "finetuned" / "noise").loc["fine-tuned"]
    assert row["low"] < 0.5 < row["high"]
    page = (cohort / "finetuned" / "noise" / "finetune.html").read_text()
    assert "Fine-tuning helps" not in page


def test_an_interrupted_call_continues_to_the_same_bytes(cohort, monkeypatch):
    """A number, in groups, with the head alone, so that it is fast."""
    call = ("finetune", cohort, "--target", "age", "--group-by", "site", "--folds", "2")
    call += ("--epochs", "2", "--freeze", "backbone", "--learning-rate", "0.01")
    whole = run_app(*call, "--name", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    kept = evaluate.train

    def interrupted(*arguments):
        progress = kept(*arguments)
        if "fold-2" in arguments[6].name:
            raise KeyboardInterrupt
        return progress

    monkeypatch.setattr(evaluate, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_app(*call, "--name", "part")
    monkeypatch.setattr(evaluate, "train", kept)
    folder = cohort / "finetuned" / "part"
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "fold-1-of-2.pt",
        "fold-2-of-2.pt",
    ]
    other = run_app(*call, "--name", "part", "--seed", "1")
    assert other.returncode == 2
    assert "belongs to a training with other settings (seed 0 instead of 1)" in other.stderr
    # other groups would let a network predict participants that it has learned from
    at = call.index("--group-by")
    ungrouped = run_app(*call[:at], *call[at + 2 :], "--name", "part")
    assert ungrouped.returncode == 2
    assert "belongs to a training with other settings (participants " in ungrouped.stderr
    again = run_app(*call, "--name", "part")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "epoch" not in again.stdout.partition("all participants")[0]
    for name in ("model.safetensors", "head.safetensors", "scores.tsv", "predictions.tsv"):
        assert (folder / name).read_bytes() == (folder.parent / "whole" / name).read_bytes(), name
    scores = pd.read_csv(folder / "scores.tsv", sep="\t")
    assert set(scores["metric"]) == {"r2", "mae", "pearson_r"}
    groups = pd.read_csv(cohort / "participants.tsv", sep="\t").set_index("participant_id")["site"]
    fold = pd.read_csv(folder / "predictions.tsv", sep="\t").set_index("participant_id")["fold"]
    assert fold.groupby(groups).nunique().tolist() == [1, 1, 1]
    # the network is still that of the random weights, and says so
    weights = load_file(cohort.parents[1] / "weights" / "model.safetensors")
    trained = load_file(folder / "model.safetensors")
    assert all((weights[name] == trained[name]).all() for name in weights)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--target", "sex"], "--target sex: there is no such column in participants.tsv"),
        (["--target", "site", "--participant-label", "00001", "00002"], "a probe needs 20"),
        (["--target", "age", "--weights", "nowhere"], "weights nowhere: no such file"),
        (["--target", "planted", "--name", "../x"], "--name ../x: give a name of letters"),
        (["--target", "planted"], "already contains a fine-tuned network; remove the folder"),
        (["--target", "age", "--name", "planted", "--device", "cuda"], "torch sees no GPU"),
        (["--target", "age", "--folds", "1"], "1 fold cannot be held out; give 0, or 2 or more"),
        (["--target", "age", "--folds", "41"], "--folds 41: only 40 participants can be divided"),
        (
            ["--target", "planted", "--name", "x", "--folds", "21"],
            "only 20 participants of a class",
        ),
        (
            ["--target", "planted", "--name", "x", "--group-by", "planted"],
            "too few participants of a",
        ),
    ],
)
def test_commands_that_cannot_run_say_why(fine_tuned, cohort, flags, told):
    environment = {"CUDA_VISIBLE_DEVICES": ""} if "--device" in flags else {}
    done = run_app("finetune", cohort, *flags, **environment)
    assert done.returncode == 2
    assert told in done.stderr


def test_other_weights_are_refused(cohort, tmp_path):
    other = write_tiny_bundle(tmp_path / "other", seed=1)
    done = run_app("finetune", cohort, "--target", "age", "--weights", other)
    assert done.returncode == 2
    assert "but the embeddings were made with weights of" in done.stderr


def test_damaged_and_missing_matrices_are_named(cohort, tmp_path):
    output = shutil.copytree(cohort, tmp_path / "out", ignore=shutil.ignore_patterns("finetuned"))
    next(output.glob("sub-00007/func/*_matrix.h5")).unlink()
    shutil.rmtree(output / "sub-00007" / "log")
    done = run_app("finetune", output, "--target", "planted")
    assert done.returncode == 2
    assert "and no recorded call (sub-00007/log) makes it" in done.stderr
    damaged = next(output.glob("sub-00008/func/*_matrix.h5"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    chosen = ["--participant-label", *(f"{n:05d}" for n in range(8, 41))]
    done = run_app("finetune", output, "--target", "planted", *chosen)
    assert done.returncode == 1
    assert f"{damaged}: is not a matrix of --keep-matrix" in done.stderr
    for folder in output.glob("sub-*/log"):
        shutil.rmtree(folder)
    done = run_app("finetune", output, "--target", "planted")
    assert done.returncode == 2
    assert "has no log of a participant level that says which weights" in done.stderr


def test_tensorboard_is_optional(cohort, monkeypatch):
    call = ("finetune", cohort, "--target", "planted", "--name", "board", "--folds", "0")
    call += ("--epochs", "1", "--freeze", "backbone", "--tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = run_app(*call)
    assert done.returncode == 2
    assert "--tensorboard needs TensorBoard" in done.stderr
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def add_scalar(self, name, value, epoch):
            written.append((self.folder.name, name, epoch))

    stand_in = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    done = run_app(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written == [("all-participants", f"loss/{p}", 1) for p in ("train", "validation")]
    folder = cohort / "finetuned" / "board"
    assert not (folder / "scores.tsv").exists()
    assert "Not measured (`--folds 0`)" in (folder / "README.md").read_text()
