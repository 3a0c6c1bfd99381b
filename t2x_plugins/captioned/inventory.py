"""All files of one's own, good or not, for `t2x data check`; and manifests of those that are to be kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from t2x_core.data.decode import SUFFIXES
from t2x_core.data.files import shown
from t2x_core.data.image_files import ImageFile, ImageList, group_name, grouped, hold_out
from t2x_core.data.manifest_path import path_in_manifest
from t2x_core.data.shards import shard_files
from t2x_core.errors import UserError
from t2x_core.inventory import Entry, Inventory, Problem
from t2x_core.remote import Url
from t2x_plugins.captioned.captioned_config import FilesConfig, rgb
from t2x_plugins.captioned.own_files import Where, joined, listed, places_of


def own_inventory(
    config: FilesConfig,
    reads: Literal["images", "videos"],
    suffixes: Collection[str] = SUFFIXES,
    narrow: Callable[[ImageList], ImageList] = lambda found: found,
) -> Inventory:
    """The files of all places that a recipe names, with what is wrong with rows, captions and shards.

    The arguments are those of `captioned_files`. Raises UserError if a place is not there, or there is no file.
    """
    config.check_trainable()
    complaints: list[UserError] = []
    places = places_of(config)
    lists = [listed(place, reads, suffixes, False, narrow, complaints.append) for place in places]
    found = grouped(joined(places, lists), config.group, "group")
    if not found.files and not complaints:
        raise UserError(f"there are no {reads} in {places[0].path}", key=places[0].key)
    names = [group_name(file) for file in found.files]
    source_of = {file.place: number for number, one in enumerate(lists) for file in one.files}
    problems = [Problem("damaged", name, why) for name, why in found.damaged]
    for error in complaints:
        if error.where is None:  # a shard, which its message names
            problems.append(Problem("damaged", shown(places[0].path), error.message))
        else:
            problems.append(Problem("caption", os.path.basename(error.where), error.message, error.where))
    return Inventory(
        reads,
        [entry_of(file, source_of.get(file.place, 0)) for file in found.files],
        problems,
        partial(held_out, names, config.held_out),
        rgb(config.background),
        config.size,
        config.max_aspect_ratio,
        captioned=config.missing_captions != "empty",
        write=None if any(map(_is_remote, places)) else partial(write_manifests, places),
    )


def entry_of(file: ImageFile, source: int = 0) -> Entry:
    return Entry(file.place, file.name, file.captions, file.group, file.where, source)


def held_out(names: Sequence[str], share: float, good: Sequence[int]) -> Collection[int]:
    """Which of the entries `good` are held out; `names`: by what each entry is."""
    return [good[i] for i in hold_out([names[i] for i in good], share)] if good else []


def write_manifests(places: Sequence[Where], entries: Sequence[Entry], file: Path) -> list[str]:
    """A manifest of JSON lines with the entries of each place: `file`, or `file-1`, `file-2` … if there are several.

    It has the columns that the recipe asks for, and paths below the folder that names are relative to, so that files
    keep their names, and thus stay held out or not. Returns the settings, by keys of
    the block; FileExistsError: nothing is overwritten.
    """
    files = [file] if len(places) == 1 else [file.with_stem(f"{file.stem}-{i + 1}") for i in range(len(places))]
    if taken := next((one for one in files if os.path.lexists(one)), None):
        raise FileExistsError(taken)
    sources = []
    for number, (place, one) in enumerate(zip(places, files, strict=True)):
        root = _root(place)
        with one.open("x", encoding="utf-8") as stream:
            for entry in entries:
                if entry.source == number and (path := path_in_manifest(entry.place, entry.name, root)) is not None:
                    stream.write(json.dumps(_row(path, entry, place), ensure_ascii=False) + "\n")
        sources.append((str(one.resolve()), str(root), place.repeat))
    if len(places) == 1:
        (manifest, folder, _), other = sources[0], ["shards=null"] if places[0].key == "shards" else []
        return [f"manifest={manifest}", f"folder={folder}", *other]
    listed = [
        {"manifest": manifest, "folder": folder, "repeat": repeat, **({"columns": vars(place.columns)})}
        for place, (manifest, folder, repeat) in zip(places, sources, strict=True)
    ]
    none = [f"{key}=null" for key in ("folder", "manifest", "shards")]
    return [f"sources={json.dumps(listed, ensure_ascii=False)}", *none]


def _root(place: Where) -> Path:
    """The folder that the names of a place are relative to."""
    root = place.folder or place.path.parent if place.key == "manifest" else place.path
    return Path(shard_files(root)[0] if place.key == "shards" else str(root)).resolve()


def _is_remote(place: Where) -> bool:
    return isinstance(place.path, Url) or isinstance(place.folder, Url)


def _row(path: str, entry: Entry, place: Where) -> dict[str, Any]:
    columns = place.columns
    captions = [columns.captions] if isinstance(columns.captions, str) else list(columns.captions)
    row: dict[str, Any] = {columns.path: path, **dict.fromkeys(captions), captions[0]: list(entry.captions)}
    for column in (columns.height, columns.width):
        row |= {} if column is None else {column: None}
    return row if columns.group is None else {**row, columns.group: entry.group or None}
