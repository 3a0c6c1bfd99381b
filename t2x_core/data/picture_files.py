"""Captioned pictures in a folder: which files there are, and what their captions say."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from t2x_core import keyed
from t2x_core.data.decode import SUFFIXES
from t2x_core.errors import UserError

_PICTURES = (".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".exr", ".hdr", ".avif")
_RAW_PICTURES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
OTHER_PICTURES = frozenset((*_PICTURES, *_RAW_PICTURES)) - SUFFIXES
"""Endings of pictures that are not read."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture with its captions; nothing is known yet of what the file holds."""

    path: str
    """Where the file is."""
    name: str
    """What it is called in messages, and by what it is held out or not: the path below the folder or the manifest's."""
    captions: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    """(height, width) as a manifest tells them, in pixels, upright."""


@dataclass(frozen=True)
class PictureList:
    """What a folder or a manifest holds."""

    files: Sequence[PictureFile]
    remarks: Sequence[str] = field(default=())
    """Lines for the log: what was passed over, and why."""


def list_folder(folder: Path, suffixes: Collection[str] = SUFFIXES, what: str = "picture") -> PictureList:
    """The pictures (or `what` has one of these suffixes) in a folder and those below it, in the order of their names.

    The captions of `x.jpg` are the lines of `x.txt` beside it that are not blank. Names that begin with a dot are
    passed over. Raises UserError if there is no such folder, or a caption is not UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}" if not folder.exists() else f"{folder} is not a folder")
    files, others, texts = [], Counter[str](), 0
    for parent, names in _walk(folder):
        captions = {Path(name).stem for name in names if name.lower().endswith(".txt")}
        used = set()
        for name in names:
            stem, suffix = os.path.splitext(name)
            path = os.path.join(parent, name)
            if suffix.lower() in suffixes and (stem in captions or not os.path.isdir(path)):
                told = read_captions(Path(parent, f"{stem}.txt")) if stem in captions else ()
                files.append(PictureFile(path, Path(path).relative_to(folder).as_posix(), told))
                used.add(stem)
            elif suffix.lower() in OTHER_PICTURES and suffixes is SUFFIXES:
                others[suffix.lower()] += 1
                used.add(stem)
        texts += len(captions - used)
    remarks = [
        f"{count} {suffix} files are passed over: this kind is not read (make them JPEG, PNG or WebP)"
        for suffix, count in others.most_common()
    ]
    if texts:
        remarks.append(f"{texts} .txt files have no {what} of their name beside them")
    return PictureList(sorted(files, key=lambda file: file.name), remarks)


def read_captions(file: Path) -> tuple[str, ...]:
    """The lines of a text file that are not blank. Raises UserError if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError("this caption is not UTF-8", where=str(file), hint="save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"this caption cannot be read: {error.strerror}", where=str(file)) from error
    return tuple(line.strip() for line in lines if line.strip())


def settle_captions(
    found: PictureList, policy: Literal["error", "empty", "skip"], setting: str, what: str = "pictures"
) -> PictureList:
    """Applies the policy for pictures without a caption; `setting` is the recipe's key for it.

    Raises:
        UserError: there are some, and the policy is "error"; it names the first three.
    """
    bare = [file.name for file in found.files if not file.captions]
    if not bare:
        return found
    first = ", ".join(bare[:3]) + (" …" if len(bare) > 3 else "")
    if policy == "error":
        raise UserError(
            f"{len(bare)} of {len(found.files)} {what} have no caption: {first}",
            key=setting,
            hint="caption them, or write empty (to train them with the caption “”) or skip (to leave them out)",
        )
    if policy == "empty":
        files = [file if file.captions else replace(file, captions=("",)) for file in found.files]
        return PictureList(files, [*found.remarks, f"{len(bare)} {what} have no caption and get “”: {first}"])
    files = [file for file in found.files if file.captions]
    return PictureList(files, [*found.remarks, f"{len(bare)} {what} have no caption and are left out: {first}"])


def hold_out(names: Sequence[str], share: float) -> list[int]:
    """Indices of the names that are held out, at least one, beginning with the lowest hash.

    Whether a name is held out follows from the name alone, so it stays so when others come or go.
    """
    hashes = [keyed.digest(0, "held out", name) for name in names]
    order = sorted(range(len(names)), key=hashes.__getitem__)
    count = sum(value < share * 2**64 for value in hashes)
    return order[: max(1, count)]


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names in it that are not hidden. Links are followed, but none into a circle."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, [name for name in (*names, *folders) if not name.startswith(".")]
