"""What a training step of a recipe costs, before a weight is there: tokens, arithmetic, memory and time.

Everything is counted on tensors without content. Times are of a device at `SHARE` of its peak, and so an estimate.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2x_core.assembly import Assembly, batch_size, sample_bucket
from t2x_core.backbone.windows import resolve_window
from t2x_core.data.mixture import MixedData
from t2x_core.free_memory import GIB
from t2x_core.frozen import Frozen, bytes_of
from t2x_core.module import T2XModule
from t2x_core.outline import fake_mode, outline_mode
from t2x_core.source import largest
from t2x_core.training.flops import PEAKS, in_flop, measured_peak, peak, step_flops
from t2x_core.training.precision import device_count, has_gpu, resolve_precision
from t2x_core.types import Batch, LatentShape, SampleKey

SHARE = 0.4
"""Of its peak that a device is taken to reach: what large networks usually do on a GPU (Chowdhery et al. 2022, arXiv
2204.02311, table 3: 0.2 to 0.46), and the small ones of the quickstarts on a CPU."""
NAMED = ("H100 80GB HBM3", "A100", "RTX 4090")
"""GPUs for which times are told where there is none."""
LONG = 100.0
"""Seconds of a step from which on nobody would train on the CPU at hand."""


@dataclass(frozen=True)
class Example:
    """A training sample of a task, and how many of them a step takes."""

    batch: Batch
    """Of one sample."""
    samples: int
    """Of an optimizer step."""


def example(assembly: Assembly, module: T2XModule, name: str, data: MixedData | None) -> Example:
    """A sample of the largest shape of a task; without `data` (checked), an empty one of the recipe's own shape."""
    if data is not None:
        buckets = data.modules[name].train_source().buckets()
        index = largest(buckets)
        return Example(data.example(name, index), data.batch_size(name, buckets[index]))
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
    return Example(module.with_text(batch), batch_size(assembly.recipe, module)(name, bucket))


def cost_lines(assembly: Assembly, module: T2XModule, data: MixedData | None = None) -> list[str]:
    """Lines on tokens, frozen parts, arithmetic and time of a step of each task."""
    recipe = assembly.recipe
    lines, flops = [], {}
    for name in assembly.tasks:
        one = example(assembly, module, name, data)
        flops[name] = step_flops(module, one.batch).times(one.samples)
        prefix = f"{name}: " if len(assembly.tasks) > 1 else ""
        lines.append(f"tokens     {prefix}{tokens(module, one.batch)}; {one.samples} samples a step")
        largest = max(ceil(one.samples / (ranks(assembly) * recipe.trainer.accumulation)), 1)
        lines += [f"frozen     {prefix}{line}" for line in frozen_parts(module, one.batch, largest)]
    for name, count in flops.items():
        prefix = f"{name}: " if len(flops) > 1 else ""
        lines.append(f"compute    {prefix}{count} a step")
    weights = {name: recipe.tasks[name].weight for name in flops}
    mean = sum(flops[name].total * weight for name, weight in weights.items()) / sum(weights.values())
    return [*lines, f"time       {times(assembly, mean)}"]


def ranks(assembly: Assembly) -> int:
    """Processes of the run."""
    return device_count(assembly.recipe.trainer) * assembly.recipe.trainer.num_nodes


def tokens(module: T2XModule, batch: Batch) -> str:
    """ "1×64×64 latents of 4 channels → 1×32×32 = 1,024 tokens, windows of 1×4×4: 64 proxies"."""
    config = module.backbone.config
    with torch.no_grad(), outline_mode(module.backbone) or fake_mode():
        encoded = module.encode(batch)
        assert encoded.latents is not None
        conditioning, _ = module.conditionings(encoded, LatentShape(*encoded.latents.shape[1:]))
    channels, frames, height, width = encoded.latents.shape[1:]
    grid = (frames, height // config.patch_size, width // config.patch_size)
    text = (
        f"{_by(batch.shape)} pixels → latents {channels}×{_by((frames, height, width))} → {_by(grid)} = {prod(grid):,}"
    )
    if config.attention == "dense":
        return f"{text} tokens"
    window = resolve_window(config.window, grid, conditioning.frame_axis.window)
    number = prod(ceil(n / w) for n, w in zip(grid, window, strict=True))
    return f"{text} tokens in {number} windows of {_by(window)}"


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def frozen_parts(module: T2XModule, batch: Batch, samples: int) -> Iterator[str]:
    """A line on each part that is not trained: its parameters, their memory, and what it needs at work.

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
        work = working_bytes(module, path, part, several) / GIB
        dtype = getattr(getattr(part.part, "config", None), "dtype", "") or str(part.dtype).removeprefix("torch.")
        place = f" on {own}" if (own := getattr(part.part, "runs_on", "")) else ""
        size = f"{number / 1e6:,.1f} M parameters in {dtype}, {taken / GIB:.2f} GiB{place}"
        yield f"{path}: {size}, and {work:.2f} GiB while it works"


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


def times(assembly: Assembly, flops: float) -> str:
    """About how long a step of so many operations takes, here or on GPUs that many have."""
    trainer = assembly.recipe.trainer
    precision, devices = resolve_precision(trainer.precision, trainer.accelerator), ranks(assembly)
    each = flops / devices / SHARE
    plural = f" × {devices}" if devices > 1 else ""
    if has_gpu(trainer.accelerator):
        found = peak(torch.device("cuda"), precision)
        return f"about {_seconds(each / found.flops)} a step on the GPU here{plural} ({_how(found.flops)})"
    here = each / measured_peak(torch.device("cpu"), torch.float32)
    if trainer.accelerator == "cpu" or here < LONG:
        return f"about {_seconds(here)} a step on the CPU here{plural} (at {SHARE:.0%} of its measured peak)"
    peaks = {name.split("|")[-1] if name.split("|")[-1] in NAMED else name: bf16 for name, bf16, _, _ in PEAKS}
    listed = [
        f"{_seconds(each / (bf16 * 1e12))} on {name.split(' ')[0] if 'RTX' not in name else name}{plural}"
        for name in NAMED
        if (bf16 := next((rate for names, rate in peaks.items() if name in names), None)) is not None
    ]
    return f"about {', '.join(listed)} a step (at {SHARE:.0%} of the bfloat16 peak)"


def _how(flops: float) -> str:
    return f"at {SHARE:.0%} of {in_flop(flops)}/s"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
