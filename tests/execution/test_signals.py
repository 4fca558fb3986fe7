"""Signals: an interrupted call prints what it did and ends promptly, with its workers."""

import os
import signal
import subprocess
import sys
import time

import pytest
from app import PATIENCE, ROOT, files_in, start_job, wait_for
from make_data import SPACE

from swift_bids.base import signals
from swift_bids.base.locks import exclusive


def ended(code, number, after=0.0):
    """Send a signal to Python code once it says that it is ready; return exit code and output.

    The code would go on for an hour: that it ends at all is what is tested.
    """
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert job.stdout.readline() == "ready\n"
    time.sleep(after)
    job.send_signal(number)
    out, errors = job.communicate(timeout=PATIENCE)
    return job.returncode, out + errors


def test_a_hanging_library_does_not_delay_exit():
    """A library may wait forever for a worker that is gone."""
    code = """
import threading, time
from swift_bids.base.signals import handle_signals
handle_signals()
try:
    print("ready", flush=True)
    time.sleep(3600)
except KeyboardInterrupt:
    thread = threading.Thread(target=time.sleep, args=(3600,))
    thread.start()
    thread.join()
"""
    assert ended(code, signal.SIGINT) == (130, "swift-bids: interrupted\n")


def test_a_signal_in_a_destructor_is_not_lost():
    """Python prints and drops what is raised there; imports have such places, too."""
    code = """
import os, signal, time
from swift_bids.base.signals import handle_signals
handle_signals()
class Fragile:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
print("ready", flush=True)
try:
    fragile = Fragile()
    del fragile
    time.sleep(3600)
except KeyboardInterrupt:
    print("cleaned up")
"""
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (job.returncode, job.stdout, job.stderr) == (
        0,
        "ready\ncleaned up\n",
        "swift-bids: interrupted\n",
    )


def test_a_busy_worker_does_not_delay_exit():
    code = """
import time
from swift_bids.base.signals import handle_signals
from swift_bids.execution.workers import in_worker
handle_signals()
print("ready", flush=True)
in_worker(2, time.sleep, 3600)
"""
    code, said = ended(code, signal.SIGTERM, after=1.5)
    assert code == 143
    assert said.startswith("swift-bids: terminated\n")


def test_deferred_signals_are_raised_later():
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
print("summary")
try:
    with interruptible():
        print("nor this")
except KeyboardInterrupt:
    print("again")
raise_pending_signal()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT  # of Python's own KeyboardInterrupt
    assert done.stdout == "first\nsummary\nagain\n"
    assert done.stderr.startswith("swift-bids: interrupted\nswift-bids: terminated\nTraceback")


def test_a_signal_while_python_shuts_down_keeps_the_exit_code():
    """Python has given up its own signal handlers by then: the call used to die of the signal."""
    code = """
import os, signal, sys
from swift_bids.base.signals import handle_signals, ignore_signals

class Late:  # removed when Python clears its modules
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):
        kill(pid, number)

handle_signals()
late = Late()
ignore_signals()
sys.exit(130)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 130
    without = code.replace("ignore_signals()\n", "")
    assert subprocess.run([sys.executable, "-c", without], cwd=ROOT).returncode == -signal.SIGINT


def test_a_second_signal_changes_nothing(tmp_path, small_bundle):
    """Impatient users press Ctrl-C twice; a batch system sends SIGTERM to every process."""
    job = start_job(tmp_path, small_bundle, (1000, 1000), start_new_session=True)
    for number, behind in ((signal.SIGINT, 0.02), (signal.SIGTERM, 0.2), (signal.SIGINT, 0)):
        os.killpg(job.pid, number)
        time.sleep(behind)
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 130, said
    assert "Traceback" not in said
    assert said.count("not processed: the call was interrupted or terminated") == 2
    assert not (tmp_path / "out" / ".swift_bids_work").exists()


def test_a_run_that_finished_before_sighup_counts_as_done(tmp_path, small_bundle):
    """A run whose last step has just ended counts as done, and nothing follows the summary."""
    embeddings = lambda: files_in(tmp_path / "out", "*_desc-swift_embedding.json")  # noqa: E731
    run = f"sub-2_task-a_{SPACE}"
    with exclusive(tmp_path / "out" / "sub-2" / "func", run):  # the second run waits for this lock
        # the tests may run under nohup, which ignores SIGHUP in all that they start
        options = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}
        job = start_job(tmp_path, small_bundle, (22, 22), start_new_session=True, **options)
        wait_for(embeddings, job)
        os.killpg(job.pid, signal.SIGHUP)
        said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 129, said
    summary = said[said.index("\ndone: ") :].splitlines()[1:]
    n_done = len(embeddings())
    assert summary[0] == f"done: {n_done} run(s)"
    assert len(summary) == (1 if n_done == 2 else 3)
    assert "from an earlier call" not in said
    status = (tmp_path / "out" / "logs" / "status.tsv").read_text()
    assert status.count("\tdone\t") == n_done


@pytest.mark.parametrize("pending", [KeyboardInterrupt(), SystemExit(143)])
def test_a_call_starts_without_pending_signals(monkeypatch, pending):
    monkeypatch.setattr(signals, "_pending", pending)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        signals.handle_signals()
        assert not signals.signal_received()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
