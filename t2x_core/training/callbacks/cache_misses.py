"""What the cache has not and training encodes itself: counted, and said at each validation."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch import LightningModule, Trainer

from t2x_core.module import T2XModule
from t2x_core.training.callbacks.validation import Validation
from t2x_core.training.steps import Step, StepCallback
from t2x_core.wording import counted

log = logging.getLogger("t2x")


class CacheMisses(StepCallback):
    """Put it behind `Validation`, at whose steps it speaks. `cache/missed/…` in TensorBoard counts since the start of
    this process: latents of samples, and texts of each frozen encoder, over all ranks."""

    def __init__(self, validation: Validation) -> None:
        self.validation = validation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, T2XModule)
        if pl_module.cache is not None:
            pl_module.cache.missed.clear()  # by what was tried before training
        self._said = 0.0

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        assert isinstance(module, T2XModule)
        cache = module.cache
        if cache is None or cache.store is None or self.validation.step != step.number:
            return
        names = [*(["latents"] if cache.latents else []), *(cache.text.encoders if cache.text is not None else ())]
        own = torch.tensor([float(cache.missed[name]) for name in names], device=trainer.strategy.root_device)
        counts = dict(zip(names, trainer.strategy.reduce(own, reduce_op="sum").tolist(), strict=True))
        for logger in trainer.loggers:
            logger.log_metrics({f"cache/missed/{name}": count for name, count in counts.items()}, step.number)
        if sum(counts.values()) > self._said:
            self._said = sum(counts.values())
            samples = [counted(round(counts["latents"]), "sample")] if counts.get("latents") else []
            texts = [f"{counted(round(n), 'text')} of {name}" for name, n in counts.items() if n and name != "latents"]
            log.info(
                "step %d  not in the cache, and encoded while training: %s; `t2x cache` encodes them once",
                step.number,
                ", ".join([*samples, *texts]),
            )
