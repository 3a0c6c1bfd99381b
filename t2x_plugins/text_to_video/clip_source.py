"""Clips by key, cut out of videos; and what such a video is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2x_core import keyed
from t2x_core.data import stack
from t2x_core.data.buckets import Shape
from t2x_core.data.damage import Damage
from t2x_core.data.decode import DECODING, DamagedImageError, decode, fit_to
from t2x_core.data.decode import SUFFIXES as IMAGE_SUFFIXES
from t2x_core.data.file_table import FileTable
from t2x_core.data.image_files import ImageFile
from t2x_core.data.index import Finding, measure_image
from t2x_core.errors import UnreadableError
from t2x_core.interfaces import Source
from t2x_core.media import Place, suffix
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from t2x_core.video import Choice, DamagedClipError, ShortClipError, Videos, is_animation
from t2x_plugins.captioned.captioned_config import rgb
from t2x_plugins.text_to_video.clips_config import ClipsConfig

_MP4 = (".mp4", ".m4v", ".mov", ".3gp")
_OTHERS = (".webm", ".mkv", ".avi", ".wmv", ".flv", ".ogv", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts")
VIDEO_SUFFIXES = frozenset((*_MP4, *_OTHERS))
"""Endings of the videos that are read."""


def is_image(place: Place) -> bool:
    return suffix(place) in IMAGE_SUFFIXES


def is_video(place: Place) -> bool:
    """Whether a file is no still image, by its ending, or by its content where the ending leaves it open."""
    return not is_image(place) or is_animation(place)


class VideoMeasure:
    """Looks at videos, for `examine`; each thread with a decoder of its own."""

    def __init__(self, config: ClipsConfig) -> None:
        self.config, self._own = config, threading.local()

    def __call__(self, place: Place, whole: bool) -> Finding:
        if is_image(place) and not is_animation(place):
            return measure_image(place, whole)
        if not hasattr(self._own, "videos"):
            self._own.videos = Videos(self.config.decode_seconds)
        try:
            video = self._own.videos.measure(place, whole)
        except DamagedClipError as error:
            raise DamagedImageError(str(error)) from error
        return Finding(video.height, video.width, video.frames, video.seconds, video.exact)


class ClipSource(Source):
    """Clips in buckets of frames × height × width; a video that turns out to be damaged is replaced by another.

    Args:
        buckets: (frames, (height, width)) with its videos, with the column "frames" of `examined`; none is empty.
        damage: where videos that cannot be read are reported.
        train: whether start, crop, flip and caption are drawn.
    """

    def __init__(
        self,
        buckets: Sequence[tuple[int, Shape, FileTable]],
        config: ClipsConfig,
        seed: int,
        damage: Damage,
        train: bool,
    ) -> None:
        self._buckets, self.config, self.seed, self.damage, self.train = list(buckets), config, seed, damage, train
        self.videos = Videos(config.decode_seconds)

    def buckets(self) -> Sequence[Bucket]:
        block = self.config.block or 0
        return [Bucket(frames, *shape, len(videos), block) for frames, shape, videos in self._buckets]

    def __len__(self) -> int:
        return sum(len(videos) for *_, videos in self._buckets)

    def vary(self, key: SampleKey) -> Variation:
        captions = self._video(key).captions
        own = keyed.generator(self.seed, "clip", key.attempt, key.step, key.slot)
        place, x, y, mirror, word = torch.rand(5, generator=own, dtype=torch.float64).tolist()
        at = (y, x) if self.train and self.config.crop == "random" else (0.5, 0.5)
        place = place if self.train and self.config.start == "random" else 0.5
        flip = self.train and mirror < self.config.flip
        return Variation(key, (place, at, flip), captions[int(word * len(captions)) if self.train else 0])

    def load(self, variation: Variation) -> Sample:
        assert variation.caption is not None
        (place, at, flip), video = variation.choices, self._video(variation.key)
        try:
            pixels, fps = self._read(variation.key, place, at)
        except (DamagedClipError, DamagedImageError, ShortClipError) as error:
            self.damage.note([(video.name, str(error))])
            raise UnreadableError from error
        pixels = pixels.flip(-1) if flip else pixels
        return Sample(variation.key, pixels, variation.caption, {"fps": torch.tensor(fps)})

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...]:
        frames, shape, _ = self._buckets[variation.key.bucket]
        config, file = self.config, identify(self._video(variation.key).place)
        return "clip", DECODING, file, frames, shape, config.stride, config.fps, config.background

    def captions(self, key: SampleKey) -> Sequence[str]:
        captions = self._video(key).captions
        return captions if self.train else captions[:1]

    def _video(self, key: SampleKey) -> ImageFile:
        return self._buckets[key.bucket][2][key.id]

    def _read(self, key: SampleKey, start: float, at: tuple[float, float]) -> tuple[Tensor, float]:
        """Pixels (3, F, H, W) in [-1, 1], and frames a second."""
        frames, shape, videos = self._buckets[key.bucket]
        video, background = videos[key.id], rgb(self.config.background)
        count, _, exact = videos.row("frames", key.id).tolist()
        if count == 1 and is_image(video.place):
            return fit_to(decode(video.place, background, covering=shape), *shape, at), self.config.fps or 1.0
        assert video.size is not None
        choice = Choice(frames, self.config.stride, self.config.fps)
        size = covering(shape, video.size)
        levels, fps = self.videos.clip(video.place, choice, start, size, shape, at, background, bool(exact))
        return torch.from_numpy(levels).permute(3, 0, 1, 2).float() / 127.5 - 1, fps

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return self._video(key).name

    def content(self, key: SampleKey) -> str:
        return self._video(key).made_of

    def hashes(self, bucket: int) -> NDArray[np.uint64]:
        return self._buckets[bucket][2].column("hashes")[:, 1:]


def covering(shape: Shape, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that a video of `size` is scaled to, to cover `shape`."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    return max(shape[0], round(size[0] * scale)), max(shape[1], round(size[1] * scale))
