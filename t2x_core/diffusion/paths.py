"""The path between data and noise, and what the network's output means on it.

Rectified flow (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206, section 2):
x_t = (1 - t)·x₀ + t·ε, and its velocity is ε - x₀.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from t2x_core.types import Noised

Prediction = Literal["velocity", "clean"]


def over(t: Tensor, like: Tensor) -> Tensor:
    """t (B,) with as many axes as `like`, to multiply with it; in float32 at least."""
    return t.to(torch.promote_types(like.dtype, torch.float32)).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path from data to noise."""

    prediction: Prediction = "velocity"
    """What the network's output means: the velocity, or the clean latents x₀ (Li & He 2025, arXiv 2511.13720)."""
    min_t: float = 0.05
    """Smallest divisor when x₀ becomes a velocity (x_t - x₀)/t in training, of the prediction and of the target alike
    (the same paper, its implementation): a bound on the weight 1/t² of the error of x₀, which is best where it was."""

    def corrupt(self, clean: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """Clean latents and noise (B, C, F, H, W), times t (B,) → the point between them."""
        weight = over(t, clean)
        min_t = self.min_t if self.prediction == "clean" else 0.0
        return Noised(latents=(1 - weight) * clean + weight * noise, clean=clean, noise=noise, t=t, min_t=min_t)

    @property
    def exact(self) -> RectifiedFlow:
        """The path without the smallest divisor, as a sampler follows it: a perfect x₀ is where it ends."""
        return replace(self, min_t=0.0)

    def velocity(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        """The network's output at (latents, t) → the velocity that it predicts, all (B, C, F, H, W).

        It is what `Noised.velocity` is the target of; for a sampler it comes from `exact`, at t > 0.
        """
        if self.prediction == "velocity":
            return output
        return (latents - output) / over(t.clamp(min=self.min_t), latents)
