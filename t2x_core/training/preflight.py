"""What a recipe will run, said before it runs: model, batch, length, and an estimate of the memory."""

from __future__ import annotations

import torch

from t2x_core.assembly import Assembly, build_module
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.free_memory import GIB, free_memory
from t2x_core.module import T2XModule
from t2x_core.optim import count_parameters, state_bytes
from t2x_core.outline import outline_mode
from t2x_core.recipe import Recipe, TrainerConfig
from t2x_core.terminal import printable
from t2x_core.training.failure import TOO_LARGE
from t2x_core.training.first_step import MOST, try_first_step
from t2x_core.training.memory_estimate import Memory
from t2x_core.training.plan import make_plan
from t2x_core.training.plan_text import cost_lines, memory_line, tokens_lines
from t2x_core.training.precision import device_count, has_gpu
from t2x_core.training.remarks import remarks


def rehearse(assembly: Assembly, module: T2XModule, data: MixedData) -> list[str]:
    """Loads the first batch, tries a step of it (`try_first_step`), and returns lines on all that would run.

    `data` is checked (`MixedData.check`).
    """
    trainer = assembly.recipe.trainer
    check_room(module, assembly.recipe)
    batch = next(iter(data.train_loader(rank=0, ranks=1, first_step=lambda: 0, workers=min(1, data.workers))))
    frames, height, width = batch.shape
    shape = f"{height}×{width}" if frames == 1 else f"{frames}×{height}×{width}"
    tried = try_first_step(assembly, module, data, batch)  # before the weights have another precision
    lines = about(assembly, module, data)
    plan = make_plan(assembly, module, data)
    if plan.memory is not None and (outline_mode(module.backbone) is None or has_gpu(trainer.accelerator)):
        _check_estimate(plan.memory, trainer)
    return [
        *lines,
        *tokens_lines(plan),
        *cost_lines(plan),
        f'first      {len(batch)} samples of {shape}, such as "{printable(batch.captions[0], 200)}"',
        f"tried      {tried}",
        f"precision  {plan.precision}",
        memory_line(plan),
        "all is well up to the first step; nothing was written",
    ]


def about(assembly: Assembly, module: T2XModule, data: MixedData) -> list[str]:
    """Lines on model, length and data; `data` is checked."""
    return [
        *describe(assembly, module),
        *data.describe(),
        *remarks(assembly.recipe, module.encoders(), data, assembly.composed.notes),
    ]


def check_room(module: T2XModule, recipe: Recipe) -> None:
    """UserError if gradients, averages and the optimizer's state are larger than the memory that is free, where they
    take that of the machine; the weights are there already."""
    room = free_memory()
    if room is None or has_gpu(recipe.trainer.accelerator):
        return
    trained = [p for _, p in module.trainable()]
    gradients, average = sum(p.nbytes for p in trained), 4 * sum(p.numel() for p in trained)
    state = state_bytes(module.trainable(), recipe.optimizer)
    shards = device_count(recipe.trainer) if recipe.trainer.strategy in ("fsdp2", "hsdp") else 1
    if (needed := (gradients + average + state) // shards) > room:
        raise UserError(
            f"training needs {needed / GIB:,.1f} GiB besides the weights (gradients {gradients / GIB:,.1f}, optimizer "
            f"and average {(state + average) / GIB:,.1f}), and {room / GIB:,.1f} GiB of memory are free",
            hint=TOO_LARGE,
        )


def _check_estimate(estimate: Memory, trainer: TrainerConfig) -> None:
    """UserError if it is more than there is."""
    if has_gpu(trainer.accelerator):
        room, what = torch.cuda.get_device_properties(0).total_memory, "the device has"
    else:  # where the weights have their memory already
        room, what = (free_memory() or estimate.total) + estimate.weights, "the machine has free"
    if estimate.total > room:
        raise UserError(f"training needs {estimate}; {what} {room / GIB:,.2f} GiB", hint=TOO_LARGE)


def outlook(assembly: Assembly) -> list[str]:
    """Lines on all that would run, as far as the recipe alone says, for one that is not complete yet."""
    module = build_module(assembly, outline=True)
    plan = make_plan(assembly, module, None)
    return [
        *describe(assembly, module),
        *tokens_lines(plan),
        *cost_lines(plan),
        f"precision  {plan.precision}",
        memory_line(plan),
    ]


def build_for_rehearsal(assembly: Assembly) -> T2XModule:
    """The module for `rehearse`: without content if it is large, or if pretrained weights are not on this machine."""
    recipe = assembly.recipe
    outline = build_module(assembly, outline=True)
    parts = (outline, *(frozen.part for frozen in outline.referenced().values()))
    count = sum(p.numel() for part in parts for p in part.parameters())
    there = all(block.at_hand() for block in (recipe.codec, *recipe.text_encoders.values()))
    return build_module(assembly) if there and count <= MOST else outline


def describe(assembly: Assembly, module: T2XModule) -> list[str]:
    """Lines on the model and on the length of the training, without the data."""
    recipe, config = assembly.recipe, module.backbone.config
    trained, everything = count_parameters(module)
    size = f"{everything / 1e6:.2f} M parameters"
    size += "" if trained == everything else f", {trained / 1e6:.2f} M trained"
    shape = f"depth {config.depth}, width {config.width}, {config.heads} heads, patch {config.patch_size}"
    parts = f"{recipe.codec.name} codec"
    parts += "".join(f", {encoder.name} text encoder" for encoder in recipe.text_encoders.values())
    return [
        f"tasks      {', '.join(recipe.tasks)}",
        f"model      PT-DiT, {config.attention} attention, {shape}; {size}",
        f"with       {parts}",
        *(module.base.describe(module) if module.base is not None else ()),
        f"training   {recipe.trainer.max_steps} steps of {_batch(recipe)}",
    ]


def _batch(recipe: Recipe) -> str:
    """ "256 samples (8 devices × 2 nodes × 4 micro-batches of 4)", and what differs for single tasks."""
    trainer = recipe.trainer
    own = [f"{name} {task.global_batch}" for name, task in recipe.tasks.items() if task.global_batch is not None]
    if trainer.tokens_per_step is not None:
        budget = f"about {trainer.tokens_per_step} tokens, in multiples of {trainer.batch_multiple} samples"
        return budget + (f" ({', '.join(own)} samples)" if own else "")
    also = f"; {', '.join(own)}" if own else ""
    devices = trainer.devices
    parts = [f"{devices} devices"] if devices != 1 else []
    parts += [f"{trainer.num_nodes} nodes"] if trainer.num_nodes > 1 else []
    if devices == "auto":
        return f"{trainer.global_batch} samples on all devices there are{also}"
    micro = trainer.global_batch // (devices * trainer.num_nodes * trainer.accumulation)
    parts += [f"{trainer.accumulation} micro-batches"] if trainer.accumulation > 1 else []
    return f"{trainer.global_batch} samples" + (f" ({' × '.join(parts)} of {micro})" if parts else "") + also
