"""The moving average of the weights: what is validated, sampled and kept as the best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from t2x_core.module import T2XModule
from t2x_core.recipe import EMAConfig
from t2x_core.sharding import local
from t2x_core.tensor_files import StoredTensor
from t2x_core.training.steps import Step, StepCallback


class EMA(StepCallback):
    """Averages everything that is trained, after each optimizer step: w̄ ← decay·w̄ + (1 - decay)·w.

    In float32 at least, as an average in bfloat16 would stand still; of sharded weights each rank averages its rows.
    """

    def __init__(self, config: EMAConfig) -> None:
        self.config = config
        self.updates = 0
        self.weights: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor | StoredTensor] = {}

    def decay(self) -> float:
        """The decay of the next update; early ones are smaller, so that the start is forgotten."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + self.updates) / (10 + self.updates))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = {name: w.to(_wide(w.dtype), copy=True) for name, w in self._current(pl_module).items()}
        for name, saved in self._loaded.items():
            mine = self.weights[name]
            local(mine).copy_(local(saved.like(mine)) if isinstance(saved, StoredTensor) else saved)
        self._loaded = {}

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        average = [local(w) for w in self.weights.values()]
        current = [local(w).to(_wide(w.dtype)) for w in self._current(module).values()]
        torch._foreach_lerp_(average, current, 1 - self.decay())
        self.updates += 1

    @contextmanager
    def applied(self, module: LightningModule) -> Iterator[None]:
        """Inside, the module has the averaged weights; afterwards its own again, to the last bit."""
        _give_up_gathered(module)
        own = {name: local(w).clone() for name, w in self._current(module).items()}
        self._put(module, self.weights)
        try:
            yield
        finally:
            self._put(module, own)

    def _put(self, module: LightningModule, weights: dict[str, Tensor]) -> None:
        _give_up_gathered(module)
        for name, w in self._current(module).items():
            local(w).copy_(local(weights[name]))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {"updates": self.updates, "weights": self.weights}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.updates, self._loaded = checkpoint["ema"]["updates"], checkpoint["ema"]["weights"]

    @staticmethod
    def _current(module: LightningModule) -> dict[str, Tensor]:
        assert isinstance(module, T2XModule)
        return {name: p.detach() for name, p in module.trainable()}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _give_up_gathered(module: LightningModule) -> None:
    """Sharded weights that a forward pass has left gathered are given up: the copy would go on with the old values."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
