"""kill -9 at any moment: what is there is whole, and the next call ends with what is missing."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_app, somebody_is_left
from containers import run_files
from test_bad_inputs import write_run

LABELS = ("1", "2", "3", "4")
N_KILLS = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory, reference_bundle):
    """`in`, and `plain`: the outputs of a call that nobody disturbed."""
    return undisturbed(tmp_path_factory.mktemp("kill"), LABELS, reference_bundle)


def undisturbed(folder, labels, bundle):
    """Write runs to `in` of a folder and embed them to `plain`; returns the folder."""
    for label in labels:
        write_run(folder / "in", label)
    done = run_app(*call(folder, "plain", bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def call(folder, output, bundle, *options):
    call = (folder / "in", folder / output, "participant", "--weights", bundle)
    return (*map(str, call), "--nprocs", "2", *options)


def whole_runs(files):
    """Runs whose last file is there."""
    return {
        name.split("/")[-1].removesuffix("_desc-swift_embedding.json")
        for name in files
        if name.endswith("_embedding.json") and "/." not in name
    }


def test_fifty_times(folder, reference_bundle):
    expected = run_files(folder / "plain")
    begin = time.monotonic()  # machines differ: moments are shares of what a whole call takes
    assert run_app(*call(folder, "timed", reference_bundle)).returncode == 0
    whole = time.monotonic() - begin
    rng, kills, ended = random.Random(1), 0, 0
    output = folder / "killed"
    stages = set()
    alone = []  # sessions of workers that were left alone
    while kills < N_KILLS:
        command = [sys.executable, str(ROOT / "run.py"), *call(folder, "killed", reference_bundle)]
        job = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            job.wait(whole * rng.uniform(0.03, 1.1))
            ended += 1
            assert job.returncode == 0, job.stdout.read().decode()
            assert run_files(output) == expected
            shutil.rmtree(output)
        except subprocess.TimeoutExpired:
            if rng.random() < 0.2:  # the workers notice that they are alone
                os.kill(job.pid, signal.SIGKILL)
                alone.append(job.pid)
            else:
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            kills += 1
        finally:
            job.stdout.close()
        files = run_files(output) if output.exists() else {}
        stages.add(len(whole_runs(files)))
        for run in whole_runs(files):
            of_run = {name for name in expected if run in name}
            assert of_run <= files.keys()
            assert [name for name in of_run if files[name] != expected[name]] == []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and any(map(somebody_is_left, alone)):
        time.sleep(0.2)
    assert alone
    assert not any(map(somebody_is_left, alone))
    last = run_app(*call(folder, "killed", reference_bundle))
    assert last.returncode == 0, last.stdout + last.stderr
    assert run_files(output) == expected  # no temporary file, no work folder
    assert len(stages) >= 3, "the kills came at one and the same moment"
    print(f"{kills} kills, {ended} calls ended by themselves; runs done when killed: {stages}")


def test_second_call_skips_what_is_done(folder, reference_bundle):
    shutil.copytree(folder / "plain", folder / "again")
    before = {p: p.stat().st_mtime_ns for p in (folder / "again").rglob("*.json")}
    done = run_app(*call(folder, "again", reference_bundle))
    assert done.returncode == 0
    assert f"skipped: {len(LABELS)} run(s) already done" in done.stdout
    assert done.stdout.endswith(f"done: 0 run(s), skipped: {len(LABELS)} run(s) already done\n")
    of_runs = {p: t for p, t in before.items() if "func" in p.parts}
    assert {p: p.stat().st_mtime_ns for p in of_runs} == of_runs


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--tail", "pad"], "other settings (Tail)"),
        (["--frame", "hcp", "--fd-threshold", "0.2"], "other settings (Frame, FDThreshold)"),
        (["--no-tokens"], "it has tokens, which are not wanted now"),
        (["--precision", "bf16"], "another network (Precision)"),
    ],
)
def test_other_settings_are_done_again(folder, tmp_path, reference_bundle, flags, why):
    shutil.copytree(folder / "plain", tmp_path / "out")
    arguments = call(folder, "x", reference_bundle)
    arguments = (arguments[0], str(tmp_path / "out"), *arguments[2:], "--participant-label", "1")
    done = run_app(*arguments, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sub-1_task-a_space-MNI152NLin6Asym: again, since {why}" in done.stdout.replace(
        "it was made from or by ", ""
    )
    again = run_app(*arguments, *flags)
    assert again.stdout.endswith("done: 0 run(s), skipped: 1 run(s) already done\n")
    forced = run_app(*arguments, *flags, "--force")
    assert forced.stdout.endswith("done: 1 run(s)\n")
