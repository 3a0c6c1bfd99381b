"""A decoded frame → RGB as a player shows it: upright, with square pixels, on a background."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2x_core.video.reader import Colour, DamagedClipError

WIDEST = 16
"""Largest ratio of a pixel's sides that is believed."""


class Display:
    """How the frames of a stream are shown.

    Args:
        aspect: width over height of a pixel; None: square.
        size: (height, width) that frames are scaled to; None for their own.
        background: colour behind transparent pixels.
    """

    def __init__(self, aspect: Fraction | None, size: tuple[int, int] | None, background: Colour) -> None:
        aspect = aspect or Fraction(1)
        if not 1 / WIDEST <= aspect <= WIDEST:
            raise DamagedClipError(f"has pixels with sides of {aspect.numerator}:{aspect.denominator}, which cannot be")
        self.aspect, self.size, self.background = aspect, size, background

    def shown_size(self, frame: Any) -> tuple[int, int]:
        """(height, width) of a frame on the screen: its height is kept, its width follows from the pixels' aspect."""
        height, width = frame.height, max(1, round(frame.width * self.aspect))
        return (width, height) if orientation(frame)[0] else (height, width)

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        """(height, width, 3)."""
        transposed, upside_down, mirrored = orientation(frame)
        height, width = self.size or self.shown_size(frame)
        if transposed:
            height, width = width, height
        if any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8":
            frame = _on_background(frame, self.background)
        pixels = _rgb(frame, height, width)
        if transposed:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """What brings a frame upright: rows and columns exchanged, then upside down, then left and right exchanged.

    The display matrix takes column p, row q of the frame to x = a·p + c·q, y = b·p + d·q on the screen (ISO/IEC
    14496-12, 8.3.2; `libavutil/display.h`). Turns that are no multiple of 90° are taken to the nearest.
    """
    data = next((side for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)
    if a * d - b * c == 0:
        return False, False, False
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _rgb(frame: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Scaled, by the colour matrix and range that the stream names (BT.601, limited range if it names none)."""
    scaled = frame.reformat(
        width=width, height=height, format="rgb24", interpolation="BICUBIC", dst_color_range="JPEG", threads=1
    )
    return scaled.to_ndarray()


def _on_background(frame: Any, background: Colour) -> Any:
    """An opaque frame; alpha is not premultiplied."""
    import av

    pixels = frame.reformat(format="rgba", dst_color_range="JPEG", threads=1).to_ndarray().astype(np.uint16)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    mixed = (colour * alpha + np.asarray(background, np.uint16) * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(mixed.astype(np.uint8), format="rgb24")
