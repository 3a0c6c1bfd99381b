"""Settings of the task: what may stand below `tasks.text-to-video` in a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range, SourcedTaskConfig
from t2x_plugins.captioned.captioned_config import ConditioningConfig, LossConfig
from t2x_plugins.text_to_video.clips_config import ClipSourceConfig

LONGEST = 1.8
"""Seconds of a clip of the shapes world: a fast object would leave the image later."""
Rate = Annotated[float, Range(above=0, max=240)]


@dataclass(frozen=True, kw_only=True)
class MovingShapesConfig(ClipSourceConfig):
    """Clips of the shapes world, made on the fly."""

    size: Annotated[int, Range(min=16)] = 32
    """Height and width of a clip, in pixels."""
    frames: Annotated[int, Range(min=4)] = 8
    """Frames of a clip."""
    fps: tuple[Rate, ...] = (4.0, 6.0)
    """Frame rates, in frames a second, each equally likely; with `frames`, no clip may be longer than 1.8 s."""
    spread: Annotated[float, Range(min=0, max=1)] = 1.0
    """How far from the middle objects may move, from 0 (through the middle) to 1 (anywhere)."""
    images: Annotated[float, Range(min=0, max=0.9)] = 0.0
    """Share of the samples that are single images: clips of one frame."""
    count: Annotated[int, Range(min=1)] = 1_000_000
    """Different training clips there are."""
    backgrounds: tuple[Literal["black", "white", "grey", "navy"], ...] = ("black", "white", "grey", "navy")
    """Colours of the background, each equally likely."""
    val_count: Annotated[int, Range(min=1)] = 256
    """Clips of the validation set, all of held-out combinations."""

    def __post_init__(self) -> None:
        if not self.fps:
            raise UserError("name at least one frame rate", key="fps")
        if (self.frames - 1) / min(self.fps) > LONGEST:
            raise UserError(
                f"{self.frames} frames at {min(self.fps):g} a second are longer than {LONGEST:g} seconds",
                key="fps",
                hint=f"at least {(self.frames - 1) / LONGEST:g} a second, or fewer frames",
            )

    def frame_counts(self) -> Mapping[str, Sequence[int]]:
        return {"frames": [self.frames]}

    @property
    def longest(self) -> int:
        return self.frames

    @property
    def rate(self) -> float:
        return self.fps[0]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What can be asked for besides a prompt."""

    frames: Annotated[int, Range(min=1)] | None = None
    """Frames of a clip; 1: an image; `null`: as many as the data has."""
    fps: Rate | None = None
    """Frames a second; `null`: the first frame rate of the data."""
    height: Annotated[int, Range(min=1)] | None = None
    """Height of a clip, in pixels; `null`: the size of the data."""
    width: Annotated[int, Range(min=1)] | None = None
    """Width of a clip, in pixels; `null`: the size of the data."""


@dataclass(frozen=True, kw_only=True)
class TextToVideoConfig(SourcedTaskConfig):
    """The task's block of a recipe."""

    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """How the caption reaches the backbone."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What can be asked for besides a prompt."""

    source_class = ClipSourceConfig

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        sides = (("height", self.sampling.height), ("width", self.sampling.width))
        asked = {f"sampling.{side}": (pixels, pixels) for side, pixels in sides if pixels is not None}
        return {**super().sizes(), **asked}

    def frames(self) -> Mapping[str, Sequence[int]]:
        asked = {} if self.sampling.frames is None else {"sampling.frames": [self.sampling.frames]}
        return {**super().frames(), **asked}
