"""`t2x fit` against a bare PyTorch loop: what all that t2x does around a training step costs."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from torch import nn

from t2x_core.assembly import Assembly, build_data, build_module
from t2x_core.data.mixture import MixedData
from t2x_core.module import T2XModule
from t2x_core.training.ema import EMA
from t2x_core.training.fit import fit
from t2x_core.training.steps import Step, StepCallback


@dataclass(frozen=True)
class LoopBenchmark:
    """Seconds per optimizer step, block by block; the two loops took turns."""

    fit: list[float]
    bare: list[float]

    @property
    def ratio(self) -> float:
        """Median over neighbouring blocks of (`t2x fit` / bare loop)."""
        return statistics.median(a / b for a, b in zip(self.fit, self.bare, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of that ratio."""
        low, _, high = statistics.quantiles((a / b for a, b in zip(self.fit, self.bare, strict=True)), n=4)
        return low, high


IN_MEMORY = 8
"""Batches that the bare loop keeps if it reads none."""


def bench_fit(assembly: Assembly, blocks: int, steps: int, in_memory: bool = False) -> LoopBenchmark:
    """Trains a recipe by `t2x fit` and by the bare loop in turns of `steps` optimizer steps, `blocks` turns each.

    The bare loop has a loader of its own or, `in_memory`, the same few batches again and again: then the ratio says
    what reading costs, from a cache of latents, say.

    All of `t2x fit` is on: metrics, TensorBoard, log, progress bar, average, checkpoints as the recipe says. The recipe
    should validate and sample no earlier than the end: these are not part of a step. One device.
    """
    module = build_module(assembly)
    data = build_data(assembly, module)
    bare = BareLoop(assembly, in_memory)
    turns = _Rounds(bare, blocks, steps)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        fit(assembly, module, data, Path(folder), console=Console(file=nowhere, force_terminal=True), extra=[turns])
    return LoopBenchmark(turns.fit, turns.bare)


class BareLoop:
    """The same module, loader, optimizer, clipping and average in a loop that somebody would write by hand."""

    def __init__(self, assembly: Assembly, in_memory: bool = False) -> None:
        self.recipe, self.in_memory = assembly.recipe, in_memory
        self.module = build_module(assembly)
        self.data = build_data(assembly, self.module)

    def start(self, device: torch.device, precision: str) -> None:
        """Moves everything to the device; `precision` as Lightning calls it."""
        self.device, self.bf16 = device, precision == "bf16-mixed"
        self.module.to(device).train()
        built = self.module.configure_optimizers()
        self.optimizer, self.schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
        self.weights: list[torch.Tensor] = [p for _, p in self.module.trainable()]
        self.average = [p.detach().clone() for p in self.weights]
        self.ema, self.batches = EMA(self.recipe.ema), self._batches(self.data)
        if self.in_memory:
            self.batches = cycle([batch.to(device) for batch in islice(self.batches, IN_MEMORY)])

    @staticmethod
    def _batches(data: MixedData) -> Iterator[Any]:
        data.prepare_data()
        data.setup("fit")
        return iter(data.train_loader(rank=0, ranks=1, first_step=lambda: 0))

    def steps(self, count: int) -> None:
        """Trains for so many optimizer steps."""
        accumulation = self.recipe.trainer.accumulation
        limit = self.recipe.optimizer.clip_norm
        for _ in range(count):
            for micro in range(accumulation):
                batch = next(self.batches).to(self.device, non_blocking=True)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    loss = self.module.training_step(batch, micro)["loss"]
                (loss / accumulation).backward()
            if limit is not None:
                nn.utils.clip_grad_norm_(self.weights, limit)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.weights, 1 - self.ema.decay())
            self.ema.updates += 1


class _Rounds(StepCallback):
    """Stops the clock of `t2x fit` after each block of steps, and lets the bare loop do a block."""

    def __init__(self, bare: BareLoop, blocks: int, steps: int) -> None:
        self.loop, self.blocks, self.steps = bare, blocks, steps
        self.fit: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, T2XModule)
        self.loop.start(pl_module.device, str(trainer.precision))
        self._done = -self.steps  # the first block of both warms up
        self._began = time.perf_counter()

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        self._done += 1
        if self._done % self.steps:
            return
        self._wait()
        switched = time.perf_counter()
        self.loop.steps(self.steps)
        self._wait()
        finished = time.perf_counter()
        if self._done > 0:
            self.fit.append((switched - self._began) / self.steps)
            self.bare.append((finished - switched) / self.steps)
        trainer.should_stop = len(self.fit) >= self.blocks
        self._began = time.perf_counter()

    def _wait(self) -> None:
        if self.loop.device.type == "cuda":
            torch.cuda.synchronize(self.loop.device)
