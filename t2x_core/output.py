"""Standard output and errors whose reader may go away, or whose disk may fill up, without an end to the work."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger("t2x")


class _Lasting:
    """A text stream that is given up, with a line in the log, when it cannot be written any more."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(ValueError):  # it is closed
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        with suppress(ValueError):
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def writelines(self, lines: Any) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._stream, name)
        return _Lasting(found) if name == "rich_proxied_file" else found  # what rich writes to instead

    def _give_up(self, error: OSError) -> None:
        """What is still to be written goes nowhere: that of this stream, of libraries, and of processes to come."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        reason = error.strerror or str(error)
        log.warning("%s cannot be written any more (%s): the work goes on without it", self._stream.name, reason)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, a pipe whose reader has gone, a terminal that is closed and a disk that is full end nothing."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if stream is None else _Lasting(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
