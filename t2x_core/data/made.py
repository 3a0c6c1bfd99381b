"""Data that a function makes."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from torch import Tensor

from t2x_core.data.batch import stack
from t2x_core.interfaces import Source, TaskDataModule
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation


class Made(NamedTuple):
    """What a function makes; a plain tuple will do."""

    pixels: Tensor
    """(3, F, H, W) in [-1, 1]; of one shape, whatever the sample."""
    caption: str
    extra: Mapping[str, Tensor] = {}
    controls: Mapping[str, Tensor] = {}


Make = Callable[[str, int], Any]
"""(split, number) → a `Made`; split is "train" or "val". What is random about it comes from `keyed.generator`."""


class MadeSource(Source):
    """`count` samples of one split."""

    def __init__(self, make: Make, split: str, count: int, version: str = "") -> None:
        self.make, self.split, self.count, self.version = make, split, count, version
        self.bucket = Bucket(*_shape(make(split, 0)), count)

    def buckets(self) -> Sequence[Bucket]:
        return [self.bucket]

    def __len__(self) -> int:
        return self.count

    def vary(self, key: SampleKey) -> Variation:
        return Variation(key)

    def load(self, variation: Variation) -> Sample:
        return Sample(variation.key, *Made(*self.make(self.split, variation.key.id)))

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...] | None:
        own = code_of(self.make)
        return None if own is None else (own, self.version, self.split, variation.key.id)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)


class MadeData(TaskDataModule):
    """Training and validation samples from one function.

    Args:
        make: (split, number) → pixels, caption, and, if there are any, `extra` and controls.
        count: training samples.
        held_out: validation samples.
        version: another one makes cached latents out of date. The text of the module that holds `make`, and what is
            bound to it, count by themselves; what `make` calls elsewhere does not.
    """

    def __init__(self, make: Make, count: int = 100_000, held_out: int = 64, version: str = "") -> None:
        super().__init__()
        self.make, self.count, self.held_out, self.version = make, count, held_out, version

    def train_source(self) -> Source:
        return MadeSource(self.make, "train", self.count, self.version)

    def val_source(self) -> Source:
        return MadeSource(self.make, "val", self.held_out, self.version)


def _shape(made: Any) -> tuple[int, int, int]:
    """(F, H, W) of what a function made. TypeError, with what to change, if that is no `Made`."""
    if not isinstance(made, tuple) or not 2 <= len(made) <= len(Made._fields) or not isinstance(made[0], Tensor):
        raise TypeError(
            f"`make` must return (pixels, caption), and extra and controls if there are any, not {type(made).__name__}"
        )
    if made[0].dim() != 4 or made[0].shape[0] != 3:
        raise TypeError(f"the pixels that `make` returns must be (3, F, H, W), not {tuple(made[0].shape)}")
    frames, height, width = made[0].shape[1:]
    return frames, height, width


@cache
def _text_of(module: str) -> str | None:
    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return None


def code_of(make: Make) -> str | None:
    """A hash of a function's module and of what is bound to it; None if it has none (a lambda, a closure)."""
    plain = make
    while isinstance(plain, partial):
        plain = plain.func
    text = _text_of(getattr(plain, "__module__", None) or "")
    try:
        bound = pickle.dumps(make)
    except Exception:  # whatever a class may raise that does not pickle
        return None
    return None if text is None else hashlib.blake2b(bound + text.encode(), digest_size=16).hexdigest()
