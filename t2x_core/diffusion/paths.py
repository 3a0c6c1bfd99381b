"""The path between data and noise, and what the network's output means on it.

Rectified flow (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206, section 2):
x_t = (1 - t)·x₀ + t·ε, and its velocity is ε - x₀.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from t2x_core.types import Noised

Prediction = Literal["velocity", "clean"]


def over(t: Tensor, like: Tensor) -> Tensor:
    """t (B,) with as many axes as `like`, to multiply with it."""
    return t.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path from data to noise."""

    prediction: Prediction = "velocity"
    """What the network's output means: the velocity, or the clean latents x₀ (Li & He 2025, arXiv 2511.13720)."""
    min_t: float = 0.05
    """Smallest divisor when a predicted x₀ becomes a velocity (x_t - x₀)/t (the same paper, its implementation)."""

    def corrupt(self, clean: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """Clean latents and noise (B, C, F, H, W), times t (B,) → the point between them."""
        weight = over(t, clean)
        return Noised(latents=(1 - weight) * clean + weight * noise, clean=clean, noise=noise, t=t)

    def velocity(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        """The network's output at (latents, t) → the velocity that it predicts, all (B, C, F, H, W)."""
        if self.prediction == "velocity":
            return output
        return (latents - output) / over(t.clamp(min=self.min_t), latents)
