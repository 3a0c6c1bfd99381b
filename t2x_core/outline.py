"""Modules without content: they have shapes and types, and every operation on them costs nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


def fake_mode() -> FakeTensorMode:
    """The mode in which an outline computes; ordinary tensors may take part."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def without_content(module: nn.Module, mode: FakeTensorMode) -> None:
    """Gives a module whose parameters and buffers are on the meta device ones of `mode`, as if on the CPU."""
    _replace(module, mode, lambda tensor: tensor.dtype if tensor.is_meta else None)


def cast_outline(module: nn.Module, dtype: torch.dtype) -> None:
    """`module.to(dtype)` for a module without content, which torch cannot do."""
    mode = outline_mode(module)
    assert mode is not None
    _replace(module, mode, lambda tensor: dtype if tensor.is_floating_point() else None)


def _replace(module: nn.Module, mode: FakeTensorMode, dtype_of: Callable[[Tensor], torch.dtype | None]) -> None:
    """Puts empty tensors of `mode` in the place of those that shall have a dtype."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # what is replaced is held, so that no other takes its number

    def fake(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if id(tensor) not in made:  # a tied parameter stays one
            with mode:
                empty = torch.empty(tensor.shape, dtype=dtype, device="cpu")
            parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = (nn.Parameter(empty, tensor.requires_grad) if parameter else empty), tensor
        return made[id(tensor)][0]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and (dtype := dtype_of(tensor)) is not None:
                    tensors[name] = fake(tensor, dtype)  # type: ignore[assignment]


def outline_mode(module: nn.Module) -> FakeTensorMode | None:
    """The mode of a module without content; None for an ordinary one."""
    found = (p.fake_mode for p in module.parameters() if isinstance(p, FakeTensor))
    return next(found, None)
