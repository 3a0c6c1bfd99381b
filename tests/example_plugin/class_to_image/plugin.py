"""The task class-to-image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from class_to_image.config import ClassToImageConfig
from class_to_image.data import drawings
from class_to_image.drawings import CLASSES, classify
from t2x_core.errors import UserError, did_you_mean
from t2x_core.interfaces import Component, ConditioningAdapter, DataContext, ModelContext, Task, TaskDataModule
from t2x_core.plugins import hookimpl
from t2x_core.types import Batch, Conditioning, ConditioningDims, LatentShape, TextTokens


class ClassConditioning(ConditioningAdapter):
    """One learned vector for each class, and one for "no class"."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dims = ConditioningDims(vector=channels)
        self.embedding = nn.Embedding(len(CLASSES) + 1, channels)

    def forward(self, batch: Batch, text: Mapping[str, TextTokens], latent_shape: LatentShape) -> Conditioning:
        return Conditioning(vector=self.embedding(batch.extra["label"]))  # (B, Dv)

    def null(self, conditioning: Conditioning) -> Conditioning:
        return Conditioning(vector=self.embedding.weight[-1].expand_as(conditioning.vector))


class ClassToImage(Task[ClassToImageConfig]):
    """Images of a class."""

    def data_module(self, context: DataContext) -> TaskDataModule:
        return drawings(self.config, context.seed)

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return ClassConditioning(self.config.channels)

    def conditions(self, prompts: Sequence[str]) -> Batch:
        for prompt in prompts:
            if prompt not in CLASSES:
                hint = did_you_mean(prompt, CLASSES) or f"there are: {', '.join(CLASSES)}"
                raise UserError(f'there is no class "{prompt}"', hint=hint)
        labels = [CLASSES.index(prompt) for prompt in prompts]
        return Batch(self.name, tuple(prompts), extra={"label": torch.tensor(labels)})

    def score(self, samples: Tensor, conditions: Batch) -> dict[str, Tensor]:
        right = classify(samples) == conditions.extra["label"]
        return {"class": right.float()}


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("class-to-image", ClassToImageConfig, ClassToImage)]
