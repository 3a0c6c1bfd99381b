"""Settings: what may stand below `tasks.edge-to-image` in a recipe. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from t2x_core.recipe import Range, TaskConfig


@dataclass(frozen=True, kw_only=True)
class EdgeToImageConfig(TaskConfig):
    """The task's block of a recipe."""

    needs_prompt: ClassVar[bool] = False

    folder: Path
    """Folder of images, searched at any depth; a caption may stand in a .txt beside each."""
    size: Annotated[int, Range(min=16)] = 16
    """Height and width to which images are resized and cropped, in pixels."""
    held_out: Annotated[float, Range(above=0, max=0.5)] = 0.1
    """Share of the images that is never trained on, at least one."""

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        return {"size": (self.size, self.size)}

    def inputs(self) -> Mapping[str, str]:
        return {"edges": "white edges on black"}
