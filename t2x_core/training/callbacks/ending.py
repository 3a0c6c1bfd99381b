"""The last step of a run is saved, whatever the steps between two checkpoints."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from t2x_core.training.callbacks.guard import Guard


class Ending(Callback):
    """Saves to `checkpoint` when training ends, unless the last step has just been saved. Put it before `Sampling`.

    What the guard is about to roll back is not saved.
    """

    def __init__(self, checkpoint: Path, every: int, guard: Guard) -> None:
        self.checkpoint, self.every, self.guard = checkpoint, every, guard

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step % self.every and self.guard.roll_back_to is None:
            trainer.save_checkpoint(self.checkpoint)
