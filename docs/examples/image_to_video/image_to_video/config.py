"""Settings: what may stand below `tasks.image-to-video` in a recipe. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from t2x_core.recipe import Range, TaskConfig


@dataclass(frozen=True, kw_only=True)
class ImageToVideoConfig(TaskConfig):
    """The task's block of a recipe."""

    size: Annotated[int, Range(min=16)] = 16
    """Height and width of a video, in pixels."""
    length: Annotated[int, Range(min=2)] = 6
    """Frames of a video."""

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        return {"size": (self.size, self.size)}

    def frames(self) -> Mapping[str, Sequence[int]]:
        return {"length": [self.length]}

    def inputs(self) -> Mapping[str, str]:
        return {"first_frame": "the image that the video begins with"}
