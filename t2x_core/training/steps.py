"""When an optimizer step is done: the one place that knows it, whatever the number of micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from t2x_core.types import Batch


@dataclass(frozen=True)
class Step:
    """An optimizer step that is done."""

    number: int
    """Counted from 1, as people read it: optimizer steps done, this one included."""
    parts: list[tuple[Batch, dict[str, Any]]]
    """This rank's micro-batches, without pixels, each with what `training_step` returned."""
    shape: tuple[int, ...]
    """(F, height, width) of the samples, in pixels."""

    @property
    def task(self) -> str:
        """The task of all its samples."""
        return self.parts[0][0].task


class StepCallback(Callback):
    """A callback that acts once for each optimizer step."""

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        """Called by `Steps` after each optimizer step, on all ranks, in the order of the Trainer's callbacks."""


class Steps(Callback):
    """Calls `on_optimizer_step` of every `StepCallback`. Put it last: others have seen the step then."""

    def __init__(self) -> None:
        self._parts: list[tuple[Batch, dict[str, Any]]] = []
        self._done = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Counts the micro-batches before the checkpoint anew: it may have been written with another accumulation."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            for name in ("ready", "started", "processed", "completed"):
                counts[name] = checkpoint["global_step"] * trainer.accumulate_grad_batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parts, self._done = [], trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        kept = {name: outputs[name] for name in ("losses", "terms", "t", "tokens")}
        self._parts.append((batch.without_tensors(), kept))
        if trainer.global_step == self._done:
            return
        step = Step(trainer.global_step, self._parts, tuple(batch.shape))
        self._parts, self._done = [], trainer.global_step
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StepCallback):
                callback.on_optimizer_step(trainer, pl_module, step)
