"""Pictures while training: sampled from held-out conditions with the averaged weights, shown and scored."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.generation import sample
from t2x_core.module import T2XModule
from t2x_core.rendering import save
from t2x_core.training import tensorboard
from t2x_core.training.callbacks.metrics import Metrics
from t2x_core.training.ema import EMA
from t2x_core.types import Batch

log = logging.getLogger("t2x")

SCORE_BATCH = 32
"""Samples computed at once."""


class Sampling(Callback):
    """Every `watch.sample_every` steps, and at the end: a grid to a file and to TensorBoard, and the scores."""

    def __init__(self, assembly: Assembly, data: MixedData, ema: EMA, metrics: Metrics, folder: Path) -> None:
        self.assembly, self.data, self.ema, self.metrics, self.folder = assembly, data, ema, metrics, folder
        self.watch = assembly.recipe.watch
        self.scores: dict[str, dict[str, float]] = {}
        """Task → its last scores."""
        self._sampled_at = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, every = trainer.global_step, self.watch.sample_every
        if every and step % every == 0 and step not in (self._sampled_at, self.assembly.recipe.trainer.max_steps):
            self.run(trainer, pl_module, self.watch.score_samples)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step >= self.assembly.recipe.trainer.max_steps:
            self.run(trainer, pl_module, self.watch.final_score_samples)

    def run(self, trainer: Trainer, module: LightningModule, score_samples: int) -> None:
        """Samples, shows and scores each task."""
        assert isinstance(module, T2XModule)
        self._sampled_at = trainer.global_step
        start = time.perf_counter()
        with self.ema.applied(module), trainer.precision_plugin.forward_context():
            for name in self.assembly.recipe.tasks:
                self._run_task(trainer, module, name, score_samples)
        self.metrics.skip(time.perf_counter() - start)

    def _run_task(self, trainer: Trainer, module: T2XModule, name: str, score_samples: int) -> None:
        plugin, config = self.assembly.task(name)
        count = max(self.watch.samples, score_samples)
        if not count:
            return
        conditions = self.data.modules[name].val_conditions(count)
        pixels = sample(
            module,
            conditions,
            range(count),
            plugin.bucket(config),
            self.assembly.recipe.diffusion.sampler,
            min(SCORE_BATCH, count),
        )
        step = trainer.global_step
        if self.watch.samples:
            shown = list(range(self.watch.samples))
            self._show(trainer, name, pixels[shown], conditions.select(shown), step)
        scores = plugin.score(pixels[:score_samples], conditions.select(list(range(score_samples))))
        if scores is not None and score_samples:
            self.scores[name] = scores
            self._log(trainer, {f"score/{name}/{what}": value for what, value in scores.items()}, step)
            listed = "  ".join(f"{what} {value:.2f}" for what, value in scores.items())
            log.info("step %d  score of %d %s samples: %s", step, score_samples, name, listed)

    def _show(self, trainer: Trainer, name: str, pixels: torch.Tensor, conditions: Batch, step: int) -> None:
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(exist_ok=True)
        rendered = self.assembly.task(name)[0].render(pixels, conditions)
        save(rendered, self.folder / f"{name}_{step:07d}.png")
        for writer in tensorboard.writers(trainer):
            tensorboard.write_picture(writer, f"samples/{name}", rendered, step)

    @staticmethod
    def _log(trainer: Trainer, figures: Mapping[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(figures), step)
