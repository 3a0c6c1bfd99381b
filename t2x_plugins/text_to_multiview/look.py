"""A first look at somebody's objects: `t2x new objects`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from t2x_core.data.decode import DamagedImageError
from t2x_core.data.index import measure_image
from t2x_core.errors import UserError
from t2x_core.starting.machine import Machine
from t2x_core.starting.summary import DataSummary, Setting, median_side, some_of, words_in
from t2x_core.wording import counted, shorten
from t2x_plugins.captioned.look import enough, missing_captions, nothing_in
from t2x_plugins.text_to_multiview.object_files import Found, list_objects

MOST = 100
"""Objects of which an image is looked at."""
VIEWS, SMALL_VIEWS = 8, 6
"""Views of a sample, on a GPU and on a CPU."""


def look_at_objects(folder: Path, machine: Machine) -> DataSummary:
    """Objects of a folder: each a folder with images and a camera file."""
    found = list_objects(folder)
    if not found.objects:
        raise _none(folder, found)
    objects = [thing for thing in found.objects if thing.captions]
    where = "an object has it in caption.txt, or in its camera file"
    missing = missing_captions(len(objects), len(found.objects), "objects", where)
    enough(len(objects), "objects")
    some, sizes, damaged = some_of(objects, MOST), [], ""
    for thing in some:
        try:
            finding = measure_image(thing.shots[0].file.place, False)
            sizes.append((finding.height, finding.width))
        except (DamagedImageError, IndexError) as error:
            damaged = damaged or f"{shorten(thing.name)} {error}"
    if not sizes:
        raise UserError(f"no image of the objects looked at can be read: {damaged}", where=str(folder))
    there = np.asarray([len(thing.shots) for thing in objects])
    views = max(1, min(VIEWS if machine.gpu else SMALL_VIEWS, int(np.quantile(there, 0.05))))
    count = int((there >= views).sum())
    enough(count, "objects")
    captions = [caption for thing in some for caption in thing.captions]
    images = f"{there.min()} to {there.max()}" if there.min() < there.max() else f"{there.max()}"
    fewer = len(objects) - count
    return DataSummary(
        task="text-to-multiview",
        block="objects",
        noun="object",
        count=count,
        sizes=np.asarray(sizes, np.int64),
        words=words_in(captions),
        example=captions[0],
        recipes={"pixels": "text_to_multiview/objects"},
        frames=views,
        settings=[
            Setting("views", views, f"of a sample; the objects have {images} images"),
            *missing[0],
        ],
        aspects=False,
        variants=True,
        lines=[
            f"{counted(len(objects), 'object')} with cameras and captions, {images} images each",
            f"the median image is as large as {median_side(np.asarray(sizes))} square",
            *missing[1],
            *([f"{counted(fewer, 'object', 'have')} fewer than {views} images, and will be left out"] if fewer else []),
            *([f"{counted(len(found.bare), 'folder')} with images but no camera file"] if found.bare else []),
            *(f"{shorten(name)} cannot be used: {shorten(str(why))}" for name, why in found.refused[:2]),
            *([f"an image cannot be read: {damaged}"] if damaged else []),
        ],
    )


def _none(folder: Path, found: Found) -> UserError:
    """Why there are no objects."""
    if found.refused:
        name, why = found.refused[0]
        return UserError(f"none of the {len(found.refused)} objects can be used: {shorten(name)}: {why}")
    if found.bare:
        folders = counted(len(found.bare), "folder", "have")
        hint = "put cameras.json, or NeRF's transforms.json, beside the images"
        return UserError(f"there are no objects in {folder}: {folders} images, but no camera file", hint=hint)
    return nothing_in(folder, "objects")
