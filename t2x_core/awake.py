"""Time in which a process ran, whatever stopped it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable


class AwakeClock:
    """Seconds in which this process ran: it stands still while the process is stopped.

    Somebody calls `tick` every `interval` seconds. A pause (Ctrl-Z, SLURM's suspend, a paused virtual machine) shows
    in that more time has passed than that; of it no more than two intervals count.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval, self._clock = interval, clock
        self._last, self.seconds = clock(), 0.0

    def tick(self) -> None:
        """Adds what has passed since the last tick."""
        now = self._clock()
        self.seconds += min(now - self._last, 2 * self._interval)
        self._last = now
