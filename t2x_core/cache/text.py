"""Text tokens of captions, each kept once for each frozen text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from t2x_core.cache.shard import Record
from t2x_core.cache.storage import StorageType, from_storage, round_to, to_storage
from t2x_core.cache.store import Store, key_of
from t2x_core.types import TextTokens

TOKENS, MASK, POOLED = "tokens", "mask", "pooled"


class TextCache:
    """Finds what text encoders make of captions."""

    def __init__(self, store: Store, dtype: StorageType) -> None:
        self.store, self.dtype = store, dtype
        self.encoders: dict[str, tuple[Any, ...]] = {}
        """Name of each frozen encoder in the recipe → plain values that say which it is: settings, hash of weights."""
        self.longest: dict[str, int | None] = {}
        """Name → the largest number of tokens of a text, where there is one."""

    def key(self, encoder: str, caption: str) -> bytes:
        return key_of("text", self.encoders[encoder], self.dtype, caption)

    def missing(self, encoder: str, captions: Sequence[str]) -> list[str]:
        """Those that are not there, each once."""
        return [caption for caption in dict.fromkeys(captions) if self.key(encoder, caption) not in self.store]

    def tokens(self, encoder: str, captions: Sequence[str], length: Callable[[int], int]) -> TextTokens | None:
        """Tokens of captions, as they are kept, padded to `length` of the longest; None if one is not there."""
        records: dict[str, Record] = {}
        for caption in captions:
            if caption not in records:
                found = self.store.get(self.key(encoder, caption))
                if found is None:
                    return None
                records[caption] = found
        parts = {caption: from_storage(TOKENS, record) for caption, record in records.items()}
        wanted = length(max(len(part) for part in parts.values()))
        like = next(iter(parts.values()))
        tokens = like.new_zeros(len(captions), wanted, like.shape[1])
        mask = torch.zeros(len(captions), wanted, dtype=torch.bool)
        for i, caption in enumerate(captions):
            tokens[i, : len(parts[caption])] = parts[caption]
            mask[i, : len(parts[caption])] = records[caption][MASK]
        pooled = None
        if POOLED in records[captions[0]]:
            pooled = torch.cat([from_storage(POOLED, records[caption]) for caption in captions])
        return TextTokens(tokens, mask, pooled)

    def rounded(self, tokens: TextTokens) -> TextTokens:
        """Tokens with the values that they would have if they were kept."""
        pooled = tokens.pooled
        return TextTokens(
            round_to(tokens.tokens, self.dtype),
            tokens.mask,
            None if pooled is None else round_to(pooled.unsqueeze(1), self.dtype).squeeze(1),
        )


def text_records(tokens: TextTokens, dtype: StorageType) -> list[dict[str, Tensor]]:
    """What is kept of each text of a batch: its tokens up to the last valid one."""
    found = []
    for i, mask in enumerate(tokens.mask.cpu()):
        end = int(mask.nonzero().max()) + 1
        record = {**to_storage(TOKENS, tokens.tokens[i, :end], dtype), MASK: mask[:end].clone()}
        if tokens.pooled is not None:
            record |= to_storage(POOLED, tokens.pooled[i : i + 1], dtype)
        found.append(record)
    return found
