"""The moving average of the weights: what is validated, sampled and kept as the best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from t2x_core.module import T2XModule
from t2x_core.recipe import EMAConfig


class EMA(Callback):
    """Averages everything that is trained, after each optimizer step: w̄ ← decay·w̄ + (1 - decay)·w."""

    def __init__(self, config: EMAConfig) -> None:
        self.config = config
        self.updates = 0
        self.weights: dict[str, Tensor] = {}

    def decay(self) -> float:
        """The decay of the next update; early ones are smaller, so that the start is forgotten."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + self.updates) / (10 + self.updates))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        current = self._current(pl_module)
        if self.weights:  # from a checkpoint
            self.weights = {name: self.weights[name].to(w.device) for name, w in current.items()}
        else:
            self.weights = {name: w.clone() for name, w in current.items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.updates:
            torch._foreach_lerp_(list(self.weights.values()), list(self._current(pl_module).values()), 1 - self.decay())
            self.updates += 1

    @contextmanager
    def applied(self, module: LightningModule) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards its own again, to the last bit."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    def _swap(self, module: LightningModule) -> None:
        for name, w in self._current(module).items():
            mine = self.weights[name].clone()
            self.weights[name].copy_(w)
            w.copy_(mine)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {"updates": self.updates, "weights": self.weights}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.updates, self.weights = checkpoint["ema"]["updates"], checkpoint["ema"]["weights"]

    @staticmethod
    def _current(module: LightningModule) -> dict[str, Tensor]:
        assert isinstance(module, T2XModule)
        return {name: p.detach() for name, p in module.trainable()}
