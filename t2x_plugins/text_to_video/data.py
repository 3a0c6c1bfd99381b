"""Captioned clips of the shapes world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from t2x_core.data import stack
from t2x_core.interfaces import DataContext, DataSource, Source, TaskDataModule
from t2x_core.rendering import to_uint8
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from t2x_plugins.shapes.motion import ClipScene, render_clip, sample_clip
from t2x_plugins.shapes.motion_captions import render_caption, words_of
from t2x_plugins.shapes.motion_checker import verdicts
from t2x_plugins.shapes.scene import DRAWING, Split, keyed_random
from t2x_plugins.shapes.verdicts import by_name
from t2x_plugins.text_to_video.video_config import MovingShapesConfig


class MovingShapesSource(Source):
    """Clips made from their number, and single images if the recipe wants some, in a bucket of their own."""

    def __init__(self, config: MovingShapesConfig, seed: int, split: Split) -> None:
        self.config, self.seed, self.split = config, seed, split
        self.count = config.count if split == "train" else config.val_count
        share = config.images if split == "train" else 0
        self.images = round(self.count * share / (1 - share))

    def buckets(self) -> Sequence[Bucket]:
        size = self.config.size
        clips = Bucket(self.config.frames, size, size, self.count)
        return [clips, Bucket(1, size, size, self.images)] if self.images else [clips]

    def __len__(self) -> int:
        return self.count + self.images

    def vary(self, key: SampleKey) -> Variation:
        clip, words = self._scene(key), keyed_random(self.seed, "caption", key.attempt, key.step, key.slot)
        return Variation(
            key, caption=f"{clip.colour} {clip.shape}" if key.bucket else render_caption(words_of(clip), words)
        )

    def load(self, variation: Variation) -> Sample:
        assert variation.caption is not None
        clip = self._scene(variation.key)
        levels = torch.from_numpy(render_clip(clip, self.config.size))  # (F, H, W, 3) uint8
        pixels = levels.permute(3, 0, 1, 2).float() / 127.5 - 1  # (3, F, H, W)
        return Sample(variation.key, pixels, variation.caption, {"fps": torch.tensor(clip.fps)})

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...]:
        config, key = self.config, variation.key
        own = ("moving shapes", DRAWING, self.seed, self.split, key.id, 1 if key.bucket else config.frames)
        return (*own, config.size, config.fps, config.spread, config.backgrounds)

    def _scene(self, key: SampleKey) -> ClipScene:
        return scene(self.config, self.seed, key.id, self.split, 1 if key.bucket else self.config.frames)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)


def scene(config: MovingShapesConfig, seed: int, id: int, split: Split, frames: int) -> ClipScene:
    """Clip number `id` of a split."""
    return sample_clip(seed, id, split, frames, config.fps, config.backgrounds, config.spread)


class MovingShapesData(TaskDataModule):
    """Moving shapes as training data; the validation set holds combinations that training never shows."""

    def __init__(self, config: MovingShapesConfig, context: DataContext) -> None:
        super().__init__()
        self.config, self.context = config, context

    def describe(self) -> Sequence[str]:
        config = self.config
        rates = " or ".join(f"{rate:g}" for rate in config.fps)
        clips = f"{config.count} clips of {config.frames}×{config.size}×{config.size}, {rates} frames a second"
        images = f", and a share of {config.images:g} single images" if config.images else ""
        return [f"moving shapes, {clips}{images}, {config.val_count} held out"]

    def train_source(self) -> Source:
        return MovingShapesSource(self.config, self.context.seed, "train")

    def val_source(self) -> Source:
        return MovingShapesSource(self.config, self.context.seed, "held_out")

    def val_conditions(self, count: int) -> Batch:
        """Held-out combinations in turn, in paraphrases, at the frame rates of the data."""
        seed = self.context.seed
        clips = [scene(self.config, seed, i, "held_out", self.config.frames) for i in range(count)]
        captions = tuple(
            render_caption(words_of(clip), keyed_random(seed, "condition", i)) for i, clip in enumerate(clips)
        )
        return Batch(self.context.task, captions, extra={"fps": torch.tensor([clip.fps for clip in clips])})


class MovingShapes(DataSource[MovingShapesConfig]):
    """Moving shapes."""

    def data_module(self, context: DataContext) -> MovingShapesData:
        return MovingShapesData(self.config, context)

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor]:
        """Whether the attributes of each clip are as its caption says, as the checker sees them. A shape is the one of
        the world's that fits best; "exact" is more strict."""
        rates = conditions.extra["fps"].tolist()
        return by_name(verdicts(to_uint8(samples).numpy(), conditions.captions, rates, strict=False))
