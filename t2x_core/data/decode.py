"""An image file → pixels: decoded, turned upright, laid on a background, resized and cropped.

Pillow decodes; torchvision resizes and crops. `torchvision.io.decode_image` takes a quarter to a third less time where
a JPEG cannot be decoded at a smaller size. But (0.29) a PNG with damaged data ends the process by a segmentation fault,
the orientation of WebP is ignored, animated WebP, BMP, TIFF and AVIF are not read, and it is deprecated.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from t2x_core.data.flat import LARGE, flat, flat_by_bands, reduction
from t2x_core.media import Place, container, open_place, special_file

DECODING = 2
"""Counts changes of how pixels come about: with another one, cached latents are out of date."""
Image.init()
FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF") if name in Image.OPEN)
"""What is read, by content; of an animation the first frame."""
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
"""Endings of image files, in lower case, with the dot."""

# Odd EXIF, odd palettes: what matters of it becomes an error, and a warning for each of a million files helps nobody.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of this EXIF orientation upright."""


class DamagedImageError(Exception):
    """A file from which no image can be had; `str()` says why, as in "is cut short"."""


def image_size(place: Place | Path, whole: bool) -> tuple[int, int]:
    """(height, width) of the upright image, in pixels.

    `whole` decodes all of it, so that damage shows, where else only the header is read. Raises DamagedImageError.
    """
    with _opened(place) as image:
        width, height = image.size
        if whole:
            image.draft(None, (1, 1))  # JPEG: reads all data, but computes few pixels
            image.load()
            orientation = _orientation(image.getexif)
        else:
            # The getexif of PNG decodes the whole image, in search of a late EXIF chunk. Of TIFF, Pillow gives the
            # size of the upright image, and turns it while it decodes.
            orientation = 1 if image.format == "TIFF" else _orientation(lambda: Image.Image.getexif(image))
    return (width, height) if orientation > 4 else (height, width)


def decode(place: Place | Path, background: tuple[int, int, int], covering: tuple[int, int] | None = None) -> Tensor:
    """The upright image, (3, H, W) uint8, RGB. Raises DamagedImageError.

    Args:
        background: RGB, 0 to 255, what stands behind transparent pixels.
        covering: (height, width) that it will be resized to cover. A large JPEG is then decoded at a half, a quarter or
            an eighth of its size, as long as it stays twice as large as that; any other of more than 16.8 million
            pixels is decoded whole (up to 4 bytes a pixel), and reduced likewise before anything else is done to it.
    """
    with _opened(place) as image:
        if covering is not None and image.format in ("JPEG", "MPO"):
            height, width = covering if _orientation(image.getexif) <= 4 else covering[::-1]
            image.draft(None, (2 * width, 2 * height))
        tiles = getattr(image, "tile", None)
        stored = str(tiles[0][3]) if tiles else ""  # "L;4": grey of 4 bit
        image.load()
        orientation = _orientation(image.getexif)
        turn = TURNS.get(orientation)
        if image.width * image.height > LARGE:
            cover = covering if covering is None or orientation <= 4 else covering[::-1]
            flattened = flat_by_bands(image, background, place, stored, reduction(image.size, cover))
        else:
            flattened = flat(image, background, place, stored)
        upright = np.array(flattened if turn is None else flattened.transpose(turn))
    return torch.from_numpy(upright).permute(2, 0, 1)


def fit_to(
    image: Tensor, height: int, width: int, place: tuple[float, float] = (0.5, 0.5), flip: bool = False
) -> Tensor:
    """The image (3, h, w) uint8 resized to cover height × width and cropped, (3, 1, height, width) in [-1, 1].

    Args:
        place: where the crop lies, from 0 (top, left) to 1 (bottom, right).
        flip: whether left and right are exchanged.
    """
    h, w = image.shape[1:]
    scale = max(height / h, width / w)
    h, w = max(height, round(h * scale)), max(width, round(w * scale))
    # uint8 all the way: a tenth of the time of float, to within one step of 255.
    image = transforms.resize(image, [h, w], interpolation=transforms.InterpolationMode.BICUBIC, antialias=True)
    top, left = round(place[0] * (h - height)), round(place[1] * (w - width))
    image = transforms.crop(image, top, left, height, width)
    if flip:
        image = transforms.horizontal_flip(image)
    return image.unsqueeze(1).float() / 127.5 - 1


@contextmanager
def _opened(place: Place | Path) -> Iterator[Image.Image]:
    try:
        if why := special_file(place):  # opening a pipe waits for ever
            raise DamagedImageError(why)
        with open_place(place) as stream, Image.open(stream, formats=FORMATS) as image:
            if image.mode == "LAB":
                raise DamagedImageError("has colours of the kind LAB, which cannot be read: make it RGB")
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                kind = "floating-point" if image.mode == "F" else "32-bit or signed"
                raise DamagedImageError(f"has {kind} numbers, of which nobody says what is white: make it 8 or 16 bit")
            yield image
    except (DamagedImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise what comes: OSError, ValueError, SyntaxError, struct.error …
        raise DamagedImageError(_reason(place, error)) from error


def _orientation(read: Callable[[], Image.Exif]) -> int:
    """EXIF orientation, 1 to 8; damaged EXIF is no reason to give up the image."""
    with suppress(Exception):
        return int(read().get(ExifTags.Base.Orientation, 1))
    return 1


def _reason(place: Place | Path, error: Exception) -> str:
    """What is wrong with a file, as in "is empty"."""
    match error:
        case FileNotFoundError():
            return "is a link to a file that is not there" if os.path.islink(container(place)) else "is not there"
        case PermissionError():
            return "may not be read: permission denied"
        case IsADirectoryError():
            return "is a folder"
        case Image.DecompressionBombError():
            return f"says that it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        case OSError(errno=int(), strerror=str(why)):
            return f"cannot be read: {why}"
    with suppress(OSError):
        with open_place(place) as stream:
            head, size = stream.read(1024), stream.seek(0, os.SEEK_END)
        if isinstance(error, UnidentifiedImageError):
            return _what_it_is(head)
        if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > size:
            return "is cut short"
    return "is cut short" if "runcated" in str(error) else f"is damaged ({error})"


def _what_it_is(head: bytes) -> str:
    """What a file is that is no image, by its first bytes."""
    if not head:
        return "is empty"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page, not an image"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "is a TIFF of a kind that cannot be read: make it PNG"
    if head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif"):
        return "is a HEIC image, which cannot be read: make it JPEG or PNG"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) and b"\x7f" not in head:
        return "is text, not an image"
    return "is no image of a known kind"
