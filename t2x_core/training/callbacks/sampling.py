"""Images while training: sampled from held-out conditions with the averaged weights, shown and scored."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.interfaces import Metric
from t2x_core.module import T2XModule
from t2x_core.rendering import check_rendered, save_all
from t2x_core.sampling import sample
from t2x_core.training import tensorboard
from t2x_core.training.callbacks.interruption import Interruption
from t2x_core.training.ema import EMA
from t2x_core.training.eval_timer import EvalTimer, evaluating
from t2x_core.training.prompts import prompt_conditions, task_shape
from t2x_core.training.run_folder import finished
from t2x_core.training.steps import Step, StepCallback
from t2x_core.types import Batch, Bucket, RenderedSamples

log = logging.getLogger("t2x")

SCORE_BATCH = 32
"""Samples computed at once."""


class Sampling(StepCallback):
    """Every `logging.sample_every` steps, and at the end: a grid to a file and to TensorBoard, and the scores.

    The ranks share the work, a batch each; the first one scores and writes.
    """

    def __init__(
        self,
        assembly: Assembly,
        data: MixedData,
        ema: EMA,
        eval_timer: EvalTimer,
        interruption: Interruption,
        folder: Path,
    ) -> None:
        self.assembly, self.data, self.ema, self.eval_timer, self.folder = assembly, data, ema, eval_timer, folder
        self.interruption, self.logging = interruption, assembly.recipe.logging
        self.scores: dict[str, dict[str, float]] = {}
        """Task → its last scores."""
        self._sampled_at = -1

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        self._run_if_due(trainer, module, step.number)

    def _run_if_due(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        every = self.logging.sample_every
        if every and step % every == 0 and step < trainer.max_steps and not self.interruption.signal:
            with self.interruption.leaving(module):
                self.run(trainer, module, self.logging.score_samples)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = trainer.global_step
        if self._first_step and self._first_step not in (self._sampled_at, finished(self.folder.parent)):
            self._run_if_due(trainer, pl_module, self._first_step)  # a signal came before it

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step >= trainer.max_steps and not self.interruption.signal:
            with self.interruption.leaving(pl_module):
                self.run(trainer, pl_module, self.logging.final_score_samples)

    def run(self, trainer: Trainer, module: LightningModule, score_samples: int) -> None:
        """Samples, shows and scores each task."""
        assert isinstance(module, T2XModule)
        step = trainer.global_step
        again = self.logging.sample_every if step < trainer.max_steps else 0
        with (
            self.eval_timer.clocked("logging.sample_every", again, step - self._first_step),
            evaluating(module),
            self.ema.applied(module),
            trainer.precision_plugin.forward_context(),
        ):
            for name in self.assembly.recipe.tasks:
                self._run_task(trainer, module, name, score_samples)
                self._run_prompts(trainer, module, name)
        self._sampled_at = step

    def state_dict(self) -> dict[str, Any]:
        return {"sampled_at": self._sampled_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sampled_at = state_dict["sampled_at"]

    def _run_task(self, trainer: Trainer, module: T2XModule, name: str, score_samples: int) -> None:
        count = max(self.logging.samples, score_samples)
        if not count:
            return
        conditions = self.data.val_conditions(name, count)
        bucket = Bucket(*conditions.shape) if conditions.shape else task_shape(self.assembly, module, self.data, name)
        metric = self.assembly.task(name).metrics() if score_samples else None
        shown: list[Tensor] = []
        for chosen, pixels in self._sample(trainer, module, conditions, bucket):
            if not trainer.is_global_zero:
                continue
            if kept := [i for i, j in enumerate(chosen) if j < self.logging.samples]:
                shown.append(pixels[kept])
            scored = [i for i, j in enumerate(chosen) if j < score_samples]
            if metric is not None and scored:
                with self._logged(name, "metrics"):
                    metric.update(pixels[scored], conditions.select([chosen[i] for i in scored]))
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        if shown:
            with self._logged(name, "render"):
                self._show(trainer, name, torch.cat(shown), conditions.select(list(range(self.logging.samples))), step)
        if metric is not None:
            with self._logged(name, "metrics"):
                self._score(trainer, name, metric, score_samples, step)

    def _run_prompts(self, trainer: Trainer, module: T2XModule, name: str) -> None:
        """The user's own prompts, sample i from seed i."""
        asked = prompt_conditions(self.assembly, module, self.data, name)
        if asked is None:
            return
        shown = [pixels for _, pixels in self._sample(trainer, module, *asked)]
        if trainer.is_global_zero:
            with self._logged(name, "render"):
                self._show(trainer, name, torch.cat(shown), asked[0], trainer.global_step, "_prompts")

    @contextmanager
    def _logged(self, name: str, method: str) -> Iterator[None]:
        """Inside, a plugin's mistake is logged, and training goes on."""
        try:
            with self.data.calls(f"tasks.{name}", method):
                yield
        except UserError as error:
            log.warning("%s", error)

    def _score(self, trainer: Trainer, name: str, metric: Metric, count: int, step: int) -> None:
        scores = {what: float(value) for what, value in metric.compute().items()}
        if not scores:
            return
        self.scores[name] = scores
        self._log(trainer, {f"score/{name}/{what}": value for what, value in scores.items()}, step)
        listed = "  ".join(f"{what} {value:.2f}" for what, value in scores.items())
        log.info("step %d  score of %d %s samples: %s", step, count, name, listed)

    def _sample(
        self, trainer: Trainer, module: T2XModule, conditions: Batch, bucket: Bucket
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Indices of conditions, and pixels (n, 3, F, H, W) on the CPU of their samples; sample i from seed i.

        The i-th batch is the same for any number of ranks, so its images are, to the last bit. In each round every
        rank computes one, the last batch again where there are not enough, so that all make the same forward passes.
        """
        count, ranks = len(conditions), trainer.world_size
        size = min(SCORE_BATCH, count)
        batches = [[min(i, count - 1) for i in range(start, start + size)] for start in range(0, count, size)]
        settings, preview = self.assembly.recipe.diffusion.sampler, trainer.global_step < trainer.max_steps
        for first in range(0, len(batches), ranks):
            mine = batches[min(first + trainer.global_rank, len(batches) - 1)]
            part = sample(module, conditions.select(mine), mine, bucket, settings, size, preview)  # (size, 3, F, H, W)
            if ranks > 1:
                part = trainer.strategy.all_gather(part).flatten(0, 1)  # (ranks · size, …)
            new = range(first * size, min((first + ranks) * size, count))
            yield list(new), part[: len(new)].cpu()

    def _show(self, trainer: Trainer, name: str, pixels: Tensor, conditions: Batch, step: int, which: str = "") -> None:
        """To files and TensorBoard; `which`: behind the task's name there."""
        rendered = self.assembly.task(name).render(pixels, conditions)
        check_rendered(rendered)
        try:
            self.folder.mkdir(exist_ok=True)
            save_all(rendered, self.folder / f"{name}{which}_{step:07d}")
        except (OSError, UserError) as error:  # a full disk is no reason to end the training
            log.warning("step %d  samples are not kept: %s", step, error)
        for writer in tensorboard.writers(trainer):
            tensorboard.write_image(writer, f"samples/{name}{which}", rendered, step)
            if rendered.still is not None and len(rendered.frames) > 1:
                still = RenderedSamples(rendered.still.unsqueeze(0))
                tensorboard.write_image(writer, f"samples/{name}{which}/still", still, step)

    @staticmethod
    def _log(trainer: Trainer, figures: Mapping[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(figures), step)
