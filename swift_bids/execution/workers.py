"""Worker processes, forked from a server that has already imported the modules of the nodes."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError

# How worker processes start. The app never forks itself: forking can hang once torch or CUDA has
# started threads.
_start_method = "spawn"
#: The import takes seconds: the server does it once, while this process still looks for its runs.
_SERVER = "swift_bids.execution.worker_server"


def count_cpus() -> int:
    """Number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_import_path() -> None:
    """Make processes that start from now on, cluster jobs included, import the same modules.

    run.py must also work from a checkout that is not installed. And Python must not import modules,
    such as a numpy.py, from the current folder.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    checkout = Path(__file__).resolve().parents[2]
    if Path(sys.argv[0]).resolve() == checkout / "run.py":
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(checkout), before)))


def start_method() -> str:
    """`forkserver` once `start_server` has succeeded, else `spawn`."""
    return _start_method


def start_server() -> None:
    """Start the server that worker processes are forked from, if this system supports one.

    The server and its workers ignore Ctrl-C and a closed terminal, so that this process can end
    them in order. The server ends with this process.
    """
    global _start_method
    if sys.platform != "linux":  # the system libraries of macOS do not support forking
        return
    multiprocessing.set_forkserver_preload([_SERVER])
    try:
        with _signals_blocked():
            resource_tracker.ensure_running()  # this call unblocks Ctrl-C again
        with _signals_blocked():
            multiprocessing.forkserver.ensure_running()
        _start_method = "forkserver"
    except OSError as error:  # the path of its socket in TMPDIR may have at most 107 characters
        logging.getLogger("swift_bids").debug(
            "cannot start the server of worker processes (%s); each worker imports its modules",
            error,
        )


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that a terminal sends to all processes. Processes that start in this block
    never receive them; this process receives them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_up_worker() -> None:
    """Let this worker end with its call, and let Linux kill it first when memory runs out.

    If the call was killed, or was interrupted before it knew of the worker, the worker would wait
    for work, and keep its memory, forever. And only the process that started the workers can
    report that memory ran out.
    """

    def watch() -> None:
        while (call := multiprocessing.parent_process()) is None:
            time.sleep(0.1)
        call.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def start_worker(folder: str = ".") -> None:
    """First call in each worker, which will run in `folder`."""
    if _SERVER not in sys.modules:  # the server has set up the workers that it forks
        set_up_worker()
    os.chdir(folder)


def kill_workers() -> None:
    """Kill the workers; otherwise this process would wait until they have finished."""
    # otherwise concurrent.futures logs that the pool is broken
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)
    for worker in multiprocessing.active_children():
        if not worker.daemon:  # worker_per_gpu.py ends its own
            worker.kill()
            worker.join()


def in_worker(processes: int, function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)`, called in a worker if the app may use more than one process."""
    if processes == 1:
        return function(*arguments)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start_method())) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except (BrokenProcessPool, EOFError) as error:  # EOFError: the server was killed
            raise UsageError(
                "a worker process was killed while it started, most likely because memory ran out; "
                "give the job 2 GB or more"
            ) from error
        except (KeyboardInterrupt, SystemExit):
            kill_workers()
            raise
