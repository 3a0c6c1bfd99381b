"""The path between data and noise, and what the network's output means on it.

All that is outside of the network speaks of rectified flow (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv
2403.03206, section 2): x_t = (1 - t)·x₀ + t·ε, with the velocity ε - x₀. A variance-preserving model is one in other
coordinates: the same point has another scale and another time there, and its prediction implies that velocity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from t2x_core.diffusion.schedules import Schedule, interpolate, noise_levels
from t2x_core.diffusion.timesteps import shift
from t2x_core.recipe import DiffusionConfig
from t2x_core.types import Noised

Prediction = Literal["velocity", "clean", "epsilon"]


def over(t: Tensor, like: Tensor) -> Tensor:
    """t (B,) with as many axes as `like`, to multiply with it; in float32 at least."""
    return t.to(torch.promote_types(like.dtype, torch.float32)).view(-1, *[1] * (like.ndim - 1))


def deviation(t: Tensor) -> Tensor:
    """Standard deviation of x_t at times t where that of the data is 1: what a VP model divides x_t by."""
    return ((1 - t).square() + t.square()).sqrt()


@dataclass(frozen=True)
class Path(ABC):
    """From data to noise."""

    prediction: Prediction = "velocity"
    """What the network's output means: the velocity, the clean latents x₀ (Li & He 2025, arXiv 2511.13720), or ε."""
    min_t: float = 0.05
    """Smallest divisor when x₀ becomes a velocity (x_t - x₀)/t in training, of the prediction and of the target alike
    (the same paper, its implementation): a bound on the weight 1/t² of the error of x₀, which is best where it was."""

    @abstractmethod
    def time(self, u: Tensor, factor: float) -> Tensor:
        """Uniformly spaced or drawn u in [0, 1] → times t in [0, 1], shifted by `factor` (`timesteps.shift`)."""

    @abstractmethod
    def network_inputs(self, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is given of x_t (B, C, F, H, W) and t (B,), alike."""

    @abstractmethod
    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        """Where a sampler begins at the largest time t (a scalar): x_t, of noise of variance 1."""

    @abstractmethod
    def weight(self, t: Tensor) -> Tensor | None:
        """(B,) squared error of what this path calls velocity, in squared errors of ε - x₀; None: 1."""

    def corrupt(self, clean: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """Clean latents and noise (B, C, F, H, W), times t (B,) → the point between them."""
        part = over(t, clean)
        min_t = self.min_t if self.prediction == "clean" else 0.0
        latents = (1 - part) * clean + part * noise
        return Noised(latents, clean=clean, noise=noise, t=t, min_t=min_t, velocity_weight=self.weight(t))

    @property
    def exact(self) -> Self:
        """The path without the smallest divisor, as a sampler follows it: a perfect x₀ is where it ends."""
        return replace(self, min_t=0.0)

    def velocity(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        """The network's output at x_t and t → the velocity ε - x₀ that it predicts, all (B, C, F, H, W).

        It is what `Noised.velocity` is the target of; for a sampler it comes from `exact`, at t > 0.
        """
        match self.prediction:
            case "velocity":
                return self._flow_velocity(output, latents, t)
            case "clean":
                return (latents - output) / over(t.clamp(min=self.min_t), latents)
            case "epsilon":
                return (output - latents) / over(1 - t, latents)

    @abstractmethod
    def _flow_velocity(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        """What this path calls velocity → ε - x₀."""


@dataclass(frozen=True)
class RectifiedFlow(Path):
    """The straight path from data to noise."""

    def time(self, u: Tensor, factor: float) -> Tensor:
        return shift(u, factor)

    def network_inputs(self, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return latents, t

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def weight(self, t: Tensor) -> Tensor | None:
        return None

    def _flow_velocity(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        return output


@dataclass(frozen=True)
class VariancePreserving(Path):
    """Diffusion with α² + σ² = 1 (Ho et al. 2020, arXiv 2006.11239): z = α·x₀ + σ·ε, and z = x_t / (α + σ) backwards.

    With t = σ/(α + σ) the two have the same ratio of signal and noise, and 1/(α + σ) is `deviation(t)`; z is x_t
    divided by it. Its velocity is α·ε - σ·x₀ (Salimans & Ho 2022, arXiv 2202.00512, section 4).
    """

    schedule: Schedule = "cosine"
    """Name of the noise levels over the network's time."""

    def _levels(self, device: torch.device) -> Tensor:
        """Times t of the schedule (T + 1,). It ends at pure noise, where a sampler begins (Lin et al. 2023, arXiv
        2305.08891, section 3.1), except for ε: of pure noise it says nothing about the sample."""
        return torch.from_numpy(noise_levels(self.schedule, self.prediction != "epsilon")).to(device)

    def time(self, u: Tensor, factor: float) -> Tensor:
        levels = self._levels(u.device)
        t = interpolate(u, torch.linspace(0, 1, len(levels), device=u.device), levels)
        return shift(t, factor).clamp(max=levels[-1])

    def network_inputs(self, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        levels = self._levels(t.device)
        time = interpolate(t, levels, torch.linspace(0, 1, len(levels), device=t.device))
        return latents / over(deviation(t), latents), time

    def start(self, noise: Tensor, t: Tensor) -> Tensor:
        return noise * deviation(t)

    def weight(self, t: Tensor) -> Tensor | None:
        return deviation(t).square()

    def _flow_velocity(self, output: Tensor, latents: Tensor, t: Tensor) -> Tensor:
        scale = deviation(t)  # α = (1 - t) / scale, σ = t / scale: x₀ = α·z - σ·v and ε = σ·z + α·v
        return (over((2 * t - 1) / scale, latents) * latents + output) / over(scale, latents)


def make_path(config: DiffusionConfig) -> Path:
    """The path that a recipe names."""
    if config.path == "vp":
        return VariancePreserving(config.prediction, schedule=config.schedule)
    return RectifiedFlow(config.prediction)
