"""Animated images (GIF, APNG, WebP, AVIF) as videos, by Pillow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from t2x_core.media import Place, container, is_remote, open_place, suffix
from t2x_core.video.reader import WHITE, Colour, DamagedClipError, Decoded, Frames, VideoReader, reason

FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Kinds of images that may move, by Pillow's names."""
SUFFIXES = frozenset((".gif", ".png", ".apng", ".webp", ".avif"))
"""Their endings."""
LEAST, USUAL = 10, 100
"""Milliseconds: a frame that is to be shown no longer than the first is shown for the second, as browsers do."""


class AnimationReader(VideoReader):
    """Frames are composed as the file says, and each is shown as long as it says."""

    def __init__(self, place: Place, size: tuple[int, int] | None, background: Colour = WHITE) -> None:
        self.place, self.background = place, background
        try:
            with _opened(place) as image:
                durations = []
                for number in _numbers(image):
                    image.seek(number)
                    image.load()  # WebP knows how long a frame is shown once it is decoded
                    duration = float(image.info.get("duration", 0))
                    durations.append(duration if duration > LEAST else USUAL)
                self.height, self.width = size or (image.height, image.width)
        except DamagedClipError:
            raise
        except Exception as error:  # decoders raise what comes: OSError, ValueError, SyntaxError, struct.error …
            raise DamagedClipError(reason(place, error)) from error
        self.times = np.concatenate([[0.0], np.cumsum(durations[:-1])]) / 1000

    def read(self, numbers: Sequence[int]) -> Frames:
        chosen = sorted(set(numbers))
        frames = dict(zip(chosen, self._shown(chosen), strict=True))
        return np.stack([frames[number] for number in numbers])

    def every(self) -> Iterator[Decoded]:
        for time, pixels in zip(self.times, self._shown(range(len(self.times))), strict=True):
            yield Decoded(float(time), pixels)

    def _shown(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of these numbers, which rise."""
        try:
            with _opened(self.place) as image:
                shown = _numbers(image)
                for number in numbers:
                    image.seek(shown[number])
                    behind = Image.new("RGBA", image.size, (*self.background, 255))
                    flat = Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
                    yield np.asarray(flat.resize((self.width, self.height), Image.Resampling.BICUBIC))
        except Exception as error:
            raise DamagedClipError(reason(self.place, error)) from error


def is_animation(place: Place) -> bool:
    """Whether a file is an image that moves. False for what cannot be opened: reading it will say why."""
    if suffix(place) not in SUFFIXES or not (is_remote(place) or os.path.isfile(container(place))):
        return False
    try:
        with _opened(place) as image:
            return len(_numbers(image)) > 1
    except Exception:
        return False


@contextmanager
def _opened(place: Place) -> Iterator[Any]:
    Image.init()  # AVIF and the like are known only then
    formats = [name for name in FORMATS if name in Image.OPEN]
    with open_place(place) as stream, Image.open(stream, formats=formats) as image:
        yield image


def _numbers(image: Any) -> range:
    """Frames of the animation; an APNG may have a still image before them, for what knows no APNG."""
    count = getattr(image, "n_frames", 1)
    still = image.format == "PNG" and count > 1 and bool(image.info.get("default_image"))
    return range(1 if still else 0, count)
