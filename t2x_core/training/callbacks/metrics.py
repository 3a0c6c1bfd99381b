"""The figures of training, averaged between two log points.

A step only keeps references to what it measured, so that it costs next to nothing and waits for no device.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from t2x_core.data.mixture import MixedData
from t2x_core.module import T2XModule
from t2x_core.training.eval_timer import EvalTimer
from t2x_core.training.flops import StepFlops, bucket_name, flops_by_bucket, in_flop, peak
from t2x_core.training.heat_map import LossHistory
from t2x_core.training.loader_clock import LoaderClock
from t2x_core.training.loss_by_t import BINS, figures
from t2x_core.training.memory import memory
from t2x_core.training.step_times import StepTimes
from t2x_core.training.steps import Step, StepCallback
from t2x_core.training.tally import Tally, tally

log = logging.getLogger("t2x")


class Metrics(StepCallback):
    """Loss, also by range of t and by term; gradient norm, also by part; learning rate, speed, MFU, memory, epoch.

    Every `every` steps.

    Norms are root mean squares over the steps since the last point, so the squares of the parts add up to that of the
    whole. A part that only some steps use (a task's adapter) is averaged over these. A point after a resume has the
    steps before it, too, which the checkpoint keeps; its speed is that of the steps since. Speed leaves out validation
    and sampling. What the callbacks before this one do after a step counts as the optimizer's: put it behind `EMA`.

    Attributes:
        latest: the last figures, for whoever shows them.
        histories: task → its loss by step and t.
        clock: the Trainer's profiler, which clocks the wait for data.
    """

    def __init__(self, every: int, eval_timer: EvalTimer) -> None:
        self.every, self.eval_timer = every, eval_timer
        self.latest: dict[str, float] = {}
        self.histories: dict[str, LossHistory] = {}
        self.clock = LoaderClock()
        self._trained_on: dict[str, int] = {}  # task → samples
        self._flops: dict[str, StepFlops] = {}  # bucket → operations of a step
        self._before: Tally | None = None
        """Of the steps between the last point and the checkpoint that was loaded."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Counts the arithmetic, while the network is still whole and on the CPU."""
        assert isinstance(pl_module, T2XModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, MixedData)
        if trainer.is_global_zero:
            self._flops = flops_by_bucket(pl_module, data)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, T2XModule)
        self._tasks = list(pl_module.losses)
        self._sizes = {name: len(s) for name, s in trainer.train_dataloader.dataset.sources.items()}  # type: ignore[union-attr]
        self.histories = {task: self.histories.get(task) or LossHistory(BINS) for task in self._tasks}
        self._parts = pl_module.gradient_parts
        if self._before and (set(self._before.losses), len(self._before.squares)) != (
            set(self._tasks),
            len(self._parts),
        ):
            self._before = None  # other tasks were allowed
        self._times_of_step = StepTimes(trainer.strategy.root_device)
        if self._flops:
            self._peak = peak(trainer.strategy.root_device, str(trainer.precision))
            log.info(
                "compute    %s a step, at most; peak of a device %s/s (%s)",
                *(max(self._flops.values(), key=lambda flops: flops.total), in_flop(self._peak.flops), self._peak.how),
            )
        self.eval_timer.start()
        self._restart(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]  # the schedule moves on before the step's end
        self._bucket = bucket_name(batch)
        self._times_of_step.begin()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._times_of_step.mark(self._bucket, "forward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._times_of_step.mark(self._bucket, "backward")

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        assert isinstance(module, T2XModule)
        self._times_of_step.mark(self._bucket, "optimizer")
        for _, outputs in step.parts:
            self._losses[step.task].append(outputs["losses"])
            self._times[step.task].append(outputs["t"])
            self._tokens += outputs["tokens"]
            for term, values in outputs["terms"].items():
                self._terms.setdefault(f"{step.task}/{term}", []).append(values)
        self._steps[self._bucket] += 1
        samples = sum(len(batch) for batch, _ in step.parts) * trainer.world_size
        self._trained_on[step.task] = self._trained_on.get(step.task, 0) + samples
        self._samples += samples
        assert module.gradient_squares is not None
        self._squares.append(module.gradient_squares)
        if step.number % self.every == 0:
            self._report(trainer)

    def _tally(self, trainer: Trainer) -> Tally:
        """Of the steps since the last point; all ranks call it at once."""
        steps = trainer.global_step - self._since_step
        parts = len(self._parts)
        own = tally(trainer, steps, self._losses, self._times, self._terms, self._squares, parts)
        return own if self._before is None else self._before + own

    def _report(self, trainer: Trainer) -> None:
        found = self._tally(trainer)
        for task, (sums, counts) in found.losses.items():
            self.histories[task].add(trainer.global_step, found.steps, sums, counts)
        self.latest = {
            **figures(found.losses, "loss/total"),
            # with their weights, so that the terms of a task's loss add up to it; alignment is beside it
            **{f"loss/{name}": total / count for name, (total, count) in found.terms.items() if count},
            "optimizer/learning_rate": self._learning_rate,
            **self._gradient_norms(found),
            **self._speed(trainer, trainer.global_step - self._since_step),
            **{f"memory/{whose}": size for whose, size in memory().items()},
            **{f"progress/epoch/{task}": count / self._sizes[task] for task, count in self._trained_on.items()},
        }
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, trainer.global_step)
        self._before = None
        self._restart(trainer)

    def _gradient_norms(self, found: Tally) -> dict[str, float]:
        by_part = zip(self._parts, found.squares, found.used, strict=True)
        return {
            "optimizer/gradient_norm": math.sqrt(sum(found.squares) / found.taken) if found.taken else math.nan,
            **{f"optimizer/gradient_norm/{part}": math.sqrt(square / n) for part, square, n in by_part if n},
        }

    def _speed(self, trainer: Trainer, steps: int) -> dict[str, float]:
        seconds = self.eval_timer.training_seconds - self._since
        waited = self.clock.seconds - self._waited
        by_bucket = self._times_of_step.collect()  # the device is past it: the losses have been read
        return {
            "speed/samples_per_second": self._samples / seconds,
            "speed/steps_per_second": steps / seconds,
            "speed/tokens_per_second": self._tokens * trainer.world_size / seconds,
            "speed/data_wait": waited / seconds,
            "speed/evaluation": self.eval_timer.share,
            "speed/step/data": waited / steps,
            **{
                f"speed/step/{part}": sum(times[part] for times in by_bucket.values()) / steps
                for part in ("forward", "backward", "optimizer")
            },
            **self._mfu(trainer, seconds, {bucket: sum(times.values()) for bucket, times in by_bucket.items()}),
        }

    def _mfu(self, trainer: Trainer, seconds: float, by_bucket: dict[str, float]) -> dict[str, float]:
        """Of all the time, and of the computing time of each bucket's steps, if there are several buckets."""
        if not self._flops:
            return {}
        possible = self._peak.flops * trainer.world_size  # a second
        done = {bucket: self._flops[bucket].total * steps for bucket, steps in self._steps.items()}
        found = {"speed/mfu": sum(done.values()) / seconds / possible}
        if len(self._flops) > 1:
            found |= {f"speed/mfu/{bucket}": flops / by_bucket[bucket] / possible for bucket, flops in done.items()}
        return found

    def _restart(self, trainer: Trainer) -> None:
        self._losses: dict[str, list[Tensor]] = {task: [] for task in self._tasks}  # (B,) each
        self._times: dict[str, list[Tensor]] = {task: [] for task in self._tasks}
        self._terms: dict[str, list[Tensor]] = {}  # "task/term" → (B,) each
        self._squares: list[Tensor] = []  # (parts,) each
        self._steps: Counter[str] = Counter()  # by bucket
        self._since, self._since_step = self.eval_timer.training_seconds, trainer.global_step
        self._waited, self._tokens, self._samples = self.clock.seconds, 0, 0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """All ranks are here."""
        checkpoint["callbacks"][self.state_key]["since_last_point"] = self._tally(trainer).state()

    def state_dict(self) -> dict[str, Any]:
        histories = {task: history.state() for task, history in self.histories.items()}
        return {"trained_on": self._trained_on, "histories": histories, "latest": self.latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._trained_on = dict(state_dict["trained_on"])
        self.latest = dict(state_dict.get("latest", {}))  # checkpoints of before have neither this nor the next
        if since := state_dict.get("since_last_point"):
            self._before = Tally(**since)
        for task, state in state_dict["histories"].items():
            self.histories[task] = LossHistory(BINS)
            self.histories[task].load(state)
