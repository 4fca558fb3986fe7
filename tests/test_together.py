"""Several jobs on one output folder, by plan or by mistake: nothing is lost, nothing is left."""

import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT
from containers import run_files
from test_kill import call, undisturbed

LABELS = ("1", "2", "3", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, reference_bundle):
    """`in`, and `plain`: the outputs of one call."""
    return undisturbed(tmp_path_factory.mktemp("together"), LABELS, reference_bundle)


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
