"""What a recipe will run, said before it runs: model, batch, length, and an estimate of the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.interfaces import Source
from t2x_core.module import T2XModule
from t2x_core.optim import count_parameters, state_bytes
from t2x_core.recipe import Recipe
from t2x_core.training.precision import resolve_precision
from t2x_core.types import Batch, SampleKey

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while training; what a kernel takes for a moment comes on top."""

    weights: int
    """All parameters and buffers, frozen ones included."""
    gradients: int
    optimizer: int
    """The optimizer's averages, and the moving average of the weights."""
    activations: int
    """What the backward pass needs of one micro-batch, of the bucket that needs most."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer and average": self.optimizer,
            "activations": self.activations,
        }
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        return f"about {self.total / GIB:.2f} GiB a device: {listed}"


def check_devices(recipe: Recipe) -> None:
    """UserError if the recipe asks for hardware that is not there."""
    trainer = recipe.trainer
    if trainer.accelerator == "cpu":
        return
    gpus = torch.cuda.device_count()
    if trainer.accelerator == "gpu" and not gpus:
        raise UserError("torch sees no GPU", key="accelerator", hint="set it to cpu, or auto")
    if gpus and trainer.devices != "auto" and trainer.devices > gpus:
        raise UserError(f"there are {gpus} GPUs here, not {trainer.devices}", key="devices")


def rehearse(assembly: Assembly, module: T2XModule, data: MixedData) -> list[str]:
    """Loads the first batch, and returns lines on all that would run. `data` is checked (`MixedData.check`)."""
    recipe = assembly.recipe
    precision = str(resolve_precision(recipe.trainer.precision, recipe.trainer.accelerator))
    batch = next(iter(data.train_loader(rank=0, ranks=1, first_step=lambda: 0)))
    assert batch.pixels is not None
    frames, height, width = batch.pixels.shape[2:]
    shape = f"{height}×{width}" if frames == 1 else f"{frames}×{height}×{width}"
    try:
        memory = str(estimate_memory(module, data, recipe, precision))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        memory = f"cannot be told: a part looks at the content of tensors ({error})"
    return [
        *describe(assembly, module),
        *data.describe(),
        f'first      {len(batch)} samples of {shape}, such as "{batch.captions[0]}"',
        f"precision  {precision}",
        f"memory     {memory}",
        "all is well up to the first step; nothing was written",
    ]


def describe(assembly: Assembly, module: T2XModule) -> list[str]:
    """Lines on the model and on the length of the training, without the data."""
    recipe, config = assembly.recipe, module.backbone.config
    trained, everything = count_parameters(module)
    size = f"{everything / 1e6:.2f} M parameters"
    size += "" if trained == everything else f", {trained / 1e6:.2f} M trained"
    shape = f"depth {config.depth}, width {config.width}, {config.heads} heads, patch {config.patch_size}"
    parts = f"{recipe.codec.name} codec"
    parts += f", {recipe.text_encoder.name} text encoder" if recipe.text_encoder else ""
    return [
        f"tasks      {', '.join(recipe.tasks)}",
        f"model      PT-DiT, {config.attention} attention, {shape}; {size}",
        f"with       {parts}",
        f"training   {recipe.trainer.max_steps} steps of {_batch(recipe)}",
    ]


def estimate_memory(module: T2XModule, data: MixedData, recipe: Recipe, precision: str) -> Memory:
    """The memory of training, from one forward pass of the largest micro-batch on tensors without content.

    `data` is checked (`MixedData.check`); `precision` is resolved, "bf16-mixed" say.
    """
    ranks = 1 if recipe.trainer.devices == "auto" else recipe.trainer.devices * recipe.trainer.num_nodes
    size = max(1, recipe.trainer.global_batch // (ranks * recipe.trainer.accumulation))
    everything = sum(p.nbytes for p in (*module.parameters(), *module.buffers()))
    trained = sum(p.nbytes for _, p in module.trainable())
    batches = [_largest(name, task.train_source(), size) for name, task in data.modules.items()]
    activations = max(saved_bytes(module, batch, precision) for batch in batches)
    optimizer = state_bytes(module.trainable(), recipe.optimizer)
    return Memory(everything, trained, optimizer + trained, activations)


def saved_bytes(module: T2XModule, batch: Batch, precision: str) -> int:
    """Bytes that the backward pass of a training step would keep, weights not counted. Nothing is computed."""
    kept: dict[int, tuple[int, Any]] = {}  # by storage; the tensor is held so that no other takes its place

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes(), tensor
        return tensor

    with torch.no_grad():
        module.backbone.prepare(module.encode(batch.select([0])))  # a cache must not keep tensors without content
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, autocast:
        weights = {fake.from_tensor(w).untyped_storage()._cdata for w in (*module.parameters(), *module.buffers())}
        with saved_tensors_hooks(note, lambda tensor: tensor):
            module.training_step(batch, 0)
    return sum(size for storage, (size, _) in kept.items() if storage not in weights)


def _largest(task: str, source: Source, size: int) -> Batch:
    """A micro-batch of the bucket with the most pixels: one sample, many times."""
    buckets = source.buckets()
    index = max(
        (i for i, bucket in enumerate(buckets) if bucket.count),
        key=lambda i: buckets[i].frames * buckets[i].height * buckets[i].width,
    )
    sample = source[SampleKey(task, index, 0, 0, 0)]
    return source.collate([sample] * size)


def _batch(recipe: Recipe) -> str:
    """ "256 samples (8 devices × 2 nodes × 4 micro-batches of 4)"."""
    trainer = recipe.trainer
    devices = trainer.devices
    parts = [f"{devices} devices"] if devices != 1 else []
    parts += [f"{trainer.num_nodes} nodes"] if trainer.num_nodes > 1 else []
    if devices == "auto":
        return f"{trainer.global_batch} samples on all devices there are"
    micro = trainer.global_batch // (devices * trainer.num_nodes * trainer.accumulation)
    parts += [f"{trainer.accumulation} micro-batches"] if trainer.accumulation > 1 else []
    return f"{trainer.global_batch} samples" + (f" ({' × '.join(parts)} of {micro})" if parts else "")
