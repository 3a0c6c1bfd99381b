"""What the frames of a video show when they are watched one after the other: stills, black, cuts, odd times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2x_core.video.reader import Decoded

STILL = 8
"""Largest difference of any pixel to the frame before, of 255, up to which nothing moves: codecs make that much."""
STILL_SECONDS, STILL_SHARE = 3.0, 0.5
"""A video is frozen when it stands still as long as that, or for this share of its frames."""
BLACK, BLACK_SHARE = 12.0, 0.1
"""Mean level, of 255, of a black frame; and the share of a video's frames from which on that is said."""
CUT, CUT_HISTOGRAM, CUT_RATIO = 25.0, 0.4, 4.0
"""A cut changes pixels by this (mean, of 255) and this share of them to another colour, and so many times as much as
frames around it change."""
NEIGHBOURS = 5
"""Frames before and behind a cut that it is compared with."""
BINS = 4
"""Of each colour in a histogram."""
NAMED = 5
"""Cuts whose times are given."""
SLACK_SHARE, SLACK_SECONDS = 0.1, 0.5
"""By how much a video may be shorter than its header says, if this does not count frames."""
SLACK_FRAMES = 1.5
"""By how many frames, if it does."""


class Watch:
    """Sees one frame after the other, all of one size."""

    def __init__(self) -> None:
        self.count = self.corrupt = self.black = 0
        self.last: NDArray[np.uint8] | None = None
        self.times: list[float | None] = []
        self._changes: list[tuple[float, float]] = []
        """Of each frame to the one before: mean difference of pixels, and share of them in other bins."""
        self._still = self._longest_still = 0
        """Steps between frames without a motion, by now and at most."""
        self._histogram = np.zeros(BINS**3)

    def add(self, frame: Decoded) -> None:
        histogram = _histogram(frame.pixels)
        self.black += bool(frame.pixels.mean() < BLACK)
        if self.last is not None:
            difference = np.abs(frame.pixels.astype(np.int16) - self.last)
            self._changes.append((float(difference.mean()), float(np.abs(histogram - self._histogram).sum() / 2)))
            self._still = self._still + 1 if difference.max() <= STILL else 0
            self._longest_still = max(self._longest_still, self._still)
        self.count += 1
        self.corrupt += frame.corrupt
        self.last, self._histogram = frame.pixels, histogram
        self.times.append(frame.time)

    def signs(self, announced: int, announced_seconds: float) -> list[tuple[str, str]]:
        """(kind of finding, detail); `announced`: frames and seconds by the file's header, 0 if it does not say."""
        found = []
        known = [time for time in self.times if time is not None]
        backwards = int((np.diff(known) <= 0).sum())
        if backwards:
            found.append(("times", f"{backwards} of {self.count} frames are not later than the one before"))
        spent = known[-1] - known[0] if len(known) > 1 else 0.0
        each = spent / (len(known) - 1) if len(known) > 1 else announced_seconds / self.count
        missing = announced_seconds - spent - each
        as_long = announced_seconds and abs(missing) <= SLACK_FRAMES * each  # an edit list shows a part of the frames
        if announced and announced != self.count and not as_long:
            found.append(("count", f"has {self.count} frames, and its header says {announced}"))
        early = missing > max(SLACK_SECONDS, SLACK_SHARE * announced_seconds) and not backwards
        if not announced and early and len(known) > 1:
            found.append(("count", f"ends {missing:.3g} s before the {announced_seconds:.3g} s of its header"))
        if still := self._longest_still:
            seconds = still * each
            if seconds >= STILL_SECONDS or still >= STILL_SHARE * (self.count - 1):
                found.append(("frozen", f"stands still for {still + 1} of {self.count} frames ({seconds:.3g} s)"))
        if self.black > BLACK_SHARE * self.count:
            found.append(("black", f"{self.black} of {self.count} frames are black"))
        if cuts := self.cuts():
            at = [f"{self._second(number, each):.2f} s" for number in cuts[:NAMED]]
            more = " …" if len(cuts) > NAMED else ""
            found.append(("cuts", f"{len(cuts)} shot change{'s' * (len(cuts) > 1)}, at {', '.join(at)}{more}"))
        return found

    def cuts(self) -> list[int]:
        """Numbers of the frames with which another shot begins."""
        found = []
        differences = np.asarray([difference for difference, _ in self._changes])
        for i, (difference, moved) in enumerate(self._changes):
            around = np.concatenate([differences[max(0, i - NEIGHBOURS) : i], differences[i + 1 : i + 1 + NEIGHBOURS]])
            usual = float(np.median(around)) if len(around) else 0.0
            if difference >= CUT and moved >= CUT_HISTOGRAM and difference >= CUT_RATIO * usual:
                found.append(i + 1)
        return found

    def _second(self, number: int, each: float) -> float:
        time, first = self.times[number], self.times[0]
        return number * each if time is None or first is None else time - first


def _histogram(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Shares of the colours, BINS levels of each."""
    levels = pixels.astype(np.int64) * BINS // 256
    codes = levels[..., 0] * BINS**2 + levels[..., 1] * BINS + levels[..., 2]
    return np.bincount(codes.ravel(), minlength=BINS**3) / codes.size
