"""The last step of a run is saved, whatever the steps between two checkpoints."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class Ending(Callback):
    """Saves to `checkpoint` when training ends, unless the last step has just been saved. Put it before `Sampling`."""

    def __init__(self, checkpoint: Path, every: int) -> None:
        self.checkpoint, self.every = checkpoint, every

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step % self.every:
            trainer.save_checkpoint(self.checkpoint)
