"""The task text-to-video."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2x_core.interfaces import ConditioningAdapter, DataContext, Loss, TaskDataModule, TaskPlugin
from t2x_core.plugins import hookimpl
from t2x_core.rendering import caption_grid, to_uint8
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_plugins.captioned.loss import LOSSES
from t2x_plugins.captioned.own_files import UNSCORED
from t2x_plugins.shapes.motion_checker import score
from t2x_plugins.text_to_video.clips import ClipsData
from t2x_plugins.text_to_video.conditioning import VideoConditioning
from t2x_plugins.text_to_video.config import TextToVideoConfig
from t2x_plugins.text_to_video.data import MovingShapesData


class TextToVideo(TaskPlugin[TextToVideoConfig]):
    """Clips from captions."""

    name = "text-to-video"
    config_class = TextToVideoConfig

    def data_module(self, config: TextToVideoConfig, context: DataContext) -> TaskDataModule:
        if config.data.clips is not None:
            return ClipsData(self.name, config.data.clips, context)
        assert config.data.shapes is not None  # DataConfig sees to it
        return MovingShapesData(self.name, config.data.shapes, context)

    def adapter(self, config: TextToVideoConfig, text_dim: int) -> ConditioningAdapter:
        return VideoConditioning(config.conditioning, text_dim, self.name)

    def loss(self, config: TextToVideoConfig) -> Loss:
        return LOSSES[config.loss.weighting]

    def bucket(self, config: TextToVideoConfig) -> Bucket:
        asked, data = config.sampling, config.data
        return Bucket(asked.frames or data.frames, asked.height or data.size, asked.width or data.size)

    def conditions(self, prompts: Sequence[str], config: TextToVideoConfig) -> Batch:
        fps = config.sampling.fps or config.data.fps
        return Batch(self.name, tuple(prompts), extra={"fps": torch.full((len(prompts),), fps)})

    def score(self, samples: Tensor, conditions: Batch) -> dict[str, float] | None:
        """Share of clips that are as the caption says, by attribute, as the checker of the shapes world reads them.

        It knows nothing of other clips: None for what was sampled from the captions of one's own.
        """
        if UNSCORED in conditions.extra:
            return None
        return score(to_uint8(samples).numpy(), conditions.captions, conditions.extra["fps"].tolist()) or None

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        """A grid that moves, at the median frame rate."""
        return caption_grid(samples, conditions.captions, fps=conditions.extra["fps"].median().item())


@hookimpl
def t2x_register_tasks() -> Sequence[TextToVideo]:
    return [TextToVideo()]
