"""Signals that ask training to stop: the step ends, `Checkpoints` saves, and nothing long is begun before."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from t2x_core.module import T2XModule
from t2x_core.signals import ECHO, STOPPING
from t2x_core.training.parallel.agreement import Agreement
from t2x_core.training.steps import Step, StepCallback

log = logging.getLogger("t2x")

AT_ONCE = (signal.SIGINT, signal.SIGTERM)
"""A second one of these ends the process at once. Others may come several times: a terminal that closes, a cluster."""


class _LeaveError(Exception):
    """What is under way is left."""


class Interruption(StepCallback):
    """Notes a signal of `STOPPING`, and lets all ranks know it at the same place. Put it first."""

    def __init__(self) -> None:
        self.signal: int = 0
        """The signal on which all ranks have agreed to stop, or 0."""
        self._noted, self._noted_at = 0, 0.0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree = Agreement()
        for number in STOPPING:
            if number in AT_ONCE or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores SIGHUP
                self._before[number] = signal.signal(number, self._note)

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        self._poll()

    def close(self) -> None:
        """Waits for the exchange between ranks that is under way; called on all of them."""
        self._agree.close()

    @contextmanager
    def leaving(self, module: LightningModule) -> Iterator[None]:
        """The block is left at the first forward pass of the backbone after a signal; on all ranks at the same."""
        assert isinstance(module, T2XModule)

        def check(*_: Any) -> None:
            self._poll()
            if self.signal:
                raise _LeaveError

        hook = module.backbone.register_forward_pre_hook(check, prepend=True)
        try:
            yield
        except _LeaveError:
            pass
        finally:
            hook.remove()

    def _poll(self) -> None:
        """All ranks call it the same number of times."""
        (found,) = self._agree(self._noted)
        self.signal = self.signal or found

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted == 0:
            self._noted, self._noted_at = number, time.monotonic()
            more = " (once more to stop at once)" if number in AT_ONCE else ""
            log.info("%s: saving after this step%s", signal.Signals(number).name, more)
        elif number in AT_ONCE and time.monotonic() - self._noted_at > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
