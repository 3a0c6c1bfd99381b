"""Captioned images of one's own: from a folder or a manifest, in aspect-ratio buckets, with a held-out share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t2x_core import keyed
from t2x_core.data import stack
from t2x_core.data.buckets import BucketMerge, Shape, fill_buckets, nearest_bucket
from t2x_core.data.damage import Damage
from t2x_core.data.decode import DECODING, DamagedImageError, decode, fit_to
from t2x_core.data.file_table import FileTable
from t2x_core.data.image_files import ImageFile
from t2x_core.data.index import examine
from t2x_core.errors import UnreadableError, UserError
from t2x_core.interfaces import DataContext, DataSource, Source
from t2x_core.inventory import Inventory
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from t2x_core.wording import counted
from t2x_plugins.captioned.captioned_config import rgb
from t2x_plugins.captioned.inventory import own_inventory
from t2x_plugins.captioned.own_files import OwnFilesData, aspect_buckets, captioned_files, examined, remembered
from t2x_plugins.text_to_image.image_config import ImagesConfig

LISTED = 8
"""Buckets that the log names."""
MORE = "to keep it: more such images, a larger bucket_step, or a smaller trainer.global_batch"


class ImageSource(Source):
    """Images in buckets; a file that turns out to be damaged is replaced by another of its bucket.

    Args:
        buckets: each shape with its files; none is empty.
        config: crop, flip and background; `train` says whether crop and flip are random, and captions are drawn.
        damage: where files that cannot be read are reported.
    """

    def __init__(
        self,
        buckets: Sequence[tuple[Shape, FileTable]],
        config: ImagesConfig,
        seed: int,
        damage: Damage,
        train: bool,
    ) -> None:
        self._buckets, self.config, self.seed, self.damage, self.train = list(buckets), config, seed, damage, train

    def buckets(self) -> Sequence[Bucket]:
        block = self.config.block or 0
        return [Bucket(1, height, width, len(files), block) for (height, width), files in self._buckets]

    def __len__(self) -> int:
        return sum(len(files) for _, files in self._buckets)

    def vary(self, key: SampleKey) -> Variation:
        captions = self._file(key).captions
        own = keyed.generator(self.seed, "image", key.attempt, key.step, key.slot)
        x, y, mirror, word = torch.rand(4, generator=own, dtype=torch.float64).tolist()
        place = (y, x) if self.train and self.config.crop == "random" else (0.5, 0.5)
        flip = self.train and mirror < self.config.flip
        return Variation(key, (place, flip), captions[int(word * len(captions)) if self.train else 0])

    def load(self, variation: Variation) -> Sample:
        assert variation.caption is not None
        file, (place, flip) = self._file(variation.key), variation.choices
        shape = self._buckets[variation.key.bucket][0]
        try:
            image = decode(file.place, rgb(self.config.background), covering=shape)  # (3, h, w) uint8
        except DamagedImageError as error:
            self.damage.note([(file.name, str(error))])
            raise UnreadableError from error
        return Sample(variation.key, fit_to(image, *shape, place, flip=flip), variation.caption)

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...]:
        shape = self._buckets[variation.key.bucket][0]
        return "image", DECODING, identify(self._file(variation.key).place), shape, self.config.background

    def captions(self, key: SampleKey) -> Sequence[str]:
        captions = self._file(key).captions
        return captions if self.train else captions[:1]

    def _file(self, key: SampleKey) -> ImageFile:
        return self._buckets[key.bucket][1][key.id]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return self._buckets[key.bucket][1][key.id].name

    def content(self, key: SampleKey) -> str:
        return self._file(key).made_of

    def hashes(self, bucket: int) -> NDArray[np.uint64]:
        return self._buckets[bucket][1].column("hashes")[:, 1:]


class ImagesData(OwnFilesData[ImageSource]):
    """One's own images as training data."""

    def __init__(self, config: ImagesConfig, context: DataContext) -> None:
        super().__init__(context)
        self.config, self.shapes = config, aspect_buckets(config, context.pixel_multiple)

    def val_conditions(self, count: int) -> Batch:
        """First captions of the images held out, over again if there are fewer."""
        self.sources()
        captions = tuple(self._held_out[i % len(self._held_out)].captions[0] for i in range(count))
        return Batch(self.context.task, captions)

    def inventory(self) -> Inventory:
        return own_inventory(self.config, "images")

    def find(self) -> tuple[ImageSource, ImageSource]:
        config = self.config
        good = self._looked_at() if config.check != "index" else remembered(config, self._looked_at)
        self.files, damaged = good, [(str(name), str(why)) for name, why in good.notes["damaged"]]
        total = len(good) + len(damaged)
        damage = Damage(self.context, total, config.max_bad_fraction, "images")
        damage.note(damaged)
        sources = self._split(good, damage)
        self.note_left_out(damaged, "files", "cannot be read", 2)
        self.lines += good.notes["remarks"]
        return sources

    def _looked_at(self) -> FileTable:
        """The good images with their sizes; the others are in its notes."""
        config = self.config
        found = captioned_files(config, sized=True)
        return examined(found, examine(found.files, config.origin, config.check != "headers"))

    def _split(self, good: FileTable, damage: Damage) -> tuple[ImageSource, ImageSource]:
        need = self.context.global_batch
        train, held_out = self.set_apart(good, self.config.held_out, "images")
        sizes = good.column("numbers")[:, :2]
        shapes, bucket, moves = fill_buckets(sizes[train], self.shapes, need)
        if moves and self.config.small_buckets == "error":
            small = ", ".join(f"{_name(move.shape)} {move.count}" for move in moves)
            raise UserError(
                f"buckets with fewer images than a batch of {need}: {small}", key="small_buckets", hint=MORE
            )
        held = held_out[: self.config.val_count]
        val_bucket = nearest_bucket(sizes[held], shapes)
        self._held_out = [good[int(i)] for i in held]
        held_words = self.held_out_words(good, held_out)
        self.lines = self._report(shapes, bucket, sizes[train], moves, held_words)

        def filled(members: np.ndarray, of: np.ndarray) -> list[tuple[Shape, FileTable]]:
            files = [good.take(members[of == j]) for j in range(len(shapes))]
            return [(shape, there) for shape, there in zip(shapes, files, strict=True) if len(there)]

        seed = self.context.seed
        return (
            ImageSource(filled(train, bucket), self.config, seed, damage, train=True),
            ImageSource(filled(held, val_bucket), self.config, seed, damage, train=False),
        )

    def _report(
        self,
        shapes: Sequence[Shape],
        bucket: np.ndarray,
        sizes: np.ndarray,
        moves: Sequence[BucketMerge],
        held_out: str,
    ) -> list[str]:
        counts = np.bincount(bucket, minlength=len(shapes))
        most = np.argsort(-counts, kind="stable")
        listed = ", ".join(f"{_name(shapes[j])}: {counts[j]}" for j in most[:LISTED])
        listed += f" and {len(shapes) - LISTED} more" if len(shapes) > LISTED else ""
        images, buckets = counted(len(sizes), "image"), counted(len(shapes), "bucket")
        lines = [f"{images} for training in {buckets} ({listed}), {held_out}"]
        enlarged = int((sizes < np.asarray(shapes)[bucket]).any(1).sum())
        if enlarged:
            lines.append(f"{counted(enlarged, 'image', 'are')} smaller than the bucket, and enlarged")
        need, commonest = self.context.global_batch, max((move.count for move in moves), default=0)
        if moves and commonest >= int(np.bincount(nearest_bucket(sizes, self.shapes)).max()):
            shape = next(move.shape for move in moves if move.count == commonest)
            lines.append(
                f"the commonest shape, {_name(shape)} ({counted(commonest, 'image')}), is not trained: "
                f"set trainer.global_batch to at most {commonest}"
            )
        return lines + [
            f"bucket {_name(move.shape)} has {counted(move.count, 'image')} and a batch needs {need}: they go to "
            f"{' and '.join(map(_name, move.to))} ({MORE})"
            for move in moves
        ]


def _name(shape: Shape) -> str:
    """Height and width, as everywhere."""
    return f"{shape[0]}×{shape[1]}"


class Images(DataSource[ImagesConfig]):
    """Images of one's own."""

    def data_module(self, context: DataContext) -> ImagesData:
        return ImagesData(self.config, context)
