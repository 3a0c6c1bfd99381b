"""What is saved, when, and for how long."""

from __future__ import annotations

import time
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from t2x_core.checkpoint import best_of, checkpoint_of, checkpoints_of, step_of, write_best
from t2x_core.recipe import Recipe
from t2x_core.training.callbacks.guard import Guard
from t2x_core.training.callbacks.interruption import Interruption
from t2x_core.training.callbacks.validation import Validation
from t2x_core.training.checkpoint_io import SafeCheckpointIO
from t2x_core.training.parallel.agreement import Agreement
from t2x_core.training.steps import Step, StepCallback


class Checkpoints(StepCallback):
    """Saves every n steps, every m minutes, at a new best, on a signal, and at the end; keeps the last k and the best.

    Put it behind all callbacks whose state belongs to the step.
    """

    def __init__(
        self, run: Path, recipe: Recipe, validation: Validation, guard: Guard, interruption: Interruption
    ) -> None:
        self.run, self.logging, self.trainer_config = run, recipe.logging, recipe.trainer
        self.validation, self.guard, self.interruption = validation, guard, interruption
        self._saved = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree = Agreement()
        self._saved = trainer.global_step
        self._saved_at = time.monotonic()
        self._note_best(trainer)  # a kill may have come between a checkpoint and its note

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        minutes = self.logging.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        (waited,) = self._agree(int(late))
        best = self.validation.best_step == step.number
        regular = step.number % self.logging.checkpoint_every == 0 or step.number >= self.trainer_config.max_steps
        if regular or best or waited or self.interruption.signal:
            self.save(trainer)
        if self.interruption.signal:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree.close()
        self.interruption.close()
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Saves this step, unless it is saved or to be rolled back, and removes what is no longer kept."""
        self.guard.settle(trainer)
        if self._saved == trainer.global_step or self.guard.roll_back_to is not None:
            return
        for logger in trainer.loggers:
            logger.save()  # points of steps that are in a checkpoint are not made again
        trainer.save_checkpoint(checkpoint_of(self.run, trainer.global_step))
        self._saved, self._saved_at = trainer.global_step, time.monotonic()
        self._note_best(trainer)
        if trainer.is_global_zero and not self.guard.in_a_row:  # else it may have to go back to one of them
            best = best_of(self.run)
            for old in checkpoints_of(self.run)[: -self.logging.keep_checkpoints]:
                if step_of(old) != best:
                    SafeCheckpointIO().remove_checkpoint(old)

    def _note_best(self, trainer: Trainer) -> None:
        """Which checkpoint is the best, if that one is there and noted otherwise; before an older one is removed."""
        best = self.validation.best_step
        if trainer.is_global_zero and best_of(self.run) != best and checkpoint_of(self.run, best).is_dir():
            write_best(self.run, best, self.validation.best)
