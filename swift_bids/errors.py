"""The two kinds of error that are shown to users as one sentence, without a traceback."""


class UsageError(Exception):
    """The call cannot be carried out at all (exit code 2): wrong options, no weights, no data."""


class InputError(Exception):
    """One run or one file cannot be used; other runs go on (exit code 1 at the end)."""
