"""What `t2x data caption` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from t2x_core.captioning.manifest import CaptionManifest
from t2x_core.captioning.model import Captioner
from t2x_core.data.decode import SUFFIXES as IMAGE_SUFFIXES
from t2x_core.data.decode import DamagedImageError, decode
from t2x_core.data.image_files import ImageFile, ImageList, list_folder
from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.data.manifest_path import path_in_manifest
from t2x_core.data.manifest_rows import READERS
from t2x_core.data.shards import in_shards, list_shards, shard_files
from t2x_core.errors import UserError
from t2x_core.media import open_parquet
from t2x_core.progress import Progress
from t2x_core.wording import counted, first_of

log = logging.getLogger("t2x")
COLUMNS = Columns("path", ["caption"])
COVERING = (1024, 1024)
"""Pixels that a decoded image still covers: JPEGs that are much larger are decoded at a lower resolution."""
WHITE = (255, 255, 255)
"""Behind transparent pixels."""


def find_images(source: Path, every: bool) -> tuple[ImageList, Path]:
    """The images of a folder, a manifest or shards, and the folder that their paths are relative to.

    `every`: the captions that they have do not matter, so a manifest need have none.
    """
    try:
        return _find_images(source, Columns(COLUMNS.path, [] if every else COLUMNS.captions))
    except UserError as error:
        if error.message == f'there is no column "{COLUMNS.captions[0]}"':
            error.hint = "write --all to caption every image"
        raise


def _find_images(source: Path, columns: Columns) -> tuple[ImageList, Path]:
    if not (os.path.lexists(source) or set("*?[{") & set(str(source))):
        raise UserError(f"there is no file or folder {source}", where="command line")
    if source.is_dir() and ((found := list_folder(source)).files or not _has_shards(source)):
        return found, source.resolve()
    if source.suffix.lower() in READERS and not (source.suffix.lower() == ".parquet" and _holds_files(source)):
        found = in_shards(read_manifest(source, source.parent, columns), columns, IMAGE_SUFFIXES)
        return found, source.parent.resolve()
    return list_shards(source, columns, IMAGE_SUFFIXES), Path(shard_files(source)[0]).resolve()


def _has_shards(folder: Path) -> bool:
    try:
        return bool(shard_files(folder)[1])
    except UserError:
        return False


def _holds_files(source: Path) -> bool:
    """Whether a Parquet file has images in it, and not their paths."""
    try:
        with open_parquet(str(source)) as file:
            return not any(field.name == COLUMNS.path and str(field.type) == "string" for field in file.schema_arrow)
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Group:
    """Images in their order, of which so many as a batch has are to be captioned."""

    rows: Sequence[tuple[str, ImageFile]]
    """(path in the manifest, file)."""
    wanted: Sequence[tuple[str, ImageFile]]


def groups(rows: Sequence[tuple[str, ImageFile]], every: bool, batch: int) -> Iterator[Group]:
    """`every`: also images that have captions are to be captioned."""
    some: list[tuple[str, ImageFile]] = []
    wanted: list[tuple[str, ImageFile]] = []
    for row in rows:
        some.append(row)
        if every or not row[1].captions:
            wanted.append(row)
        if len(wanted) == batch:
            yield Group(some, wanted)
            some, wanted = [], []
    if some:
        yield Group(some, wanted)


def read_images(group: Group) -> list[tuple[str, Image.Image | str]]:
    """Path and image of those that are to be captioned; of a damaged one why it cannot be read."""
    found: list[tuple[str, Image.Image | str]] = []
    for path, file in group.wanted:
        try:
            found.append((path, Image.fromarray(decode(file.place, WHITE, COVERING).permute(1, 2, 0).numpy())))
        except DamagedImageError as error:
            found.append((path, str(error)))
    return found


def caption(found: ImageList, root: Path, captioner: Captioner, out: CaptionManifest, every: bool, batch: int) -> None:
    """Writes a row for each image that can be read and is not in the manifest yet."""
    named = [(path, file) for file in found.files if (path := path_in_manifest(file.place, file.name, root))]
    rows = [row for row in named if row[0] not in out.done]
    if len(rows) < len(named):
        log.info("%s in %s already", counted(len(named) - len(rows), "image", "are"), out.file)
    progress = Progress("captioned", sum(every or not file.captions for _, file in rows), log.info)
    damaged, silent = [f"{name} {why}" for name, why in found.damaged], list[str]()
    with ThreadPoolExecutor(1) as reading:  # the next images are read while captions are made
        waiting: list[tuple[Group, Future[list[tuple[str, Image.Image | str]]]]] = []

        def finish() -> None:
            group, future = waiting.pop(0)
            images = dict(future.result())
            good = {path: image for path, image in images.items() if not isinstance(image, str)}
            captions = dict(zip(good, captioner(list(good.values())), strict=True)) if good else {}
            damaged.extend(f"{path} {why}" for path, why in images.items() if isinstance(why, str))
            silent.extend(path for path, text in captions.items() if not text)
            out.add(
                (
                    path,
                    [text for text in [captions[path]] if text] if path in captions else list(file.captions),
                    path in captions,
                )
                for path, file in group.rows
                if path in captions or path not in images
            )
            progress.add(len(group.wanted))

        for group in groups(rows, every, batch):
            waiting.append((group, reading.submit(read_images, group)))
            if len(waiting) > 1:
                finish()
        while waiting:
            finish()
    if damaged:
        log.info("%s cannot be read and are left out: %s", counted(len(damaged), "image"), first_of(damaged))
    if silent:
        log.info("the model said nothing about %s: %s", counted(len(silent), "image"), first_of(silent))
