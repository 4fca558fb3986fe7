"""Worker processes: forked from a server that has imported what the nodes need."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError

# How worker processes start. Never by forking this process, since forking after torch or CUDA has
# started threads can hang.
_start_method = "spawn"
#: It takes seconds to import: once, and while this process still looks for its runs.
_IMPORTED = ["swift_bids.execution.forkserver"]


def count_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_import_path() -> None:
    """Let processes that are started from now on, jobs of a cluster included, import what this one
    does: a checkout whose run.py was called need not be installed, and nobody wants what lies in
    the current folder, any numpy.py, where Python looks first."""
    os.environ["PYTHONSAFEPATH"] = "1"
    here = Path(__file__).resolve().parents[2]
    if Path(sys.argv[0]).resolve() == here / "run.py":
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here), before)))


def start_method() -> str:
    """`forkserver` once `start_server` has succeeded, else `spawn`."""
    return _start_method


def start_server() -> None:
    """Start the server that worker processes are forked from, where that can be done.

    It is deaf to Ctrl-C and to a terminal that goes, as its workers are then: this process ends
    them, in peace. The server ends with this process.
    """
    global _start_method
    if sys.platform != "linux":  # the libraries of macOS do not bear forking at all
        return
    multiprocessing.set_forkserver_preload(_IMPORTED)
    try:
        with _heard_later():
            resource_tracker.ensure_running()  # it unblocks Ctrl-C when it has started
        with _heard_later():
            multiprocessing.forkserver.ensure_running()
        _start_method = "forkserver"
    except OSError as error:  # of its socket in TMPDIR: the path may have 107 characters
        logging.getLogger("swift_bids").debug("workers import for themselves (%s)", error)


@contextmanager
def _heard_later() -> Iterator[None]:
    """Block signals that a terminal sends to all processes: those that are started within never
    hear them, this one does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_workers() -> None:
    """End workers that are at work; without that, this process would wait for them."""
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)  # of its broken pool
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()


def in_worker(processes: int, function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)`, computed by a worker where there may be more than one process."""
    if processes == 1:
        return function(*arguments)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start_method())) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise UsageError(
                "a worker was killed before it did anything, most likely because memory ran out; "
                "give the job 2 GB or more"
            ) from error
        except (KeyboardInterrupt, SystemExit):
            kill_workers()
            raise
