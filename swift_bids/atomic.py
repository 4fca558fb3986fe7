"""Files that are whole or not there, and what a call that was killed left behind.

Whoever writes holds a lock on the temporary file (on a file in the work folder), which the system
takes away when the process ends, in whatever way. So a lock that can be had means that nobody is
at work there, and none that is left behind keeps a later call waiting.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from swift_bids.errors import refusals
from swift_bids.stopping import was_asked

_LOG = logging.getLogger("swift_bids")
#: Where a file system has no locks, temporary files as old as this (s) are taken for left behind.
_OLD = 86_400
#: How long to wait for what others hold at most, the same where the call should end, and between
#: looks (s).
_LONGEST, _SHORT, _AGAIN = 60.0, 1.0, 0.02
#: What a lock that another has raises; the second on CIFS.
_TAKEN = (BlockingIOError, PermissionError)
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
                try:
                    write(temporary)
                except PermissionError:  # CIFS keeps even our own other handles off what is locked
                    fcntl.flock(file, fcntl.LOCK_UN)
                    write(temporary)
                os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)


def remove_parts(folder: Path, everywhere: bool = False) -> None:
    """Remove temporary files that nobody writes any more, in a folder or also in those below."""
    for part in (folder.rglob if everywhere else folder.glob)(f".*{_PART}"):
        with suppress(OSError), _left_behind(part):
            part.unlink()


@contextmanager
def work_folder(kept: Path | None, output_dir: Path, name: str) -> Iterator[Path]:
    """The work folder of a call: `kept`, as `--work-dir` names it, or one of its own in the output,
    `.swift_bids_work/<name>`, which goes at the end. Those of calls that were killed go, too."""
    if kept is not None:
        yield kept.resolve()
        return
    parent = output_dir.resolve() / WORK_FOLDER
    made = not output_dir.exists()
    folder = parent / name
    while not folder.exists():
        with suppress(FileNotFoundError):  # a job that ended has just removed the parent
            folder.mkdir(parents=True)
    try:
        with _locked(folder / _LOCK):
            for other in parent.iterdir():
                with suppress(OSError), _left_behind(other / _LOCK):
                    shutil.rmtree(other, ignore_errors=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (parent, output_dir) if made else (parent,):
            with suppress(OSError):  # another job's, or outputs, are in it; or it is a mount
                empty.rmdir()


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
            taken = isinstance(error, _TAKEN)
        if not taken:
            yield kept
            return
    _LOG.warning("another call works on the same runs in %s; this one has a folder there", kept)
    with work_folder(None, kept, call) as folder:
        yield folder


@contextmanager
def exclusive(folder: Path, name: str = "") -> Iterator[None]:
    """Be the only one of several calls that changes certain files of a folder.

    Where the file system has no locks, or the machine of another call went away with one, all are
    let through after `_LONGEST` s at most.

    Parameters
    ----------
    name
        Of what is changed, where it is not all that calls have in common there.
    """
    # Made as a file, since network file systems lock nothing that is not open for writing, and as
    # one that later calls remove.
    path = folder / f"{name and '.'}{name}{_LOCK}{_PART}"
    with _locked(path) as file:
        about = os.fstat(file.fileno())
        if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and not about.st_size:
            with suppress(OSError):  # it is somebody else's
                os.fchmod(file.fileno(), 0o666)  # who may be the next to want it
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Make a file and hold its lock."""
    begin = time.monotonic()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "ab", opener=_no_other)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            path.unlink(missing_ok=True)  # a link, which none of ours is
            continue
        wait = time.monotonic() - begin < (_SHORT if was_asked() else _LONGEST)
        if _is_ours(file, path, wait) or not wait:
            break
        file.close()
        time.sleep(_AGAIN)
    with file:
        yield file


def _no_other(path: str, flags: int) -> int:
    """Open a file, but nothing that a link leads to, and no pipe that keeps us waiting."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _is_ours(file: IO[bytes], path: Path, wait: bool) -> bool:
    """Whether the lock of an open file can be had, and it is the one of that name: who had it
    before, or took it for left behind, may have removed it. Where a file system has no locks, or
    nobody should `wait` any more, it counts as had.
    """
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, _TAKEN) and wait:
                return False
            if error.errno == errno.ESTALE:  # NFS of a file that was removed
                raise
        about = os.fstat(file.fileno())
        return about.st_nlink > 0 and os.path.samestat(about, os.stat(path))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE:
            return False
        raise


@contextmanager
def _left_behind(path: Path) -> Iterator[None]:
    """Hold the lock of a file whose call is not there any more; one that cannot be told from such a
    file is taken for it after a day.

    Raises
    ------
    OSError
        Somebody is at work there.
    """
    try:
        # network file systems lock nothing that is only read
        file = open(path, "r+b", opener=_no_other)
    except OSError:  # another user's, or a folder's, which has none
        if not _is_old(path):
            raise
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others: a file system without
            if isinstance(error, _TAKEN) or not _is_old(path):
                raise
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            raise FileNotFoundError(path)  # removed, and made anew by somebody
        yield


def _is_old(path: Path) -> bool:
    """Whether a file, or of a folder's lock all that is in the folder, was made long ago."""
    paths = (path.parent, *path.parent.rglob("*")) if path.name == _LOCK else (path,)
    return time.time() - max(p.lstat().st_mtime for p in paths) > _OLD
