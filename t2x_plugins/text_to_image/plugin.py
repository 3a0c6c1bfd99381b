"""The task text-to-image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from t2x_core.conditioning import TextConditioning
from t2x_core.interfaces import Component, ConditioningAdapter, DataContext, Loss, ModelContext, Task, TaskDataModule
from t2x_core.losses import named_loss
from t2x_core.plugins import hookimpl
from t2x_core.rendering import to_uint8
from t2x_core.types import Batch, Bucket
from t2x_plugins.shapes.checker import verdicts
from t2x_plugins.shapes.verdicts import by_name
from t2x_plugins.text_to_image.data import ShapesData
from t2x_plugins.text_to_image.image_config import TextToImageConfig
from t2x_plugins.text_to_image.images import ImagesData


class TextToImage(Task[TextToImageConfig]):
    """Images from captions."""

    def data_module(self, context: DataContext) -> TaskDataModule:
        data = self.config.data
        if data.images is not None:
            return ImagesData(self.name, data.images, context)
        assert data.shapes is not None  # DataConfig sees to it
        return ShapesData(self.name, data.shapes, context)

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return TextConditioning(context, **vars(self.config.conditioning))

    def loss(self) -> Loss:
        return named_loss(self.config.loss.weighting, self.config.loss.min_snr_gamma)

    def bucket(self) -> Bucket:
        asked = self.config.sampling
        return Bucket(1, asked.height or self.config.data.size, asked.width or self.config.data.size)

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor] | None:
        """Whether the attributes of each image are as its caption says, as the checker of the shapes world sees them;
        it knows nothing of other images. A shape is the one of the world's that fits best; "exact" is more strict."""
        if self.config.data.shapes is None:
            return None
        return by_name(verdicts(to_uint8(samples)[:, 0].numpy(), conditions.captions, strict=False))


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("text-to-image", TextToImageConfig, TextToImage)]
