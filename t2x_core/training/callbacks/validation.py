"""The loss on the fixed held-out samples, with the averaged weights and with the weights as they are."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from t2x_core.data.mixture import KeyedLoader, MixedData
from t2x_core.module import T2XModule
from t2x_core.training.callbacks.interruption import Interruption
from t2x_core.training.ema import EMA
from t2x_core.training.eval_timer import EvalTimer, evaluating
from t2x_core.training.loss_by_t import figures, sums_by_t
from t2x_core.training.steps import Step, StepCallback

log = logging.getLogger("t2x")


class Validation(StepCallback):
    """Two passes over the set every `every` optimizer steps, and after the last one.

    The noise and the time of a validation sample are its own, so the figure is the same function of the weights each
    time, whatever the number of ranks (to rounding). It is no Lightning loop, since it comes after an optimizer step
    and before that step's checkpoint, and since every rank makes the same number of forward passes.

    Put it behind `EMA` and before whatever saves.

    Attributes:
        latest: tag → figure of the last validation: `val/…` of the averaged weights, `val_raw/…` of those trained.
        best: the lowest `val/loss` so far.
        best_step: optimizer step of that one; -1 before the first.
        step: optimizer step of the last validation; -1 before the first.
    """

    def __init__(
        self, data: MixedData, ema: EMA, eval_timer: EvalTimer, interruption: Interruption, *, every: int
    ) -> None:
        self.data, self.ema, self.eval_timer, self.every = data, ema, eval_timer, every
        self.interruption = interruption
        self.latest: dict[str, float] = {}
        self.best, self.best_step = math.inf, -1
        self.step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = self.data.val_batches(trainer.global_rank, trainer.world_size)
        self._loader: KeyedLoader | None = self.data.val_loader(self._batches)
        self._first_step = trainer.global_step
        if self._first_step and self.step != self._first_step:  # a signal came before it
            self._run_if_due(trainer, pl_module, self._first_step)

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        self._run_if_due(trainer, module, step.number)

    def _run_if_due(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        if (step % self.every == 0 or step == trainer.max_steps) and not self.interruption.signal:
            with self.interruption.leaving(module):
                self.run(trainer, module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loader = None  # its worker processes end

    def run(self, trainer: Trainer, module: LightningModule) -> None:
        """Validates, and reports."""
        assert isinstance(module, T2XModule)
        step = trainer.global_step
        again = self.every if step < trainer.max_steps else 0
        with (
            self.eval_timer.clocked("logging.validate_every", again, step - self._first_step),
            evaluating(module),
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
        ):
            with self.ema.applied(module):
                averaged = self._losses(trainer, module, "val/")
            found = {**averaged, **self._losses(trainer, module, "val_raw/")}
        self.step, self.latest = step, found
        loss, raw = self.latest["val/loss"], self.latest["val_raw/loss"]
        if loss < self.best:
            self.best, self.best_step = loss, step
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, self.step)
        log.info("step %d  validation loss %.4f (%.4f without the average)", self.step, loss, raw)

    def _losses(self, trainer: Trainer, module: T2XModule, prefix: str) -> dict[str, float]:
        """One pass over the set."""
        assert self._loader is not None
        device, tasks = trainer.strategy.root_device, list(module.losses)
        sums = {task: sums_by_t([], [], device) for task in tasks}
        for batch, counted in zip(self._loader, self._batches.counted, strict=True):
            outputs = module.training_step(trainer.strategy.batch_to_device(batch), 0)
            if counted:
                sums[batch.task] += sums_by_t([outputs["losses"]], [outputs["t"]], device)
        over_ranks = trainer.strategy.reduce(torch.stack([sums[task] for task in tasks]), reduce_op="sum")
        return figures(dict(zip(tasks, over_ranks.tolist(), strict=True)), "loss", prefix)

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest, "best": self.best, "best_step": self.best_step, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.latest, self.step = dict(state_dict["latest"]), state_dict["step"]
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
