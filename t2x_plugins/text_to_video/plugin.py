"""The task text-to-video."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2x_core.interfaces import Component, ConditioningAdapter, Loss, ModelContext, SourcedTask
from t2x_core.losses import named_loss
from t2x_core.plugins import hookimpl
from t2x_core.rendering import caption_grid
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_plugins.text_to_video.clips import Clips
from t2x_plugins.text_to_video.clips_config import ClipsConfig
from t2x_plugins.text_to_video.conditioning import VideoConditioning
from t2x_plugins.text_to_video.data import MovingShapes
from t2x_plugins.text_to_video.video_config import MovingShapesConfig, TextToVideoConfig


class TextToVideo(SourcedTask[TextToVideoConfig]):
    """Clips from captions."""

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return VideoConditioning(context, self.config.conditioning)

    def loss(self) -> Loss:
        return named_loss(self.config.loss.weighting, self.config.loss.min_snr_gamma)

    def bucket(self) -> Bucket:
        asked, data = self.config.sampling, self.config.source
        return Bucket(asked.frames or data.longest, asked.height or data.size, asked.width or data.size)

    def conditions(self, prompts: Sequence[str]) -> Batch:
        fps = self.config.sampling.fps or self.config.source.rate
        return Batch(self.name, tuple(prompts), extra={"fps": torch.full((len(prompts),), fps)})

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        """A grid that moves, at the median frame rate."""
        return caption_grid(samples, conditions.captions, fps=conditions.extra["fps"].median().item())


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [
        Component("text-to-video", TextToVideoConfig, TextToVideo),
        Component("moving-shapes", MovingShapesConfig, MovingShapes),
        Component("clips", ClipsConfig, Clips),
    ]
