"""One file, decoded to its end by what training decodes it with; in a process that may crash or hang."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile, ImageStat

from t2x_core.data.decode import DECODING, SUFFIXES, DamagedImageError, decode, image_size
from t2x_core.data_check.clip_signs import Watch
from t2x_core.data_check.fingerprint import colours, perceptual_hash
from t2x_core.media import Place, open_place, special_file, suffix
from t2x_core.video import DamagedClipError, VideoReader, is_animation
from t2x_core.video.reader import reader_class, readers_of

LOOK = 1, DECODING
"""Changes when what is found in a file does."""
GLANCE = 96
"""Pixels of the longer side at which frames are looked at; images, of the shorter side at least."""
FLAT = 3.0
"""Standard deviation of every colour, of 255, below which an image is of one colour."""
GREY = 1.0
"""Mean difference between two colours of a pixel, of 255, below which an image has none."""
THUMBNAIL = 192
"""Pixels of its longer side."""
Beat = Callable[[], None]
"""Is called now and then, to say that the work goes on."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file turned out to be."""

    damage: str | None = None
    """Why it cannot be read, as in "is cut short"."""
    height: int = 0
    width: int = 0
    frames: int = 1
    seconds: float = 0.0
    digest: str = ""
    """A hash of all of its bytes."""
    hashes: tuple[int, ...] = ()
    """`perceptual_hash` of an image, or of the first, the middle and the last frame of a video; () if it is flat."""
    colours: str = ""
    """Their `colours`, in base64."""
    signs: tuple[tuple[str, str], ...] = ()
    """(kind of finding, detail)."""
    lasting: bool = True
    """Whether another look would find the same, as long as the file is the same."""


@dataclass(frozen=True)
class LookJob:
    """A file to look at."""

    place: Place
    video: bool
    """Whether it is one, unless it is an image that does not move."""
    background: tuple[int, int, int]

    def __call__(self, beat: Beat) -> Seen:
        try:
            if why := special_file(self.place):
                return Seen(why)
            digest = digest_of(self.place, beat)
            if _moves(self.place, self.video):
                return _look_at_video(self, digest, beat)
            return _look_at_image(self, digest)
        except (DamagedImageError, DamagedClipError) as error:
            return Seen(str(error), lasting=not str(error).startswith(("cannot be read:", "may not be read")))
        except MemoryError:
            return Seen("takes more memory than there is", lasting=False)
        except OSError as error:
            return Seen(f"cannot be read: {error.strerror or error}", lasting=False)


def digest_of(place: Place, beat: Beat) -> str:
    """A hash of all bytes of a file; "" if it cannot be opened, which decoding will say better."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open_place(place) as stream:
            while block := stream.read(2**22):
                digest.update(block)
                beat()
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _moves(place: Place, video: bool) -> bool:
    return video and (suffix(place) not in SUFFIXES or is_animation(place))


def _look_at_image(job: LookJob, digest: str) -> Seen:
    height, width = image_size(job.place, False)
    image = Image.fromarray(decode(job.place, job.background, covering=(GLANCE, GLANCE)).permute(1, 2, 0).numpy())
    flat, signs = is_flat(image), []
    if flat:
        signs.append(("flat", "is of one colour"))
    elif is_grey(image):
        signs.append(("grey", "has no colours"))
    hashes = () if flat else (perceptual_hash(image),)
    return Seen(None, height, width, 1, 0.0, digest, hashes, _text(colours(image)), tuple(signs))


def is_flat(image: Image.Image) -> bool:
    """Whether an RGB image is of one colour."""
    return max(ImageStat.Stat(image).stddev) < FLAT


def is_grey(image: Image.Image) -> bool:
    """Whether an RGB image has no colours."""
    pairs = itertools.combinations(image.split(), 2)
    return all(ImageStat.Stat(ImageChops.difference(a, b)).mean[0] < GREY for a, b in pairs)


def _open_video(place: Place, background: tuple[int, int, int], longest: int) -> tuple[VideoReader, tuple[int, int]]:
    """A reader whose frames have a longer side of so many pixels, and the size (height, width) of the video."""
    kind = reader_class(readers_of(place, exact=False)[0])
    video = kind(place, None, background)
    scale = longest / max(video.height, video.width)
    if scale >= 1:
        return video, (video.height, video.width)
    size = max(1, round(scale * video.height)), max(1, round(scale * video.width))
    return kind(place, size, background), (video.height, video.width)


def _look_at_video(job: LookJob, digest: str, beat: Beat) -> Seen:
    video, (height, width) = _open_video(job.place, job.background, GLANCE)
    beat()
    watch, middle = Watch(), (len(video.times) - 1) // 2
    shown: list[NDArray[np.uint8]] = []
    with _Complaints() as complaints:
        for number, frame in enumerate(video.every()):
            watch.add(frame)
            if number in (0, middle):
                shown.append(frame.pixels)
            beat()
    if not watch.count:
        raise DamagedClipError("has no frames")
    assert watch.last is not None
    seconds = float(video.times[-1] - video.times[0])
    signs = watch.signs(video.announced, video.announced_seconds)
    if watch.corrupt:
        raise DamagedClipError(f"is damaged: {watch.corrupt} of {watch.count} frames were decoded in part only")
    if complaints.first:
        signs.append(("decoding", f"the decoder complains: {complaints.first}"))
    images = [Image.fromarray(pixels) for pixels in (*shown, watch.last)]
    hashes = () if all(map(is_flat, images)) else tuple(map(perceptual_hash, images))
    tiny = _text(b"".join(map(colours, images)))
    return Seen(None, height, width, watch.count, seconds, digest, hashes, tiny, tuple(signs))


class _Complaints:
    """The first error that FFmpeg logs meanwhile."""

    first = ""

    def __enter__(self) -> _Complaints:
        import av

        av.logging.set_level(av.logging.ERROR)
        self._capture = av.logging.Capture(local=False)
        self._logs = self._capture.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        import av

        self._capture.__exit__(None, None, None)
        av.logging.set_level(None)
        said = [text.strip() for level, _, text in self._logs if level <= av.logging.ERROR]
        self.first = next(iter(said), "")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class ThumbnailJob:
    """A file to be shown small: a JPEG, of a video three frames side by side; b"" if nothing can be had of it."""

    place: Place
    video: bool
    background: tuple[int, int, int]

    def __call__(self, beat: Beat) -> bytes:
        logging.disable()
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # a part of a damaged image says what it was
        try:
            stream = io.BytesIO()
            self._image().save(stream, "JPEG", quality=72)
            return stream.getvalue()
        except Exception:  # whatever a damaged file may raise
            return b""
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def _image(self) -> Image.Image:
        if not _moves(self.place, self.video):
            covering = (THUMBNAIL, THUMBNAIL)
            image = Image.fromarray(decode(self.place, self.background, covering).permute(1, 2, 0).numpy())
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            return image
        video, _ = _open_video(self.place, self.background, THUMBNAIL)
        last = len(video.times) - 1
        frames: Any = video.read([0, last // 2, last])
        gap = np.full((frames.shape[1], 3, 3), 255, np.uint8)
        return Image.fromarray(np.concatenate([frames[0], gap, frames[1], gap, frames[2]], 1))
