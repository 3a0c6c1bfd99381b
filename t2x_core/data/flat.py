"""Decoded images → 8 bit RGB on a background; large ones band by band, so that no file takes memory without bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as TiffTags

from t2x_core.media import Place, open_place

LARGE = 2**24
"""Pixels from which on an image takes so much memory that it is treated with care."""


def reduction(size: tuple[int, int], covering: tuple[int, int] | None) -> int:
    """By how much an image (width, height) may be reduced and be still twice as large as what it is to cover (height,
    width), as it is stored; 1 = not at all."""
    if covering is None:
        return 1
    return max(1, min(size[0] // (2 * covering[1]), size[1] // (2 * covering[0])))


def flat_by_bands(
    image: Image.Image, background: tuple[int, int, int], place: Place | Path, stored: str, reduced: int
) -> Image.Image:
    """As `flat`, but a band of rows at a time, each made smaller by the whole factor `reduced` at once.

    So besides the decoded image (1 to 4 bytes a pixel) it takes 200 MB and the result.
    """
    if stored == "RGB;16B" and image.info.get("transparency") is not None:
        raise ValueError(
            f"16 bits a channel, a transparent colour and over {LARGE / 1e6:.0f} million pixels: make it 8 bit"
        )
    rows = max(1, LARGE // 2 // image.width // reduced) * reduced
    whole = Image.new("RGB", (-(-image.width // reduced), -(-image.height // reduced)))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        if hasattr(image, "tag_v2"):
            band.tag_v2 = image.tag_v2  # type: ignore[attr-defined]
        part = flat(band, background, place, stored)
        whole.paste(part.reduce(reduced) if reduced > 1 else part, (0, top // reduced))
    return whole


def flat(image: Image.Image, background: tuple[int, int, int], place: Place | Path, stored: str) -> Image.Image:
    """As 8 bit RGB without transparency; `stored`: Pillow's name for how the file keeps its pixels."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        image = _grey_of_8_bit(image, transparent)
    elif stored == "RGB;16B" and transparent is not None:
        image = _rgb_of_16_bit(place, transparent)
    elif stored in ("L;2", "L;4") and isinstance(transparent, int):  # Pillow scales the pixels, but not this
        image.info["transparency"] = transparent * (85 if stored == "L;2" else 17)
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        behind = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("RGB")


def _grey_of_8_bit(image: Image.Image, transparent: int | None) -> Image.Image:
    """Grey of 12 or 16 bit as L, or LA if one of its levels is transparent; Pillow's own conversion clips it at 255."""
    levels, tags = np.asarray(image).astype(np.int64), getattr(image, "tag_v2", {})
    white = 2 ** int(tags.get(TiffTags.BITSPERSAMPLE, (16,))[0]) - 1
    grey = (levels * 255 / white).clip(0, 255).round().astype(np.uint8)
    if tags.get(TiffTags.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero, which Pillow sees to in 8 bit only
        grey = 255 - grey
    if transparent is None:
        return Image.fromarray(grey)
    alpha = np.where(levels == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _rgb_of_16_bit(place: Place | Path, transparent: tuple[int, int, int]) -> Image.Image:
    """A PNG as RGBA. Pillow keeps only the upper 8 bits, in which other colours look like the transparent one."""
    import av

    with open_place(place) as stream, av.open(stream, "r") as container:
        frame = next(container.decode(container.streams.video[0]))
    levels = frame.to_ndarray(format="rgba64le")[..., :3]
    alpha = np.where((levels == transparent).all(-1), 0, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([(levels / 257).round().astype(np.uint8), alpha]))
