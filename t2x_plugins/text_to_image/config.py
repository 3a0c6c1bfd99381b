"""Settings of the task: what may stand below `tasks.text-to-image` in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from t2x_core.recipe import Range, TaskConfig


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Pictures of the shapes world, made on the fly."""

    size: Annotated[int, Range(min=16)] = 32
    """Height and width of a picture, in pixels."""
    count: Annotated[int, Range(min=1)] = 1_000_000
    """Different training pictures there are."""
    two_objects: Annotated[float, Range(min=0, max=1)] = 0.2
    """Share of pictures with two objects that stand in a relation."""
    omit: Annotated[float, Range(min=0, max=1)] = 0.1
    """Chance that a training caption leaves out a size or a place, each by itself."""
    backgrounds: tuple[Literal["black", "white", "grey", "navy"], ...] = ("black", "white", "grey", "navy")
    """Colours of the background, each equally likely."""
    background: Annotated[float, Range(min=0, max=1)] = 0.3
    """Chance that a caption names the background."""
    val_count: Annotated[int, Range(min=1)] = 256
    """Pictures of the validation set, all of held-out combinations."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where captioned pictures come from."""

    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    """The shapes world."""


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How the caption reaches the backbone."""

    pooled: bool = True
    """Besides the text tokens, add their mean to the timestep embedding (through a projection)."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss."""

    weighting: Literal["velocity", "clean"] = "velocity"
    """Squared error of the velocity, or of the clean latents that it implies (the same times t²)."""


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig(TaskConfig):
    """The task's block of a recipe."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where captioned pictures come from."""
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """How the caption reaches the backbone."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
