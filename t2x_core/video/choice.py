"""Which frames of a video make a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

SLACK = 2e-3
"""Seconds by which a frame may come too late and still count: Matroska and WebM round times to milliseconds."""
SLOWEST = 0.95
"""Least frame rate of a video, as a share of the one that is asked for."""


class ShortClipError(Exception):
    """The video is too short or too slow; says so, as in "has 12 frames, fewer than the 31 needed"."""


@dataclass(frozen=True)
class Choice:
    """How frames are chosen: one of `stride` and `fps`."""

    frames: int
    """Frames of a clip."""
    stride: int | None = None
    """Every n-th frame, whatever the frame rate."""
    fps: float | None = None
    """Frames a second: to each point in time belongs the frame that is shown then."""

    def __post_init__(self) -> None:
        if (self.stride is None) == (self.fps is None):
            raise ValueError("either stride or fps")

    def check(self, count: int, seconds: float) -> None:
        """ShortClipError if a video is too short: `count` frames, `seconds` from the first to the last."""
        if self.stride is not None:
            needed = (self.frames - 1) * self.stride + 1
            if count < needed:
                raise ShortClipError(f"has {count} frames, fewer than the {needed} needed")
            return
        assert self.fps is not None
        if self.frames > 1 and (count - 1) < SLOWEST * self.fps * seconds:
            rate = (count - 1) / seconds
            raise ShortClipError(f"has {rate:.3g} frames a second, fewer than the {self.fps:g} asked for")
        needed_seconds = (self.frames - 1) / self.fps
        if seconds < needed_seconds - SLACK:
            raise ShortClipError(f"lasts {seconds:.3g} s, less than the {needed_seconds:.3g} s needed")

    def fits(self, counts: NDArray[Any], seconds: Times) -> NDArray[np.bool_]:
        """Which of many videos `check` accepts, (n,) of (n,) frames and (n,) seconds."""
        if self.stride is not None:
            return counts >= (self.frames - 1) * self.stride + 1
        assert self.fps is not None
        slow = (counts - 1 < SLOWEST * self.fps * seconds) if self.frames > 1 else np.zeros(len(counts), bool)
        return ~slow & (seconds >= (self.frames - 1) / self.fps - SLACK)

    def __call__(self, times: Times, place: float) -> tuple[list[int], float]:
        """The frames (their numbers) of a clip, and its rate in frames a second.

        Args:
            times: when each frame of the video is shown, in seconds, in rising order.
            place: where the clip begins, from 0 (as early as can be) to 1 (as late).
        """
        seconds = float(times[-1] - times[0])
        self.check(len(times), seconds)
        if self.stride is not None:
            reach = (self.frames - 1) * self.stride
            start = min(int(place * (len(times) - reach)), len(times) - reach - 1)
            chosen = list(range(start, start + reach + 1, self.stride))
            spent = float(times[chosen[-1]] - times[chosen[0]])
            whole = (len(times) - 1) / seconds / self.stride if seconds else 0.0
            return chosen, (self.frames - 1) / spent if spent else whole
        assert self.fps is not None
        start_time = times[0] + place * max(seconds - (self.frames - 1) / self.fps, 0)
        wanted = start_time + np.arange(self.frames) / self.fps
        numbers = np.searchsorted(times, wanted + SLACK, side="right") - 1
        return numbers.clip(0, len(times) - 1).tolist(), self.fps
