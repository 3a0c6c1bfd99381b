"""Texts as text encoders read them, and what they make of them (`t2x_core.types` has these names, too)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree


class TensorRecord:
    """A frozen dataclass of tensors that Lightning can move (`.to`) and that FSDP2 can look into (a pytree)."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same record with each tensor moved or cast by `Tensor.to`; a dtype applies to floating-point ones."""

        def move(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            moved = leaf.to(*args, **kwargs)
            return moved if leaf.is_floating_point() else moved.to(leaf.dtype)

        return _pytree.tree_map(move, self)

    def pin_memory(self) -> Self:
        """The same record with its tensors in page-locked memory, from which they reach a GPU sooner."""
        return _pytree.tree_map(lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) else leaf, self)


@dataclass(frozen=True)
class TextInput(TensorRecord):
    """Texts as a text encoder's numbers, padded on the right to one length."""

    ids: Tensor
    """(B, T, …) integers."""
    mask: Tensor
    """(B, T) bool, True = valid; at least one a row, that of "" included."""

    def select(self, indices: list[int]) -> TextInput:
        """The texts at `indices`, in that order."""
        return TextInput(self.ids[indices], self.mask[indices])


@dataclass(frozen=True)
class TextTokens(TensorRecord):
    """What a text encoder makes of a batch of texts."""

    tokens: Tensor
    """(B, T, Dt)."""
    mask: Tensor
    """(B, T) bool, True = valid; at least one a row."""
    pooled: Tensor | None = None
    """(B, Dp), one vector for the whole text; None if the encoder has none."""

    def select(self, indices: list[int]) -> TextTokens:
        """Those of the texts at `indices`, in that order."""
        pooled = None if self.pooled is None else self.pooled[indices]
        return TextTokens(self.tokens[indices], self.mask[indices], pooled)

    def expand(self, batch: int, length: int) -> TextTokens:
        """One text, (1, T, Dt), as (batch, length, Dt): repeated, and cut or padded; its valid tokens must fit."""
        pad = length - self.tokens.shape[1]
        tokens, mask = (
            torch.nn.functional.pad(part, (0, 0) * (part.ndim - 2) + (0, pad)).expand(batch, *[-1] * (part.ndim - 1))
            for part in (self.tokens, self.mask)
        )
        return TextTokens(tokens, mask, None if self.pooled is None else self.pooled.expand(batch, -1))


@dataclass(frozen=True)
class TextDims:
    """Widths of what a text encoder gives."""

    tokens: int
    """Dt, width of a token."""
    pooled: int = 0
    """Dp, width of the vector for the whole text; 0 = it has none."""


for _record in (TextInput, TextTokens):
    _pytree.register_dataclass(_record)
