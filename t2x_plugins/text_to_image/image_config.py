"""Settings of the task: what may stand below `tasks.text-to-image` in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from t2x_core.recipe import Range, SourceConfig, SourcedTaskConfig
from t2x_plugins.captioned.captioned_config import (
    ConditioningConfig,
    FilesConfig,
    LossConfig,
)


@dataclass(frozen=True, kw_only=True)
class ImageSourceConfig(SourceConfig):
    """Block of a data source that gives captioned images."""


@dataclass(frozen=True, kw_only=True)
class ShapesConfig(ImageSourceConfig):
    """Images of the shapes world, made on the fly."""

    size: Annotated[int, Range(min=16)] = 32
    """Height and width of an image, in pixels."""
    count: Annotated[int, Range(min=1)] = 1_000_000
    """Different training images there are."""
    two_objects: Annotated[float, Range(min=0, max=1)] = 0.2
    """Share of images with two objects that stand in a relation."""
    omit: Annotated[float, Range(min=0, max=1)] = 0.1
    """Chance that a training caption leaves out a size or a place, each by itself."""
    backgrounds: tuple[Literal["black", "white", "grey", "navy"], ...] = ("black", "white", "grey", "navy")
    """Colours of the background, each equally likely."""
    background: Annotated[float, Range(min=0, max=1)] = 0.3
    """Chance that a caption names the background."""
    wordings: Annotated[int, Range(min=1)] | None = None
    """Training captions that an image has, so that a cache of text can hold them all; `null`: another each turn."""
    val_count: Annotated[int, Range(min=1)] = 256
    """Images of the validation set, all of held-out combinations."""


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(FilesConfig, ImageSourceConfig):
    """Images of one's own, from folders, a manifest or shards."""

    what = "images"

    val_count: Annotated[int, Range(min=1)] = 512
    """Most images of the validation set; of those held out, always the same."""
    check: Literal["full", "headers", "index"] = "full"
    """Before training, decode every image once (and remember the good ones), or look at headers only; `index`: decode
    once, and look at no file again as long as the manifest, the shards or the names in the folder are the same."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What can be asked for besides a prompt."""

    height: Annotated[int, Range(min=1)] | None = None
    """Height of an image, in pixels; `null`: the size of the data."""
    width: Annotated[int, Range(min=1)] | None = None
    """Width of an image, in pixels; `null`: the size of the data."""


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig(SourcedTaskConfig):
    """The task's block of a recipe."""

    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """How the caption reaches the backbone."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What can be asked for besides a prompt."""

    source_class = ImageSourceConfig

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        sides = (("height", self.sampling.height), ("width", self.sampling.width))
        asked = {f"sampling.{side}": (pixels, pixels) for side, pixels in sides if pixels is not None}
        return {**super().sizes(), **asked}
