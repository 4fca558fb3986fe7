"""How things go wrong: errors shown as one sentence, and the problems a call ends with."""

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UsageError(Exception):
    """The call cannot be carried out at all (exit code 2): wrong options, no weights, no data."""


class InputError(Exception):
    """One run or one file cannot be used; other runs go on (exit code 1 at the end)."""


class OutputError(Exception):
    """The system refuses a file: the disk is full, say. What is done stays (exit code 1)."""


#: Names that the recap lists for one reason.
_LISTED = 5


@dataclass(frozen=True)
class Problem:
    """Something that was asked for and could not be done.

    Attributes
    ----------
    participant
        Label without `sub-`.
    name
        `sub-XX`, or the run's name.
    reason
        What is wrong, what exists instead, what to do.
    crash_file
        nipype's text file with the details, where there is one.
    """

    participant: str
    name: str
    reason: str
    crash_file: Path | None = None


#: What to do about the commonest refusals of the system.
_ROOM, _PERMISSIONS = "make room there", "mend its permissions"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "give a folder that can be written to",
    errno.EMFILE: "let more files be open (ulimit -n)",
    errno.ENFILE: "let more files be open on this machine",
}


@contextmanager
def refusals(file: str | os.PathLike[str]) -> Iterator[None]:
    """Tell what the system refuses within as `OutputError`.

    Parameters
    ----------
    file
        The file or folder that is being worked on: numpy, for one, says of a full disk no more than
        how many bytes it could not write.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(refusal(error, file)) from error


def refusal(error: OSError, file: str | os.PathLike[str]) -> str:
    """What the system refused as a sentence: which file, why, what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "see whether the disk is full or the folder read-only")
    return f"{file}: cannot be written or read ({error.strerror or error}); {remedy} and call again"


def visible(text: str) -> str:
    """Text as one line that a terminal may have: what names of files could make it do is spelled
    out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PlainFormatter(logging.Formatter):
    """Messages of a line each, without anything that is not visible; tracebacks have several."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(visible, super().formatException(ei).splitlines()))


def report_problems(problems: Sequence[Problem], understood: str = "") -> int:
    """Log the recap of what could not be done, and return the exit code.

    Many for the same reason, as after a call that was interrupted, share a line.
    """
    log = logging.getLogger("swift_bids")
    if problems:
        log.error("could not be done: %d%s", len(problems), understood and f" ({understood})")
    names = defaultdict(list)
    for problem in problems:
        details = f" (details: {problem.crash_file})" if problem.crash_file else ""
        names[" ".join(problem.reason.split()) + details].append(" ".join(problem.name.split()))
    for reason, alike in names.items():
        if len(alike) > _LISTED:
            alike = [f"{', '.join(alike[:_LISTED])} and {len(alike) - _LISTED} more"]
        for name in alike:
            log.error("  %s: %s", name, reason)
    return 1 if problems else 0
