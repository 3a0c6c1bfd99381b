"""What camera files say of lenses, in the dialects of NeRF, instant-ngp and nerfstudio → fx, fy, cx, cy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t2x_core.wording import quoted

FOCAL = frozenset(("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov"))
"""Keys of a focal length (pixels) or an angle (radians, `_fov`: degrees); those of a frame replace those of all."""
DISTORTION = frozenset((*(f"k{i}" for i in range(1, 7)), *(f"p{i}" for i in range(1, 5)), "s1", "s2", "s3", "s4"))
OTHER_LENSES = frozenset(("is_fisheye", "is_equirectangular", "latlong", "orthographic"))
LENS_KEYS = FOCAL | DISTORTION | OTHER_LENSES
LENS_KEYS |= {"w", "h", "cx", "cy", "camera_model", "camera_type", "lens_mode", "distortion_params", "rolling_shutter"}
PINHOLES = frozenset(
    ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
)  # the last four with a distortion, which has keys of its own
NARROWEST, WIDEST = 0.1, 175.0
"""Fields of view of a pinhole, in degrees."""
SAME_FOCAL, SAME_ASPECT = 0.02, 0.005
"""Relative differences that are taken for rounding."""


@dataclass(frozen=True)
class Lens:
    """A pinhole as a camera file describes it: what is None follows from the image."""

    focal: tuple[float | None, float | None] = (None, None)
    """Along x and y, in pixels of `size`."""
    angle: tuple[float | None, float | None] = (None, None)
    """Between the sides, and between top and bottom, in radians, as if the principal point lay in the middle."""
    middle: tuple[float | None, float | None] = (None, None)
    """The principal point, in pixels of `size` from the left and the top."""
    size: tuple[float | None, float | None] = (None, None)
    """Width and height that the numbers are of, in pixels."""

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of this size may be the one described, resized."""
        w, h = self.size
        if w is None or h is None:
            return True
        one_pixel = max(w, h)
        return abs(w * height - h * width) <= max(SAME_ASPECT * w * height, one_pixel)

    def intrinsics(self, width: int, height: int) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy as shares of the image's width and height. Raises ValueError if they are impossible."""
        w, h = self.size
        if not self.fits(width, height):
            raise ValueError(f"w and h say {w:g}×{h:g} pixels, and the image has {width}×{height}")
        w = w or (width if h is None else h * width / height)
        h = h or w * height / width
        x, y = (self._focal(i, extent) for i, extent in enumerate((w, h)))
        if x is None and y is None:
            raise KeyError("camera_angle_x")
        x = x if x is not None else y * h / w  # type: ignore[operator]  # square pixels
        y = y if y is not None else x * w / h
        middle = [0.5 if at is None else at / extent for at, extent in zip(self.middle, (w, h), strict=True)]
        for focal, name in ((x, "x"), (y, "y")):
            fov = math.degrees(2 * math.atan(0.5 / focal)) if focal > 0 else 180.0
            if not NARROWEST <= fov <= WIDEST:
                raise ValueError(f"a field of view of {fov:.4g} degrees along {name} is not that of a pinhole")
        if not all(-1 <= at <= 2 for at in middle):
            raise ValueError("cx, cy lie far outside of the image")
        return x, y, middle[0], middle[1]

    def _focal(self, i: int, extent: float) -> float | None:
        """As a share of the image."""
        focal, angle = self.focal[i], self.angle[i]
        ways = [] if focal is None else [focal / extent]
        ways += [] if angle is None else [0.5 / math.tan(angle / 2)]
        if len(ways) == 2 and abs(ways[0] - ways[1]) > SAME_FOCAL * ways[1]:
            said = [math.degrees(2 * math.atan(0.5 / way)) for way in ways]
            names = ("fl_x", "w", "camera_angle_x") if i == 0 else ("fl_y", "h", "camera_angle_y")
            raise ValueError(f"{names[0]} and {names[1]} say {said[0]:.1f} degrees, and {names[2]} {said[1]:.1f}")
        return ways[0] if ways else None


def read_lens(row: Mapping[str, Any], table: Mapping[str, Any]) -> Lens:
    """The lens of a frame; what it does not say stands in the table, for all.

    Raises:
        ValueError: it is no pinhole, or a number is none.
    """
    values = {key: value for key, value in table.items() if key in LENS_KEYS and value is not None}
    own = {key: value for key, value in row.items() if key in LENS_KEYS and value is not None}
    if own.keys() & FOCAL:
        values = {key: value for key, value in values.items() if key not in FOCAL}
    values |= own
    _refuse_distortion(values)

    def positive(key: str) -> float | None:
        if key not in values:
            return None
        number = read_number(values, key)
        if number <= 0:
            raise ValueError(f"{key} is {number:g}, and must be above 0")
        return number

    def angle(key: str, degrees: str) -> float | None:
        number, of = positive(key), math.pi
        if number is None:
            number, key, of = positive(degrees), degrees, 180.0
        if number is None:
            return None
        if number >= of:
            unit = "180 (degrees)" if of == 180 else "3.14 (radians)"
            raise ValueError(f"{key} is {number:g}, and must be an angle between 0 and {unit}")
        return number * math.pi / of

    middle = [read_number(values, key) if key in values else None for key in ("cx", "cy")]
    return Lens(
        focal=(positive("fl_x"), positive("fl_y")),
        angle=(angle("camera_angle_x", "x_fov"), angle("camera_angle_y", "y_fov")),
        middle=(middle[0], middle[1]),
        size=(positive("w"), positive("h")),
    )


def _refuse_distortion(values: Mapping[str, Any]) -> None:
    hint = "undistort the images first, and write the pinhole that they then have"
    for key in ("camera_model", "camera_type", "lens_mode"):
        if key in values and str(values[key]).upper() not in PINHOLES:
            raise ValueError(f"{key} is {quoted(values[key])}, and only pinholes can be used; {hint}")
    for key in sorted(OTHER_LENSES & values.keys()):
        if values[key]:
            raise ValueError(f"{key}: only pinholes can be used; {hint}")
    shutter = values.get("rolling_shutter")
    if isinstance(shutter, list) and any(shutter):
        raise ValueError("rolling_shutter: the camera moved while an image was taken, which cannot be used")
    bent = [key for key in sorted(DISTORTION & values.keys()) if read_number(values, key) != 0]
    more = values.get("distortion_params")
    if isinstance(more, list) and any(read_number({"distortion_params": x}, "distortion_params") for x in more):
        bent.append("distortion_params")
    if bent:
        raise ValueError(f"the lens distorts ({', '.join(bent)}); {hint}")


def read_number(row: Mapping[str, Any], key: str) -> float:
    """A finite number. Raises KeyError or ValueError."""
    value = row[key]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= 1e12:
        raise ValueError(f"{key} must be a number, not {quoted(value)}")
    return number
