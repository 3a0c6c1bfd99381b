"""The conditioning of tasks with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.errors import UserError
from t2x_core.interfaces import ConditioningAdapter, ModelContext
from t2x_core.types import Batch, Conditioning, ConditioningDims, LatentShape, TextTokens


class TextConditioning(ConditioningAdapter):
    """The tokens of all text encoders, one behind the other; a vector for the whole text; controls beside the latents.

    Tokens of a narrower encoder are filled up with zeros. The vector is what an encoder pools itself, else the mean of
    its tokens; those of several encoders stand side by side. Without the condition the controls stay.

    Args:
        null: "no caption": a `learned` token, or the `empty` prompt, as pretrained models want it.
        pooled: whether there is a vector.
        controls: those of the task's `encoded_controls` that are joined to the latents on the channel axis; one of a
            single frame is joined to each frame.
    """

    def __init__(
        self,
        context: ModelContext,
        *,
        null: Literal["learned", "empty"] = "learned",
        pooled: bool = True,
        controls: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not context.text:
            raise UserError("it needs a text encoder", hint="for a small one: text_encoders: {bytes: {}}")
        self.text, self.pooled, self.controls = dict(context.text), pooled, tuple(controls)
        width = max(dims.tokens for dims in self.text.values())
        vector = sum(dims.pooled or dims.tokens for dims in self.text.values())
        concat = context.latent_channels * len(self.controls)
        self.dims = ConditioningDims(text=width, vector=vector if pooled else 0, concat=concat)
        self.no_caption = nn.Parameter(0.02 * torch.randn(width)) if null == "learned" else None
        own = sum(dims.pooled for dims in self.text.values())
        self.no_vector = nn.Parameter(torch.zeros(own)) if null == "learned" and pooled and own else None

    def forward(self, batch: Batch, text: Mapping[str, TextTokens], latent_shape: LatentShape) -> Conditioning:
        width = self.dims.text
        given = [text[name] for name in self.text]
        return Conditioning(
            text=torch.cat([F.pad(part.tokens, (0, width - part.tokens.shape[-1])) for part in given], 1),
            text_mask=torch.cat([part.mask for part in given], 1),
            vector=torch.cat([_pooled(part) for part in given], 1) if self.pooled else None,
            concat=self._concat(batch, latent_shape) if self.controls else None,
        )

    def _concat(self, batch: Batch, latent_shape: LatentShape) -> Tensor:
        """The controls side by side, (B, Cc, F', H', W'); one of a single frame in each frame."""
        parts = [batch.encoded_controls[name] for name in self.controls]
        frames = [latent_shape.frames if part.shape[2] == 1 else -1 for part in parts]
        return torch.cat([part.expand(-1, -1, n, -1, -1) for part, n in zip(parts, frames, strict=True)], 1)

    def null(self, conditioning: Conditioning) -> Conditioning | None:
        if self.no_caption is None:
            return None
        text, mask = conditioning.text, conditioning.text_mask
        assert text is not None
        assert mask is not None
        text = self.no_caption.to(text.dtype).expand_as(text)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        return Conditioning(text=text, text_mask=first, vector=self._no_vector(text), concat=conditioning.concat)

    def _no_vector(self, text: Tensor) -> Tensor | None:
        """For an encoder that pools itself a learned vector; for another the mean of the one learned token."""
        if not self.pooled:
            return None
        parts, start = [], 0
        for dims in self.text.values():
            if dims.pooled:
                assert self.no_vector is not None
                parts.append(self.no_vector[start : start + dims.pooled].to(text.dtype).expand(len(text), -1))
                start += dims.pooled
            else:
                parts.append(text[:, 0, : dims.tokens])
        return torch.cat(parts, 1)


def _pooled(text: TextTokens) -> Tensor:
    """The encoder's own vector (B, Dp), or the mean of the valid tokens (B, Dt)."""
    if text.pooled is not None:
        return text.pooled
    weight = text.mask.unsqueeze(-1).to(text.tokens.dtype)  # (B, T, 1)
    return (text.tokens * weight).sum(1) / weight.sum(1)
