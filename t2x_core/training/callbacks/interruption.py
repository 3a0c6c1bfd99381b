"""Ctrl-C and SIGTERM: the step ends, a checkpoint is written, training stops."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger("t2x")


class Interruption(Callback):
    """Saves to `checkpoint` and stops after the step in which a signal came; the same signal again kills at once."""

    def __init__(self, checkpoint: Path, accumulation: int) -> None:
        self.checkpoint, self.accumulation = checkpoint, accumulation
        self.signal: int | None = None
        """The signal that came, or None."""
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        log.info("%s: saving after this step (once more to stop at once)", signal.Signals(number).name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.signal is not None and (batch_idx + 1) % self.accumulation == 0:
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
