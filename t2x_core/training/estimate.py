"""What one training sample of each shape costs, counted on tensors without content: tokens, windows, frozen parts."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2x_core.assembly import Assembly, batch_size, sample_bucket
from t2x_core.backbone.windows import Windows, resolve_window
from t2x_core.data.mixture import MixedData
from t2x_core.free_memory import GIB
from t2x_core.frozen import Frozen, bytes_of
from t2x_core.module import T2XModule
from t2x_core.outline import fake_mode, outline_mode
from t2x_core.types import Batch, Bucket, LatentShape, SampleKey


@dataclass(frozen=True)
class Example:
    """A training sample of a bucket, and how many of them a step takes."""

    task: str
    bucket: Bucket
    batch: Batch
    """Of one sample."""
    samples: int
    """Of an optimizer step."""


def examples(assembly: Assembly, module: T2XModule, data: MixedData | None) -> Iterator[Example]:
    """One of each bucket of each task; without `data` (checked), an empty one of the recipe's own shape."""
    for name in assembly.tasks:
        if data is None:
            yield _empty_example(assembly, module, name)
            continue
        for index, bucket in enumerate(data.modules[name].train_source().buckets()):
            if bucket.count:
                yield Example(name, bucket, data.example(name, index), data.batch_size(name, bucket))


def _empty_example(assembly: Assembly, module: T2XModule, name: str) -> Example:
    bucket, task = sample_bucket(assembly, module, name), assembly.tasks[name]
    with module.calls(f"tasks.{name}", "conditions"):
        conditions = task.conditions(["a caption"])
    shape = (bucket.frames, bucket.height, bucket.width)
    batch = replace(
        conditions,
        keys=(SampleKey(name, 0, 0, 0, 0),),
        pixels=torch.zeros(1, 3, *shape),
        shape=shape,
    )
    return Example(name, bucket, module.with_text(batch), batch_size(assembly.recipe, module)(name, bucket))


@dataclass(frozen=True)
class Tokens:
    """The tokens of one sample."""

    latents: tuple[int, ...]
    """(C, F', H', W')."""
    grid: tuple[int, int, int]
    """(f, h, w)."""
    window: tuple[int, int, int] | None
    """(pf, ph, pw); None: dense attention."""
    windows: int | None
    """M, of the plain cut."""
    padding: float | None
    """Share of the windows' slots that hold no token, in the plain cut …"""
    shifted_padding: float | None
    """… and in the shifted one."""

    @property
    def count(self) -> int:
        """N."""
        return prod(self.grid)

    def __str__(self) -> str:
        channels, *cells = self.latents
        text = f"latents {channels}×{times(cells)} → {times(self.grid)} = {self.count:,} tokens"
        return text if self.window is None else f"{text} in {self.windows} windows of {times(self.window)}"


def count_tokens(module: T2XModule, batch: Batch) -> Tokens:
    """The tokens of a batch of one sample, and how the network cuts them into windows."""
    backbone = module.backbone
    config = backbone.config
    with torch.no_grad(), outline_mode(backbone) or fake_mode():
        encoded = module.encode(batch)
        assert encoded.latents is not None
        conditioning, _ = module.conditionings(encoded, LatentShape(*encoded.latents.shape[1:]))
    latents, axis = tuple(encoded.latents.shape[1:]), conditioning.frame_axis
    grid = (latents[1], latents[2] // config.patch_size, latents[3] // config.patch_size)
    if config.attention == "dense":
        return Tokens(latents, grid, None, None, None, None)
    layout = backbone.layout(grid, torch.device("cpu"), axis)
    window, padding = (
        resolve_window(config.window, grid, axis.window),
        (_padding(layout.plain), _padding(layout.shifted)),
    )
    return Tokens(latents, grid, window, layout.plain.shape[0], *padding)


def _padding(windows: Windows) -> float:
    return 0.0 if windows.valid is None else 1 - windows.valid.float().mean().item()


def times(shape: Iterable[int]) -> str:
    """ "1×64×64"."""
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class FrozenPart:
    """A part that is not trained."""

    path: str
    """In the recipe."""
    parameters: int
    dtype: str
    device: str
    """Where it runs; "": where the training does."""
    bytes: int
    """Of its weights."""
    working_bytes: int
    """That it needs besides while it encodes a micro-batch."""

    def __str__(self) -> str:
        place = f" on {self.device}" if self.device else ""
        size = f"{self.parameters / 1e6:,.1f} M parameters in {self.dtype}, {self.bytes / GIB:.2f} GiB{place}"
        return f"{self.path}: {size}, and {self.working_bytes / GIB:.2f} GiB while it works"


def frozen_parts(module: T2XModule, batch: Batch, samples: int) -> Iterator[FrozenPart]:
    """Each part that is not trained, has weights, and is loaded.

    Args:
        batch: of one sample.
        samples: of a micro-batch.
    """
    several = batch.select([0] * samples)
    for path, part in module.referenced().items():
        if not part.loaded:  # what it makes is in the cache
            continue
        if not (taken := bytes_of(part.part)):
            continue
        number = sum(p.numel() for p in part.part.parameters())
        dtype = getattr(getattr(part.part, "config", None), "dtype", "") or str(part.dtype).removeprefix("torch.")
        work = working_bytes(module, path, part, several)
        yield FrozenPart(path, number, dtype, getattr(part.part, "runs_on", ""), taken, work)


def working_bytes(module: T2XModule, path: str, part: Frozen[Any], batch: Batch) -> int:
    """The most that tensors take at a time while a frozen part works, its weights not counted."""
    mode = outline_mode(module.backbone) or outline_mode(part.part) or fake_mode()
    with torch.no_grad(), mode, _PeakBytes() as found:
        if path == "codec":
            module.encode(batch)
        else:
            module.encode_frozen(path.partition(".")[2], batch)
    return found.most


class _PeakBytes(TorchDispatchMode):
    """Keeps account of the memory of what operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._tensors: dict[int, int] = {}
        """Storage → tensors that use it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata in self._tensors or storage._cdata not in before:
                    self._note(leaf, storage._cdata, storage.nbytes())
        return out

    def _note(self, tensor: Tensor, storage: int, size: int) -> None:
        if storage not in self._tensors:
            self._tensors[storage] = 0
            self.now += size
            self.most = max(self.most, self.now)
        self._tensors[storage] += 1
        weakref.finalize(tensor, self._drop, storage, size)

    def _drop(self, storage: int, size: int) -> None:
        self._tensors[storage] -= 1
        if not self._tensors[storage]:
            del self._tensors[storage]
            self.now -= size
