"""SIGTERM (docker stop, scancel), SIGHUP (a terminal that goes) and Ctrl-C: a call that is to stop
does so, nipype or not."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

_asked: BaseException | None = None


def listen() -> None:
    """From now on these signals end the call as an exception, so that workers and jobs end and
    nothing is left behind. Who ignores SIGHUP (nohup) goes on to do so."""
    global _asked
    _asked = None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def raise_if_asked() -> None:
    """Raise again what a signal raised: within a node of this process nipype takes any exception
    for the node's failure, and goes on with the next."""
    if _asked is not None:
        raise _asked


def leave_soon(code: int) -> None:
    """End within 2 s from here on, where libraries only tidy up behind themselves: what waits for a
    worker that was ended at an awkward moment waits for ever."""
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(code))
    signal.setitimer(signal.ITIMER_REAL, 2)


def was_asked() -> bool:
    """Whether a signal has asked the call to end."""
    return _asked is not None


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    said = "interrupted" if number == signal.SIGINT else "asked to stop"
    with suppress(OSError):  # a terminal that is gone
        os.write(2, f"swift-bids: {said}\n".encode())  # at once; print could be within a print
    _asked = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    raise _asked
