"""Several jobs on one output folder, by plan or by mistake: nothing is lost, nothing is left."""

import json
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import ROOT
from containers import run_files
from test_kill import call, undisturbed

from swift_bids.base.locks import exclusive

LABELS = ("1", "2", "3", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, reference_bundle):
    """`in`, and `plain`: the outputs of one call."""
    return undisturbed(tmp_path_factory.mktemp("together"), LABELS, reference_bundle)


def test_a_run_is_written_by_one_call_at_a_time(folder, reference_bundle):
    """Two with other settings left a mixture, which counted as done."""
    shutil.copytree(folder / "plain", folder / "mixed")
    before = run_files(folder / "mixed")
    arguments = call(folder, "mixed", reference_bundle, "--participant-label", "1")
    command = [sys.executable, str(ROOT / "run.py"), *arguments, "--frame", "hcp"]
    name = "sub-1_task-a_space-MNI152NLin6Asym"
    with exclusive(folder / "mixed" / "sub-1" / "func", name):  # as another call's last step
        job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not list((folder / "mixed").rglob("embed/tokens.npy")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2)
        now = run_files(folder / "mixed")
        assert {k: v for k, v in now.items() if k.startswith("sub-1/")} == {
            k: v for k, v in before.items() if k.startswith("sub-1/")
        } | {k: b"" for k in now if k.endswith(".lock.part")}
    said, _ = job.communicate(timeout=60)
    assert said.endswith("\ndone: 1 run(s)\n")
    for sidecar in (folder / "mixed" / "sub-1").rglob("*_desc-swift_*.json"):
        assert json.loads(sidecar.read_text())["Preprocessing"]["Frame"] == "hcp"
    assert not list((folder / "mixed").rglob("*.part"))


@pytest.mark.parametrize(
    "options",
    [
        [["--batch", "1/2"], ["--batch", "2/2"]],
        [["--force"], ["--force"], ["--force"]],  # the same participants, three times
        [["--force", "-w", "work"]] * 4,  # nipype's files of them clashed
    ],
    ids=["array", "mistake", "workfolder"],
)
def test_jobs_in_one_folder(folder, reference_bundle, options):
    output = f"out{len(options)}"
    jobs = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *call(folder, output, reference_bundle, *some)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        for some in options
    ]
    said = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), said
    assert run_files(folder / output) == run_files(folder / "plain")
    status = pd.read_csv(folder / output / "logs" / "status.tsv", sep="\t")
    assert list(status["participant_id"]) == [f"sub-{label}" for label in LABELS]
    assert set(status["status"]) == {"done"}
    assert not (folder / "work" / ".swift_bids_work").exists()
