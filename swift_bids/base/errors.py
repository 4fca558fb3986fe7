"""Errors that users see as one sentence, and the summary of problems that ends a call."""

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
    """The command cannot run at all (exit code 2): wrong options, no weights, no data."""


class InputError(Exception):
    """One run or one file cannot be used; the other runs go on (exit code 1 at the end)."""


class OutputError(Exception):
    """A file cannot be written, for example because the disk is full (exit code 1). Finished
    outputs are kept."""


#: Names that the summary lists for one reason.
_MAX_NAMES = 5


@dataclass(frozen=True)
class Problem:
    """Something that the user requested and that failed.

    Attributes
    ----------
    participant
        Label without `sub-`, or empty for a problem that belongs to no participant.
    name
        `sub-XX`, or the name of the run.
    reason
        What is wrong, what exists instead, what to do.
    crash_file
        nipype's text file with the details, if it wrote one.
    """

    participant: str
    name: str
    reason: str
    crash_file: Path | None = None


#: What to do about the most common errors of the operating system.
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose a folder that you can write to",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs on this machine",
}


@contextmanager
def os_errors_as_output_errors(file: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the operating system into `OutputError`.

    Parameters
    ----------
    file
        The file or folder in use. Some libraries do not name it: when the disk is full, numpy only
        says how many bytes it could not write.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(describe_os_error(error, file)) from error


def describe_os_error(error: OSError, file: str | os.PathLike[str]) -> str:
    """Describe an error of the operating system in one sentence: which file, why, what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "check whether the disk is full or read-only")
    reason = error.strerror or error
    return f"{file}: cannot be read or written ({reason}); {remedy} and run the same command again"


def some_of(names: Sequence[str], most: int) -> str:
    """List the first names, and say how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def escape_control_characters(text: str) -> str:
    """Text as one printable line: control characters, which file names may contain, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class PlainFormatter(logging.Formatter):
    """Prints each message as one printable line; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape_control_characters(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(escape_control_characters, super().formatException(ei).splitlines()))


def report_problems(problems: Sequence[Problem], interpretation: str = "") -> int:
    """Log the summary of everything that failed, and return the exit code.

    More than five problems with the same reason share a line, as after an interrupted call.
    """
    log = logging.getLogger("swift_bids")
    if problems:
        log.error("failed: %d%s", len(problems), interpretation and f" ({interpretation})")
    names = defaultdict(list)
    for problem in problems:
        details = f" (details: {problem.crash_file})" if problem.crash_file else ""
        names[" ".join(problem.reason.split()) + details].append(" ".join(problem.name.split()))
    for reason, same in names.items():
        if len(same) > _MAX_NAMES:
            same = [f"{', '.join(same[:_MAX_NAMES])} and {len(same) - _MAX_NAMES} more"]
        for name in same:
            log.error("  %s: %s", name, reason)
    return 1 if problems else 0
