"""Signals: a call that is asked to stop tells what it did, and is gone within 5 s."""

import os
import signal
import subprocess
import sys
import time

from conftest import ROOT, start_job

from swift_bids.base import signals


def ended(code, number, after):
    """Send a signal to Python code, some seconds after it has said that it is ready; returns exit
    code, output and the seconds it took."""
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert job.stdout.readline() == "ready\n"
    time.sleep(after)
    begin = time.monotonic()
    job.send_signal(number)
    out, errors = job.communicate(timeout=60)
    return job.returncode, out + errors, time.monotonic() - begin


def test_an_end_that_waits_for_nobody():
    """A call hung behind its recap, in a library's tidying up."""
    code = """
import threading, time
from swift_bids.base.signals import handle_signals
handle_signals()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    thread = threading.Thread(target=time.sleep, args=(60,))
    thread.start()
    thread.join()
"""
    code, said, seconds = ended(code, signal.SIGINT, 0.3)
    assert (code, said) == (130, "swift-bids: interrupted\n")
    assert seconds < 5


def test_a_worker_that_works_is_not_waited_for():
    code = """
import time
from swift_bids.base.signals import handle_signals
from swift_bids.execution.workers import in_worker
handle_signals()
print("ready", flush=True)
in_worker(2, time.sleep, 60)
"""
    code, said, seconds = ended(code, signal.SIGTERM, 1.5)
    assert code == 143
    assert said.startswith("swift-bids: terminated\n")
    assert seconds < 5


def test_what_is_held_back_comes_afterwards():
    code = """
import os, signal
from swift_bids.base.signals import (
    defer_signals, handle_signals, interruptible, raise_pending_signal)
handle_signals()
defer_signals()
try:
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        print("not this")
except KeyboardInterrupt:
    print("first")
os.kill(os.getpid(), signal.SIGTERM)
print("recap")
try:
    with interruptible():
        print("nor this")
except KeyboardInterrupt:
    print("again")
raise_pending_signal()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT  # of Python's own KeyboardInterrupt
    assert done.stdout == "first\nrecap\nagain\n"
    assert done.stderr.startswith("swift-bids: interrupted\nswift-bids: terminated\nTraceback")


def test_a_second_signal_takes_nothing_away(tmp_path, reference_bundle):
    """A user's impatience, or a batch system's SIGTERM to every process: the recap was lost, jobs
    were left behind."""
    job = start_job(tmp_path, reference_bundle, n_volumes=80, start_new_session=True)
    begin = time.monotonic()
    for number, behind in ((signal.SIGINT, 0.02), (signal.SIGTERM, 0.5), (signal.SIGINT, 0)):
        os.killpg(job.pid, number)
        time.sleep(behind)
    said, _ = job.communicate(timeout=60)
    assert time.monotonic() - begin < 5
    assert job.returncode == 130, said
    assert "Traceback" not in said
    assert said.count("not processed: you interrupted the run") == 2
    assert not (tmp_path / "out" / ".swift_bids_work").exists()


def test_a_terminal_that_goes_and_a_run_that_was_done(tmp_path, reference_bundle):
    """A run whose last step had just ended was told as failed, and a library's process, which the
    signal had ended, left tracebacks behind the recap."""
    job = start_job(tmp_path, reference_bundle, n_volumes=80, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (done := list((tmp_path / "out").rglob("*_desc-swift_embedding.json"))):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(job.pid, signal.SIGHUP)
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 129, said
    recap = said[said.index("\ndone: ") :].splitlines()[1:]
    n_done = len(list((tmp_path / "out").rglob("*_desc-swift_embedding.json")))
    assert n_done >= len(done)
    assert recap[0] == f"done: {n_done} run(s)"
    assert len(recap) == 1 if n_done == 2 else len(recap) == 3
    assert "of an earlier call" not in said
    status = (tmp_path / "out" / "logs" / "status.tsv").read_text()
    assert status.count("\tdone\t") == n_done


def test_signals_are_asked_for_anew_by_each_call(monkeypatch):
    monkeypatch.setattr(signals, "_pending", KeyboardInterrupt())
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        signals.listen()
        assert not signals.signal_received()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
