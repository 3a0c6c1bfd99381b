"""Drawings as training data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from class_to_image.config import ClassToImageConfig
from class_to_image.drawings import CLASSES, draw
from t2x_core import keyed
from t2x_core.data import stack
from t2x_core.interfaces import DataContext, Source, TaskDataModule
from t2x_core.types import Batch, Bucket, Sample, SampleKey

VAL_COUNT = 64


class Drawings(Source):
    """Drawings made from their number; the classes take turns."""

    def __init__(self, size: int, count: int, seed: int, split: str) -> None:
        self.size, self.count, self.seed, self.split = size, count, seed, split

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(1, self.size, self.size, self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: SampleKey) -> Sample:
        label = key.id % len(CLASSES)
        random = keyed.generator(self.seed, "drawing", self.split, key.id)
        pixels = draw(label, self.size, random)
        return Sample(key, pixels, CLASSES[label], {"label": torch.tensor(label)})

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)


class DrawingsData(TaskDataModule):
    """Training and validation drawings, which differ in their random numbers."""

    def __init__(self, task: str, config: ClassToImageConfig, context: DataContext) -> None:
        super().__init__()
        self.task, self.config, self.seed = task, config, context.seed

    def train_source(self) -> Source:
        return Drawings(self.config.size, self.config.count, self.seed, "train")

    def val_source(self) -> Source:
        return Drawings(self.config.size, VAL_COUNT, self.seed, "val")

    def describe(self) -> Sequence[str]:
        return [f"{self.config.count} drawings of {self.config.size} pixels: {', '.join(CLASSES)}"]

    def val_conditions(self, count: int) -> Batch:
        return conditions(self.task, [i % len(CLASSES) for i in range(count)])


def conditions(task: str, labels: Sequence[int]) -> Batch:
    """A batch to sample from: the classes, without pictures."""
    return Batch(task, tuple(CLASSES[label] for label in labels), extra={"label": torch.tensor(labels)})
