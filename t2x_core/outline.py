"""Modules without content: they have shapes and types, and every operation on them costs nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


def fake_mode() -> FakeTensorMode:
    """The mode in which an outline computes; ordinary tensors may take part."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def without_content(module: nn.Module, mode: FakeTensorMode) -> None:
    """Gives a module whose parameters and buffers are on the meta device ones of `mode`, as if on the CPU."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # what is replaced is held, so that no other takes its number

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:  # a tied parameter stays one
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = (nn.Parameter(empty, tensor.requires_grad) if parameter else empty), tensor
        return made[id(tensor)][0]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    tensors[name] = fake(tensor)  # type: ignore[assignment]


def outline_mode(module: nn.Module) -> FakeTensorMode | None:
    """The mode of a module without content; None for an ordinary one."""
    found = (p.fake_mode for p in module.parameters() if isinstance(p, FakeTensor))
    return next(found, None)
