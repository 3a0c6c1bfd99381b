"""Settings that tasks with captions share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from t2x_core.recipe import Constraint


class Colour(Constraint):
    """A text that is a colour, "#rrggbb"."""

    def requirement(self, value: str) -> str | None:
        return None if re.fullmatch("#[0-9a-fA-F]{6}", value) else str(self)

    def __str__(self) -> str:
        return 'a colour such as "#ffffff"'


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


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb", 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
