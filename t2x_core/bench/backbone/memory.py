"""What a computation on the CPU needs at its peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that come into being within this context, at their peak.

    Counted at every operator of torch, those of the backward pass included: to the byte, and the same each time, which
    the size of the process is not. What an operator uses inside itself (the scratch memory of a kernel) is not seen,
    and nothing of a compiled graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._before: dict[int, StorageWeakRef] = {}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._note(tensor, made_here=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._note(tensor, made_here=True)
        self._made = {key: (ref, size) for key, (ref, size) in self._made.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
        return result

    def _note(self, tensor: torch.Tensor, made_here: bool) -> None:
        storage = tensor.untyped_storage()
        ref = StorageWeakRef(storage)  # while it lives, no other storage has its key
        if ref.cdata in self._before or ref.cdata in self._made:
            return
        if made_here:
            self._made[ref.cdata] = ref, storage.nbytes()
        else:
            self._before[ref.cdata] = ref


def peak_on_cpu(compute: Callable[[], object]) -> int:
    """Bytes that `compute` needs at its peak beyond what was there before it."""
    with PeakMemory() as memory:
        compute()
    return memory.peak


def peak_on_cuda(compute: Callable[[], object], device: torch.device) -> int:
    """The same on a GPU, as torch's allocator counts it."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    compute()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
