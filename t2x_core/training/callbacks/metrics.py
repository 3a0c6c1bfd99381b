"""The figures of training, averaged between two log points without a device sync in between."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from t2x_core.module import T2XModule

log = logging.getLogger("t2x")

RANGES = 4
"""The loss is also reported for this many equal ranges of t."""


class Metrics(Callback):
    """Loss, loss by range of t, learning rate, gradient norm, samples per second: to the loggers every `every` steps.

    `latest` holds the last figures for whoever shows them.
    """

    def __init__(self, every: int, accumulation: int, global_batch: int) -> None:
        self.every, self.accumulation, self.global_batch = every, accumulation, global_batch
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sums = torch.zeros(2, RANGES, device=pl_module.device, dtype=torch.float64)  # loss, samples
        self._norm = torch.zeros((), device=pl_module.device)
        self._restart_clock(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.skip(time.perf_counter() - self._paused)
        loss = trainer.callback_metrics["val/loss"].item()
        for logger in trainer.loggers:
            logger.log_metrics({"val/loss": loss}, trainer.global_step)  # Lightning itself is one step behind
        log.info("step %d  validation loss %.4f", trainer.global_step, loss)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def skip(self, seconds: float) -> None:
        """Time that was not spent on training (sampling)."""
        self._seconds_off += seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]  # the schedule moves on before the step's end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, T2XModule)
        self._add(outputs["losses"], outputs["t"])
        if (batch_idx + 1) % self.accumulation:
            return
        if pl_module.gradient_norm is not None:
            self._norm += pl_module.gradient_norm
        if trainer.global_step % self.every == 0:
            self._report(trainer)

    def _add(self, losses: Tensor, t: Tensor) -> None:
        index = (t * RANGES).long().clamp(max=RANGES - 1)
        self._sums[0].index_add_(0, index, losses.double())
        self._sums[1].index_add_(0, index, torch.ones_like(losses, dtype=torch.float64))

    def _report(self, trainer: Trainer) -> None:
        sums, counts = trainer.strategy.reduce(self._sums, reduce_op="sum").tolist()
        steps = trainer.global_step - self._since_step
        seconds = time.perf_counter() - self._since - self._seconds_off
        self.latest = {
            "loss/total": sum(sums) / sum(counts),
            **{
                f"loss_by_t/{i / RANGES:.2f}-{(i + 1) / RANGES:.2f}": sums[i] / counts[i]
                for i in range(RANGES)
                if counts[i]
            },
            "optimizer/learning_rate": self._learning_rate,
            "optimizer/gradient_norm": self._norm.item() / steps,
            "speed/samples_per_second": steps * self.global_batch / seconds,
        }
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, trainer.global_step)
        self._sums.zero_()
        self._norm.zero_()
        self._restart_clock(trainer)

    def _restart_clock(self, trainer: Trainer) -> None:
        self._since, self._since_step, self._seconds_off = time.perf_counter(), trainer.global_step, 0.0
