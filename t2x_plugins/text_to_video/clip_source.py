"""Clips by key, cut out of films; and what such a film is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2x_core import keyed
from t2x_core.data import stack
from t2x_core.data.buckets import Shape
from t2x_core.data.damage import Damage, instead
from t2x_core.data.decode import SUFFIXES as PICTURE_SUFFIXES
from t2x_core.data.decode import DamagedPictureError, decode, fit_to
from t2x_core.data.index import Finding, measure_picture
from t2x_core.data.picture_files import PictureFile
from t2x_core.errors import UserError
from t2x_core.interfaces import Source
from t2x_core.types import Batch, Bucket, Sample, SampleKey
from t2x_core.video import Choice, DamagedClipError, Films, ShortClipError, is_animation
from t2x_plugins.captioned.config import rgb
from t2x_plugins.text_to_video.clips_config import ClipsConfig

_MP4 = (".mp4", ".m4v", ".mov", ".3gp")
_OTHERS = (".webm", ".mkv", ".avi", ".wmv", ".flv", ".ogv", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts")
FILM_SUFFIXES = frozenset((*_MP4, *_OTHERS))
"""Endings of the films that are read."""


def is_picture(path: str) -> bool:
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def is_video(path: str) -> bool:
    """Whether a file is no still image, by its ending, or by its content where the ending leaves it open."""
    return not is_picture(path) or is_animation(path)


class FilmMeasure:
    """Looks at films, for `examine`; each thread with a decoder of its own."""

    def __init__(self, config: ClipsConfig) -> None:
        self.config, self._own = config, threading.local()

    def __call__(self, path: str, whole: bool) -> Finding:
        if is_picture(path) and not is_animation(path):
            return measure_picture(path, whole)
        if not hasattr(self._own, "films"):
            self._own.films = Films(self.config.decode_seconds)
        try:
            film = self._own.films.measure(path, whole)
        except DamagedClipError as error:
            raise DamagedPictureError(str(error)) from error
        return Finding(film.height, film.width, film.frames, film.seconds, film.exact)


@dataclass(frozen=True)
class FilmFile:
    """A film with what is known of it."""

    file: PictureFile
    finding: Finding


def is_still(film: FilmFile) -> bool:
    """Whether it is an image that does not move: a clip of one frame."""
    return is_picture(film.file.path) and film.finding.frames == 1


class ClipSource(Source):
    """Clips in buckets of frames × height × width; a film that turns out to be damaged is replaced by another.

    Args:
        buckets: (frames, (height, width)) with its films; none is empty.
        damage: is told of films that cannot be read.
        train: whether start, crop, flip and caption are drawn.
    """

    def __init__(
        self,
        buckets: Sequence[tuple[int, Shape, Sequence[FilmFile]]],
        config: ClipsConfig,
        seed: int,
        damage: Damage,
        train: bool,
    ) -> None:
        self._buckets, self.config, self.seed, self.damage, self.train = list(buckets), config, seed, damage, train
        self.films = Films(config.decode_seconds)

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(frames, height, width, len(films)) for frames, (height, width), films in self._buckets]

    def __len__(self) -> int:
        return sum(len(films) for *_, films in self._buckets)

    def __getitem__(self, key: SampleKey) -> Sample:
        frames, shape, films = self._buckets[key.bucket]
        for id in instead(key, len(films), self.seed):
            film = films[id]
            own = keyed.generator(self.seed, "clip", key.attempt, key.step, key.slot)
            place, x, y, mirror, word = torch.rand(5, generator=own, dtype=torch.float64).tolist()
            at = (y, x) if self.train and self.config.crop == "random" else (0.5, 0.5)
            place = place if self.train and self.config.start == "random" else 0.5
            try:
                pixels, fps = self._read(film, frames, shape, place, at)
            except (DamagedClipError, DamagedPictureError, ShortClipError) as error:
                self.damage.note([(film.file.name, str(error))])
                continue
            if self.train and mirror < self.config.flip:
                pixels = pixels.flip(-1)
            captions = film.file.captions
            return Sample(
                key, pixels, captions[int(word * len(captions)) if self.train else 0], {"fps": torch.tensor(fps)}
            )
        raise UserError(f"none of the {len(films)} films of a bucket can be read any more")

    def _read(
        self, film: FilmFile, frames: int, shape: Shape, place: float, at: tuple[float, float]
    ) -> tuple[Tensor, float]:
        """Pixels (3, F, H, W) in [-1, 1], and frames a second."""
        path, background = film.file.path, rgb(self.config.background)
        if is_still(film):
            return fit_to(decode(path, background, covering=shape), *shape, at), self.config.fps or 1.0
        choice = Choice(frames, self.config.stride, self.config.fps)
        size = covering(shape, (film.finding.height, film.finding.width))
        levels, fps = self.films.clip(path, choice, place, size, shape, at, background, film.finding.exact)
        return torch.from_numpy(levels).permute(3, 0, 1, 2).float() / 127.5 - 1, fps

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return self._buckets[key.bucket][2][key.id].file.name


def covering(shape: Shape, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that a film of `size` is scaled to, to cover `shape`."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    return max(shape[0], round(size[0] * scale)), max(shape[1], round(size[1] * scale))
