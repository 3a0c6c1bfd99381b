"""How far a long work is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from t2x_core.wording import duration


class Progress:
    """Lines on how far the work is, and how long it will take."""

    FIRST, EVERY = 5.0, 20.0
    """Seconds until the first line, and between two."""

    def __init__(self, what: str, total: int, say: Callable[[str], None]) -> None:
        self.what, self.total, self.say, self.done = what, total, say, 0
        self.began = self._reported = time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if (
            now - self._reported >= (self.FIRST if self._reported == self.began else self.EVERY)
            and self.done < self.total
        ):
            self._reported = now
            speed = self.done / (now - self.began)
            left = duration((self.total - self.done) / speed)
            self.say(f"{self.what}: {self.done:,} of {self.total:,}, {speed:.3g} a second, {left} left")
