"""Settings of the codecs and text encoders that come with t2x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from t2x_core.errors import UserError
from t2x_core.recipe import CodecConfig, Range, TextEncoderConfig


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(CodecConfig):
    """The identity codec has no settings."""

    name: str = "identity"
    """Name of the codec."""

    @property
    def spatial_factor(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class ByteWordsConfig(TextEncoderConfig):
    """Settings of the byte-level text encoder."""

    name: str = "bytes"
    """Name of the text encoder."""
    dim: Annotated[int, Range(min=8)] = 128
    """Width of a token (a multiple of `heads`)."""
    depth: Annotated[int, Range(min=0)] = 2
    """Transformer layers over the words."""
    heads: Annotated[int, Range(min=1)] = 4
    """Attention heads."""
    max_words: Annotated[int, Range(min=1)] = 24
    """Words that are read, a start token not counted; further ones are ignored."""
    word_bytes: Annotated[int, Range(min=1)] = 12
    """UTF-8 bytes that one token reads; a longer word becomes several tokens."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UserError(f"{self.dim} is no multiple of the {self.heads} heads", key="dim")
