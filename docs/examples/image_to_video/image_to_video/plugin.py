"""The task image-to-video."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from image_to_video.config import ImageToVideoConfig
from t2x_core.conditioning import TextConditioning
from t2x_core.data import Made, MadeData
from t2x_core.interfaces import Component, ConditioningAdapter, DataContext, ModelContext, Task, TaskDataModule
from t2x_core.plugins import hookimpl
from t2x_core.types import Batch
from t2x_plugins.shapes.motion import render_clip, sample_clip
from t2x_plugins.shapes.motion_captions import canonical, words_of

FPS = 5.0


def make(config: ImageToVideoConfig, seed: int, split: str, number: int) -> Made:
    """Moving shape number so-and-so: all frames, what happens in them, and the first one as a control."""
    scene = sample_clip(seed, number, "train" if split == "train" else "held_out", config.length, [FPS], ["black"])
    levels = torch.from_numpy(render_clip(scene, config.size))  # (F, H, W, 3) uint8
    pixels = levels.permute(3, 0, 1, 2).float() / 127.5 - 1  # (3, F, H, W)
    return Made(pixels, canonical(words_of(scene)), controls={"first_frame": pixels[:, :1]})


class ImageToVideo(Task[ImageToVideoConfig]):
    """Videos that begin with a given frame, and go on as a caption says."""

    encoded_controls = ("first_frame",)

    def data_module(self, context: DataContext) -> TaskDataModule:
        return MadeData(partial(make, self.config, context.seed), held_out=64)

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return TextConditioning(context, controls=["first_frame"])

    def score(self, samples: Tensor, conditions: Batch) -> dict[str, Tensor]:
        """How much of the given frame the first one shows: 1 is the same, 0 as far from it as a black image; NaN, which
        does not count, where the given one is black."""
        given = conditions.controls["first_frame"]
        missed, shown = ((x - given).abs().flatten(1).sum(1) for x in (samples[:, :, :1], -torch.ones_like(given)))
        return {"first_frame": 1 - missed / shown.where(shown > 1, torch.nan)}


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("image-to-video", ImageToVideoConfig, ImageToVideo)]
