"""Clips of one's own: cut out of the videos of a folder or a manifest, in buckets of frames and of aspect ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t2x_core.data.buckets import Shape, fill_buckets, nearest_bucket
from t2x_core.data.damage import Damage
from t2x_core.data.decode import SUFFIXES as IMAGE_SUFFIXES
from t2x_core.data.file_table import FileTable
from t2x_core.data.image_files import ImageList
from t2x_core.data.index import examine
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, DataSource
from t2x_core.inventory import Inventory
from t2x_core.types import Batch
from t2x_core.video import ANIMATION_SUFFIXES, Choice, ShortClipError
from t2x_core.wording import counted
from t2x_plugins.captioned.inventory import own_inventory
from t2x_plugins.captioned.own_files import OwnFilesData, aspect_buckets, captioned_files, examined, remembered
from t2x_plugins.text_to_video.clip_source import (
    VIDEO_SUFFIXES,
    ClipSource,
    VideoMeasure,
    is_image,
    is_video,
)
from t2x_plugins.text_to_video.clips_config import ClipsConfig

LISTED = 8
"""Buckets that the log names."""


class ClipsData(OwnFilesData[ClipSource]):
    """One's own clips as training data."""

    def __init__(self, config: ClipsConfig, context: DataContext) -> None:
        super().__init__(context)
        self.config, self.shapes = config, aspect_buckets(config, context.pixel_multiple)

    def val_conditions(self, count: int) -> Batch:
        """First captions of the held-out videos, repeated if there are fewer, at the frame rate of training."""
        self.sources()
        captions = tuple(self._held_out[i % len(self._held_out)].captions[0] for i in range(count))
        return Batch(self.context.task, captions, extra={"fps": torch.full((count,), self.fps)})

    @property
    def fps(self) -> float:
        """Frames a second of a clip: those asked for, or, with a stride, the median of the videos'."""
        if self.config.fps is not None:
            return self.config.fps
        assert self.config.stride is not None
        frames, seconds, _ = self._held_out.column("frames").T
        rates = frames[seconds > 0] / seconds[seconds > 0]
        return float(np.median(rates)) / self.config.stride if len(rates) else 1.0

    def _what(self) -> tuple[frozenset[str], Callable[[ImageList], ImageList]]:
        """The endings of the files that are read, and what leaves out others of them."""
        stills = 1 in self.config.numbers
        suffixes = VIDEO_SUFFIXES | (IMAGE_SUFFIXES if stills else ANIMATION_SUFFIXES)
        return suffixes, (lambda found: found) if stills else only_videos

    def inventory(self) -> Inventory:
        return own_inventory(self.config, "videos", *self._what())

    def find(self) -> tuple[ClipSource, ClipSource]:
        config = self.config
        suffixes, narrow = self._what()

        def look() -> FileTable:
            found, measure = captioned_files(config, suffixes, narrow=narrow), VideoMeasure(config)
            return examined(found, examine(found.files, config.origin, config.check != "headers", measure, "videos"))

        found = remembered(config, look, suffixes) if config.check == "index" else look()
        good, damage = self._good(found)
        self.files = good
        sources = self._split(good, damage)
        self.lines += found.notes["remarks"]
        return sources

    def _good(self, found: FileTable) -> tuple[FileTable, Damage]:
        """The videos that are long enough."""
        damaged = [(str(name), str(why)) for name, why in found.notes["damaged"]]
        damage = Damage(self.context, len(found) + len(damaged), self.config.max_bad_fraction, "videos")
        fits = self._fits(found, self.config.numbers[-1])
        short = [(found[i].name, self._why_short(found, i)) for i in np.flatnonzero(~fits).tolist()]
        damage.note([*damaged, *short])
        self.note_left_out(damaged, "videos", "cannot be read", 3)
        self.note_left_out(short, "videos", "are too short", 3)
        return found.take(np.flatnonzero(fits)), damage

    def _fits(self, videos: FileTable, frames: int) -> NDArray[np.bool_]:
        """Which of the videos have a clip of so many frames."""
        counts, seconds, _ = videos.column("frames").T
        fits = self._choice(frames).fits(counts, seconds)
        single = np.flatnonzero(counts == 1)
        fits[single] = [frames == 1 or bool(fits[i] and not is_image(videos[i].place)) for i in single.tolist()]
        return fits

    def _why_short(self, videos: FileTable, i: int) -> str:
        count, seconds, _ = videos.column("frames")[i].tolist()
        if count == 1 and is_image(videos[i].place):
            return "is a still image, which is read with 1 among the numbers of frames"
        try:
            self._choice(self.config.numbers[-1]).check(int(count), seconds)
        except ShortClipError as error:
            return str(error)
        raise AssertionError(f"{videos[i].name} is long enough")

    def _choice(self, frames: int) -> Choice:
        return Choice(frames, self.config.stride, self.config.fps)

    def _split(self, videos: FileTable, damage: Damage) -> tuple[ClipSource, ClipSource]:
        need = self.context.global_batch
        train_ids, held_out = self.set_apart(videos, self.config.held_out, "videos")
        train = videos.take(train_ids)
        self._held_out = videos.take(held_out[: self.config.val_count])
        groups = self._by_frames(train, need)
        of_held = self._frames_of(self._held_out, list(groups))
        train_buckets, val_buckets = [], []
        for frames, members in groups.items():
            shapes, bucket, moves = fill_buckets(_sizes(members), self.shapes, need)
            if moves and self.config.small_buckets == "error":
                small = ", ".join(f"{_name(frames, move.shape)} {move.count}" for move in moves)
                raise UserError(f"buckets with fewer videos than a batch of {need}: {small}", key="small_buckets")
            self.lines += [
                f"bucket {_name(frames, move.shape)} has {counted(move.count, 'video')} and a batch needs {need}: "
                f"they go to {' and '.join(_name(frames, shape) for shape in move.to)}"
                for move in moves
            ]
            train_buckets += _filled(frames, shapes, members, bucket)
            held = self._held_out.take(np.flatnonzero(of_held == frames))
            if len(held):
                val_buckets += _filled(frames, shapes, held, nearest_bucket(_sizes(held), shapes))
        listed = ", ".join(f"{_name(frames, shape)}: {len(there)}" for frames, shape, there in train_buckets[:LISTED])
        listed += f" and {len(train_buckets) - LISTED} more" if len(train_buckets) > LISTED else ""
        trained, buckets = counted(len(train), "video"), counted(len(train_buckets), "bucket")
        held_words = self.held_out_words(videos, held_out)
        self.lines.insert(0, f"{trained} for training in {buckets} ({listed}), {held_words}")
        seed = self.context.seed
        return (
            ClipSource(train_buckets, self.config, seed, damage, train=True),
            ClipSource(val_buckets, self.config, seed, damage, train=False),
        )

    def _frames_of(self, videos: FileTable, numbers: Sequence[int]) -> NDArray[np.int64]:
        """The largest of these numbers of frames that each video has a clip of, (n,); 0 = none."""
        most = np.zeros(len(videos), np.int64)
        for frames in sorted(numbers):
            most[self._fits(videos, frames)] = frames
        return most

    def _by_frames(self, videos: FileTable, need: int) -> dict[int, FileTable]:
        """Number of frames → its videos, as many as a batch needs. A small group goes to the next shorter clips, which
        its videos have, too; never to longer ones."""
        most = self._frames_of(videos, self.config.numbers)
        for frames, shorter in zip(self.config.numbers, self.config.numbers[1:], strict=False):
            count = int((most == frames).sum())
            if 0 < count < need:
                if self.config.small_buckets == "error":
                    few = f"{counted(count, 'video', 'give')} clips of {frames} frames"
                    raise UserError(f"{few}, fewer than a batch of {need}", key="small_buckets")
                few = f"{counted(count, 'video', 'have')} {counted(frames, 'frame')}"
                self.lines.append(f"{few} and a batch needs {need}: clips of {counted(shorter, 'frame')} instead")
                most[most == frames] = shorter
        filled = {n: videos.take(np.flatnonzero(most == n)) for n in self.config.numbers if (most == n).any()}
        for frames, members in filled.items():
            if len(members) < need:
                few = f"{counted(len(members), 'video', 'give')} clips of {counted(frames, 'frame')}"
                raise UserError(
                    f"{few}, fewer than a batch of {need}",
                    key="frames",
                    hint=f"leave {frames} out, add videos, or set trainer.global_batch to at most {len(members)}",
                )
        return filled


def only_videos(found: ImageList) -> ImageList:
    """Without still images: thumbnails beside the videos, say."""
    videos = [file for file in found.files if is_video(file.place)]
    stills = len(found.files) - len(videos)
    line = f"{stills} still image{'s are' if stills > 1 else ' is'} passed over (1 is not among the numbers of frames)"
    return replace(found, files=videos, remarks=[*found.remarks, *([line] if stills else [])])


def _sizes(videos: FileTable) -> NDArray[np.int32]:
    sizes: NDArray[np.int32] = videos.column("numbers")[:, :2]
    return sizes


def _filled(
    frames: int, shapes: Sequence[Shape], videos: FileTable, bucket: NDArray[Any]
) -> list[tuple[int, Shape, FileTable]]:
    members = [videos.take(np.flatnonzero(bucket == j)) for j in range(len(shapes))]
    return [(frames, shape, there) for shape, there in zip(shapes, members, strict=True) if len(there)]


def _name(frames: int, shape: Shape) -> str:
    """Frames, height and width, as everywhere."""
    return f"{frames}×{shape[0]}×{shape[1]}"


class Clips(DataSource[ClipsConfig]):
    """Clips of one's own."""

    def data_module(self, context: DataContext) -> ClipsData:
        return ClipsData(self.config, context)
