"""Locks between calls that share an output folder or a work folder.

The operating system releases a lock when the process that holds it ends, however it ends. A lock
that can be taken therefore means that no call is using the folder, and a killed call never blocks a
later one.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

#: Seconds to wait for a lock that another call holds, and between two attempts. After the timeout
#: the call goes on: a machine that lost its network keeps its locks on the file server.
LOCK_TIMEOUT, POLL_INTERVAL = 60.0, 0.02


@contextmanager
def exclusive(folder: Path, name: str = "") -> Iterator[None]:
    """Wait up to `LOCK_TIMEOUT` to be the only call that changes certain files of a folder.

    Parameters
    ----------
    name
        What is changed, such as the name of a run; empty for the files that all calls share.
    """
    # `.part`, so that a later call removes the lock file of a killed one
    path = folder / f"{name and '.'}{name}.lock.part"
    with locked(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """Create a file and hold its lock; wait up to `LOCK_TIMEOUT` for a call that holds it."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # network file systems only lock files that are open for writing
        held_by_other = not _try_lock(file)
        # the call that held the lock before may have removed the file
        if not held_by_other and _is_still(file, path):
            break
        if held_by_other and time.monotonic() >= deadline:
            break
        file.close()
        time.sleep(POLL_INTERVAL)
    with file:
        yield file


@contextmanager
def abandoned(path: Path) -> Iterator[None]:
    """Hold the lock of a file whose call has ended, so that the file can be removed.

    Raises
    ------
    OSError
        A call is using the folder, the file has been replaced, or the file system has no locks.
    """
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_still(file, path):
            raise FileNotFoundError(path)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    """Take the lock of a file; False if another call holds it. On a file system without locks, this
    always succeeds."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False
