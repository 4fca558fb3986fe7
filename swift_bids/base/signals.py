"""Signal handling: after SIGTERM (docker stop, scancel), SIGHUP (closed terminal) or Ctrl-C, a call
ends promptly and still prints its summary."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_pending: BaseException | None = None
_deferred = False
#: Seconds from the first signal to the end of the process, even if it is still cleaning up.
GRACE_PERIOD = 4.0
#: Seconds until an exception that Python has dropped is raised again.
_MOMENT = 0.01


def handle_signals() -> None:
    """From now on the first signal ends the call with an exception, so that workers and jobs end
    and nothing is left behind. Further signals do not interrupt the cleanup. A call that
    ignores SIGHUP (nohup) goes on ignoring it."""
    global _pending, _deferred
    _pending, _deferred = None, False
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


def raise_pending_signal() -> None:
    """Raise a signal's exception again: when it interrupts a node in this process, nipype mistakes
    that for a failure of the node and goes on with the next one."""
    if _pending is not None:
        raise _pending


def defer_signals() -> None:
    """From now on a signal interrupts only `interruptible` blocks: the call must stop its
    workers and jobs and print its summary."""
    global _deferred
    _deferred = True


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal, also one that is pending, interrupt this block."""
    global _deferred
    before, _deferred = _deferred, False
    try:
        raise_pending_signal()
        yield
    finally:
        _deferred = before


def signal_received() -> bool:
    """Whether a signal has asked the call to end."""
    return _pending is not None


def ignore_signals() -> None:
    """Ignore signals from here on. While Python shuts down, it gives up handlers such as `_handle`,
    and another Ctrl-C would change the exit code; it keeps ignoring what is ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    message = "interrupted" if number == signal.SIGINT else "terminated"
    with suppress(OSError):  # the terminal may be gone
        # not print(), which the signal may have interrupted
        os.write(2, f"swift-bids: {message}\n".encode())
    if _pending is not None:
        return
    _pending = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    # a library that waits for a worker that was killed may wait forever
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.setitimer(signal.ITIMER_REAL, GRACE_PERIOD)
    if not _deferred:
        sys.unraisablehook = _raise_later
        raise _pending


def _raise_later(unraisable: sys.UnraisableHookArgs) -> None:
    """Python prints and drops an exception in a destructor or in the callback of a weak reference:
    raise the one of a signal again, once Python has left it."""
    if unraisable.exc_value is not _pending:
        sys.__unraisablehook__(unraisable)
        return
    end_by = signal.getsignal(signal.SIGALRM)

    def raise_again(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, end_by)
        signal.setitimer(signal.ITIMER_REAL, GRACE_PERIOD)
        if not _deferred:
            raise_pending_signal()

    signal.signal(signal.SIGALRM, raise_again)
    signal.setitimer(signal.ITIMER_REAL, _MOMENT)
