"""Steps whose gradient would spoil the weights: skipped, reported, and if they do not end, rolled back."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from t2x_core.module import T2XModule
from t2x_core.optim import StepGate
from t2x_core.recipe import GuardConfig
from t2x_core.training.steps import Step, StepCallback

log = logging.getLogger("t2x")


@dataclass(frozen=True)
class _Judged:
    """An optimizer step, as it was judged; only references, so that a good one costs nothing."""

    step: Step
    squares: Tensor
    """(parts of the network,) squared norms."""
    verdict: Tensor
    """(3,) of `StepGate.verdict`, on its way to the CPU."""
    arrived: torch.cuda.Event | None
    """When it is there; None: it is."""


class Guard(StepCallback):
    """Installs a `StepGate`, and writes each step that it skipped to `file`, one JSON line.

    The verdict on a step is read when the next one has been handed to the device, always exactly then, so that nothing
    waits and all ranks do the same; before a checkpoint and at the end, the last one too. After `max_skips` bad steps
    in a row training stops with `roll_back_to` set. Put it before all callbacks that save.

    A line has the step (counted from 1, as everywhere that people read), attempt, reason (nan, infinity, spike), task,
    bucket, shape, loss, gradient norm, the running mean that it is compared with, norms by part, and the samples of all
    ranks and micro-batches. Numbers that are not finite are the strings "nan", "inf" and "-inf".
    """

    def __init__(self, config: GuardConfig, file: Path) -> None:
        self.config, self.file = config, file
        self.in_a_row = 0
        """Bad steps since the last good one."""
        self.roll_back_to: int | None = None
        """Steps done before a series of bad ones that was too long; None: there was none."""
        self._before_series = 0
        self._norms: dict[str, tuple[float, float]] = {}
        self._unread: _Judged | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, T2XModule)
        self.gate = StepGate(trainer.optimizers[0], list(pl_module.losses), self.config.spike, self.config.grace)
        if self._norms:
            self.gate.load_state_dict(self._norms)
        pl_module.gate, self._network = self.gate, pl_module.gradient_parts

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.gate.task = batch.task

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        assert isinstance(module, T2XModule)
        assert module.gradient_squares is not None
        judged = _Judged(step, module.gradient_squares, *_to_cpu(self.gate.verdict))
        self.settle(trainer)
        self._unread = judged

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.settle(trainer)
        series = {"in_a_row": self.in_a_row, "before_series": self._before_series}
        checkpoint["guard"] = {**series, "norms": self.gate.state_dict()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["guard"]
        self.in_a_row, self._before_series = state["in_a_row"], state["before_series"]
        self._norms = dict(state["norms"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, T2XModule)
        pl_module.gate = None

    def settle(self, trainer: Trainer) -> None:
        """Looks at the verdict that has not been looked at; on all ranks, where it is the same.

        Who saves calls it first, and saves nothing if `roll_back_to` is set then.
        """
        judged, self._unread = self._unread, None
        if judged is None:
            return
        if judged.arrived is not None:
            judged.arrived.synchronize()
        bad, norm, mean = judged.verdict.tolist()
        if not bad:
            self.in_a_row = 0
            return
        samples = _gathered(trainer, judged.step)
        if _is_overflow(trainer, norm, samples):
            return
        first = judged.step.parts[0][0].keys[0]
        if not self.in_a_row:
            self._before_series = first.step
        self.in_a_row += 1
        losses = [sample["loss"] for sample in samples]
        line = {
            "step": first.step + 1,
            "attempt": first.attempt,
            "reason": "nan" if math.isnan(norm) else "infinity" if math.isinf(norm) else "spike",
            "task": first.task,
            "bucket": first.bucket,
            "shape": list(judged.step.shape),
            "loss": sum(losses) / len(losses),
            "gradient_norm": norm,
            "running_mean": mean or None,
            "norms": dict(zip(self._network, judged.squares.sqrt().tolist(), strict=True)),
            "samples": samples,
            "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        if trainer.is_global_zero:
            self._report(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n")
        log.info(
            "step %d  skipped (%d in a row): gradient norm %.3g%s, loss %.4g; its samples are in %s",
            *(line["step"], self.in_a_row, norm, f", {norm / mean:.0f} times the usual" if norm < math.inf else ""),
            *(line["loss"], self.file.name),
        )
        if self.in_a_row >= self.config.max_skips and self.roll_back_to is None:
            self.roll_back_to = self._before_series
            trainer.should_stop = True

    def _report(self, line: str) -> None:
        size = self.file.stat().st_size if self.file.exists() else 0
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:  # a full disk is no reason to end the training
            log.warning("%s cannot be written: %s", self.file, error.strerror)
            with suppress(OSError):
                os.truncate(self.file, size)


def _to_cpu(verdict: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy that nobody waits for, and the event at which it is there."""
    if not verdict.is_cuda:
        return verdict, None
    there = torch.empty_like(verdict, device="cpu", pin_memory=True).copy_(verdict, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return there, arrived


def _gathered(trainer: Trainer, step: Step) -> list[dict[str, Any]]:
    """The samples of all ranks' micro-batches, in the order of their slots."""
    own = [
        {"slot": key.slot, "id": key.id, "t": t, "loss": loss, "caption": caption}
        for batch, outputs in step.parts
        for key, t, loss, caption in zip(
            batch.keys, outputs["t"].tolist(), outputs["losses"].tolist(), batch.captions, strict=True
        )
    ]
    shares: list[list[dict[str, Any]]] = [own]
    if trainer.world_size > 1:
        shares = [[] for _ in range(trainer.world_size)]
        dist.all_gather_object(shares, own)
    return sorted((sample for share in shares for sample in share), key=lambda sample: sample["slot"])


def _is_overflow(trainer: Trainer, norm: float, samples: list[dict[str, Any]]) -> bool:
    """Whether only the loss scale of 16-mixed was too large, which mends itself; below 1 it mends nothing any more."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or math.isfinite(norm) or scaler.get_scale() < 1:
        return False
    return all(math.isfinite(sample["loss"]) for sample in samples)


def _plain(value: Any) -> Any:
    """As JSON has it: what is not finite becomes a string."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
