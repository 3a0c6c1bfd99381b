"""What looking at a run costs: the time of validation and sampling, and advice where it is too much."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

log = logging.getLogger("t2x")

SHARE = 0.05
"""More of the time than this, for any one thing, is said to be too much."""


class EvalTimer:
    """The clock of validation and sampling.

    If one of them will take too much of the run, the log says so once, after the first time, and names the setting.
    Nothing is left out by itself: what a run does would then depend on the clock.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """Spent so far, in this process."""
        self._began = time.perf_counter()
        self._clocked: set[str] = set()

    def start(self) -> None:
        """Training begins."""
        self._began = time.perf_counter()

    @property
    def training_seconds(self) -> float:
        """Since the start, without what was spent on validation and sampling."""
        return time.perf_counter() - self._began - self.seconds

    @property
    def share(self) -> float:
        """Part of the time since the start, 0 … 1."""
        return self.seconds / max(self.training_seconds + self.seconds, 1e-9)

    @contextmanager
    def clocked(self, key: str, every: int, steps: int) -> Iterator[None]:
        """The time inside counts as evaluation; the device is waited for.

        Args:
            key: setting of the recipe that says how often it comes.
            every: its value, in optimizer steps; 0: no advice, since it comes only once.
            steps: optimizer steps done in this process.
        """
        _synchronize()  # what has been queued is training
        training, began = self.training_seconds, time.perf_counter()
        try:
            yield
        finally:
            _synchronize()
            took = time.perf_counter() - began
            self.seconds += took
        if every and steps and key not in self._clocked:
            self._clocked.add(key)
            self._advise(key, every, took, training / steps)

    @staticmethod
    def _advise(key: str, every: int, took: float, step: float) -> None:
        """`took`: seconds of one time; `step`: seconds of an optimizer step."""
        share = took / (took + every * step)
        if share > SHARE:
            enough = rounded_up(took * (1 / SHARE - 1) / step)
            log.info(
                "%s: %d takes %.0f %% of the time (%.1f s each time); %d would take %.0f %%",
                *(key, every, 100 * share, took, enough, 100 * took / (took + enough * step)),
            )


def rounded_up(steps: float) -> int:
    """To two digits: 1234 → 1300."""
    unit = 10 ** max(0, math.floor(math.log10(max(steps, 1))) - 1)
    return math.ceil(steps / unit) * unit


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, every part of the module is in eval mode; afterwards each is in the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
