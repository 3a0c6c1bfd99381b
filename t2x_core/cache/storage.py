"""Tensors as they are kept: in float32, half of it, or 8 bits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from t2x_core.cache.shard import Record
from t2x_core.errors import UserError

StorageType = Literal["float32", "float16", "bfloat16", "int8"]
SCALE = ".scale"
"""Ending of the name of the scales of an int8 tensor."""


def to_storage(name: str, tensor: Tensor, dtype: StorageType) -> dict[str, Tensor]:
    """The entries of a record for a tensor (N, …). int8: with one scale for each of the N, the largest value / 127.

    Raises:
        UserError: values are not finite, before or after.
    """
    tensor = tensor.detach().float().cpu()
    if dtype == "int8":
        kept, scale = _quantized(tensor, 1)
        found = {name: kept, f"{name}{SCALE}": scale}
    else:
        found = {name: tensor.to(getattr(torch, dtype))}
    if not all(bool(part.isfinite().all()) for part in found.values()):
        if bool(tensor.isfinite().all()):
            raise UserError(f"{name} reach {tensor.abs().max():g}, more than {dtype} holds", hint="bfloat16 holds them")
        raise UserError(f"{name} are not finite")
    return found


def from_storage(name: str, record: Record) -> Tensor:
    """The tensor of a record, floating-point: as it is kept, or float32 for int8."""
    kept = record[name]
    return kept if kept.is_floating_point() else _restored(kept, record[f"{name}{SCALE}"])


def round_to(tensor: Tensor, dtype: StorageType) -> Tensor:
    """Tensors (B, N, …) as float32, with the values that they would have after `to_storage` one by one."""
    if dtype == "float32":
        return tensor.float()
    if dtype == "int8":
        return _restored(*_quantized(tensor.float(), 2))
    return tensor.to(getattr(torch, dtype)).float()


def _quantized(tensor: Tensor, leading: int) -> tuple[Tensor, Tensor]:
    """int8, and float32 scales of the shape of the `leading` axes."""
    inner = tuple(range(leading, tensor.ndim))
    largest = tensor.abs().amax(inner) if inner and tensor.numel() else tensor.abs()
    scale = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (tensor / _beside(scale, tensor)).round().nan_to_num().clamp(-127, 127).to(torch.int8), scale


def _restored(kept: Tensor, scale: Tensor) -> Tensor:
    return kept.float() * _beside(scale, kept)


def _beside(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(*scale.shape, *[1] * (tensor.ndim - scale.ndim))
