"""kill -9 at any moment: what is there is complete, and the next call does the rest."""

import math
import os
import random
import shutil
import signal
import time

import pytest
from app import files_in, run_app, run_process, somebody_is_left, start_process, wait_for
from containers import run_files
from make_data import write_run

LABELS = ("1", "2", "3", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_bundle):
    """`in`, and `plain`: the outputs of an undisturbed call."""
    return undisturbed(tmp_path_factory.mktemp("kill"), LABELS, small_bundle)


def undisturbed(folder, labels, bundle):
    """Write runs to `in` of a folder and embed them to `plain`; returns the folder."""
    for label in labels:
        write_run(folder / "in", label)
    done = run_app(*call(folder, "plain", bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def call(folder, output, bundle, *options):
    return (folder / "in", folder / output, "participant", "--weights", bundle, *options)


def complete_runs(files):
    """Runs whose last file is there."""
    return {
        name.split("/")[-1].removesuffix("_desc-swift_embedding.json")
        for name in files
        if name.endswith("_embedding.json") and "/." not in name
    }


def wait_for_files(job, folder, n_runs=0, n_files=math.inf):
    """Wait until runs are finished and the call has made more files since, in the work folder, too;
    return their number."""
    while job.poll() is None and len(files_in(folder, "*_embedding.json")) < n_runs:
        time.sleep(0.01)  # leaves the processor to the call
    before, made = set(files_in(folder)), set()
    while job.poll() is None and len(made) < n_files:
        time.sleep(0.01)
        made |= set(files_in(folder)) - before
    return len(made)


@pytest.mark.parametrize("n_kills", [2, pytest.param(50, marks=pytest.mark.long)])
def test_kills_at_random_moments(folder, small_bundle, n_kills):
    """A moment is a number of finished runs and of files made since then: machines differ in their
    speed, but not in that."""
    expected = run_files(folder / "plain")
    output = folder / f"killed{n_kills}"
    arguments = call(folder, output, small_bundle, "--nprocs", "2")
    job = start_process(*arguments)
    most = wait_for_files(job, output)
    assert job.wait() == 0, job.stdout.read()
    job.stdout.close()
    rng, kills, ended = random.Random(1), 0, 0
    stages = set()  # how many runs were done when the call was killed
    orphans = []  # sessions of workers whose call alone was killed
    while kills < n_kills:
        if rng.random() < 0.3 or len(files_in(output, "*_embedding.json")) == len(LABELS):
            shutil.rmtree(output, ignore_errors=True)
        job = start_process(*arguments, start_new_session=True)
        n_files = rng.randint(0, most // len(LABELS))
        wait_for_files(job, output, kills % len(LABELS), n_files)
        if job.poll() is None:
            if rng.random() < 0.2:
                os.kill(job.pid, signal.SIGKILL)
                orphans.append(job.pid)
            else:
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            kills += 1
        else:
            ended += 1
            assert job.returncode == 0, job.stdout.read()
            # the workers of a call that was killed alone may still be writing to its work folder
            files = run_files(output).items()
            assert {n: c for n, c in files if not n.startswith(".swift_bids_work/")} == expected
        job.stdout.close()
        files = run_files(output) if output.exists() else {}
        stages.add(len(complete_runs(files)))
        for run in complete_runs(files):
            of_run = {name for name in expected if run in name}
            assert of_run <= files.keys()
            assert [name for name in of_run if files[name] != expected[name]] == []
        assert ended < 10 * n_kills, "the calls end before they can be killed"
    wait_for(lambda: not any(map(somebody_is_left, orphans)))  # the workers notice
    last = run_process(*arguments)
    assert last.returncode == 0, last.stdout + last.stderr
    assert run_files(output) == expected  # no temporary file, no work folder
    assert len(stages) >= 2, "all kills came at the same stage"
    print(f"{kills} kills, {ended} calls ended by themselves; runs done when killed: {stages}")


def test_second_call_skips_finished_runs(folder, small_bundle):
    shutil.copytree(folder / "plain", folder / "again")
    before = {p: p.stat().st_mtime_ns for p in (folder / "again").rglob("*.json")}
    done = run_app(*call(folder, "again", small_bundle))
    assert done.returncode == 0
    assert f"skipped: {len(LABELS)} run(s) already done" in done.stdout
    assert done.stdout.endswith(f"done: 0 run(s), skipped: {len(LABELS)} run(s) already done\n")
    of_runs = {p: t for p, t in before.items() if "func" in p.parts}
    assert {p: p.stat().st_mtime_ns for p in of_runs} == of_runs


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tail", "pad"], "other settings (Tail)"),
        (["--frame", "hcp", "--fd-threshold", "0.2"], "other settings (Frame, FDThreshold)"),
        (["--no-tokens"], "it has tokens"),
        (["--precision", "bf16"], "another network (Precision)"),
    ],
)
def test_other_settings_are_embedded_again(folder, tmp_path, small_bundle, flags, reason):
    shutil.copytree(folder / "plain", tmp_path / "out")
    arguments = call(folder, tmp_path / "out", small_bundle, "--participant-label", "1", *flags)
    done = run_app(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "embedding again" in line)
    assert line.startswith("sub-1_task-a_space-MNI152NLin6Asym: embedding again: ")
    assert reason in line
    again = run_app(*arguments)
    assert again.stdout.endswith("done: 0 run(s), skipped: 1 run(s) already done\n")
    forced = run_app(*arguments, "--force")
    assert forced.stdout.endswith("done: 1 run(s)\n")
