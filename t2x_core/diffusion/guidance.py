"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, eq. 6; a scale of 1 is no guidance)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from t2x_core.diffusion.samplers import Velocity
from t2x_core.types import Conditioning

Network = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(x (B, C, F, H, W), t (B,), conditioning) → velocity like x."""


def guided(
    network: Callable[[], Network],
    conditioning: Conditioning,
    null: Conditioning,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
) -> Velocity:
    """The velocity that a sampler follows: null + scale·(conditional - null), both in one batch of 2·B.

    Args:
        network: makes the network; each that it makes is given one conditioning only, which it may cache.
        interval: times from and to, inclusive, at which there is guidance (Kynkäänniemi et al. 2024, arXiv 2404.07724).
        rescale: share of the way back to the standard deviation of the conditional velocity, sample by sample (Lin et
            al. 2023, arXiv 2305.08891, section 3.4).
    """
    low, high = interval
    alone = network()
    if scale == 1:
        return lambda x, t: alone(x, t, conditioning)
    together, both = network(), conditioning.cat(null)

    def follow(x: Tensor, t: Tensor) -> Tensor:
        if interval != (0.0, 1.0) and not low <= float(t[0]) <= high:
            return alone(x, t, conditioning)
        conditional, unconditional = together(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        velocity = unconditional + scale * (conditional - unconditional)
        if rescale:
            dims = tuple(range(1, x.dim()))
            whole = conditional.std(dims, keepdim=True) / velocity.std(dims, keepdim=True)
            velocity = velocity * (1 + rescale * (whole - 1))
        return velocity

    return follow
