"""Losses of a velocity, and how the core calls the loss of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from t2x_core.types import Batch, Noised


def velocity_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the velocity, (B,) (Esser et al. 2024, arXiv 2403.03206, eq. 8)."""
    return (velocity - noised.velocity).square().flatten(1).mean(1)


def clean_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the clean latents x_t - t·velocity, (B,): the above times t²."""
    return velocity_error(velocity, noised, batch) * noised.divisor.square()


LOSSES = {"velocity": velocity_error, "clean": clean_error}


class TaskLoss(nn.Module):
    """A task's loss, a function or a module: one value a sample, and the terms that it is the sum of."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.loss = loss
        self.capture = frozenset(getattr(loss, "capture", ()))
        """Blocks of the backbone whose tokens it wants."""
        self.weights: Mapping[str, float] = getattr(loss, "weights", {})

    def forward(
        self, velocity: Tensor, noised: Noised, batch: Batch, hidden: Mapping[int, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss (B,), and its terms by name (B,), weighted; no terms if the loss is one value.

        Raises:
            ValueError: it is no tensor of one floating-point value a sample, or no name has a value.
        """
        found = self.loss(velocity, noised, batch, **({"hidden": hidden} if self.capture else {}))
        if not isinstance(found, Mapping):
            return _one_a_sample("the loss", found, len(batch)), {}
        if unknown := self.weights.keys() - found.keys():
            raise ValueError(f"weights names {min(unknown)}, but the loss returns {', '.join(found) or 'nothing'}")
        if not found:
            raise ValueError("the loss returns no value at all")
        terms = {n: self.weights.get(n, 1.0) * _one_a_sample(f"loss {n}", v, len(batch)) for n, v in found.items()}
        return torch.stack(list(terms.values())).sum(0), terms


def _one_a_sample(what: str, value: Any, batch: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} is {type(value).__name__}, not a tensor ({batch},)")
    if value.shape != (batch,) or not value.is_floating_point():
        kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
        raise ValueError(f"{what} is {tuple(value.shape)}{kind}, not one value for each of {batch} samples")
    if value.dtype in (torch.bfloat16, torch.float16):
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(f"{what} is {kind}, as matrix products under autocast are; compute it in float32: .float()")
    return value.float()
