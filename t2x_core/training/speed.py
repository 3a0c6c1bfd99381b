"""How fast a recipe trains here: a few real steps, in a folder that is removed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.training.fit import fit
from t2x_core.training.plan import Plan, Speed, computed
from t2x_core.training.plan_text import shape_of
from t2x_core.training.steps import Step, StepCallback

WARM_UP = 3
"""Steps before the clock starts."""


def measure_speed(recipe: str, overrides: Sequence[str], plan: Plan, steps: int) -> Speed:
    """Trains a recipe for some steps, and says how fast that was.

    The steps are those of `t2x fit`, with reading and all, on one device: it does by accumulation what all ranks would
    do, so what they tell each other is left out. A cache that is not filled makes it slower.

    Args:
        plan: of this recipe, with its operations.
    """
    last = WARM_UP + steps + 1
    never = [f"logging.{key}={last}" for key in ("validate_every", "sample_every", "checkpoint_every")]
    alone = ["trainer.devices=1", "trainer.num_nodes=1", "trainer.strategy=auto", "trainer.shards=null"]
    parts = f"trainer.accumulation={plan.accumulation * plan.ranks}"
    assembly = load_assembly(recipe, [*overrides, *never, *alone, parts, f"trainer.max_steps={last}"])
    module, cache = build_module(assembly), assembly.recipe.cache
    clock = _Clock(
        steps,
        {
            (bucket.task, *shape_of(bucket)): computed(bucket.flops, cache)
            for bucket in plan.buckets
            if bucket.flops is not None
        },
    )
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        data = build_data(assembly, module)
        fit(assembly, module, data, Path(folder), console=Console(file=nowhere), extra=[clock])
    return Speed(clock.flops / clock.seconds, steps)


class _Clock(StepCallback):
    """Clocks steps behind the warm-up, and ends the training."""

    def __init__(self, steps: int, flops: Mapping[tuple[Any, ...], float]) -> None:
        self.steps, self._flops_of = steps, flops
        self.flops = self.seconds = self._before = 0.0

    def on_optimizer_step(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        now = time.perf_counter()
        if step.number > WARM_UP:
            self.flops += self._flops_of[step.task, *step.shape]
            self.seconds += now - self._before
        self._before = now
        trainer.should_stop = step.number >= WARM_UP + self.steps
