"""Clips of one's own: cut out of the videos of a folder or a manifest, in buckets of frames and of aspect ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

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
from t2x_plugins.captioned.own_files import OwnFilesData, aspect_buckets, captioned_files
from t2x_plugins.text_to_video.clip_source import (
    VIDEO_SUFFIXES,
    ClipSource,
    VideoFile,
    VideoMeasure,
    is_image,
    is_still,
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
        captions = tuple(self._held_out[i % len(self._held_out)].file.captions[0] for i in range(count))
        return Batch(self.context.task, captions, extra={"fps": torch.full((count,), self.fps)})

    @property
    def fps(self) -> float:
        """Frames a second of a clip: those asked for, or, with a stride, the median of the videos'."""
        if self.config.fps is not None:
            return self.config.fps
        assert self.config.stride is not None
        rates = [f.finding.frames / f.finding.seconds for f in self._held_out if f.finding.seconds]
        return float(np.median(rates)) / self.config.stride if rates else 1.0

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
        found = captioned_files(config, suffixes, narrow=narrow)
        self.files = found.files
        sources = self._split(*self._good(found))
        self.lines += found.remarks
        return sources

    def _good(self, found: ImageList) -> tuple[list[VideoFile], Damage]:
        """The videos that can be read and are long enough."""
        config, files = self.config, found.files
        findings = examine(files, config.origin, config.check == "full", VideoMeasure(config), "videos")
        damage = Damage(self.context, len(files) + len(found.damaged), config.max_bad_fraction, "videos")
        good, damaged, short = [], list(found.damaged), []
        for file, finding in zip(files, findings, strict=True):
            if finding.damage is not None:
                damaged.append((file.name, finding.damage))
                continue
            try:
                if finding.frames == 1 and config.numbers[-1] > 1 and is_image(file.place):
                    raise ShortClipError("is a still image, which is read with 1 among the numbers of frames")
                self._choice(config.numbers[-1]).check(finding.frames, finding.seconds)
                good.append(VideoFile(file, finding))
            except ShortClipError as error:
                short.append((file.name, str(error)))
        damage.note([*damaged, *short])
        self.note_left_out(damaged, "videos", "cannot be read", 3)
        self.note_left_out(short, "videos", "are too short", 3)
        return good, damage

    def _choice(self, frames: int) -> Choice:
        return Choice(frames, self.config.stride, self.config.fps)

    def _frames_of(self, video: VideoFile) -> int:
        """The largest number of frames that the video has a clip of."""
        if is_still(video):
            return 1
        for frames in self.config.numbers:
            try:
                self._choice(frames).check(video.finding.frames, video.finding.seconds)
            except ShortClipError:
                continue
            return frames
        raise AssertionError(f"{video.file.name} is too short")  # and has been left out

    def _split(self, videos: Sequence[VideoFile], damage: Damage) -> tuple[ClipSource, ClipSource]:
        need = self.context.global_batch
        files = FileTable.of((video.file for video in videos), hashed=True)
        train_ids, held_out = self.set_apart(files, self.config.held_out, "videos")
        train = [videos[i] for i in train_ids]
        self._held_out = [videos[i] for i in held_out[: self.config.val_count]]
        groups = self._by_frames(train, need)
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
            held = [video for video in self._held_out if self._group(video, list(groups)) == frames]
            if held:
                val_buckets += _filled(frames, shapes, held, nearest_bucket(_sizes(held), shapes))
        listed = ", ".join(f"{_name(frames, shape)}: {len(there)}" for frames, shape, there in train_buckets[:LISTED])
        listed += f" and {len(train_buckets) - LISTED} more" if len(train_buckets) > LISTED else ""
        trained, buckets = counted(len(train), "video"), counted(len(train_buckets), "bucket")
        held_words = self.held_out_words(files, held_out)
        self.lines.insert(0, f"{trained} for training in {buckets} ({listed}), {held_words}")
        seed = self.context.seed
        return (
            ClipSource(train_buckets, self.config, seed, damage, train=True),
            ClipSource(val_buckets, self.config, seed, damage, train=False),
        )

    def _by_frames(self, videos: Sequence[VideoFile], need: int) -> dict[int, list[VideoFile]]:
        """Number of frames → its videos, as many as a batch needs. A small group goes to the next shorter clips, which
        its videos have, too; never to longer ones."""
        groups: dict[int, list[VideoFile]] = {frames: [] for frames in self.config.numbers}
        for video in videos:
            groups[self._frames_of(video)].append(video)
        for frames, shorter in zip(self.config.numbers, self.config.numbers[1:], strict=False):
            if 0 < len(groups[frames]) < need:
                if self.config.small_buckets == "error":
                    few = f"{counted(len(groups[frames]), 'video', 'give')} clips of {frames} frames"
                    raise UserError(f"{few}, fewer than a batch of {need}", key="small_buckets")
                few = f"{counted(len(groups[frames]), 'video', 'have')} {counted(frames, 'frame')}"
                self.lines.append(f"{few} and a batch needs {need}: clips of {counted(shorter, 'frame')} instead")
                groups[shorter] += groups.pop(frames)
        filled = {frames: members for frames, members in groups.items() if members}
        for frames, members in filled.items():
            if len(members) < need:
                few = f"{counted(len(members), 'video', 'give')} clips of {counted(frames, 'frame')}"
                raise UserError(
                    f"{few}, fewer than a batch of {need}",
                    key="frames",
                    hint=f"leave {frames} out, add videos, or set trainer.global_batch to at most {len(members)}",
                )
        return filled

    def _group(self, video: VideoFile, numbers: Sequence[int]) -> int:
        """The group of a video that is held out, among those that are trained on; 0 = none."""
        own = self._frames_of(video)
        return max((frames for frames in numbers if frames <= own), default=0)


def only_videos(found: ImageList) -> ImageList:
    """Without still images: thumbnails beside the videos, say."""
    videos = [file for file in found.files if is_video(file.place)]
    stills = len(found.files) - len(videos)
    line = f"{stills} still image{'s are' if stills > 1 else ' is'} passed over (1 is not among the numbers of frames)"
    return replace(found, files=videos, remarks=[*found.remarks, *([line] if stills else [])])


def _sizes(videos: Sequence[VideoFile]) -> np.ndarray:
    return np.asarray([(video.finding.height, video.finding.width) for video in videos])


def _filled(
    frames: int, shapes: Sequence[Shape], videos: Sequence[VideoFile], bucket: np.ndarray
) -> list[tuple[int, Shape, list[VideoFile]]]:
    members = [[video for video, b in zip(videos, bucket, strict=True) if b == j] for j in range(len(shapes))]
    return [(frames, shape, there) for shape, there in zip(shapes, members, strict=True) if there]


def _name(frames: int, shape: Shape) -> str:
    """Frames, height and width, as everywhere."""
    return f"{frames}×{shape[0]}×{shape[1]}"


class Clips(DataSource[ClipsConfig]):
    """Clips of one's own."""

    def data_module(self, context: DataContext) -> ClipsData:
        return ClipsData(self.config, context)
