"""Captioned images in a folder: which files there are, and what their captions say."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from t2x_core import keyed
from t2x_core.data.decode import SUFFIXES
from t2x_core.data.files import identity, name_below, read_captions, shown
from t2x_core.errors import Complain, UserError, stop
from t2x_core.media import Place
from t2x_core.wording import counted, first_of, shorten

_IMAGES = (".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".exr", ".hdr", ".avif")
_RAW_IMAGES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
OTHER_IMAGES = frozenset((*_IMAGES, *_RAW_IMAGES)) - SUFFIXES
"""Endings of images that are not read."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image with its captions; nothing is known yet of what the file holds."""

    place: Place
    """Where the file is."""
    name: str
    """What it is called in messages, and by what it is held out or not: the path below the folder or the manifest's."""
    captions: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    """(height, width) as a manifest gives them, in pixels, upright."""
    group: str = ""
    """What it is a piece of; "": of itself. Files of one group are held out together."""
    content: str = ""
    """A hash of what is in it, as far as it is known (`Finding.content`)."""
    repeat: int = 1
    """How often an epoch of training shows it."""
    where: str = ""
    """The row of a manifest in which it stands, "file:line"."""

    @property
    def made_of(self) -> str:
        """Its content and its captions: `Source.content` of it."""
        return "\0".join((self.content, *self.captions))


@dataclass(frozen=True)
class ImageList:
    """What a folder or a manifest holds."""

    files: Sequence[ImageFile]
    remarks: Sequence[str] = field(default=())
    """Lines for the log: what was passed over, and why."""
    damaged: Sequence[tuple[str, str]] = field(default=())
    """Names of what cannot be read, as far as listing shows it, and what is wrong with it."""


class OneEach:
    """Files, each once: what has several names (other spellings, links) is one file with the captions of all."""

    def __init__(self) -> None:
        self._files: dict[Hashable, ImageFile] = {}
        self._twice: list[str] = []

    def __len__(self) -> int:
        return len(self._files)

    @property
    def files(self) -> list[ImageFile]:
        """In the order in which they came."""
        return list(self._files.values())

    @property
    def remarks(self) -> list[str]:
        """A line on the files that have several names."""
        if not self._twice:
            return []
        names = counted(len(self._twice), "further name")
        return [f"{names} of the same files, each trained once with all of its captions: {first_of(self._twice, 2)}"]

    def add(self, file: ImageFile, where: str | None = None) -> None:
        """Raises UserError if the file is there already, with another size or of another group."""
        own = identity(file.place) if isinstance(file.place, str) else file.place
        before = self._files.get(own)
        if before is None:
            self._files[own] = file
            return
        for what, mine, theirs in (("size", file.size, before.size), ("group", file.group, before.group)):
            if mine and theirs and mine != theirs:
                raise UserError(
                    f"{shorten(file.name)} has another {what} than in an earlier row: {mine}, not {theirs}", where=where
                )
        if file.name != before.name:
            self._twice.append(f"{file.name} is {before.name}")
        self._files[own] = replace(
            before,
            name=min(before.name, file.name),
            captions=tuple(dict.fromkeys((*before.captions, *file.captions))),
            size=before.size or file.size,
            group=before.group or file.group,
        )


def list_folder(
    folder: Path, suffixes: Collection[str] = SUFFIXES, what: str = "image", complain: Complain = stop
) -> ImageList:
    """The images (or `what` has one of these suffixes) in a folder and those below it, in the order of their names.

    The captions of `x.jpg` are the lines of `x.txt` beside it that are not blank. Names that begin with a dot are
    passed over. Raises UserError if there is no such folder, or it or one below cannot be read; `complain` is told of
    captions that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}" if not folder.exists() else f"{folder} is not a folder")
    found, others, texts = OneEach(), Counter[str](), 0
    listed = []
    for parent, folders, names in walk(folder):
        captions = {_stem(name): name for name in (*names, *folders) if name.lower().endswith(".txt")}
        used = set()
        for name in (*names, *folders):
            stem, suffix = _stem(name), os.path.splitext(name)[1]
            path = os.path.join(parent, name)
            if suffix.lower() in suffixes and (stem in captions or not os.path.isdir(path)):
                written: tuple[str, ...] = ()
                if stem in captions:
                    try:
                        written = read_captions(Path(parent, captions[stem]))
                    except UserError as error:
                        complain(error)
                listed.append(ImageFile(path, name_below(path, str(folder)), written))
                used.add(stem)
            elif suffix.lower() in OTHER_IMAGES and suffixes is SUFFIXES:
                others[suffix.lower()] += 1
                used.add(stem)
        texts += len(captions.keys() - used)
    for file in sorted(listed, key=lambda file: file.name):
        found.add(file)
    remarks = [
        *found.remarks,
        *(
            f"{counted(count, f'{suffix} file')} passed over: this kind is not read (make them JPEG, PNG or WebP)"
            for suffix, count in others.most_common()
        ),
    ]
    if texts:
        remarks.append(f"{counted(texts, '.txt file', 'have')} no {what} of their name beside them")
    return ImageList(found.files, remarks)


def _stem(name: str) -> str:
    """The name without its ending, which a caption has in common; Unicode writes accents in two ways, here in one."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0])


def settle_captions(
    found: ImageList, policy: Literal["error", "empty", "skip"], setting: str, what: str = "images"
) -> ImageList:
    """Applies the policy for images without a caption; `setting` is the recipe's key for it.

    Raises:
        UserError: there are some, and the policy is "error"; it names the first three.
    """
    bare = [file.name for file in found.files if not file.captions]
    if not bare:
        return found
    first, missing = first_of(bare), counted(len(bare), what.removesuffix("s"), "have")
    if policy == "error":
        raise UserError(
            f"{counted(len(bare), what.removesuffix('s'), 'have')} no caption (of {len(found.files):,}): {first}",
            key=setting,
            hint="caption them, or write empty (to train them with the caption “”) or skip (to leave them out)",
        )
    if policy == "empty":
        files = [file if file.captions else replace(file, captions=("",)) for file in found.files]
        return replace(found, files=files, remarks=[*found.remarks, f"{missing} no caption, and “” instead: {first}"])
    files = [file for file in found.files if file.captions]
    return replace(found, files=files, remarks=[*found.remarks, f"{missing} no caption, left out: {first}"])


def grouped(found: ImageList, pattern: str | None, setting: str) -> ImageList:
    """Gives files without a group one: what the regular expression matches in the name, or its groups if it has some.

    Raises:
        UserError: no file matches; `setting` is the recipe's key for the pattern.
    """
    if pattern is None:
        return found
    expression, files, unmatched = re.compile(pattern), [], []
    for file in found.files:
        match = expression.search(file.name)
        if match is None:
            unmatched.append(file.name)
        parts = () if match is None else match.groups(default="") or (match[0],)
        files.append(file if file.group else replace(file, group="\n".join(parts)))
    if files and len(unmatched) == len(files):
        raise UserError(f"it matches none of the names, such as {first_of(unmatched)}", key=setting)
    remarks = list(found.remarks)
    if unmatched:
        remarks.append(f"{counted(len(unmatched), 'name')} without a match of {setting}: {first_of(unmatched)}")
    return replace(found, files=files, remarks=remarks)


def group_name(file: ImageFile) -> str:
    """What a file is held out by."""
    return f"group\n{file.group}" if file.group else file.name


def hold_out(names: Sequence[str], share: float) -> list[int]:
    """Indices of what is held out, beginning with the lowest hash: this share of the different names, at least one.

    What has one name is held out together. Whether a name is held out follows from the name alone, so it stays so when
    others come or go; in which of two ways Unicode writes its accents makes no difference.
    """
    return hold_out_hashed(np.asarray([held_out_hash(name) for name in names], np.uint64), share).tolist()


def held_out_hash(name: str) -> int:
    """64 bits, by which it is held out or not."""
    return keyed.digest(0, "held out", unicodedata.normalize("NFC", name))


def hold_out_hashed(hashes: NDArray[np.uint64], share: float) -> NDArray[np.int64]:
    """As `hold_out`, of the hashes (n,) of the names."""
    order, values = np.argsort(hashes, kind="stable"), different(hashes)
    last = values[max(1, int((values < share * 2**64).sum())) - 1]
    return order[: np.searchsorted(hashes[order], last, side="right")]


def different(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The different ones of hashes (n,), rising; a tenth of the time of `np.unique`, which fills a hash table."""
    values = np.sort(hashes)
    return values[np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]]


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder with the folders and the files in it that are not hidden; what is taken out of the folders is not
    entered. Links are followed, but no folder is entered twice.

    Raises UserError if one cannot be read: what is in it would be missing without a word.
    """

    def stop(error: OSError) -> None:
        place = shown(error.filename or folder)
        raise UserError(
            f"the folder {place} cannot be read: {error.strerror}",
            hint="make it readable, or move it out; names that begin with a dot are passed over",
        ) from error

    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        try:
            here = os.stat(parent)
        except OSError as error:
            stop(error)
            continue
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, folders, sorted(name for name in names if not name.startswith("."))
