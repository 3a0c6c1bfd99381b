"""Recipe → Trainer → trained run."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from rich.console import Console
from torch.distributed.fsdp import FSDPModule

from t2x_core import quarantine
from t2x_core.assembly import Assembly, build_module
from t2x_core.backbone.training_blocks import set_blocks
from t2x_core.checkpoint import FOLDER, checkpoints_of, newest, step_of
from t2x_core.data.mixture import MixedData
from t2x_core.data.text import LENGTHS
from t2x_core.errors import TrainingError, UserError
from t2x_core.initial import open_start
from t2x_core.module import T2XModule
from t2x_core.recipe import Recipe, to_plain
from t2x_core.terminal import command
from t2x_core.training import preflight, run_folder
from t2x_core.training.callbacks import (
    Board,
    CacheMisses,
    Checkpoints,
    Guard,
    Interruption,
    Metrics,
    Profile,
    Progress,
    Sampling,
    Validation,
)
from t2x_core.training.check_launch import ALONE
from t2x_core.training.checkpoint_io import SafeCheckpointIO
from t2x_core.training.data_record import check_data
from t2x_core.training.ema import EMA
from t2x_core.training.eval_timer import EvalTimer
from t2x_core.training.event_file import EventLogger
from t2x_core.training.fit_loop import WholeLoop
from t2x_core.training.learning_rate import LearningRate
from t2x_core.training.log import PlainConsole, silence_lightning
from t2x_core.training.parallel import Environment, Launch, Ranks, build_strategy, launched
from t2x_core.training.precision import precision_plugin
from t2x_core.training.steps import Steps

log = logging.getLogger("t2x")


@dataclass(frozen=True)
class FitResult:
    """What came of a run."""

    folder: Path
    steps: int
    """Optimizer steps done, those before a resume included."""
    trained: int
    """Of these, those done now."""
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
    allow: Collection[str] = (),
    console: Console | None = None,
    extra: Sequence[Callback] = (),
    started: float | None = None,
    ranks: Ranks | None = None,
) -> FitResult:
    """Trains a recipe in the run folder `folder`.

    Args:
        module, data: what `build_module` and `build_data` made of the assembly.
        allow: with `resume`, what may differ from before: "data"; keys of the recipe are checked by `check_resume`.
        resume: go on from the folder's last checkpoint, if it has one.
        console: where the progress bar is drawn.
        extra: further Lightning callbacks.
        started: `time.perf_counter()` when all began, to say how long the first step took to come; default: now.
        ranks: the processes of this run, if they have met already; default: they meet here.

    Raises:
        TrainingError: too many steps in a row had to be skipped, and again after going back.
    """
    started = time.perf_counter() if started is None else started
    if ranks is None:
        with Ranks(launched()) as ranks:
            return fit(
                assembly,
                module,
                data,
                folder,
                resume=resume,
                allow=allow,
                console=console,
                extra=extra,
                started=started,
                ranks=ranks,
            )
    data.check()
    ranks.connect(assembly, data, resume=resume)
    ranks.decide(lambda: check_data(folder, data.identities(), resume, allow="data" in allow))
    data.quarantine.write_to(folder / quarantine.FILE_NAME)
    recipe = assembly.recipe
    if resume and ranks.launch.rank == 0 and (folder / run_folder.RECIPE_FILE).is_file():
        run_folder.update_recipe(folder, to_plain(recipe))
    if recipe.trainer.threads is not None:
        torch.set_num_threads(recipe.trainer.threads)
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    _set_blocks(module, data, recipe)
    start = ranks.decide(lambda: _newest(folder) if resume else None)
    ranks.agree(_unseen(ranks, start or folder))
    if start is None or module.base is not None:
        _initialize(module, assembly, folder)
    elif recipe.backbone.weights is not None:
        log.info("weights    %s: not read again, the run goes on from its own %s", recipe.backbone.weights, start.name)

    example = data.val_conditions(next(iter(data.modules)), 1).captions[0]
    first = step_of(start) if start else 0
    if first >= recipe.trainer.max_steps and ranks.decide(lambda: run_folder.finished(folder)) == first:
        return FitResult(folder, first, 0, 0.0, {}, None, example)
    began = time.perf_counter()
    console = console or PlainConsole()
    back_to: int | None = None
    while True:
        run = _train_once(assembly, module, data, folder, start, console, extra, started, ranks.launch)
        if run.guard.roll_back_to is None or run.signal:
            break
        guard, before = run.guard, back_to
        start, back_to = ranks.decide(lambda: _before_the_series(folder, guard, before))  # noqa: B023 (called at once)
        data.attempt += 1
        if any(isinstance(part, FSDPModule) for part in module.modules()):  # which cannot be sharded twice
            module = build_module(assembly)
            _set_blocks(module, data, recipe)
            if module.base is not None:
                _initialize(module, assembly, folder)
        log.info("back to step %d, with other noise and times: attempt %d", back_to, data.attempt)
    stopped = signal.Signals(run.signal) if run.signal else None
    if not stopped and ranks.launch.rank == 0:
        run_folder.note_finished(folder, run.steps)
    seconds = time.perf_counter() - began
    return FitResult(folder, run.steps, run.steps - first, seconds, run.sampling.scores, stopped, example)


@dataclass(frozen=True)
class _Run:
    """One Trainer's work, and what is asked of it afterwards."""

    steps: int
    sampling: Sampling
    signal: int
    """On which all ranks have stopped, or 0."""
    guard: Guard


def _train_once(
    assembly: Assembly,
    module: T2XModule,
    data: MixedData,
    folder: Path,
    start: Path | None,
    console: Console,
    extra: Sequence[Callback],
    started: float,
    launch: Launch,
) -> _Run:
    """Trains from the checkpoint `start`, or from the beginning, until it is done, interrupted or to be rolled back."""
    recipe = assembly.recipe
    ema, eval_timer = EMA(recipe.ema), EvalTimer()
    guard = Guard(recipe.guard, folder / run_folder.NAN_REPORT)
    metrics = Metrics(recipe.logging.log_every, eval_timer)
    interruption = Interruption()
    validation = Validation(data, ema, eval_timer, interruption, every=recipe.logging.validate_every)
    sampling = Sampling(assembly, data, ema, eval_timer, interruption, folder / run_folder.SAMPLES)
    checkpoints = Checkpoints(folder, recipe, validation, guard, interruption)
    watchers: list[Callback] = [
        LearningRate(),
        interruption,
        ema,
        guard,
        metrics,
        *([Profile(folder / run_folder.PROFILE)] if recipe.logging.profile else []),
        validation,
        CacheMisses(validation),
        sampling,
        Board(assembly, folder.name, metrics, validation, sampling),
        Progress(metrics, recipe.trainer.max_steps, console, started),
        checkpoints,
        *extra,
        Steps(),
    ]
    with warnings.catch_warnings():
        silence_lightning()
        first_step = step_of(start) if start else 0
        trainer = build_trainer(recipe, folder, watchers, metrics.clock, first_step=first_step, launch=launch)
        _announce(trainer, assembly, module, data, folder)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        except SystemExit as end:  # Lightning makes one of a signal that comes before `Interruption` is there
            raise end.__context__ or end from None
    return _Run(trainer.global_step, sampling, interruption.signal, guard)


def _before_the_series(folder: Path, guard: Guard, back_to: int | None) -> tuple[Path, int]:
    """The newest checkpoint from before a series of skipped steps, and its step; later ones are set aside.

    Args:
        back_to: the step of the last roll-back, or None.

    Raises:
        TrainingError: there is none, or none that is newer than the last roll-back.
    """
    assert guard.roll_back_to is not None
    first = guard.roll_back_to + 1
    there = checkpoints_of(folder)
    before = [path for path in there if step_of(path) < first]
    if before and step_of(before[-1]) != back_to:
        _set_aside(there[len(before) :], "rolled_back")
        return before[-1], step_of(before[-1])
    why = "there is no checkpoint from before them" if back_to is None else f"again after going back to step {back_to}"
    again = command("t2x", "replay", folder, first)
    raise TrainingError(
        f"{guard.in_a_row} steps in a row were skipped, from step {first} on, and {why}; their norms, losses and "
        f"samples are in {folder / run_folder.NAN_REPORT}, and {again} shows the first"
    )


def build_trainer(
    recipe: Recipe,
    folder: Path,
    callbacks: list[Callback],
    profiler: Profiler,
    *,
    first_step: int,
    launch: Launch = ALONE,
) -> L.Trainer:
    """The Trainer of a recipe; one Lightning epoch is the whole run."""
    config = recipe.trainer
    strategy = build_strategy(recipe)
    checkpoint_io = [SafeCheckpointIO()] if strategy == "auto" else []  # the others bring their own
    # Points that a killed run wrote after its last checkpoint are hidden when they are written again.
    logger = EventLogger(folder, name=None, version=run_folder.TENSORBOARD, purge_step=first_step + 1)
    trainer = L.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy,
        max_steps=config.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=config.accumulation,
        limit_val_batches=0,  # `Validation` does it
        use_distributed_sampler=False,
        deterministic=recipe.deterministic,
        log_every_n_steps=1,
        callbacks=callbacks,
        plugins=[precision_plugin(config.precision, config.accelerator), *checkpoint_io, Environment(launch)],
        default_root_dir=folder / FOLDER,  # where Lightning looks for checkpoints of a SLURM job
        logger=logger,
        profiler=profiler,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=None,
    )
    trainer.fit_loop.__class__ = WholeLoop
    return trainer


def _initialize(module: T2XModule, assembly: Assembly, folder: Path) -> None:
    """The weights that `backbone.weights` names, if any. Who goes to a checkpoint needs them for a LoRA alone."""
    source, wanted = run_folder.first_weights(folder, assembly.recipe)
    if source is not None:
        start = open_start(assembly, module, source)
        if wanted is not None and (found := start.record()["sha256"]) != wanted:
            raise UserError(
                f"{source} is not what the run began with (sha256 {found[:12]}, not {wanted[:12]})",
                hint="put the file back, or start a new run",
            )
        start.load(module)
        for line in start.describe():
            log.info(line)


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint that can be read, or None if the run has none. Damaged ones are set aside."""
    there = checkpoints_of(folder)
    if not there:
        return None
    found, _ = newest(folder, verified=None)
    _set_aside(there[there.index(found) + 1 :], "damaged")
    return found


def _unseen(ranks: Ranks, path: Path) -> str | None:
    """What is wrong if this rank does not see what the first one has made or found."""
    if path.exists():
        return None
    return f"rank {ranks.launch.rank} does not see {path}; put the runs (logging.runs_dir) where all machines see them"


def _set_aside(checkpoints: Sequence[Path], why: str) -> None:
    """Under another name, so that nobody goes on from them."""
    for path in checkpoints:
        path.replace(path.with_name(f"{why}_{path.name}"))


def _set_blocks(module: T2XModule, data: MixedData, recipe: Recipe) -> None:
    """How the blocks compute while training: compiled, checkpointed, both or as they are."""
    shapes = sum(len(task.train_source().buckets()) for task in data.modules.values())
    shapes *= len(LENGTHS) if data.tokenizer is not None and data.tokenizer.encoders else 1
    trainer = recipe.trainer
    if trainer.compile or trainer.gradient_checkpointing:
        chosen = trainer.gradient_checkpointing
        set_blocks(module.backbone, checkpointing=chosen, shapes=shapes if trainer.compile else 0)


def _announce(trainer: L.Trainer, assembly: Assembly, module: T2XModule, data: MixedData, folder: Path) -> None:
    device = trainer.accelerator.__class__.__name__.removesuffix("Accelerator")
    log.info("run        %s", folder)
    for line in preflight.about(assembly, module, data):
        log.info(line)
    log.info("on         %s × %d, %s", device, trainer.world_size, trainer.precision)
