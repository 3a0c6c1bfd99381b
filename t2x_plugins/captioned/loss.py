"""Losses of a velocity."""

from __future__ import annotations

from torch import Tensor

from t2x_core.types import Batch, Noised


def velocity_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the velocity, (B,) (Esser et al. 2024, arXiv 2403.03206, eq. 8)."""
    return (velocity - noised.velocity).square().flatten(1).mean(1)


def clean_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the clean latents x_t - t·velocity, (B,): the above times t²."""
    return velocity_error(velocity, noised, batch) * noised.divisor.square()


LOSSES = {"velocity": velocity_error, "clean": clean_error}
