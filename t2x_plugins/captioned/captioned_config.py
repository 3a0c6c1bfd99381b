"""Settings that tasks with captions share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Constraint, Range


class Colour(Constraint):
    """A text that is a colour, "#rrggbb"."""

    def requirement(self, value: str) -> str | None:
        return None if re.fullmatch("#[0-9a-fA-F]{6}", value) else str(self)

    def __str__(self) -> str:
        return 'a colour such as "#ffffff"'


class Pattern(Constraint):
    """A text that is a regular expression."""

    def requirement(self, value: str) -> str | None:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError):
            return str(self)
        return None

    def __str__(self) -> str:
        return "a regular expression"


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Which columns of a manifest hold what."""

    path: str = "path"
    """Path of the image or the video."""
    captions: str | tuple[str, ...] = "caption"
    """A column, or several; a cell is a text or a list of texts, and all of them are captions of it."""
    height: str | None = None
    """Height of the upright image in pixels, so that `check: headers` need not open the file; with `width` only."""
    width: str | None = None
    """Width of the upright image in pixels; with `height` only."""

    group: str | None = None
    """What a file is a piece of (the video that clips were cut from, the person on photos): files with the same text
    here are trained together or held out together; an empty cell: of itself."""

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: name both columns, or none")
        if not self.captions:
            raise UserError("name at least one column", key="captions")


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How the caption reaches the backbone."""

    pooled: bool = True
    """Besides the text tokens, add one vector for the whole text to the timestep embedding (through a projection)."""
    null: Literal["learned", "empty"] = "learned"
    """What stands for "no caption": a `learned` token, or the `empty` prompt, as pretrained models want it."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss."""

    weighting: Literal["velocity", "clean", "epsilon", "min-snr"] = "velocity"
    """Squared error of the velocity, or of the `clean` latents or the noise (`epsilon`) that it implies, which weighs
    times otherwise; `min-snr`: that of the clean latents times the signal-to-noise ratio, at most `min_snr_gamma`."""
    min_snr_gamma: Annotated[float, Range(above=0)] = 5.0
    """Largest weight of the error of the clean latents (min-snr only)."""


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb", 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def need_place(folder: Path | None, manifest: Path | None, block: str, what: str) -> None:
    """UserError, with the key `block`, if neither says where one's own data is. `what`: "images", say."""
    if folder is None and manifest is None:
        raise UserError(
            f"folder is missing (the folder of your {what}, each with its caption in a .txt beside it), "
            "or else manifest (a .jsonl, .csv, .tsv or .parquet with a row for each)",
            key=block,
        )
