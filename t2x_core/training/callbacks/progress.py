"""The progress bar on a terminal, or a line every so often where there is none; the same lines go to the log file."""

from __future__ import annotations

import logging
import time

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from t2x_core.training.callbacks.metrics import Metrics
from t2x_core.training.steps import Step, StepCallback

log = logging.getLogger("t2x")


class Progress(StepCallback):
    """Step, loss, speed and the time that is left. Put it behind `Metrics`, whose figures it shows."""

    LINES = 20
    """Lines that a whole run writes to the log."""

    def __init__(self, metrics: Metrics, max_steps: int, console: Console, began: float) -> None:
        self.metrics, self.max_steps, self.console = metrics, max_steps, console
        self.began = began  # all of it, imports included (`time.perf_counter()`)
        self._bar: RichProgress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first_step = time.perf_counter(), trainer.global_step
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self._bar = RichProgress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=self.max_steps, completed=trainer.global_step, figures="")
        self._bar.start()

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        done, figures = step.number, self.metrics.latest
        if done == self._first_step + 1:
            log.info("first step done %.1f s after the start", time.perf_counter() - self.began)
        if self._bar is not None:
            shown = f"loss {figures['loss/total']:.4f}  {figures['speed/samples_per_second']:.0f}/s" if figures else ""
            self._bar.update(self._task, completed=done, figures=shown)
        due = max(1, self.max_steps // self.LINES // self.metrics.every) * self.metrics.every
        if figures and done % due == 0:
            left = (time.perf_counter() - self._started) / (done - self._first_step) * (self.max_steps - done)
            log.info(
                "step %d/%d  loss %.4f  %.0f samples/s  %s left",
                done,
                self.max_steps,
                figures["loss/total"],
                figures["speed/samples_per_second"],
                minutes(left),
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        eval_timer = self.metrics.eval_timer
        whole = eval_timer.training_seconds + eval_timer.seconds
        log.info(
            "validation and sampling took %s of %s (%.1f %%)",
            *(minutes(eval_timer.seconds), minutes(whole), 100 * eval_timer.share),
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def minutes(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
