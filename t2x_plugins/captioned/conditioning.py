"""From captions to what the backbone is told."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2x_core.errors import UserError
from t2x_core.interfaces import ConditioningAdapter, TextEncoder
from t2x_core.types import Batch, Conditioning, ConditioningDims
from t2x_plugins.captioned.config import ConditioningConfig


class TextConditioning(ConditioningAdapter):
    """Text tokens, and their mean as a vector; "no caption" is one learned token."""

    def __init__(self, config: ConditioningConfig, text_dim: int, task: str) -> None:
        super().__init__()
        if not text_dim:
            raise UserError(f"{task} needs a text_encoder", hint="for a small one: text_encoder: {name: bytes}")
        self.pooled = config.pooled
        self.dims = ConditioningDims(text=text_dim, vector=text_dim if config.pooled else 0)
        self.no_caption = nn.Parameter(0.02 * torch.randn(text_dim))

    def forward(self, batch: Batch, text_encoder: TextEncoder | None) -> Conditioning:
        assert text_encoder is not None
        text, mask = text_encoder(batch.captions)  # (B, T, Dt), (B, T)
        return Conditioning(text=text, text_mask=mask, vector=self.pool(text, mask))

    def null(self, conditioning: Conditioning) -> Conditioning:
        text, mask = conditioning.text, conditioning.text_mask
        assert text is not None
        assert mask is not None
        text = self.no_caption.to(text.dtype).expand_as(text)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        return Conditioning(text=text, text_mask=first, vector=self.pool(text, first))

    def pool(self, text: Tensor, mask: Tensor) -> Tensor | None:
        """Mean of the valid tokens (B, Dt), or None if the recipe does not want it."""
        if not self.pooled:
            return None
        weight = mask.unsqueeze(-1).to(text.dtype)  # (B, T, 1)
        return (text * weight).sum(1) / weight.sum(1)
