"""How long training waits for data."""

from __future__ import annotations

import time

from lightning.pytorch.profilers import Profiler


class LoaderClock(Profiler):
    """Adds up the time between asking the loader for a training batch and having it.

    Lightning notifies its profiler when it asks for a batch. On a GPU the process runs ahead of the device, and a wait
    costs time only if the device has run out of work meanwhile: the figure is then an upper bound.
    """

    ACTION = "[_TrainingEpochLoop].train_dataloader_next"

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        """Waited so far."""
        self._asked = 0.0

    def start(self, action_name: str) -> None:
        if action_name == self.ACTION:
            self._asked = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == self.ACTION:
            self.seconds += time.perf_counter() - self._asked

    def summary(self) -> str:
        return ""
