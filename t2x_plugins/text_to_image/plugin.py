"""The task text-to-image."""

from __future__ import annotations

from collections.abc import Sequence

from t2x_core.conditioning import TextConditioning
from t2x_core.interfaces import Component, ConditioningAdapter, Loss, ModelContext, SourcedTask
from t2x_core.losses import named_loss
from t2x_core.plugins import hookimpl
from t2x_core.types import Bucket
from t2x_plugins.text_to_image.data import Shapes
from t2x_plugins.text_to_image.image_config import ImagesConfig, ShapesConfig, TextToImageConfig
from t2x_plugins.text_to_image.images import Images


class TextToImage(SourcedTask[TextToImageConfig]):
    """Images from captions."""

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return TextConditioning(context, **vars(self.config.conditioning))

    def loss(self) -> Loss:
        return named_loss(self.config.loss.weighting, self.config.loss.min_snr_gamma)

    def bucket(self) -> Bucket:
        asked, size = self.config.sampling, self.config.source.size
        return Bucket(1, asked.height or size, asked.width or size)


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [
        Component("text-to-image", TextToImageConfig, TextToImage),
        Component("shapes", ShapesConfig, Shapes),
        Component("images", ImagesConfig, Images),
    ]
