"""The task class-to-image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from class_to_image.config import ClassToImageConfig
from class_to_image.data import DrawingsData, conditions
from class_to_image.drawings import CLASSES, classify
from t2x_core.errors import UserError, did_you_mean
from t2x_core.interfaces import ConditioningAdapter, DataContext, Loss, TaskDataModule, TaskPlugin, TextEncoder
from t2x_core.plugins import hookimpl
from t2x_core.rendering import caption_grid
from t2x_core.types import Batch, Bucket, Conditioning, ConditioningDims, Noised, RenderedSamples


class ClassConditioning(ConditioningAdapter):
    """One learned vector for each class, and one for "no class"."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dims = ConditioningDims(vector=channels)
        self.embedding = nn.Embedding(len(CLASSES) + 1, channels)

    def forward(self, batch: Batch, text_encoder: TextEncoder | None) -> Conditioning:
        return Conditioning(vector=self.embedding(batch.extra["label"]))  # (B, Dv)

    def null(self, conditioning: Conditioning) -> Conditioning:
        return Conditioning(vector=self.embedding.weight[-1].expand_as(conditioning.vector))


def velocity_error(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
    """Mean squared error of the velocity, (B,)."""
    return (velocity - noised.velocity).square().flatten(1).mean(1)


class ClassToImage(TaskPlugin[ClassToImageConfig]):
    """Pictures of a class."""

    name = "class-to-image"
    config_class = ClassToImageConfig

    def data_module(self, config: ClassToImageConfig, context: DataContext) -> TaskDataModule:
        return DrawingsData(self.name, config, context)

    def adapter(self, config: ClassToImageConfig, text_dim: int) -> ConditioningAdapter:
        return ClassConditioning(config.channels)

    def loss(self, config: ClassToImageConfig) -> Loss:
        return velocity_error

    def bucket(self, config: ClassToImageConfig) -> Bucket:
        return Bucket(1, config.size, config.size)

    def conditions(self, prompts: Sequence[str], config: ClassToImageConfig) -> Batch:
        for prompt in prompts:
            if prompt not in CLASSES:
                hint = did_you_mean(prompt, CLASSES) or f"there are: {', '.join(CLASSES)}"
                raise UserError(f'there is no class "{prompt}"', hint=hint)
        return conditions(self.name, [CLASSES.index(prompt) for prompt in prompts])

    def score(self, samples: Tensor, conditions: Batch) -> dict[str, float] | None:
        right = classify(samples.cpu()) == conditions.extra["label"].cpu()
        return {"class": right.float().mean().item()}

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        return caption_grid(samples, conditions.captions)


@hookimpl
def t2x_register_tasks() -> Sequence[ClassToImage]:
    return [ClassToImage()]
