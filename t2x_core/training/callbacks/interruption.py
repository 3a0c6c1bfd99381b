"""Ctrl-C and SIGTERM: noted, for `Checkpoints` to save after the step and to stop."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger("t2x")


class Interruption(Callback):
    """Notes a signal that comes while training; the same signal again kills at once."""

    def __init__(self) -> None:
        self.signal: int = 0
        """The signal that came to this process, or 0."""
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        log.info("%s: saving after this step (once more to stop at once)", signal.Signals(number).name)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
