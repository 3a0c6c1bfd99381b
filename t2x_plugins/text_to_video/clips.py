"""Clips of one's own: cut out of the films of a folder or a manifest, in buckets of frames and of aspect ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from t2x_core.data.buckets import Shape, bucket_shapes, fill_buckets, nearest_bucket
from t2x_core.data.damage import Damage
from t2x_core.data.decode import SUFFIXES as PICTURE_SUFFIXES
from t2x_core.data.index import examine
from t2x_core.data.manifest import read_manifest
from t2x_core.data.picture_files import PictureFile, PictureList, hold_out, list_folder, settle_captions
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, Source, TaskDataModule
from t2x_core.quarantine import FILE_NAME
from t2x_core.types import Batch
from t2x_core.video import Choice, ShortClipError
from t2x_plugins.text_to_video.clip_source import FILM_SUFFIXES, ClipSource, FilmFile, FilmMeasure, is_picture
from t2x_plugins.text_to_video.clips_config import ClipsConfig

UNSCORED = "unscored"
"""Name in `Batch.extra` that marks conditions whose samples the checker of the shapes world cannot judge."""
LISTED = 8
"""Buckets that the log names."""
SMALL = "data.clips.small_buckets"
BAD = "data.clips.max_bad_fraction"


class ClipsData(TaskDataModule):
    """One's own clips as training data."""

    def __init__(self, task: str, config: ClipsConfig, context: DataContext) -> None:
        super().__init__()
        multiple = context.pixel_multiple
        for key, value in (("size", config.size), ("bucket_step", config.bucket_step)):
            if value is not None and value % multiple:
                raise UserError(f"{value} pixels must be a multiple of {multiple}", key=f"data.clips.{key}")
        self.task, self.config, self.context = task, config, context
        step = config.bucket_step or max(1, round(config.size / 8 / multiple)) * multiple
        self.shapes = bucket_shapes(config.size, config.max_aspect_ratio, step, multiple)
        self._sources: tuple[ClipSource, ClipSource] | None = None

    def prepare_data(self) -> None:
        self._load()

    def setup(self, stage: str) -> None:
        self._load()

    def train_source(self) -> Source:
        return self._load()[0]

    def val_source(self) -> Source:
        return self._load()[1]

    def describe(self) -> Sequence[str]:
        self._load()
        return self._lines

    def val_conditions(self, count: int) -> Batch:
        """First captions of the films held out, over again if there are fewer, at the frame rate that is trained on."""
        self._load()
        captions = tuple(self._held_out[i % len(self._held_out)].file.captions[0] for i in range(count))
        return Batch(self.task, captions, extra={"fps": torch.full((count,), self.fps), UNSCORED: torch.ones(count)})

    @property
    def fps(self) -> float:
        """Frames a second of a clip: those asked for, or, with a stride, the median of the films'."""
        if self.config.fps is not None:
            return self.config.fps
        assert self.config.stride is not None
        rates = [f.finding.frames / f.finding.seconds for f in self._held_out if f.finding.seconds]
        return float(np.median(rates)) / self.config.stride if rates else 1.0

    def _load(self) -> tuple[ClipSource, ClipSource]:
        """The sources for training and validation, once. Every process finds the same, and all but the first of a
        machine find it in the index that the first has written."""
        if self._sources is None:
            found = settle_captions(self._list(), self.config.missing_captions, "data.clips.missing_captions", "films")
            if not found.files:
                where = self.config.manifest or self.config.folder
                raise UserError(f"there are no captioned films in {where}", key=f"data.clips.{self._setting}")
            self._lines: list[str] = []
            films, damage = self._good(found.files)
            self._sources = self._split(films, damage)
            self._lines += found.remarks
        return self._sources

    @property
    def _setting(self) -> str:
        return "folder" if self.config.manifest is None else "manifest"

    def _list(self) -> PictureList:
        config, columns = self.config, self.config.columns
        try:
            if config.manifest is None:
                assert config.folder is not None  # ClipsConfig sees to it
                suffixes = FILM_SUFFIXES | PICTURE_SUFFIXES if 1 in config.numbers else FILM_SUFFIXES
                return list_folder(config.folder, suffixes, "film")
            return read_manifest(
                config.manifest,
                config.folder or config.manifest.parent,
                columns.path,
                [columns.captions] if isinstance(columns.captions, str) else columns.captions,
            )
        except UserError as error:
            if error.where is None and error.key is None:
                error.key = f"data.clips.{self._setting}"
            raise

    def _good(self, files: Sequence[PictureFile]) -> tuple[list[FilmFile], Damage]:
        """The films that can be read and are long enough."""
        config = self.config
        origin = str(config.manifest or config.folder)
        findings = examine(files, origin, config.check == "full", FilmMeasure(config), "films")
        damage = Damage(self.task, len(files), config.max_bad_fraction, "films", BAD, self.context.quarantine)
        good, damaged, short = [], [], []
        for file, finding in zip(files, findings, strict=True):
            if finding.damage is not None:
                damaged.append((file.name, finding.damage))
                continue
            try:
                self._choice(config.numbers[-1]).check(finding.frames, finding.seconds)
                good.append(FilmFile(file, finding))
            except ShortClipError as error:
                short.append((file.name, str(error)))
        damage.note([*damaged, *short])
        for named, what in ((damaged, "cannot be read"), (short, "are too short")):
            if named:
                first = ", ".join(f"{name} {reason}" for name, reason in named[:3]) + (", …" if named[3:] else "")
                self._lines.append(f"{len(named)} films {what} and are left out: {first} (all in {FILE_NAME})")
        return good, damage

    def _choice(self, frames: int) -> Choice:
        return Choice(frames, self.config.stride, self.config.fps)

    def _frames_of(self, film: FilmFile) -> int:
        """The largest number of frames that the film has a clip of."""
        if is_picture(film.file.path):
            return 1
        for frames in self.config.numbers:
            try:
                self._choice(frames).check(film.finding.frames, film.finding.seconds)
            except ShortClipError:
                continue
            return frames
        raise AssertionError(f"{film.file.name} is too short")  # and has been left out

    def _split(self, films: Sequence[FilmFile], damage: Damage) -> tuple[ClipSource, ClipSource]:
        held_out = hold_out([film.file.name for film in films], self.config.held_out) if films else []
        apart, need = set(held_out), self.context.global_batch
        train = [film for i, film in enumerate(films) if i not in apart]
        if len(train) < need:
            raise UserError(
                f"{len(train)} films for training (of {len(films)} good ones {len(held_out)} are held out) are fewer "
                f"than a batch of {need}",
                hint=f"set trainer.global_batch to at most {max(1, len(train))}, or add films",
            )
        self._held_out = [films[i] for i in held_out[: self.config.val_count]]
        groups = self._by_frames(train, need)
        train_buckets, val_buckets = [], []
        for frames, members in groups.items():
            shapes, bucket, moves = fill_buckets(_sizes(members), self.shapes, need)
            if moves and self.config.small_buckets == "error":
                small = ", ".join(f"{_name(frames, move.shape)} {move.count}" for move in moves)
                raise UserError(f"buckets with fewer films than a batch of {need}: {small}", key=SMALL)
            self._lines += [
                f"bucket {_name(frames, move.shape)} has {move.count} films and a batch needs {need}: they go to "
                f"{' and '.join(_name(frames, shape) for shape in move.to)}"
                for move in moves
            ]
            train_buckets += _filled(frames, shapes, members, bucket)
            held = [film for film in self._held_out if self._group(film, list(groups)) == frames]
            if held:
                val_buckets += _filled(frames, shapes, held, nearest_bucket(_sizes(held), shapes))
        listed = ", ".join(f"{_name(frames, shape)}: {len(there)}" for frames, shape, there in train_buckets[:LISTED])
        listed += f" and {len(train_buckets) - LISTED} more" if len(train_buckets) > LISTED else ""
        self._lines.insert(
            0, f"{len(train)} films for training in {len(train_buckets)} buckets ({listed}), {len(held_out)} held out"
        )
        seed = self.context.seed
        return (
            ClipSource(train_buckets, self.config, seed, damage, train=True),
            ClipSource(val_buckets, self.config, seed, damage, train=False),
        )

    def _by_frames(self, films: Sequence[FilmFile], need: int) -> dict[int, list[FilmFile]]:
        """Number of frames → its films, as many as a batch needs. A small group goes to the next shorter clips, which
        its films have, too; never to longer ones."""
        groups: dict[int, list[FilmFile]] = {frames: [] for frames in self.config.numbers}
        for film in films:
            groups[self._frames_of(film)].append(film)
        for frames, shorter in zip(self.config.numbers, self.config.numbers[1:], strict=False):
            if 0 < len(groups[frames]) < need:
                if self.config.small_buckets == "error":
                    few = f"{len(groups[frames])} films give clips of {frames} frames"
                    raise UserError(f"{few}, fewer than a batch of {need}", key=SMALL)
                few = f"{len(groups[frames])} films have {frames} frames and a batch needs {need}"
                self._lines.append(f"{few}: they give clips of {shorter}")
                groups[shorter] += groups.pop(frames)
        filled = {frames: members for frames, members in groups.items() if members}
        for frames, members in filled.items():
            if len(members) < need:
                raise UserError(
                    f"{len(members)} films give clips of {frames} frames, fewer than a batch of {need}",
                    key="data.clips.frames",
                    hint=f"leave {frames} out, add films, or set trainer.global_batch to at most {len(members)}",
                )
        return filled

    def _group(self, film: FilmFile, numbers: Sequence[int]) -> int:
        """The group of a film that is held out, among those that are trained on; 0 = none."""
        own = self._frames_of(film)
        return max((frames for frames in numbers if frames <= own), default=0)


def _sizes(films: Sequence[FilmFile]) -> np.ndarray:
    return np.asarray([(film.finding.height, film.finding.width) for film in films])


def _filled(
    frames: int, shapes: Sequence[Shape], films: Sequence[FilmFile], bucket: np.ndarray
) -> list[tuple[int, Shape, list[FilmFile]]]:
    members = [[film for film, b in zip(films, bucket, strict=True) if b == j] for j in range(len(shapes))]
    return [(frames, shape, there) for shape, there in zip(shapes, members, strict=True) if there]


def _name(frames: int, shape: Shape) -> str:
    """Frames, then width and height, as people write it."""
    return f"{frames}×{shape[1]}×{shape[0]}"
