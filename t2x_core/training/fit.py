"""Recipe → Trainer → trained run."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from rich.console import Console

from t2x_core import quarantine
from t2x_core.assembly import Assembly
from t2x_core.backbone.training_blocks import checkpoint_blocks, compile_blocks
from t2x_core.checkpoint import AtomicCheckpointIO, read_checkpoint
from t2x_core.data.mixture import MixedData
from t2x_core.module import T2XModule
from t2x_core.recipe import Recipe
from t2x_core.training import preflight, run_folder
from t2x_core.training.callbacks import Board, Ending, Interruption, Metrics, Progress, Sampling
from t2x_core.training.data_record import check_data
from t2x_core.training.ema import EMA
from t2x_core.training.precision import precision_plugin

log = logging.getLogger("t2x")


@dataclass(frozen=True)
class FitResult:
    """What came of a run."""

    folder: Path
    steps: int
    """Optimizer steps done, those before a resume included."""
    seconds: float
    """Spent on training, sampling included."""
    scores: dict[str, dict[str, float]]
    """Task → what its plugin measured on the last samples."""
    signal: signal.Signals | None
    """The signal that stopped it early, or None."""
    example: str
    """A prompt to try."""


def fit(
    assembly: Assembly,
    module: T2XModule,
    data: MixedData,
    folder: Path,
    *,
    resume: bool = False,
    console: Console | None = None,
    extra: Sequence[Callback] = (),
    started: float | None = None,
) -> FitResult:
    """Trains a recipe in the run folder `folder`.

    Args:
        module, data: what `build_module` and `build_data` made of the assembly.
        resume: go on from the folder's last checkpoint, if it has one.
        console: where the progress bar is drawn.
        extra: further Lightning callbacks.
        started: `time.perf_counter()` when all began, to say how long the first step took to come; default: now.
    """
    started = time.perf_counter() if started is None else started
    data.check()
    check_data(folder, data.fingerprint(), resume)
    data.quarantine.write_to(folder / quarantine.FILE_NAME)
    recipe = assembly.recipe
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    _set_blocks(module, data, recipe)
    checkpoint = folder / run_folder.LAST
    start = checkpoint if resume and checkpoint.is_file() else None

    ema, metrics = EMA(recipe.ema), _metrics(recipe)
    sampling = Sampling(assembly, data, ema, metrics, folder / run_folder.SAMPLES)
    interruption = Interruption(checkpoint, recipe.trainer.accumulation)
    watchers: list[Callback] = [
        ema,
        metrics,
        Ending(checkpoint, recipe.watch.checkpoint_every),
        sampling,
        Board(recipe, folder.name, metrics, sampling),
        Progress(metrics, recipe.trainer.max_steps, console or Console(), started),
        interruption,
        *extra,
    ]
    with warnings.catch_warnings():
        _silence_lightning()
        trainer = build_trainer(recipe, folder, watchers, metrics.clock, first_step=_steps_of(start))
        _announce(trainer, assembly, module, data, folder)
        began = time.perf_counter()
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    stopped = None if interruption.signal is None else signal.Signals(interruption.signal)
    example = next(iter(data.modules.values())).val_conditions(1).captions[0]
    return FitResult(folder, trainer.global_step, time.perf_counter() - began, sampling.scores, stopped, example)


def build_trainer(
    recipe: Recipe, folder: Path, callbacks: list[Callback], profiler: Profiler, *, first_step: int
) -> L.Trainer:
    """The Trainer of a recipe; one Lightning epoch is the whole run."""
    config, watch = recipe.trainer, recipe.watch
    checkpoints: list[Callback] = [
        _keep(ModelCheckpoint, folder / run_folder.BEST, monitor="val/loss"),
        _keep(LastCheckpoint, folder / run_folder.LAST, every_n_train_steps=watch.checkpoint_every),
    ]
    # Points that a killed run wrote after its last checkpoint are hidden when they are written again.
    logger = TensorBoardLogger(folder, name=None, version=run_folder.TENSORBOARD, purge_step=first_step + 1)
    return L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        max_steps=config.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulation,
        val_check_interval=watch.validate_every * config.accumulation,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=recipe.deterministic,
        log_every_n_steps=1,
        callbacks=[*callbacks, *checkpoints],
        plugins=[AtomicCheckpointIO(), precision_plugin(config.precision, config.accelerator)],
        logger=logger,
        profiler=profiler,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=None,
    )


class LastCheckpoint(ModelCheckpoint):
    """Where a validation falls on its step, it saves again afterwards: a resumed run must know the best loss so far."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._last_global_step_saved == trainer.global_step:
            self._save_checkpoint(trainer, self.best_model_path)


def _keep(kind: type[ModelCheckpoint], path: Path, **when: Any) -> ModelCheckpoint:
    """Lightning's checkpoint callback for one file that is replaced each time."""
    return kind(
        path.parent, path.stem, save_top_k=1, auto_insert_metric_name=False, enable_version_counter=False, **when
    )


def _set_blocks(module: T2XModule, data: MixedData, recipe: Recipe) -> None:
    """How the blocks compute while training: compiled, checkpointed, both or as they are."""
    if recipe.trainer.compile:
        compile_blocks(module.backbone, sum(len(task.train_source().buckets()) for task in data.modules.values()))
    if recipe.trainer.gradient_checkpointing:
        checkpoint_blocks(module.backbone)


def _metrics(recipe: Recipe) -> Metrics:
    return Metrics(recipe.watch.log_every, recipe.trainer.accumulation, recipe.trainer.global_batch)


def _steps_of(checkpoint: Path | None) -> int:
    return read_checkpoint(checkpoint)["global_step"] if checkpoint else 0


def _announce(trainer: L.Trainer, assembly: Assembly, module: T2XModule, data: MixedData, folder: Path) -> None:
    device = trainer.accelerator.__class__.__name__.removesuffix("Accelerator")
    log.info("run        %s", folder)
    for line in (*preflight.describe(assembly, module), *data.describe()):
        log.info(line)
    log.info("on         %s × %d, %s", device, trainer.world_size, trainer.precision)


def _silence_lightning() -> None:
    """Its greetings, and advice that does not hold: the sampler is exact on resume, small data needs no workers."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*resuming from a checkpoint that ended before.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*isinstance.treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message)
