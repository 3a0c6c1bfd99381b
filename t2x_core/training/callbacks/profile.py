"""What each operation of a few steps costs, for whoever wants to see why a step is slow."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile, schedule

from t2x_core.plain_files import written_whole
from t2x_core.training.steps import Step, StepCallback

log = logging.getLogger("t2x")

WAIT, WARM_UP, ACTIVE = 9, 1, 5
"""Optimizer steps that are left out, that only the profiler's own start falls into, and that are recorded."""


class Profile(StepCallback):
    """Records steps 11 to 15 after the start with torch's profiler, on the first rank, into a file of `folder`.

    A run of fewer steps records what it has after step 10, if anything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._profile: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._first_step = trainer.global_step
        on_gpu = trainer.strategy.root_device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=WAIT, warmup=WARM_UP, active=ACTIVE, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._profile.start()

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        if self._profile is None:
            return
        self._profile.step()
        if step.number >= self._first_step + WAIT + WARM_UP + ACTIVE:
            self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, recorded: profile) -> None:
        file = self.folder / f"from_step_{self._first_step + WAIT + WARM_UP + 1}.json"
        try:
            self.folder.mkdir(exist_ok=True)
            with written_whole(file) as beside:
                recorded.export_chrome_trace(str(beside))
        except (OSError, RuntimeError) as error:  # torch's own
            log.warning("the profile is not kept: cannot write %s (%s)", file, error)
            return
        log.info("profile    %s: open it at https://ui.perfetto.dev, or in Chrome at chrome://tracing", file)
