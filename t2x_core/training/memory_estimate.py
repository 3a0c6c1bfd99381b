"""The memory of a training step, from shapes alone: nothing is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2x_core.backbone.training_blocks import DEAR, Checkpointing
from t2x_core.data.mixture import MixedData
from t2x_core.free_memory import GIB
from t2x_core.frozen import bytes_of
from t2x_core.module import T2XModule
from t2x_core.optim import state_bytes
from t2x_core.outline import fake_mode, outline_mode
from t2x_core.recipe import Recipe
from t2x_core.training.precision import device_count, trained_parts
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
