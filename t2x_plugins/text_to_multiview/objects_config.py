"""Settings of objects of one's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range
from t2x_plugins.captioned.captioned_config import Colour
from t2x_plugins.text_to_multiview.view_source_config import Asked, ViewSourceConfig

Count = Annotated[int, Range(min=1)]

ELEVATION, DISTANCE, FOV = 20.0, 1.5, 40.0
"""Of the cameras that sample objects of one's own, where nothing else is said; degrees, units of the world, degrees."""


@dataclass(frozen=True, kw_only=True)
class ObjectsConfig(ViewSourceConfig):
    """Objects of one's own: each a folder with its images and a camera file."""

    folder: Path | None = None
    """Folder with a folder for each object, in which are its images and `cameras.json` or `transforms.json`."""
    size: Annotated[int, Range(min=16)] = 256
    """Height and width of a view, in pixels; images that are not square are cropped in the middle."""
    views: Count | tuple[Count, ...] = 8
    """Views of a sample, or several such numbers, each equally often; an object with fewer images is left out."""
    choose: Literal["evenly", "random"] = "evenly"
    """Which of more images: every n-th around the object, or any (training only); always in order of azimuth."""
    distance: Annotated[float, Range(above=0)] | None = 1.5
    """Cameras of an object are moved in or out until their mean distance is this; `null`: left where they are."""
    axes: Literal["auto", "opengl", "opencv"] = "auto"
    """Axes of the cameras in camera files: `opengl` (NeRF, Blender) looks along -z with y up, `opencv` (COLMAP) along z
    with y down; `auto`: those in which the cameras look at an object, and where that is undecided, `opengl`."""
    poses: Literal["auto", "camera-to-world", "world-to-camera"] = "auto"
    """What the matrices map; `auto`: as for `axes`, else `camera-to-world`."""
    up: Literal["auto", "z", "y", "-y", "-z"] | tuple[float, float, float] = "auto"
    """Direction that points up in camera files; `auto`: that in which cameras held level point, else `z`."""
    center: Literal["auto", "origin"] | tuple[float, float, float] = "auto"
    """Where the object stands, in the world of its camera file; `auto`: where the cameras look, or the origin if they
    look nearly at it."""
    missing_captions: Literal["error", "empty", "skip"] = "error"
    """Objects without a caption: `error` stops and names them, `empty` gives them an empty one, `skip` drops them."""
    background: Annotated[str, Colour()] = "#ffffff"
    """Colour behind transparent pixels, as "#rrggbb"."""
    held_out: Annotated[float, Range(above=0, max=0.5)] = 0.05
    """Share of the objects that is never trained on, at least one; chosen by the name of their folder."""
    val_count: Count = 128
    """Most objects of the validation set; of those held out, always the same."""
    check: Literal["full", "headers"] = "full"
    """Before training, decode every image once (and remember the good ones), or look at headers only."""
    max_bad_fraction: Annotated[float, Range(min=0, max=1)] = 0.05
    """Share of damaged or missing images above which training stops, and of objects with unusable cameras, of which
    one never stops it unless this is 0."""

    def __post_init__(self) -> None:
        if not self.numbers:
            raise UserError("name at least one number of views", key="views")
        for key in ("up", "center"):
            direction = getattr(self, key)
            if not isinstance(direction, str) and not all(map(math.isfinite, direction)):
                raise UserError("these must be finite numbers", key=key)
        if not isinstance(self.up, str) and math.hypot(*self.up) < 1e-6:
            raise UserError("a direction has a length above 0", key="up")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of views, in rising order."""
        return (self.views,) if isinstance(self.views, int) else tuple(sorted(set(self.views)))

    @property
    def usual(self) -> Asked:
        return Asked(
            views=self.numbers[-1],
            azimuth=0.0,
            elevation=ELEVATION,
            distance=self.distance or DISTANCE,
            fov=FOV,
            size=self.size,
        )

    def check_trainable(self) -> None:
        if self.folder is None:
            what = "a folder with a folder for each object, in which are its images and cameras"
            raise UserError(f"folder is missing ({what})")
