"""SIGTERM (docker stop, scancel), SIGHUP (a terminal that goes) and Ctrl-C: a call that is to stop
does so, nipype or not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_asked: BaseException | None = None
_held_back = False
#: From the first signal to the end, whatever is still to be tidied up (s).
_LONGEST = 4.0


def listen() -> None:
    """From now on the first of these signals ends the call as an exception, so that workers and
    jobs end and nothing is left behind; it has 4 s for that, and more signals do not cut it short.
    Who ignores SIGHUP (nohup) goes on to do so."""
    global _asked, _held_back
    _asked, _held_back = None, False
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def raise_if_asked() -> None:
    """Raise again what a signal raised: within a node of this process nipype takes any exception
    for the node's failure, and goes on with the next."""
    if _asked is not None:
        raise _asked


def hold_back() -> None:
    """From now on a signal cuts nothing short but what is `interruptible`: what the call has done
    must be told, and what it has begun must be ended."""
    global _held_back
    _held_back = True


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal, or one that came before, end what happens within."""
    global _held_back
    before, _held_back = _held_back, False
    try:
        raise_if_asked()
        yield
    finally:
        _held_back = before


def was_asked() -> bool:
    """Whether a signal has asked the call to end."""
    return _asked is not None


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    said = "interrupted" if number == signal.SIGINT else "asked to stop"
    with suppress(OSError):  # a terminal that is gone
        os.write(2, f"swift-bids: {said}\n".encode())  # at once; print could be within a print
    if _asked is not None:
        return
    _asked = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    # a library that waits for a worker, ended at an awkward moment, waits for ever
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.setitimer(signal.ITIMER_REAL, _LONGEST)
    if not _held_back:
        raise _asked
