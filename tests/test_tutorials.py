"""The commands of the tutorials, one after the other, on the demo's data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from app import ROOT

pytestmark = pytest.mark.long


def commands(page):
    """The shell blocks of a page's tutorial."""
    text = (ROOT / "docs" / page).read_text().partition("## Tutorial")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the tutorials ran after `make demo`, and the log of each command."""
    folder = tmp_path_factory.mktemp("tutorials")
    demo = [sys.executable, "-m", "swift_bids.demo", "demo"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run(demo, cwd=folder, env=environment, check=True)
    for page in ("finetuning.md", "explaining.md"):
        for block in commands(page):
            done = subprocess.run(
                ["bash", "-ec", block], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, block + done.stdout + done.stderr
    return folder


def test_the_network_is_fine_tuned(folder):
    tuned = folder / "tutorial" / "finetuned" / "group"
    listed = (ROOT / "docs" / "finetuning.md").read_text()
    assert {
        f.name for f in tuned.iterdir() if f.suffix != ".json" and f.name not in listed
    } == set()
    scores = pd.read_csv(tuned / "scores.tsv", sep="\t").query("metric == 'auroc'")
    scores = scores.set_index("features")["value"]
    # two regions differ in brightness: even random weights see that
    assert scores["fine-tuned"] > 0.9
    assert scores["embedding"] > 0.9
    assert scores["dummy"] == 0.5
    assert "<strong>Random weights.</strong>" in (tuned / "finetune.html").read_text()
    found = pd.read_csv(folder / "tutorial_tuned" / "group_desc-swift_predictions.tsv", sep="\t")
    known = pd.read_csv(folder / "demo" / "fmriprep" / "participants.tsv", sep="\t")
    known = known.set_index("participant_id").loc[found["participant_id"], "group"]
    assert found["group"].tolist() == known.tolist()
    assert len(found) == 4


def test_the_predictions_are_explained(folder):
    stem = folder / "tutorial" / "group_desc-swiftgroup_attribution"
    runs = pd.read_csv(f"{stem}runs.tsv", sep="\t")
    assert len(runs) == 1
    assert runs["completeness_error"].max() < 0.01
    parcels = pd.read_csv(f"{stem}.tsv", sep="\t")
    assert parcels["attribution"].sum() == pytest.approx(runs["difference"].mean(), rel=0.05)
    # patients differ in the frontal and the occipital lobe
    first = parcels["parcel"].head(10)
    assert first.str.contains("PFC|Vis|pCun|FrOper|PrC|Cing|Med").sum() >= 7
    assert "This explanation means nothing" in Path(f"{stem}.html").read_text()
