"""The parts of TensorBoard that are no lines: layout, recipe, system, hyper-parameters and results, heat maps."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from t2x_core.assembly import Assembly
from t2x_core.recipe import to_plain
from t2x_core.training import run_folder, tensorboard
from t2x_core.training.callbacks.metrics import Metrics
from t2x_core.training.callbacks.sampling import Sampling
from t2x_core.training.callbacks.validation import Validation
from t2x_core.training.heat_map import draw_heat_map
from t2x_core.training.steps import Step, StepCallback


class Board(StepCallback):
    """Writes them at the start, and the heat maps of the loss after each validation and at the end.

    Put it behind `Metrics`, `Validation` and `Sampling`, whose last figures are the results. A resumed run writes a
    text again only if it is another one than before.
    """

    def __init__(
        self, assembly: Assembly, run: str, metrics: Metrics, validation: Validation, sampling: Sampling
    ) -> None:
        self.recipe, self.packages, self.run = assembly.recipe, assembly.packages, run
        self.metrics, self.validation, self.sampling = metrics, validation, sampling
        self._texts: dict[str, str] = {}
        self._drawn_at = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        texts = {
            "recipe": tensorboard.code_block(to_plain(self.recipe)),
            "system": tensorboard.code_block(run_folder.environment(self.packages)),
        }
        for writer in tensorboard.writers(trainer):
            for tag, text in texts.items():
                if text != self._texts.get(tag):
                    writer.add_text(tag, text, trainer.global_step + 1)  # the first step that it holds for
            if not self._texts:
                writer.add_custom_scalars(tensorboard.layout(list(self.recipe.tasks)))
                tensorboard.write_hyperparameters(writer, tensorboard.hyperparameters(self.recipe), self.run)
        self._texts = texts

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        if self.validation.step == step.number:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)
        if trainer.global_step >= self.recipe.trainer.max_steps:
            for logger in trainer.loggers:
                logger.log_metrics(self.results(), trainer.global_step)

    def results(self) -> dict[str, float]:
        """What runs are compared by: the first columns of the tab "HParams"."""
        return {
            **({"final/best_val_loss": self.validation.best} if self.validation.best < math.inf else {}),
            **({"final/loss": self.metrics.latest["loss/total"]} if self.metrics.latest else {}),
            **{
                f"final/score/{task}/{what}": value
                for task, scores in self.sampling.scores.items()
                for what, value in scores.items()
            },
        }

    def _draw(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self._drawn_at:
            return
        self._drawn_at = step
        for writer in tensorboard.writers(trainer):
            for task, history in self.metrics.histories.items():
                image = draw_heat_map(history, f"{task}: training loss by t")
                tensorboard.write_image(writer, f"loss_by_t/{task}", image, step)

    def state_dict(self) -> dict[str, Any]:
        return {"texts": self._texts, "drawn_at": self._drawn_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._texts, self._drawn_at = state_dict["texts"], state_dict["drawn_at"]
