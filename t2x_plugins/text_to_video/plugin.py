"""The task text-to-video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t2x_core.interfaces import Component, ConditioningAdapter, DataContext, Loss, ModelContext, Task, TaskDataModule
from t2x_core.losses import named_loss
from t2x_core.plugins import hookimpl
from t2x_core.rendering import caption_grid, to_uint8
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_plugins.shapes.motion_checker import verdicts
from t2x_plugins.shapes.verdicts import by_name
from t2x_plugins.text_to_video.clips import ClipsData
from t2x_plugins.text_to_video.conditioning import VideoConditioning
from t2x_plugins.text_to_video.data import MovingShapesData
from t2x_plugins.text_to_video.video_config import TextToVideoConfig


class TextToVideo(Task[TextToVideoConfig]):
    """Clips from captions."""

    def data_module(self, context: DataContext) -> TaskDataModule:
        if self.config.data.clips is not None:
            return ClipsData(self.name, self.config.data.clips, context)
        assert self.config.data.shapes is not None  # DataConfig sees to it
        return MovingShapesData(self.name, self.config.data.shapes, context)

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return VideoConditioning(context, self.config.conditioning)

    def loss(self) -> Loss:
        return named_loss(self.config.loss.weighting, self.config.loss.min_snr_gamma)

    def bucket(self) -> Bucket:
        asked, data = self.config.sampling, self.config.data
        return Bucket(asked.frames or data.frames, asked.height or data.size, asked.width or data.size)

    def conditions(self, prompts: Sequence[str]) -> Batch:
        fps = self.config.sampling.fps or self.config.data.fps
        return Batch(self.name, tuple(prompts), extra={"fps": torch.full((len(prompts),), fps)})

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor] | None:
        """Whether the attributes of each clip are as its caption says, as the checker of the shapes world sees them; it
        knows nothing of other clips. A shape is the one of the world's that fits best; "exact" is more strict."""
        if self.config.data.shapes is None:
            return None
        rates = conditions.extra["fps"].tolist()
        return by_name(verdicts(to_uint8(samples).numpy(), conditions.captions, rates, strict=False))

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        """A grid that moves, at the median frame rate."""
        return caption_grid(samples, conditions.captions, fps=conditions.extra["fps"].median().item())


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("text-to-video", TextToVideoConfig, TextToVideo)]
