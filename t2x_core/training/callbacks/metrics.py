"""The figures of training, averaged between two log points.

A step only keeps references to what it measured, so that it costs next to nothing and waits for no device.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from t2x_core.module import T2XModule
from t2x_core.training.heat_map import LossHistory
from t2x_core.training.loader_clock import LoaderClock
from t2x_core.training.memory import memory

log = logging.getLogger("t2x")

BINS = 10
"""The loss is also reported for this many equal ranges of t."""


class Metrics(Callback):
    """Loss, also by range of t; gradient norm, also by part; learning rate, speed, memory, epoch: every `every` steps.

    Norms are root mean squares over the steps since the last point, so the squares of the parts add up to that of the
    whole. A part that only some steps use (a task's adapter) is averaged over these. Speed leaves out validation and
    sampling.

    Attributes:
        latest: the last figures, for whoever shows them.
        best: the lowest validation loss so far.
        histories: task → its loss by step and t.
        clock: the Trainer's profiler, which tells how long data was waited for.
    """

    def __init__(self, every: int, accumulation: int, global_batch: int) -> None:
        self.every, self.accumulation, self.global_batch = every, accumulation, global_batch
        self.latest: dict[str, float] = {}
        self.histories: dict[str, LossHistory] = {}
        self.clock = LoaderClock()
        self.best = math.inf
        self._trained_on: dict[str, int] = {}  # task → samples

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, T2XModule)
        self._tasks = list(pl_module.losses)
        self._sizes = {name: len(s) for name, s in trainer.train_dataloader.dataset.sources.items()}  # type: ignore[union-attr]
        self.histories = {task: self.histories.get(task) or LossHistory(BINS) for task in self._tasks}
        self._parts = pl_module.gradient_parts
        self._restart(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.skip(time.perf_counter() - self._paused)
        loss = trainer.callback_metrics["val/loss"].item()
        self.best = min(self.best, loss)
        for logger in trainer.loggers:  # Lightning itself is one step behind
            logger.log_metrics({"val/loss": loss}, trainer.global_step)
        log.info("step %d  validation loss %.4f", trainer.global_step, loss)

    def skip(self, seconds: float) -> None:
        """Time that was not spent on training (sampling)."""
        self._seconds_off += seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]  # the schedule moves on before the step's end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, T2XModule)
        self._losses[batch.task].append(outputs["losses"])
        self._times[batch.task].append(outputs["t"])
        self._tokens += outputs["tokens"]
        if (batch_idx + 1) % self.accumulation:
            return
        self._trained_on[batch.task] = self._trained_on.get(batch.task, 0) + self.global_batch
        assert pl_module.gradient_squares is not None
        self._squares.append(pl_module.gradient_squares)
        if trainer.global_step % self.every == 0:
            self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        steps = trainer.global_step - self._since_step
        self.latest = {
            **self._mean_losses(trainer, steps),
            "optimizer/learning_rate": self._learning_rate,
            **self._gradient_norms(steps),
            **self._speed(trainer, steps),
            **{f"memory/{whose}": size for whose, size in memory().items()},
            **{f"progress/epoch/{task}": count / self._sizes[task] for task, count in self._trained_on.items()},
        }
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, trainer.global_step)
        self._restart(trainer)

    def _mean_losses(self, trainer: Trainer, steps: int) -> dict[str, float]:
        found: dict[str, float] = {}
        device = trainer.strategy.root_device
        own = torch.stack([sums_by_t(self._losses[task], self._times[task], device) for task in self._tasks])
        by_task = dict(zip(self._tasks, trainer.strategy.reduce(own, reduce_op="sum").tolist(), strict=True))
        for task, (sums, counts) in by_task.items():
            self.histories[task].add(trainer.global_step, steps, sums, counts)
            if len(by_task) > 1 and sum(counts):
                found[f"loss/{task}"] = sum(sums) / sum(counts)
            for i in range(BINS):
                if counts[i]:
                    found[f"loss_by_t/{task}/{i / BINS:.1f}-{(i + 1) / BINS:.1f}"] = sums[i] / counts[i]
        total, samples = (sum(sum(pair[which]) for pair in by_task.values()) for which in (0, 1))
        return {"loss/total": total / samples if samples else math.nan, **found}

    def _gradient_norms(self, steps: int) -> dict[str, float]:
        all_steps = torch.stack(self._squares).double()  # (steps, parts)
        finite = all_steps.isfinite().all(1, keepdim=True)  # other steps were skipped
        all_steps = all_steps.where(finite, 0)
        squares, used = torch.stack([all_steps.sum(0), (all_steps != 0).sum(0)]).tolist()
        taken = int(finite.sum())
        by_part = zip(self._parts, squares, used, strict=True)
        return {
            "optimizer/gradient_norm": math.sqrt(sum(squares) / taken) if taken else math.nan,
            **{f"optimizer/gradient_norm/{part}": math.sqrt(square / n) for part, square, n in by_part if n},
        }

    def _speed(self, trainer: Trainer, steps: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._since - self._seconds_off
        return {
            "speed/samples_per_second": steps * self.global_batch / seconds,
            "speed/steps_per_second": steps / seconds,
            "speed/tokens_per_second": self._tokens * trainer.world_size / seconds,
            "speed/data_wait": (self.clock.seconds - self._waited) / seconds,
        }

    def _restart(self, trainer: Trainer) -> None:
        self._losses: dict[str, list[Tensor]] = {task: [] for task in self._tasks}  # (B,) each
        self._times: dict[str, list[Tensor]] = {task: [] for task in self._tasks}
        self._squares: list[Tensor] = []  # (parts,) each
        self._since, self._since_step, self._seconds_off = time.perf_counter(), trainer.global_step, 0.0
        self._waited, self._tokens = self.clock.seconds, 0

    def state_dict(self) -> dict[str, Any]:
        histories = {task: history.state() for task, history in self.histories.items()}
        return {"best": self.best, "trained_on": self._trained_on, "histories": histories}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self._trained_on = state_dict["best"], dict(state_dict["trained_on"])
        for task, state in state_dict["histories"].items():
            self.histories[task] = LossHistory(BINS)
            self.histories[task].load(state)


def sums_by_t(losses: Sequence[Tensor], times: Sequence[Tensor], device: torch.device) -> Tensor:
    """From losses and times, (B,) each: the sum of the losses and the number of samples of each bin of t, (2, BINS)."""
    sums = torch.zeros(2, BINS, dtype=torch.float64, device=device)
    if losses:
        values = torch.cat(list(losses)).double()
        index = (torch.cat(list(times)) * BINS).long().clamp(max=BINS - 1)
        finite = values.isfinite()  # a step with others was skipped
        sums.index_add_(1, index, torch.stack([values.where(finite, 0), finite.double()]))
    return sums
