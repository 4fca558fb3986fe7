"""How things go wrong: errors shown as one sentence, and the problems a call ends with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class UsageError(Exception):
    """The call cannot be carried out at all (exit code 2): wrong options, no weights, no data."""


class InputError(Exception):
    """One run or one file cannot be used; other runs go on (exit code 1 at the end)."""


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


def visible(text: str) -> str:
    """Text as a terminal may have it: what names of files could make it do is spelled out."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


class PlainFormatter(logging.Formatter):
    """Messages without anything that is not visible."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def report_problems(problems: Sequence[Problem], understood: str = "") -> int:
    """Log the recap of what could not be done, and return the exit code."""
    log = logging.getLogger("swift_bids")
    if problems:
        log.error("could not be done: %d%s", len(problems), understood and f" ({understood})")
    for problem in problems:
        details = f" (details: {problem.crash_file})" if problem.crash_file else ""
        name, reason = (" ".join(text.split()) for text in (problem.name, problem.reason))
        log.error("  %s: %s%s", name, reason, details)
    return 1 if problems else 0
