"""A small text encoder that trains along: bytes → words → a transformer over the words.

A word is read as its bytes side by side, so no vocabulary is needed, any language and any misspelling has an embedding,
and a caption costs as many tokens as it has words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from t2x_core.encoders.encoder_config import ByteWordsConfig
from t2x_core.interfaces import Component, TextEncoder
from t2x_core.plugins import hookimpl
from t2x_core.types import TextDims, TextInput, TextTokens


class ByteWords(TextEncoder):
    """The encoder. A text has at most 1 + max_words tokens; padding changes nothing but rounding."""

    def __init__(self, config: ByteWordsConfig) -> None:
        super().__init__()
        self.dims = TextDims(config.dim)
        self.max_words, self.word_bytes = config.max_words, config.word_bytes
        self.longest, self.longest_setting = config.max_words, "max_words"
        self.byte = nn.Embedding(257, 32)  # 0 = no byte
        self.word = nn.Sequential(
            nn.Linear(32 * config.word_bytes, config.dim), nn.GELU(), nn.Linear(config.dim, config.dim)
        )
        self.position = nn.Parameter(0.02 * torch.randn(1 + config.max_words, config.dim))
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, 4 * config.dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False) if config.depth else None
        self.norm = nn.LayerNorm(
            config.dim, elementwise_affine=False
        )  # nothing may shrink the tokens before they are of use

    def length(self, text: str) -> int:
        """Tokens of the whole text, the start token not counted."""
        return sum(-(-len(word.encode()) // self.word_bytes) for word in text.split())

    def tokenize(self, texts: Sequence[str]) -> TextInput:
        ids = torch.zeros(len(texts), 1 + self.max_words, self.word_bytes, dtype=torch.long)  # (B, T, bytes)
        mask = torch.zeros(len(texts), 1 + self.max_words, dtype=torch.bool)
        for i, text in enumerate(texts):
            rows = self.rows(text)
            ids[i, : len(rows)] = torch.tensor(rows)
            mask[i, : len(rows)] = True
        return TextInput(ids, mask)

    def rows(self, text: str) -> list[list[int]]:
        """Words as rows of `word_bytes` numbers, 0 = no byte, else byte + 1; row 0 is the empty start token."""
        n = self.word_bytes
        pieces = [w[i : i + n] for w in (word.encode() for word in text.split()) for i in range(0, len(w), n)]
        rows = [[b + 1 for b in piece] for piece in pieces[: self.max_words]]
        return [row + [0] * (n - len(row)) for row in [[], *rows]]

    def forward(self, text: TextInput) -> TextTokens:
        x = self.word(self.byte(text.ids).flatten(2)) + self.position[: text.ids.shape[1]]  # (B, T, Dt)
        if self.layers is not None:
            x = self.layers(x, src_key_padding_mask=~text.mask)
        return TextTokens(self.norm(x), text.mask)


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("bytes", ByteWordsConfig, ByteWords)]
