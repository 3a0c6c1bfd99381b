"""The task text-to-image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from t2x_core.interfaces import ConditioningAdapter, DataContext, Loss, TaskDataModule, TaskPlugin
from t2x_core.plugins import hookimpl
from t2x_core.rendering import caption_grid, to_uint8
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_plugins.captioned.conditioning import TextConditioning
from t2x_plugins.captioned.loss import LOSSES
from t2x_plugins.captioned.own_files import UNSCORED
from t2x_plugins.shapes.checker import score
from t2x_plugins.text_to_image.config import TextToImageConfig
from t2x_plugins.text_to_image.data import ShapesData
from t2x_plugins.text_to_image.pictures import PicturesData


class TextToImage(TaskPlugin[TextToImageConfig]):
    """Pictures from captions."""

    name = "text-to-image"
    config_class = TextToImageConfig

    def data_module(self, config: TextToImageConfig, context: DataContext) -> TaskDataModule:
        data = config.data
        if data.pictures is not None:
            return PicturesData(self.name, data.pictures, context)
        assert data.shapes is not None  # DataConfig sees to it
        return ShapesData(self.name, data.shapes, context)

    def adapter(self, config: TextToImageConfig, text_dim: int) -> ConditioningAdapter:
        return TextConditioning(config.conditioning, text_dim, self.name)

    def loss(self, config: TextToImageConfig) -> Loss:
        return LOSSES[config.loss.weighting]

    def bucket(self, config: TextToImageConfig) -> Bucket:
        asked = config.sampling
        return Bucket(1, asked.height or config.data.size, asked.width or config.data.size)

    def conditions(self, prompts: Sequence[str], config: TextToImageConfig) -> Batch:
        return Batch(self.name, tuple(prompts))

    def score(self, samples: Tensor, conditions: Batch) -> dict[str, float] | None:
        """Share of pictures whose attributes the shapes checker finds as the caption says, by attribute.

        It knows nothing of other pictures: None for what was sampled from the captions of one's own.
        """
        if UNSCORED in conditions.extra:
            return None
        return score(to_uint8(samples)[:, 0].numpy(), conditions.captions) or None

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        return caption_grid(samples, conditions.captions)


@hookimpl
def t2x_register_tasks() -> Sequence[TextToImage]:
    return [TextToImage()]
