"""A Linear that tasks of different widths share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.backbone.linear import Init, linear


class BandedLinear(nn.Linear):
    """A Linear for inputs of several widths, with one weight for each band of channels between them.

    An optimizer moves a parameter as a whole: by weight decay and by its momentum also where a gradient is zero. So the
    channels that only some tasks have need weights of their own, which the steps of the other tasks leave alone.

    Args:
        widths: of the inputs, ascending. `weight` is (channels_out, widths[0]); `wider[i].weight` has the columns
            widths[i] to widths[i + 1].
        channels_out: channels that come out.
        init: how the weight of all channels together begins; the bands are cut out of it.
    """

    def __init__(self, widths: Sequence[int], channels_out: int, init: Init = "xavier") -> None:
        super().__init__(widths[0], channels_out, device="meta")
        self.widths = tuple(widths)
        whole = linear(widths[-1], channels_out, init)
        bands = [widths[0], *(end - start for start, end in pairwise(widths))]
        first, *others = (nn.Parameter(band.detach().clone()) for band in whole.weight.split(bands, 1))
        self.weight, self.bias = first, whole.bias
        self.wider = nn.ModuleList(nn.Linear(band.shape[1], channels_out, False, device="meta") for band in others)
        for layer, band in zip(self.wider, others, strict=True):
            layer.weight = band

    def forward(self, x: Tensor) -> Tensor:
        """x (…, channels), at most as wide as the last width -> (…, channels_out). Its last band is used whole."""
        weights = [self.weight]
        for start, layer in zip(self.widths, self.wider, strict=False):
            if start < x.shape[-1]:
                assert isinstance(layer, nn.Linear)
                weights.append(layer.weight)
        if missing := self.widths[len(weights) - 1] - x.shape[-1]:
            x = F.pad(x, (0, missing))
        return F.linear(x, torch.cat(weights, 1) if self.wider else self.weight, self.bias)
