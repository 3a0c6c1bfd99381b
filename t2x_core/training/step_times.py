"""Where the time of a training step goes."""

from __future__ import annotations

import time
from collections import defaultdict

import torch

Moment = float | torch.cuda.Event


class StepTimes:
    """Seconds between marks, by name and by bucket.

    On a CPU a mark looks at the clock. On a GPU it puts an event into the queue, which the device stamps when it comes
    to it; so a step is not waited for, and the times are those of the device. They are read when it is known to be past
    them.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._from: Moment = self._now()
        self._spans: list[tuple[str, str, Moment, Moment]] = []  # bucket, name, from, to

    def begin(self) -> None:
        """The next mark's time counts from now."""
        self._from = self._now()

    def mark(self, bucket: str, name: str) -> None:
        """What has passed since the mark before was `name`."""
        now = self._now()
        self._spans.append((bucket, name, self._from, now))
        self._from = now

    def collect(self) -> dict[str, dict[str, float]]:
        """Bucket → name → seconds since the last call. The device must be past the last mark."""
        found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for bucket, name, start, end in self._spans:
            found[bucket][name] += _between(start, end)
        self._spans = []
        return found

    def _now(self) -> Moment:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(start: Moment, end: Moment) -> float:
    if isinstance(start, torch.cuda.Event):
        assert isinstance(end, torch.cuda.Event)
        return start.elapsed_time(end) / 1000  # milliseconds
    assert isinstance(end, float)
    return end - start
