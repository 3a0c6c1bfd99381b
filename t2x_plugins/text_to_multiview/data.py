"""Captioned turntables of the world of solids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from t2x_core.data import stack
from t2x_core.interfaces import DataContext, DataSource, Source, TaskDataModule
from t2x_core.rendering import to_uint8
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from t2x_plugins.shapes.scene import DRAWING, keyed_random
from t2x_plugins.shapes.solids import SolidScene, caption_spec, render, render_caption, sample_scene, verdicts
from t2x_plugins.shapes.verdicts import by_name
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.multiview_config import TurntablesConfig


def draw_turntable(config: TurntablesConfig, *words: str | int) -> tuple[float, ...]:
    """Azimuth, elevation and distance from the ranges of the settings, drawn by `words`."""
    rng = keyed_random("turntable", *words)
    return tuple(low + (high - low) * rng.random() for low, high in (config.azimuth, config.elevation, config.distance))


def cameras_of(config: TurntablesConfig, drawn: tuple[float, ...]) -> Cameras:
    """The turntable that was drawn; float64."""
    azimuth, elevation, distance = drawn
    return Cameras.turntable(config.views, azimuth, elevation, distance, config.fov)


class TurntableSource(Source):
    """Scenes made from their number; the cameras and the words of the caption come from the key, so a scene is seen
    from many sides and in many wordings."""

    def __init__(self, config: TurntablesConfig, seed: int, split: Literal["train", "held_out"]) -> None:
        self.config, self.seed, self.split = config, seed, split
        self.count = config.count if split == "train" else config.val_count

    def buckets(self) -> Sequence[Bucket]:
        config = self.config
        return [Bucket(config.views, config.size, config.size, self.count)]

    def __len__(self) -> int:
        return self.count

    def vary(self, key: SampleKey) -> Variation:
        place = (key.attempt, key.step, key.slot)
        words = keyed_random(self.seed, "turntable caption", *place)
        caption = render_caption(caption_spec(self._scene(key.id), words, self.config.omit), words)
        return Variation(key, draw_turntable(self.config, self.seed, *place), caption)

    def load(self, variation: Variation) -> Sample:
        assert variation.caption is not None
        config, scene = self.config, self._scene(variation.key.id)
        cameras = cameras_of(config, variation.choices)
        views = torch.from_numpy(render(scene, cameras.poses.numpy(), config.fov, config.size))  # (F, H, W, 3) uint8
        pixels = views.permute(3, 0, 1, 2).float() / 127.5 - 1
        return Sample(variation.key, pixels, variation.caption, cameras.extra())

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...]:
        config, own = self.config, ("turntables", DRAWING, self.seed, self.split, variation.key.id)
        return (*own, config.size, config.views, config.fov, config.two_solids)

    def _scene(self, id: int) -> SolidScene:
        return sample_scene(self.seed, id, self.split, self.config.two_solids)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)


class TurntablesData(TaskDataModule):
    """The world of solids as training data; its validation set holds combinations that training never shows."""

    def __init__(self, config: TurntablesConfig, context: DataContext) -> None:
        super().__init__()
        self.config, self.context = config, context

    def describe(self) -> Sequence[str]:
        config = self.config
        return [
            f"turntables of solids, {config.count} scenes, {config.views} views of {config.size}×{config.size}, "
            f"{config.val_count} held out"
        ]

    def train_source(self) -> Source:
        return TurntableSource(self.config, self.context.seed, "train")

    def val_source(self) -> Source:
        return TurntableSource(self.config, self.context.seed, "held_out")

    def val_conditions(self, count: int) -> Batch:
        """Held-out scenes, single ones and pairs as in training, in paraphrases, each from a turntable of its own."""
        texts, turntables = [], []
        for i in range(count):
            words = keyed_random(self.context.seed, "turntable condition", i)
            scene = sample_scene(self.context.seed, i, "held_out", self.config.two_solids)
            texts.append(render_caption(caption_spec(scene, words), words))
            drawn = draw_turntable(self.config, self.context.seed, "condition", i)
            turntables.append(cameras_of(self.config, drawn).extra())
        extra = {name: torch.stack([table[name] for table in turntables]) for name in turntables[0]}
        return Batch(self.context.task, tuple(texts), extra=extra)


class Turntables(DataSource[TurntablesConfig]):
    """The world of solids."""

    def data_module(self, context: DataContext) -> TurntablesData:
        return TurntablesData(self.config, context)

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor]:
        """Whether each sample is as its caption and its cameras say, as the checker sees it."""
        cameras = Cameras.from_extra(conditions.extra)
        poses, fov = cameras.poses.cpu().numpy(), cameras.fov[:, 0].cpu().numpy()  # one for all views of a turntable
        return by_name(verdicts(to_uint8(samples).numpy(), conditions.captions, poses, fov))
