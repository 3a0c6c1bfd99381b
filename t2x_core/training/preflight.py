"""What a recipe will run, said before it runs: model, batch, length, and an estimate of the memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2x_core.assembly import Assembly, build_module
from t2x_core.backbone.training_blocks import DEAR, Checkpointing
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.free_memory import GIB, free_memory
from t2x_core.frozen import bytes_of
from t2x_core.module import T2XModule
from t2x_core.optim import count_parameters, state_bytes
from t2x_core.outline import fake_mode, outline_mode
from t2x_core.recipe import Recipe, TrainerConfig
from t2x_core.terminal import printable
from t2x_core.training.estimate import cost_lines, example, ranks
from t2x_core.training.failure import TOO_LARGE
from t2x_core.training.first_step import MOST, try_first_step
from t2x_core.training.precision import device_count, has_gpu, precision_plugin, resolve_precision, trained_parts
from t2x_core.training.remarks import remarks
from t2x_core.types import Batch


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


def rehearse(assembly: Assembly, module: T2XModule, data: MixedData) -> list[str]:
    """Loads the first batch, tries a step of it (`try_first_step`), and returns lines on all that would run.

    `data` is checked (`MixedData.check`).
    """
    recipe, trainer = assembly.recipe, assembly.recipe.trainer
    precision = resolve_precision(trainer.precision, trainer.accelerator)
    check_room(module, recipe)
    batch = next(iter(data.train_loader(rank=0, ranks=1, first_step=lambda: 0, workers=min(1, data.workers))))
    frames, height, width = batch.shape
    shape = f"{height}×{width}" if frames == 1 else f"{frames}×{height}×{width}"
    tried = try_first_step(assembly, module, data, batch)  # before the weights have another precision
    try:
        if outline_mode(module.backbone) is None:
            precision_plugin(precision, trainer.accelerator).convert_module(module)
        estimate = estimate_memory(module, data, recipe, precision)
        if outline_mode(module.backbone) is None or has_gpu(trainer.accelerator):
            _check_estimate(estimate, trainer)
        memory = str(estimate)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        memory = f"unknown: a part reads the values of tensors ({error})"
    return [
        *describe(assembly, module),
        *data.describe(),
        *remarks(recipe, module.encoders(), data, assembly.composed.notes),
        *cost_lines(assembly, module, data),
        f'first      {len(batch)} samples of {shape}, such as "{printable(batch.captions[0], 200)}"',
        f"tried      {tried}",
        f"precision  {precision}",
        f"memory     {memory}",
        "all is well up to the first step; nothing was written",
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
    recipe, trainer = assembly.recipe, assembly.recipe.trainer
    module = build_module(assembly, outline=True)
    precision = resolve_precision(trainer.precision, trainer.accelerator)
    parts = ranks(assembly) * trainer.accumulation
    examples = [example(assembly, module, name, None) for name in assembly.tasks]
    batches = [one.batch.select([0] * max(1, one.samples // parts)) for one in examples]
    return [
        *describe(assembly, module),
        *cost_lines(assembly, module),
        f"precision  {precision}",
        f"memory     {memory_of(module, batches, recipe, precision)}",
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


def estimate_memory(module: T2XModule, data: MixedData, recipe: Recipe, precision: str) -> Memory:
    """The memory of training, from one forward pass of the largest micro-batch on tensors without content.

    `data` is checked (`MixedData.check`); `precision` is resolved, "bf16-mixed" say, and the module of that precision
    (`convert_module` of its plugin). Weights that `fsdp2` and `hsdp` gather for a moment are not counted.
    """
    parts = device_count(recipe.trainer) * recipe.trainer.num_nodes * recipe.trainer.accumulation
    return memory_of(module, [_largest(name, data, parts) for name in data.modules], recipe, precision)


def memory_of(module: T2XModule, batches: Sequence[Batch], recipe: Recipe, precision: str) -> Memory:
    """The same from the largest micro-batch of each task."""
    trainer = recipe.trainer
    devices = device_count(trainer)
    ranks = devices * trainer.num_nodes
    shards = {"fsdp2": ranks, "hsdp": trainer.shards or devices}.get(trainer.strategy, 1)
    here = [frozen.part for frozen in module.referenced().values() if frozen.loaded]
    everything = sum(bytes_of(part) for part in (module, *here) if not getattr(part, "runs_on", ""))
    sharded = sum(p.nbytes for part in trained_parts(module) for p in part.parameters())
    trained = [p for _, p in module.trainable()]
    average = 4 * sum(p.numel() for p in trained)  # float32 whatever the weights are
    return Memory(
        weights=everything - sharded + sharded // shards,
        gradients=sum(p.nbytes for p in trained) // shards,
        optimizer=(state_bytes(module.trainable(), recipe.optimizer) + average) // shards,
        activations=max(saved_bytes(module, batch, precision, trainer.gradient_checkpointing) for batch in batches),
    )


def saved_bytes(module: T2XModule, batch: Batch, precision: str, checkpointing: Checkpointing = False) -> int:
    """Bytes that the backward pass of a training step would keep, weights not counted. Nothing is computed.

    With gradient checkpointing: the inputs of all blocks, what is kept outside of them (and, `selective`, of the dear
    products inside), and the inside of the largest, which is there while the backward pass is in it.
    """
    saved = _Saved(module.backbone.blocks if checkpointing else (), DEAR if checkpointing == "selective" else ())
    module.prepare(batch)  # a cache must not keep tensors without content
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision.endswith("-mixed"))
    with outline_mode(module.backbone) or fake_mode() as fake, autocast, saved.watch():
        every = (*module.parameters(), *module.buffers())
        weights = [w if isinstance(w, FakeTensor) else fake.from_tensor(w) for w in every]  # held, as those saved
        with saved_tensors_hooks(saved.note, lambda tensor: tensor):
            module.training_step(batch, 0)
    return saved.most(without={weight.untyped_storage()._cdata for weight in weights})


class _Saved(TorchDispatchMode):
    """What autograd saves, by the block of `blocks` that it belongs to; results of `kept` count as outside.

    A tensor is known by its storage, and held, so that no other takes its place.
    """

    def __init__(self, blocks: Iterable[nn.Module], kept: Collection[Any] = ()) -> None:
        super().__init__()
        self.blocks, self.kept = tuple(blocks), kept
        self._outside: dict[int, Tensor] = {}
        self._inside: list[dict[int, Tensor]] = [{} for _ in self.blocks]
        self._here = self._outside

    def note(self, tensor: Tensor) -> Tensor:
        self._here[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self.kept and self._here is not self._outside:
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._outside[leaf.untyped_storage()._cdata] = leaf
        return out

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Inside, it is known which block is being computed; its inputs count as kept outside of it."""

        def enter(inside: dict[int, Tensor], arguments: tuple[Any, ...]) -> None:
            for argument in arguments:
                if isinstance(argument, Tensor):
                    self.note(argument)
            self._here = inside

        def leave(*_: Any) -> None:
            self._here = self._outside

        hooks = []
        for block, inside in zip(self.blocks, self._inside, strict=True):
            hooks.append(block.register_forward_pre_hook(lambda _, arguments, inside=inside: enter(inside, arguments)))
            hooks.append(block.register_forward_hook(leave))
        try:
            with self if self.kept else nullcontext():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def most(self, without: Collection[int]) -> int:
        """Bytes outside of the blocks and in the one that saves most; `without`: storages that do not count."""
        outside = {*self._outside, *without}
        inside = (_bytes({k: t for k, t in kept.items() if k not in outside}) for kept in self._inside)
        return _bytes({k: t for k, t in self._outside.items() if k not in without}) + max(inside, default=0)


def _bytes(kept: Mapping[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _largest(task: str, data: MixedData, parts: int) -> Batch:
    """A micro-batch (a batch in `parts`) of the bucket with the most pixels in one: one sample, many times."""
    buckets = data.modules[task].train_source().buckets()
    sizes = [max(1, data.batch_size(task, bucket) // parts) for bucket in buckets]
    index = max(
        (i for i, bucket in enumerate(buckets) if bucket.count),
        key=lambda i: sizes[i] * buckets[i].frames * buckets[i].height * buckets[i].width,
    )
    return data.example(task, index).select([0] * sizes[index])


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
