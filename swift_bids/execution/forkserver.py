"""What the server of worker processes imports (see workers.py); nothing else imports this."""

import atexit
import logging
import multiprocessing
import os
import sys
import threading
import time
from types import TracebackType

# That its cache of fonts cannot be written, where a call ends before it is.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

from swift_bids import interfaces  # noqa: E402, F401


def _end_with_the_call() -> None:
    """A worker whose call was killed, or does not know of it, being interrupted while it began,
    would wait for work, and hold its memory, for ever."""

    def watch() -> None:
        while (call := multiprocessing.parent_process()) is None:
            time.sleep(0.1)
        call.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


os.register_at_fork(after_in_child=_end_with_the_call)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error; but a worker that starts when the call was just interrupted finds nothing of
    it any more, which is none."""
    if not isinstance(error, (FileNotFoundError, EOFError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell
# It has nothing to tidy up, and whoever reads the app's output through a pipe waits for its end:
# taking torch apart would be 0.3 s.
atexit.register(os._exit, 0)
