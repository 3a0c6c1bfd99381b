"""Which times are trained on, and which a sampler stops at.

A density of times is its inverse distribution function: uniform numbers in (0, 1) → times in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def logit_normal(u: Tensor, mean: float, std: float) -> Tensor:
    """Times whose logit is normal (Esser et al. 2024, arXiv 2403.03206, section 3.1); mean > 0 = more noise."""
    return torch.sigmoid(mean + std * torch.special.ndtri(u))


def shift(t: Tensor, factor: float) -> Tensor:
    """Times moved towards noise by `factor` ≥ 1, for larger images (the same paper, section 5.3.2, eq. 23)."""
    return factor * t / (1 + (factor - 1) * t)


def automatic_shift(tokens: int) -> float:
    """The factor of `shift` for samples of so many tokens, over all frames.

    Up to 4096 tokens it is that of FLUX (its `sampling.py`; `calculate_shift` of diffusers): the logarithm is a line
    through 0.5 at 256 tokens and 1.15 at 4096. Beyond, where that line would soon leave nothing but noise (a factor of
    47 at 20,000 tokens), it grows with the root of the number of tokens (Esser et al., section 5.3.2, eq. 23).
    """
    base, largest = 256, 4096
    slope = (1.15 - 0.5) / (largest - base)
    return math.exp(0.5 + slope * (min(tokens, largest) - base)) * max(1.0, tokens / largest) ** 0.5


def grid(steps: int, factor: float, device: torch.device | None = None) -> Tensor:
    """The steps + 1 times of a sampler, from 1 (noise) down to 0 (data), shifted by `factor`."""
    return shift(torch.linspace(1, 0, steps + 1, device=device), factor)
