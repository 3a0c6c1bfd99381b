"""Embeddings of position, time and text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2x_core.backbone.banded import BandedLinear
from t2x_core.backbone.linear import linear


def _sincos(values: Tensor, dim: int, period: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Sines and cosines (…, dim/2) of values (…) at frequencies period^(-i/(dim/2)), in the precision of `values`."""
    frequencies = period ** (-torch.arange(dim // 2, dtype=values.dtype, device=values.device) / (dim // 2))
    angles = values[..., None] * frequencies
    return angles.sin(), angles.cos()


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # the cached tensor is also used in training
def position_table(
    grid: tuple[int, int, int],
    width: int,
    scale: float,
    device: torch.device,
    released: bool = False,
    frame_positions: bool = True,
) -> Tensor:
    """Sin-cos positions (N, D) float32 of a token grid (f, h, w), row-major; cached.

    The first D/4 channels are of the frame, then 3D/8 of the column and 3D/8 of the row, both divided by `scale`;
    each part is all sines, then all cosines. `released`: token k of a frame has column k mod h and row k div h, which
    differs on grids that are not square. Without `frame_positions`, all frames have the number 0.
    """
    f, h, w = grid
    token = torch.arange(h * w, device="cpu")
    columns = h if released else w
    column, row = (token % columns).double() / scale, (token // columns).double() / scale
    number = torch.arange(f, dtype=torch.float64, device="cpu") * frame_positions
    frame = torch.cat(_sincos(number, width // 4), -1)  # (f, D/4)
    space = torch.cat((*_sincos(column, 3 * width // 8), *_sincos(row, 3 * width // 8)), -1)  # (h·w, 3D/4)
    table = torch.cat((frame[:, None].expand(-1, h * w, -1), space.expand(f, -1, -1)), -1)  # (f, h·w, D)
    return table.flatten(0, 1).to(device, torch.float32)


class Rotation(NamedTuple):
    """Rotary position embedding (RoFormer, arXiv 2104.09864): angles by which pairs of channels are turned."""

    cos: Tensor
    """(…, d/2) float32."""
    sin: Tensor
    """Like `cos`."""

    def __call__(self, x: Tensor) -> Tensor:
        """Queries or keys (…, d), turned; channel i makes a pair with channel i + d/2."""
        a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)  # a cosine in bfloat16 is off by 0.2 %
        return torch.cat((a * self.cos - b * self.sin, a * self.sin + b * self.cos), -1).to(x.dtype)

    def to(self, device: torch.device) -> Rotation:
        return Rotation(self.cos.to(device), self.sin.to(device))

    def unsqueeze(self, axis: int) -> Rotation:
        return Rotation(self.cos.unsqueeze(axis), self.sin.unsqueeze(axis))


def rotation(positions: Tensor, channels: int, period: float = 10000.0) -> Rotation:
    """The rotation of a head's channels (even) at positions (…, 3) of frame, row and column.

    Of the d/2 pairs, 3/8 are of the row and 3/8 of the column, the rest of the frame; frequencies of each as in
    `position_table`.
    """
    pairs = channels // 2
    space = 3 * pairs // 8
    angles = [
        position[..., None] * period ** (-torch.arange(count, dtype=torch.float64, device=position.device) / count)
        for position, count in zip(positions.double().unbind(-1), (pairs - 2 * space, space, space), strict=True)
        if count
    ]
    together = torch.cat(angles, -1)
    return Rotation(together.cos().float(), together.sin().float())


class TimeEmbedding(nn.Module):
    """256 sinusoids of 1000·t, cosines first, then Linear, SiLU, Linear (DiT, arXiv 2212.09748)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(linear(256, width, "time"), nn.SiLU(), linear(width, width, "time"))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """t (B,) in [0, 1] -> (B, D); the sinusoids are float32 whatever the dtype of the network."""
        sin, cos = _sincos(1000 * t.float(), 256)
        return self.mlp(torch.cat((cos, sin), -1).to(dtype))


class TextProjection(nn.Sequential):
    """Text tokens (B, T, Dt) -> (B, T, D): Linear, GELU (tanh), Linear (PixArt-α, arXiv 2310.00426)."""

    def __init__(self, text_widths: Sequence[int], width: int) -> None:
        super().__init__(BandedLinear(text_widths, width), nn.GELU(approximate="tanh"), linear(width, width))


def patch_embedding(widths: Sequence[int], bottleneck: int | None, width: int) -> nn.Module:
    """Patches (B, N, C·P·P) -> tokens (B, N, D): one Linear, or two with `bottleneck` channels between them.

    Natural images lie near a surface of far fewer dimensions than a large patch of pixels has, so a narrow linear
    bottleneck loses little, and spares weights (Li & He 2025, JiT, arXiv 2511.13720, section 4.2).

    Args:
        widths: of the patches of the tasks, ascending (`BandedLinear`).
    """
    if not bottleneck:
        return BandedLinear(widths, width)
    return nn.Sequential(BandedLinear(widths, bottleneck), linear(bottleneck, width))
