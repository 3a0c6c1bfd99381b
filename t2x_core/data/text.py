"""Captions → what text encoders read, in the loader's processes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from t2x_core.cache.text import TextCache
from t2x_core.calls import Calls
from t2x_core.interfaces import TextEncoder
from t2x_core.types import Batch, TextInput

LENGTHS = (8, 16, 32, 64, 128, 256, 512)
"""Text tokens to which a batch is cut: few, since compiled blocks are made for each."""


class Tokenizer:
    """The `tokenize` of each text encoder of the recipe.

    It holds copies of the encoders without parameters, buffers and submodules, so that handing it to a loader process
    costs nothing, and no process can touch a weight.

    Args:
        encoders: those that are loaded.
        cached: what the cache has of frozen ones; None: nothing.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder], calls: Calls, cached: TextCache | None = None) -> None:
        self.encoders = {name: _without_weights(encoder) for name, encoder in encoders.items()}
        self.calls, self.cached = calls, cached

    def put(self, batch: Batch, short: bool = True) -> Batch:
        """A batch with its captions as encoders read them, or, where the cache has them all, as tokens.

        `short`: cut to the longest text, rounded up to one of `LENGTHS`.
        """
        encoded = {}
        for name in self.cached.encoders if self.cached is not None else ():
            assert self.cached is not None
            longest = self.cached.longest.get(name) or 0
            tokens = self.cached.tokens(name, batch.captions, rounded if short else partial(max, longest))
            if tokens is not None:
                encoded[name] = tokens
        text = self(batch.captions, without=encoded)
        return replace(
            batch,
            text={name: cut(inputs) for name, inputs in text.items()} if short else text,
            encoded_text=encoded,
        )

    def __call__(self, texts: Sequence[str], without: Collection[str] = ()) -> dict[str, TextInput]:
        """Each encoder's input, as long as `tokenize` makes it: a text's own tokens do not depend on its batch."""
        found = {}
        for name, encoder in self.encoders.items():
            if name in without:
                continue
            with self.calls(f"text_encoders.{name}", "tokenize"):
                found[name] = _checked(encoder.tokenize(texts), len(texts))
        return found

    def short(self, texts: Sequence[str]) -> dict[str, TextInput]:
        """The same, cut to the longest text of the batch, rounded up to one of `LENGTHS`."""
        return {name: cut(text) for name, text in self(texts).items()}


def cut(text: TextInput) -> TextInput:
    """Without columns that are padding in every row, but for those up to the next of `LENGTHS`."""
    used = int(text.mask.any(0).nonzero().max()) + 1
    length = next((n for n in LENGTHS if n >= used), text.mask.shape[1])
    return TextInput(text.ids[:, :length].contiguous(), text.mask[:, :length].contiguous())


def rounded(length: int) -> int:
    """The next of `LENGTHS`; a longer one stays."""
    return next((n for n in LENGTHS if n >= length), length)


def _checked(text: object, count: int) -> TextInput:
    if not isinstance(text, TextInput):
        raise TypeError(f"it must return a TextInput, not {type(text).__name__}")
    if len(text.ids) != count or text.mask.shape != text.ids.shape[:2]:
        shapes = f"ids {tuple(text.ids.shape)} and mask {tuple(text.mask.shape)}"
        raise ValueError(f"{shapes} are not (B, T, …) and (B, T) of {count} texts")
    if not bool(text.mask.any(1).all()):
        raise ValueError("a text has no valid token")
    return text


def _without_weights(encoder: TextEncoder) -> TextEncoder:
    light = copy.copy(encoder)
    empty: dict[str, Tensor] = {}
    vars(light).update(_parameters=dict(empty), _buffers=dict(empty), _modules={})
    return light
