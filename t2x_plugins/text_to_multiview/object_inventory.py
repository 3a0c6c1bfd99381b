"""All images of one's own objects, and what is wrong with their cameras, for `t2x data check`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from t2x_core.data.index import examine
from t2x_core.errors import UserError
from t2x_core.inventory import Entry, Inventory, Problem
from t2x_plugins.captioned.captioned_config import rgb
from t2x_plugins.captioned.inventory import held_out
from t2x_plugins.text_to_multiview.object_files import list_objects, measure_view
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig
from t2x_plugins.text_to_multiview.placement import Readable, place


def objects_inventory(folder: Path, config: ObjectsConfig) -> Inventory:
    """Raises UserError if there are no objects."""
    found = list_objects(folder)
    if not found.objects and not found.refused:
        raise UserError(f"there are no objects in {folder}", key="folder")
    problems = [
        Problem("camera", name, str(UserError(error.message, hint=error.hint)), error.where or "")
        for name, error in found.refused
    ]
    files = [shot.file for thing in found.objects for shot in thing.shots]
    findings = dict(
        zip(
            [file.name for file in files],
            examine(files, str(folder), False, measure_view, "views"),
            strict=True,
        )
    )
    readable = [
        Readable(
            thing,
            [(shot, findings[shot.file.name]) for shot in thing.shots if not findings[shot.file.name].damage],
        )
        for thing in found.objects
    ]
    placed = place(readable, config)
    problems += [Problem("camera", name, why, str(folder / name)) for name, why in (*placed.refused, *placed.doubts)]
    entries = [
        Entry(file.place, file.name, thing.captions, thing.name, mask=file is shot.mask)
        for thing in found.objects
        for shot in thing.shots
        for file in shot.files
    ]
    return Inventory(
        "images",
        entries,
        problems,
        partial(held_out, [entry.group for entry in entries], config.held_out),
        rgb(config.background),
        config.size,
        captioned=config.missing_captions != "empty",
        views=True,
    )
