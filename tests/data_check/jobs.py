"""Jobs that processes of their own do for tests; by name, since these import them."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from typing import Any

from t2x_core.data_check.look import LookJob, Seen


@dataclass(frozen=True)
class NastyLook(LookJob):
    """Crashes, hangs or fails for files of some names."""

    def __call__(self, beat: Any) -> Seen:
        match os.path.basename(str(self.place)):
            case "03.png":
                ctypes.string_at(0)
            case "05.png":
                time.sleep(1000)
            case "07.png":
                1 / 0  # noqa: B018
        return super().__call__(beat)


@dataclass(frozen=True)
class Square:
    number: int

    def __call__(self, beat: Any) -> tuple[int, int]:
        return self.number**2, os.getpid()


@dataclass(frozen=True)
class Slow:
    """Takes long, and says now and then that it goes on."""

    seconds: float

    def __call__(self, beat: Any) -> str:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            beat()
            time.sleep(0.05)
        return "done"
