"""The work folder of a call: where it lies, and how calls that share it keep apart."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swift_bids.base.errors import UsageError, os_errors_as_output_errors
from swift_bids.base.locks import abandoned, locked
from swift_bids.inputs.dataset import resolved

_LOG = logging.getLogger("swift_bids")
#: Parent of temporary work folders, in the output folder or in --work-dir.
WORK_FOLDER = ".swift_bids_work"
_LOCK = ".lock"


def check_work_dir(work_dir: Path | None, output_dir: Path) -> None:
    """Refuse a work folder in which nipype cannot work.

    Parameters
    ----------
    work_dir
        `--work-dir`; None for a folder within `output_dir`.

    Raises
    ------
    UsageError
        The folder is a file, cannot be written to, or has glob characters in its path.
    """
    if work_dir is not None:
        resolved_dir = resolved(work_dir, "--work-dir")
        existing = next(path for path in (resolved_dir, *resolved_dir.parents) if path.exists())
        if not existing.is_dir():
            raise UsageError(f"--work-dir {work_dir}: {existing} is a file, not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UsageError(
                f"--work-dir {work_dir}: you cannot write to {existing}; choose another folder"
            )
    if patterns := set("[]*?") & set(str((work_dir or output_dir).resolve())):
        raise UsageError(
            f"{'--work-dir' if work_dir else 'output_dir'} {work_dir or output_dir}: nipype cannot "
            f"work in a folder with {' '.join(sorted(patterns))} in its path; choose another "
            f"folder with -w"
        )


@contextmanager
def work_folder(kept: Path | None, parent: Path, name: str) -> Iterator[Path]:
    """The work folder of a call; work folders of killed calls are removed.

    Parameters
    ----------
    kept
        `--work-dir`, which stays; None for `.swift_bids_work/<name>` in `parent`, which is removed
        at the end.
    parent
        The output folder, or `--work-dir` for a subfolder of it.
    name
        Name of this call.
    """
    if kept is not None:
        yield kept.resolve()
        return
    work_folders = parent.resolve() / WORK_FOLDER
    is_new = not parent.exists()
    folder = work_folders / name
    while not folder.exists():
        with suppress(FileNotFoundError):  # a job that ended has just removed `work_folders`
            folder.mkdir(parents=True)
    try:
        with locked(folder / _LOCK):
            for other in work_folders.iterdir():
                with suppress(OSError), abandoned(other / _LOCK):
                    shutil.rmtree(other, ignore_errors=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for empty in (work_folders, parent) if is_new else (work_folders,):
            with suppress(OSError):  # not empty: another job is at work, or there are outputs
                empty.rmdir()


@contextmanager
def reserved_folder(kept: Path, steps: Path, runs: Iterable[str], call: str) -> Iterator[Path]:
    """Reserve runs in a work folder. If another call is processing one of them, use a separate
    subfolder.

    Parameters
    ----------
    kept
        The work folder.
    steps
        Folder in `kept` with the steps of the runs.
    runs
        Names of the runs.
    call
        Name of this call.

    Raises
    ------
    OutputError
        `steps` cannot be created or written to.
    """
    with os_errors_as_output_errors(steps):
        steps.mkdir(parents=True, exist_ok=True)
        locks = open(steps / _LOCK, "ab")
    with locks:
        # One byte of one file for each run: a lock each, without thousands of open files.
        places = (hashlib.sha256(os.fsencode(run)).digest()[:7] for run in runs)
        in_use = False
        try:
            for place in places:
                fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int.from_bytes(place))
        except BlockingIOError:
            in_use = True
        except OSError:  # a file system without locks
            pass
        if not in_use:
            yield kept
            return
    _LOG.warning("another call is working on the same runs in %s: using a subfolder", kept)
    with work_folder(None, kept, call) as folder:
        yield folder
