"""What a whole run takes, before a weight is there: data, arithmetic, memory, time and energy.

Everything is counted on tensors without content. Times are of a device at a share of its peak, which is assumed
(`SHARE`) unless steps were measured, and are those of training steps alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.free_memory import GIB
from t2x_core.module import T2XModule
from t2x_core.optim import count_parameters
from t2x_core.recipe import CacheConfig, Recipe, TrainerConfig
from t2x_core.training.cache_size import CacheSize
from t2x_core.training.estimate import Example, FrozenPart, Tokens, count_tokens, examples, frozen_parts
from t2x_core.training.flops import Peak, StepFlops, measured_peak, peak, step_flops
from t2x_core.training.gpus import GPUS, Gpu, known_gpu
from t2x_core.training.memory_estimate import Memory, estimate_memory, memory_of
from t2x_core.training.precision import device_count, has_gpu, precision_plugin, resolve_precision
from t2x_core.training.remarks import epochs
from t2x_core.wording import counted

SHARE = 0.4
"""Of its peak that a device is taken to reach: what large networks usually do on a GPU (Chowdhery et al. 2022, arXiv
2204.02311, table 3: 0.2 to 0.46), and the small ones of the quickstarts on a CPU."""
NAMED = ("H100", "A100", "RTX 4090")
"""GPUs for which times are told where there is none."""
LONG = 100.0
"""Seconds of a step from which on nobody would train on the CPU at hand."""


@dataclass(frozen=True)
class BucketPlan:
    """The training steps of one shape."""

    task: str
    frames: int
    height: int
    width: int
    samples: int | None
    """That there are; None: the data is not known yet."""
    batch: int
    """Samples of an optimizer step, on all ranks together."""
    steps: float
    """Optimizer steps of the run, on average over seeds."""
    repeats: float | None
    """How often the run sees each sample."""
    tokens: Tokens
    """Of one sample."""
    flops: StepFlops | None
    """Of an optimizer step, on all ranks together; None: they cannot be counted."""


@dataclass(frozen=True)
class TaskPlan:
    """A task's share of the run."""

    steps: float
    samples: int | None
    held_out: int | None
    epochs: float | None


@dataclass(frozen=True)
class Speed:
    """How fast one device here trains, measured."""

    flops: float
    """Operations per second."""
    steps: int
    """That were measured."""


@dataclass(frozen=True)
class DevicePlan:
    """The run on one kind of device, as many as there are ranks."""

    name: str
    peak_flops: float
    """Operations per second of one device, at most."""
    peak_from: str
    share: float
    """Of the peak that is reached …"""
    share_from: str
    """… and how that is known: "assumed", or how many steps were measured."""
    step_seconds: float
    run_seconds: float
    memory_gib: float | None
    """That one device has."""
    fits: bool | None
    """Whether the run's memory is less than that; None: not known."""
    watts: float | None
    """Most that one board takes."""
    cached: bool
    """Whether this counts on a cache that is filled: nothing is encoded then."""
    energy_kwh: float | None
    """Of all boards at that power for the whole run; hosts and cooling come on top."""


@dataclass(frozen=True)
class Plan:
    """A run, before it runs."""

    steps: int
    ranks: int
    accumulation: int
    precision: str
    parameters: int
    """Of the network with what trains along; frozen parts stand below `frozen`."""
    trained: int
    """Of these, with a gradient."""
    tasks: dict[str, TaskPlan]
    buckets: list[BucketPlan]
    frozen: list[FrozenPart]
    flops: StepFlops | None
    """Of an optimizer step, on all ranks together, on average over the run; None: a part cannot be counted."""
    memory: Memory | None
    """Of one rank."""
    unknown: str
    """Why arithmetic or memory are not known."""
    devices: list[DevicePlan]
    """One, or several to choose from where this machine is too slow."""
    cache: CacheSize | None = None
    """None: the recipe has none, or it was not asked for."""


def make_plan(
    assembly: Assembly,
    module: T2XModule,
    data: MixedData | None,
    gpu: Gpu | None = None,
) -> Plan:
    """The plan of a recipe.

    Args:
        module: with or without content; its weights have the precision of the run afterwards.
        data: checked (`MixedData.check`); None: it is not known yet, and a sample has the recipe's own shape.
        gpu: what it shall run on; None: what there is here.
    """
    recipe, trainer = assembly.recipe, assembly.recipe.trainer
    precision, parts = precision_on(gpu, trainer), ranks(trainer) * trainer.accumulation
    every = list(examples(assembly, module, data))
    tasks = _tasks(recipe, data)
    tokens = [count_tokens(module, one.batch) for one in every]
    frozen = _frozen(module, every, parts)
    unknown = ""
    flops: list[StepFlops] | None = None
    memory: Memory | None = None
    try:
        flops = [step_flops(module, one.batch).times(one.samples) for one in every]
        precision_plugin(precision, trainer.accelerator).convert_module(module)
        if data is not None:
            memory = estimate_memory(module, data, recipe, precision)
        else:
            batches = [one.batch.select([0] * max(1, one.samples // parts)) for one in every]
            memory = memory_of(module, batches, recipe, precision)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        unknown = f"a part reads the values of tensors ({error})"
    turns = {name: sum(one.bucket.count / one.samples for one in every if one.task == name) for name in tasks}
    buckets = [
        _bucket(one, tasks[one.task].steps, turns[one.task], tokens[i], None if flops is None else flops[i])
        for i, one in enumerate(every)
    ]
    mean = _mean(buckets)
    trained, everything = count_parameters(module)
    return Plan(
        trainer.max_steps,
        ranks(trainer),
        trainer.accumulation,
        precision,
        everything,
        trained,
        tasks,
        buckets,
        frozen,
        mean,
        memory,
        unknown,
        [] if mean is None else list(devices_for(recipe, mean, memory, gpu)),
    )


def ranks(trainer: TrainerConfig) -> int:
    """Processes of a run."""
    return device_count(trainer) * trainer.num_nodes


def precision_on(gpu: Gpu | None, trainer: TrainerConfig) -> str:
    """The precision of a run on a GPU that need not be here; None: on what is here."""
    if gpu is None or trainer.precision != "auto":
        return resolve_precision(trainer.precision, trainer.accelerator)
    return "bf16-mixed" if gpu.bf16 else "32-true"


def _tasks(recipe: Recipe, data: MixedData | None) -> dict[str, TaskPlan]:
    whole = sum(task.weight for task in recipe.tasks.values())
    steps = {name: recipe.trainer.max_steps * task.weight / whole for name, task in recipe.tasks.items()}
    if data is None:
        return {name: TaskPlan(number, None, None, None) for name, number in steps.items()}
    train, held_out = data.train_sources(), data.val_sources()
    seen = epochs(recipe.trainer.max_steps, data, train)
    return {name: TaskPlan(steps[name], len(train[name]), len(held_out[name]), seen[name]) for name in steps}


def _frozen(module: T2XModule, every: Iterable[Example], parts: int) -> list[FrozenPart]:
    """Each frozen part at its largest micro-batch: of all tasks, the shape with the most pixels."""
    found: dict[str, FrozenPart] = {}
    largest: dict[str, Example] = {}
    for one in every:
        before = largest.get(one.task)
        if before is None or one.samples * prod(one.batch.shape) > before.samples * prod(before.batch.shape):
            largest[one.task] = one
    for one in largest.values():
        for part in frozen_parts(module, one.batch, max(1, ceil(one.samples / parts))):
            before_part = found.get(part.path, part)
            found[part.path] = replace(part, working_bytes=max(part.working_bytes, before_part.working_bytes))
    return list(found.values())


def _bucket(one: Example, steps: float, turns: float, tokens: Tokens, flops: StepFlops | None) -> BucketPlan:
    """A bucket has a share of its task's steps: its batches, over `turns`, those of all buckets (`BucketSchedule`)."""
    there = one.bucket.count
    own = steps * there / one.samples / turns if turns else steps
    repeats = own * one.samples / there if there else None
    frames, height, width = one.batch.shape
    return BucketPlan(one.task, frames, height, width, there or None, one.samples, own, repeats, tokens, flops)


def _mean(buckets: Sequence[BucketPlan]) -> StepFlops | None:
    whole = sum(bucket.steps for bucket in buckets)
    shares = [(bucket.flops, bucket.steps / whole) for bucket in buckets]
    known = [flops.times(share) for flops, share in shares if flops is not None]
    if len(known) < len(shares):
        return None
    return StepFlops(*(sum(getattr(one, name) for one in known) for name in ("trained", "codec", "text")))


def computed(flops: StepFlops, cache: CacheConfig) -> float:
    """What is left of these operations when a recipe's cache is filled."""
    kept = cache.folder is not None
    codec, text = 0.0 if kept and cache.latents else flops.codec, 0.0 if kept and cache.text else flops.text
    return flops.trained + codec + text


def devices_for(
    recipe: Recipe, flops: StepFlops, memory: Memory | None, gpu: Gpu | None = None, speed: Speed | None = None
) -> Iterator[DevicePlan]:
    """The run on a kind of GPU; without one on what is here, or, where that is too slow, on some of those in `NAMED`.

    Args:
        flops: of an optimizer step, on all ranks together.
        memory: of one rank.
        speed: what was measured here.

    Raises:
        UserError: the GPU has no units for the precision of the run.
    """
    trainer = recipe.trainer
    number, exact = ranks(trainer), recipe.matmul_precision == "highest"
    step = computed(flops, recipe.cache)

    def on(name: str, most: Peak, known: Gpu | None, room: float | None = None) -> DevicePlan:
        share = SHARE if speed is None else speed.flops / most.flops
        seconds = step / number / most.flops / share
        run, watts = seconds * trainer.max_steps, None if known is None else known.watts
        room = known.memory if known is not None and room is None else room
        return DevicePlan(
            name=name,
            peak_flops=most.flops,
            peak_from=most.how,
            share=share,
            share_from="assumed" if speed is None else f"measured in {counted(speed.steps, 'step')}",
            step_seconds=seconds,
            run_seconds=run,
            memory_gib=room,
            fits=None if memory is None or room is None else memory.total <= room * GIB,
            watts=watts,
            cached=step < flops.total,
            energy_kwh=None if watts is None else watts * run * number / 3.6e6,
        )

    def named(one: Gpu) -> DevicePlan | None:
        rate = one.flops(precision_on(one, trainer), exact)
        return None if rate is None else on(one.name, Peak(rate, "data sheet"), one)

    if gpu is not None:
        if (plan := named(gpu)) is None:
            what = f"{precision_on(gpu, trainer)} in {recipe.matmul_precision} precision"
            raise UserError(f"{gpu.name} has no units for {what}", hint="set trainer.precision or matmul_precision")
        yield plan
    elif has_gpu(trainer.accelerator):
        here = torch.device("cuda")
        name, room = torch.cuda.get_device_name(here), torch.cuda.get_device_properties(here).total_memory / GIB
        yield on(name, peak(here, precision_on(None, trainer)), known_gpu(name), room)
    else:
        most = Peak(measured_peak(torch.device("cpu"), torch.float32), "measured")
        if trainer.accelerator == "cpu" or speed is not None or step / number / most.flops / SHARE < LONG:
            yield on("CPU", most, None)
        else:
            yield from filter(None, (named(one) for one in GPUS if one.name in NAMED))
