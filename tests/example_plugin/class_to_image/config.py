"""Settings: what may stand below `tasks.class-to-image` in a recipe. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from t2x_core.recipe import Range, TaskConfig


@dataclass(frozen=True, kw_only=True)
class ClassToImageConfig(TaskConfig):
    """The task's block of a recipe."""

    size: Annotated[int, Range(min=8)] = 16
    """Height and width of an image, in pixels."""
    count: Annotated[int, Range(min=1)] = 10_000
    """Training images, of all classes together."""
    channels: Annotated[int, Range(min=1)] = 64
    """Width of the embedding of a class."""

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        return {"size": (self.size, self.size)}
