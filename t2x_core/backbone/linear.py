"""Linear layers that say how they begin (DiT, arXiv 2212.09748, and PixArt-α, arXiv 2310.00426)."""

from __future__ import annotations

from typing import Literal

from torch import nn

Init = Literal["xavier", "time", "zero"]


def linear(channels_in: int, channels_out: int, init: Init = "xavier") -> nn.Linear:
    """A Linear with zero bias; its weight is Xavier-uniform, normal with a deviation of 0.02 (`time`) or zero."""
    layer = nn.Linear(channels_in, channels_out)
    nn.init.zeros_(layer.bias)
    if init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    elif init == "time":
        nn.init.normal_(layer.weight, std=0.02)
    else:
        nn.init.zeros_(layer.weight)
    return layer
