"""Losses of a velocity, and how the core calls the loss of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from t2x_core.types import Batch, Noised


def velocity_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the path's velocity, (B,): ε - x₀ on rectified flow (Esser et al. 2024, arXiv 2403.03206,
    eq. 8), α·ε - σ·x₀ on a variance-preserving path (Salimans & Ho 2022, arXiv 2202.00512, section 4)."""
    error = _flow_error(velocity, noised)
    return error if noised.velocity_weight is None else error * noised.velocity_weight


def clean_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the clean latents x_t - t·velocity, (B,): that of ε - x₀ times t²."""
    return _flow_error(velocity, noised) * noised.divisor.square()


def epsilon_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the noise x_t + (1 - t)·velocity, (B,) (Ho et al. 2020, arXiv 2006.11239, eq. 14): that of
    ε - x₀ times (1 - t)²."""
    return _flow_error(velocity, noised) * (1 - noised.t).square()


def min_snr_error(velocity: Tensor, noised: Noised, batch: Batch, gamma: float = 5.0) -> Tensor:
    """Mean squared error of the clean latents, times min(SNR, γ), (B,) (Hang et al. 2023, arXiv 2303.09556, section 3).

    It is the same whatever is predicted: the paper's weights min(SNR, γ)/SNR of ε and min(SNR, γ)/(SNR + 1) of v are
    this one for the errors of these.
    """
    snr = ((1 - noised.t) / noised.t).square()
    return clean_error(velocity, noised, batch) * snr.clamp(max=gamma)


def _flow_error(velocity: Tensor, noised: Noised) -> Tensor:
    """Mean squared error of ε - x₀, (B,)."""
    return (velocity - noised.velocity).square().flatten(1).mean(1)


LOSSES = {"velocity": velocity_error, "clean": clean_error, "epsilon": epsilon_error, "min-snr": min_snr_error}


def named_loss(weighting: str, min_snr_gamma: float) -> Callable[..., Tensor]:
    """A loss by its name in `LOSSES`, as recipes of tasks name it."""
    return partial(min_snr_error, gamma=min_snr_gamma) if weighting == "min-snr" else LOSSES[weighting]


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
        captured = {"hidden": {block: hidden[block] for block in self.capture}} if self.capture else {}
        found = self.loss(velocity, noised, batch, **captured)
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
