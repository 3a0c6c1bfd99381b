"""Settings of objects of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range
from t2x_plugins.captioned.config import Colour

Count = Annotated[int, Range(min=1)]


@dataclass(frozen=True, kw_only=True)
class ObjectsConfig:
    """Objects of one's own: each a folder with its pictures and a camera file."""

    folder: Path
    """Folder with a folder for each object, in which are its pictures and `cameras.json` or `transforms.json`."""
    size: Annotated[int, Range(min=16)] = 256
    """Height and width of a view, in pixels; pictures that are not square are cropped in the middle."""
    views: Count | tuple[Count, ...] = 8
    """Views of a sample, or several such numbers, each equally often; an object with fewer pictures is left out."""
    choose: Literal["evenly", "random"] = "evenly"
    """Which of more pictures: every n-th around the object, or any (training only); always in order of azimuth."""
    distance: Annotated[float, Range(above=0)] | None = 1.5
    """Cameras of an object are moved in or out until their mean distance is this; `null`: left where they are."""
    up: Literal["z", "y"] = "z"
    """Axis that points up in the camera files; NeRF's and Blender's point along z."""
    missing_captions: Literal["error", "empty", "skip"] = "error"
    """Objects without a caption: `error` stops and names them, `empty` gives them an empty one, `skip` drops them."""
    background: Annotated[str, Colour()] = "#ffffff"
    """Colour behind transparent pixels, as "#rrggbb"."""
    held_out: Annotated[float, Range(above=0, max=0.5)] = 0.05
    """Share of the objects that is never trained on, at least one; chosen by the name of their folder."""
    val_count: Count = 128
    """Most objects of the validation set; of those held out, always the same."""
    check: Literal["full", "headers"] = "full"
    """Before training, decode every picture once (and remember the good ones), or look at headers only."""
    max_bad_fraction: Annotated[float, Range(min=0, max=1)] = 0.05
    """Share of damaged or missing pictures above which training stops."""

    def __post_init__(self) -> None:
        if not self.numbers:
            raise UserError("name at least one number of views", key="views")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of views, in rising order."""
        return (self.views,) if isinstance(self.views, int) else tuple(sorted(set(self.views)))
