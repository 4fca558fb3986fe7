"""Several jobs on one output folder, on purpose or by mistake: nothing is lost or left behind."""

import json
import shutil
import time

import pandas as pd
import pytest
from app import PATIENCE, files_in, start_process, wait_for
from containers import run_files
from test_kill import call, undisturbed

from swift_bids.base.locks import exclusive

LABELS = ("1", "2", "3", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_bundle):
    """`in`, and `plain`: the outputs of one call."""
    return undisturbed(tmp_path_factory.mktemp("together"), LABELS, small_bundle)


def test_one_call_at_a_time_writes_a_run(folder, small_bundle):
    """Two calls with different settings used to leave a mixture that counted as done."""
    shutil.copytree(folder / "plain", folder / "mixed")
    before = run_files(folder / "mixed")
    options = ("--participant-label", "1", "--frame", "hcp")
    name = "sub-1_task-a_space-MNI152NLin6Asym"
    with exclusive(folder / "mixed" / "sub-1" / "func", name):  # as another call's last step
        job = start_process(*call(folder, "mixed", small_bundle, *options))
        wait_for(lambda: files_in(folder / "mixed", "tokens.npy"), job)
        time.sleep(2)  # enough for the step to write something, if it did not wait
        now = run_files(folder / "mixed")
        assert {k: v for k, v in now.items() if k.startswith("sub-1/")} == {
            k: v for k, v in before.items() if k.startswith("sub-1/")
        } | {k: b"" for k in now if k.endswith(".lock.part")}
    said, _ = job.communicate(timeout=PATIENCE)
    assert said.endswith("\ndone: 1 run(s)\n")
    for sidecar in (folder / "mixed" / "sub-1").rglob("*_desc-swift_*.json"):
        assert json.loads(sidecar.read_text())["Preprocessing"]["Frame"] == "hcp"
    assert not list((folder / "mixed").rglob("*.part"))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([["--batch", "1/2"], ["--batch", "2/2"]], id="array"),
        # the same participants, twice
        pytest.param([["--force"]] * 2, id="mistake", marks=pytest.mark.long),
        # one work folder for both
        pytest.param([["--force", "-w", "work"]] * 2, id="workfolder", marks=pytest.mark.long),
    ],
)
def test_jobs_in_one_folder(request, folder, small_bundle, options):
    output = f"out_{request.node.callspec.id}"
    jobs = [
        start_process(*call(folder, output, small_bundle, "--nprocs", "2", *some), cwd=folder)
        for some in options
    ]
    said = [job.communicate(timeout=PATIENCE)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), said
    assert run_files(folder / output) == run_files(folder / "plain")
    status = pd.read_csv(folder / output / "logs" / "status.tsv", sep="\t")
    assert list(status["participant_id"]) == [f"sub-{label}" for label in LABELS]
    assert set(status["status"]) == {"done"}
    assert not (folder / "work" / ".swift_bids_work").exists()
