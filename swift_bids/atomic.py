"""Files that are whole or not there, and what a call that was killed left behind.

Whoever writes holds a lock on the temporary file (on a file in the work folder), which the system
takes away when the process ends, in whatever way. So a lock that can be had means that nobody is
at work there, and none that is left behind keeps a later call waiting.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from swift_bids.errors import refusals

_LOG = logging.getLogger("swift_bids")
#: Where a file system has no locks, temporary files as old as this (s) are taken for left behind.
_OLD = 86_400
_PART, _LOCK = ".part", ".lock"
#: In the output folder, for calls without --work-dir.
WORK_FOLDER = ".swift_bids_work"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write(temporary path)` make a file in the same folder, then give it its name.

    A job that is killed meanwhile leaves no half-written file under the final name.

    Raises
    ------
    OutputError
        The disk is full, or the like.
    """
    # Not of host and process: in containers of one host, processes have the same numbers.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{_PART}")
    with refusals(path):
        with _locked(temporary) as file:
            try:
                write(temporary)
                os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def remove_parts(folder: Path, everywhere: bool = False) -> None:
    """Remove temporary files that nobody writes any more, in a folder or also in those below."""
    for part in (folder.rglob if everywhere else folder.glob)(f".*{_PART}"):
        with suppress(OSError):
            if _is_left_behind(part):
                part.unlink()


@contextmanager
def work_folder(kept: Path | None, output_dir: Path, name: str) -> Iterator[Path]:
    """The work folder of a call: `kept`, as `--work-dir` names it, or one of its own in the output,
    `.swift_bids_work/<name>`, which goes at the end. Those of calls that were killed go, too."""
    if kept is not None:
        yield kept.resolve()
        return
    parent = output_dir.resolve() / WORK_FOLDER
    folder = parent / name
    while not folder.exists():
        with suppress(FileNotFoundError):  # a job that ended has just removed the parent
            folder.mkdir(parents=True)
    try:
        with _locked(folder / _LOCK):
            for other in parent.iterdir():
                with suppress(OSError):
                    if _is_left_behind(other / _LOCK):
                        shutil.rmtree(other, ignore_errors=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remove_if_empty(parent, output_dir)


@contextmanager
def undisturbed_folder(kept: Path, steps: Path, names: Iterable[str], call: str) -> Iterator[Path]:
    """The folder in which runs can be worked on: `kept`, as `--work-dir` names it, or, where
    another call is at one of them there, a folder of this call's own in it, which goes at the end.

    Parameters
    ----------
    steps
        Folder in `kept` that holds those of the runs.
    names
        Of the runs.
    call
        Name of this call.

    Raises
    ------
    OutputError
        `steps` cannot be made or written to.
    """
    with refusals(steps):
        steps.mkdir(parents=True, exist_ok=True)
        locks = open(steps / _LOCK, "ab")
    with locks:
        # A byte of one file for each run: a lock each, without thousands of open files.
        places = (hashlib.sha256(os.fsencode(name)).digest()[:7] for name in names)
        try:
            for place in places:
                fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(place))
            taken = False
        except OSError as error:  # others: a file system without
            taken = isinstance(error, (BlockingIOError, PermissionError))
        if not taken:
            yield kept
            return
    _LOG.warning("another call works on the same runs in %s; this one has a folder there", kept)
    with work_folder(None, kept, call) as folder:
        yield folder


def remove_if_empty(*folders: Path) -> None:
    """Remove folders, the inner ones first, that hold nothing of another job or of the outputs."""
    for folder in folders:
        with suppress(OSError):  # something is in it, or it is a mount
            folder.rmdir()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder of which several calls may change a file at once, for as long as that takes; a
    file system without locks of folders lets all of them through."""
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Make a file and hold its lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")
        with suppress(OSError):  # a file system without
            fcntl.flock(file, fcntl.LOCK_EX)  # somebody may just look whether it is left behind
        if path.exists():
            break
        file.close()  # somebody took it for that before it had its lock
    with file:
        yield file


def _is_left_behind(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return time.time() - os.fstat(file.fileno()).st_mtime > _OLD
    return True
