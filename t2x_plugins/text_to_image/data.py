"""Captioned images of the shapes world."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from t2x_core.data import stack
from t2x_core.interfaces import DataContext, DataSource, Source, TaskDataModule
from t2x_core.rendering import to_uint8
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from t2x_plugins.shapes import captions
from t2x_plugins.shapes.checker import verdicts
from t2x_plugins.shapes.render import render
from t2x_plugins.shapes.scene import DRAWING, Scene, keyed_random, sample_scene
from t2x_plugins.shapes.verdicts import by_name
from t2x_plugins.text_to_image.image_config import ShapesConfig


class ShapesSource(Source):
    """Images made from their number; the words of a caption come from the key, so an image has many captions, unless
    the recipe gives it `wordings`."""

    def __init__(self, config: ShapesConfig, seed: int, split: Literal["train", "held_out"]) -> None:
        self.config, self.seed, self.split = config, seed, split
        self.count = config.count if split == "train" else config.val_count

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(1, self.config.size, self.config.size, self.count)]

    def __len__(self) -> int:
        return self.count

    def vary(self, key: SampleKey) -> Variation:
        words = keyed_random(self.seed, "caption", key.attempt, key.step, key.slot)
        if (listed := self.captions(key)) is not None:
            return Variation(key, caption=words.choice(listed))
        return Variation(key, caption=self._caption(key.id, words))

    def captions(self, key: SampleKey) -> Sequence[str] | None:
        if self.config.wordings is None or self.split != "train":
            return None
        numbers = range(self.config.wordings)
        return [self._caption(key.id, keyed_random(self.seed, "wording", key.id, number)) for number in numbers]

    def _caption(self, id: int, words: random.Random) -> str:
        spec = captions.caption_spec(self._scene(id), words, omit=self.config.omit, background=self.config.background)
        return captions.render_caption(spec, words)

    def load(self, variation: Variation) -> Sample:
        assert variation.caption is not None
        image = torch.from_numpy(render(self._scene(variation.key.id), self.config.size))  # (H, W, 3) uint8
        pixels = image.permute(2, 0, 1).unsqueeze(1).float() / 127.5 - 1  # (3, 1, H, W)
        return Sample(variation.key, pixels, variation.caption)

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...]:
        config, own = self.config, ("shapes", DRAWING, self.seed, self.split, variation.key.id)
        return (*own, config.size, config.two_objects, config.backgrounds)

    def _scene(self, id: int) -> Scene:
        return sample_scene(self.seed, id, self.split, self.config.two_objects, self.config.backgrounds)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)


class ShapesData(TaskDataModule):
    """The shapes world as training data; its validation set holds combinations that training never shows."""

    def __init__(self, config: ShapesConfig, context: DataContext) -> None:
        super().__init__()
        self.config, self.context = config, context

    def describe(self) -> Sequence[str]:
        size = self.config.size
        return [f"shapes world, {self.config.count} images of {size}×{size}, {self.config.val_count} held out"]

    def train_source(self) -> Source:
        return ShapesSource(self.config, self.context.seed, "train")

    def val_source(self) -> Source:
        return ShapesSource(self.config, self.context.seed, "held_out")

    def val_conditions(self, count: int) -> Batch:
        """Held-out single objects with all attributes named, in paraphrases."""
        texts = []
        for i in range(count):
            words = keyed_random(self.context.seed, "condition", i)
            spec = captions.caption_spec(sample_scene(self.context.seed, i, "held_out"), words)
            texts.append(captions.render_caption(spec, words))
        return Batch(self.context.task, tuple(texts))


class Shapes(DataSource[ShapesConfig]):
    """The shapes world."""

    def data_module(self, context: DataContext) -> ShapesData:
        return ShapesData(self.config, context)

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor]:
        """Whether the attributes of each image are as its caption says, as the checker sees them. A shape is the one of
        the world's that fits best; "exact" is more strict."""
        return by_name(verdicts(to_uint8(samples)[:, 0].numpy(), conditions.captions, strict=False))
