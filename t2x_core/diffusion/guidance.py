"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, eq. 6; a scale of 1 is no guidance)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from t2x_core.diffusion.samplers import Velocity
from t2x_core.types import Conditioning


def guided(
    velocity: Callable[[Tensor, Tensor, Conditioning], Tensor],
    conditioning: Conditioning,
    null: Conditioning,
    scale: float,
) -> Velocity:
    """The velocity that a sampler follows: null + scale·(conditional - null), both in one batch of 2·B."""
    if scale == 1:
        return lambda x, t: velocity(x, t, conditioning)
    both = conditioning.cat(null)

    def follow(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = velocity(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return follow
