"""What an image looks like, in a few bytes: a perceptual hash, and its colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, KEPT = 32, 8
"""Pixels of a side before the transform; and how many of its lowest frequencies are kept along each."""
_K = np.arange(KEPT)[:, None]
DCT = 2 * np.cos(np.pi * _K * (2 * np.arange(SIDE) + 1) / (2 * SIDE))
"""(8, 32), the first rows of the DCT-II without normalization."""


def perceptual_hash(image: Image.Image) -> int:
    """64 bits: which of the 8 × 8 lowest frequencies of a 32 × 32 grey image exceed their median (pHash).

    The first bit is that of the lowest frequency.
    """
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float64)
    low = DCT @ grey @ DCT.T
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def colours(image: Image.Image) -> bytes:
    """192 bytes: the image at 8 × 8 pixels, RGB."""
    return image.convert("RGB").resize((8, 8), Image.Resampling.BOX).tobytes()


def colour_differences(first: bytes, second: bytes) -> NDArray[np.int16]:
    """Differences of two `colours` of as many frames, 0 to 255."""
    a, b = (np.frombuffer(one, np.uint8).astype(np.int16) for one in (first, second))
    return np.abs(a - b)
