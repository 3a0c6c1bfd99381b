"""The signals by which work is asked to stop: Ctrl-C, a cluster's warnings, the loss of the terminal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""What is done is saved, and the exit code is 128 + the signal's number."""
ECHO = 0.5
"""Seconds in which a second signal is the first one once more: `timeout` sends it to a process and to its group."""


class StoppedError(KeyboardInterrupt):
    """A signal has asked this process to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number
        """The exit code."""


def exit_code(error: KeyboardInterrupt) -> int:
    """128 + the number of the signal."""
    return error.code if isinstance(error, StoppedError) else 128 + signal.SIGINT


@contextmanager
def stopping() -> Iterator[None]:
    """Inside, what would end this process by a signal of `STOPPING` raises `StoppedError` in its place.

    Processes that are forked inside do as before. Whoever ignores a signal, as `nohup` does, ignores it still.
    """
    owner, last = os.getpid(), -ECHO

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif (now := time.monotonic()) - last > ECHO:
            last = now
            raise StoppedError(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_main_process(worker: int = 0) -> None:
    """Ctrl-C and a cluster's signals reach every process: workers must outlive what the main process still does."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
