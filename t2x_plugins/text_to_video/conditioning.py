"""From captions and frame rates to the conditioning of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from t2x_core.conditioning import TextConditioning
from t2x_core.interfaces import ConditioningAdapter, ModelContext
from t2x_core.types import Batch, Conditioning, LatentShape, TextTokens
from t2x_plugins.captioned.captioned_config import ConditioningConfig

RATE_DIM = 32
"""Channels of the embedding of a frame rate."""


class VideoConditioning(ConditioningAdapter):
    """The caption, and the frame rate as an embedding that is added to the tokens of all frames."""

    def __init__(self, context: ModelContext, config: ConditioningConfig) -> None:
        super().__init__()
        self.caption = TextConditioning(context, null=config.null, pooled=config.pooled)
        self.dims = replace(self.caption.dims, frames=RATE_DIM)

    def forward(self, batch: Batch, text: Mapping[str, TextTokens], latent_shape: LatentShape) -> Conditioning:
        rate = embed_rate(batch.extra["fps"], RATE_DIM).unsqueeze(1)  # (B, 1, Df)
        return replace(self.caption(batch, text, latent_shape), frames=rate)

    def null(self, conditioning: Conditioning) -> Conditioning | None:
        """Without the caption. How fast the frames follow each other is not what guidance is for: it stays."""
        null = self.caption.null(conditioning)
        return None if null is None else replace(null, frames=conditioning.frames)


def embed_rate(fps: Tensor, dim: int) -> Tensor:
    """Frame rates (B,) in frames a second → (B, dim): sines and cosines of log2(fps), from one turn in 16 octaves to
    one in two, so that neighbouring rates look alike."""
    turns = torch.logspace(-4, -1, dim // 2, base=2, dtype=torch.float32, device=fps.device)
    angles = 2 * torch.pi * fps.float().clamp_min(1e-3).log2().unsqueeze(-1) * turns
    return torch.cat((angles.sin(), angles.cos()), -1)
