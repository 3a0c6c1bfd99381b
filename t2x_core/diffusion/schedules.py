"""Noise levels of variance-preserving diffusion over its time."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Schedule = Literal["cosine", "scaled-linear"]

STEPS = 1000
"""Steps of the discrete schedules; between them noise levels are interpolated."""


def alphas_cumprod(schedule: Schedule, zero_terminal: bool) -> NDArray[np.float64]:
    """ᾱ = α² after each step, (STEPS,).

    Args:
        schedule: `cosine` (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17), `scaled-linear` (Rombach et al. 2022,
            arXiv 2112.10752, as in Stable Diffusion: the roots of β are evenly spaced).
        zero_terminal: whether α is shifted and scaled to end at 0 (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
    """
    if schedule == "cosine":
        bar = np.cos((np.linspace(0, 1, STEPS + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    else:
        beta = np.linspace(0.00085**0.5, 0.012**0.5, STEPS) ** 2
    alpha = np.sqrt(np.cumprod(1 - beta))
    if zero_terminal:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return alpha**2


@cache
def noise_levels(schedule: Schedule, zero_terminal: bool) -> NDArray[np.float32]:
    """t = σ/(α + σ) at the times 0, 1/STEPS … 1 of the network, (STEPS + 1,), rising; 0 is clean.

    An array: a tensor that is made while a step is estimated has no content, and would be kept.
    """
    bar = alphas_cumprod(schedule, zero_terminal)
    alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)
    return np.append(0, sigma / (alpha + sigma)).astype(np.float32)


def interpolate(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """The line through (places, values), both (n,) and places rising, at x of any shape, as `numpy.interp`."""
    right = torch.searchsorted(places, x.contiguous()).clamp(1, len(places) - 1)
    left = right - 1
    share = ((x - places[left]) / (places[right] - places[left])).clamp(0, 1)
    return torch.lerp(values[left].to(share.dtype), values[right].to(share.dtype), share)
