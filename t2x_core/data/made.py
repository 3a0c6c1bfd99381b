"""Data that a function makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from t2x_core.data.batch import stack
from t2x_core.interfaces import Source, TaskDataModule
from t2x_core.types import Batch, Bucket, Sample, SampleKey


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

    def __init__(self, make: Make, split: str, count: int) -> None:
        self.make, self.split, self.count = make, split, count
        frames, height, width = Made(*make(split, 0)).pixels.shape[1:]
        self.bucket = Bucket(frames, height, width, count)

    def buckets(self) -> Sequence[Bucket]:
        return [self.bucket]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: SampleKey) -> Sample:
        return Sample(key, *Made(*self.make(self.split, key.id)))

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)


class MadeData(TaskDataModule):
    """Training and validation samples from one function.

    Args:
        make: (split, number) → pixels, caption, and, if there are any, `extra` and controls.
        count: training samples.
        held_out: validation samples.
    """

    def __init__(self, make: Make, count: int = 100_000, held_out: int = 64) -> None:
        super().__init__()
        self.make, self.count, self.held_out = make, count, held_out

    def train_source(self) -> Source:
        return MadeSource(self.make, "train", self.count)

    def val_source(self) -> Source:
        return MadeSource(self.make, "val", self.held_out)
