"""How things go wrong: errors shown as one sentence, and the problems a call ends with."""

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
