"""One real training step and one look at samples, before anything is written: what a dry run tries."""

from __future__ import annotations

from dataclasses import replace

import torch

from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.interfaces import largest
from t2x_core.module import T2XModule
from t2x_core.optim import count_parameters
from t2x_core.outline import outline_mode
from t2x_core.rendering import check_rendered
from t2x_core.types import Batch

MOST = 100_000_000
"""Parameters of a model whose step is tried; a larger one would take long on a CPU."""


def try_first_step(assembly: Assembly, module: T2XModule, data: MixedData, batch: Batch) -> str:
    """One sample of `batch` forwards and backwards, in float32 on the CPU, and what each task makes of noise in the
    place of a sample: `val_conditions`, `metrics` (so `score`) and `render`. Returns a line on it.

    Raises:
        UserError: one of them failed, or the loss is not finite.
    """
    for name in assembly.tasks:
        try_samples(assembly, module, data, name)
    count = count_parameters(module)[1]
    if count > MOST:
        return f"no step: {count / 1e6:.0f} M parameters are more than {MOST / 1e6:.0f} M; score and render were called"
    if outline_mode(module.backbone) is not None:
        return "no step: pretrained weights are not on this machine; score and render were called"
    one = batch.select([0])
    loss = module.training_step(one, 0)["loss"]
    if not loss.isfinite():
        with assembly.composed.error_location(f"tasks.{batch.task}"):
            raise UserError(f"the loss of the first sample is {loss.item()}")
    loss.backward()
    module.zero_grad(set_to_none=True)
    return f"one sample forwards and backwards: loss {loss.item():.3g}; score and render were called"


def try_samples(assembly: Assembly, module: T2XModule, data: MixedData, name: str, scored: bool = True) -> None:
    """What a task makes of noise in the place of a sample: `val_conditions`, `render` and, if `scored`, its metrics.

    Raises:
        UserError: one of them failed, or `render` returned what cannot be shown.
    """
    task, path = assembly.tasks[name], f"tasks.{name}"
    conditions = replace(data.val_conditions(name, 1), pixels=None)
    with module.calls(path, "bucket"):
        bucket = task.bucket()
    if bucket is None:
        buckets = data.modules[name].train_source().buckets()
        bucket = buckets[largest(buckets)]
    shape = (1, 3, bucket.frames, bucket.height, bucket.width)
    noise = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        with module.calls(path, "render", conditions, task.render):
            check_rendered(task.render(noise, conditions))
        if not scored:
            return
        with module.calls(path, "metrics", conditions, task.metrics):
            metric = task.metrics()
        if metric is not None:
            with module.calls(path, "score", conditions, task.score):
                metric.update(noise, conditions)
                _ = {what: float(value) for what, value in metric.compute().items()}
