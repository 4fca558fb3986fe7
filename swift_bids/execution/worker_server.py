"""What the server of the worker processes imports and sets up; loaded by workers.py as a preload
module."""

import atexit
import logging
import os
import sys
from types import TracebackType

# A call may end while matplotlib writes its font cache, and matplotlib would log that it could not.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

# The nodes import these modules when they run; a forked worker already has them.
from swift_bids import interfaces  # noqa: E402, F401
from swift_bids.execution.workers import set_up_worker  # noqa: E402
from swift_bids.reports import figures  # noqa: E402, F401
from swift_bids.steps import embed  # noqa: E402, F401

os.register_at_fork(after_in_child=set_up_worker)


def _print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error, unless the worker only failed to start because its call has just ended."""
    if not isinstance(error, (FileNotFoundError, EOFError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _print_error
# Skip Python's cleanup at exit, which takes 0.3 s for torch: a program that reads the app's output
# through a pipe waits for this process, too.
atexit.register(os._exit, 0)
