"""Tensors of which each rank may hold some rows only (FSDP2's DTensors), and plain ones, treated alike."""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributed.tensor import DTensor


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: its rows of a sharded one, else all of it; the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The first row (index on axis 0) of what this rank holds. FSDP2 cuts axis 0 into equal parts, the last smaller."""
    if not isinstance(tensor, DTensor):
        return 0
    mesh = tensor.device_mesh
    axis = next(i for i, placement in enumerate(tensor.placements) if placement.is_shard(0))
    return min(len(tensor), mesh.get_local_rank(axis) * math.ceil(len(tensor) / mesh.size(axis)))


def is_written_by(tensor: Tensor, rank: int) -> bool:
    """Whether this rank, `rank`, writes its part to a checkpoint: of what several ranks hold alike, the first does."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    mesh = tensor.device_mesh
    alike = [mesh.get_local_rank(i) for i, placement in enumerate(tensor.placements) if not placement.is_shard()]
    return not any(alike) and len(local(tensor)) > 0
