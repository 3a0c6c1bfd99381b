"""A first look at a folder of one's own files, for `t2x new`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2x_core.data.decode import SUFFIXES as IMAGES
from t2x_core.data.decode import DamagedImageError
from t2x_core.data.image_files import ImageFile, ImageList, list_folder, walk
from t2x_core.data.index import Finding, Measure
from t2x_core.errors import UserError
from t2x_core.starting.summary import Setting, some_of
from t2x_core.wording import counted, first_of, shorten

LEAST = 8
"""Fewer samples are no training set."""
USUAL_BAD = 0.05
"""`max_bad_fraction`, by default."""
OTHERS: dict[str, Collection[str]] = {
    "images": IMAGES,
    "videos": (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"),
    "objects": (".json",),
}
SHARDS, TABLES = (".tar", ".parquet"), (".jsonl", ".csv", ".tsv")
T = TypeVar("T")


@dataclass(frozen=True)
class FilesLook:
    """Captioned files of a folder, of which some were opened."""

    count: int
    """With captions."""
    captions: Sequence[str]
    """Of those that were opened, first of each."""
    findings: Sequence[Finding]
    """Of those that can be read."""
    settings: Sequence[Setting]
    lines: Sequence[str]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.asarray([(found.height, found.width) for found in self.findings], np.int64)


def look_at_files(
    folder: Path,
    what: str,
    suffixes: Collection[str],
    measure: Measure,
    most: int,
    usual: str,
    narrow: Callable[[ImageList], ImageList] = lambda found: found,
) -> FilesLook:
    """Lists the files of a folder, and opens `most` of them. UserError if there is nothing to train on.

    Args:
        what: they are, "images" say.
        usual: the name of one, "cat.jpg" say.
        narrow: leaves out files that are not meant.
    """
    found = narrow(list_folder(folder, suffixes, what.removesuffix("s")))
    if not found.files:
        raise nothing_in(folder, what)
    files = [file for file in found.files if file.captions]
    where = f"that of {usual} is in {Path(usual).stem}.txt"
    missing = missing_captions(len(files), len(found.files), what, where)
    enough(len(files), what)
    some = some_of(files, most)
    findings, damaged = _examined(some, measure)
    if not findings:
        raise UserError(f"none of the {what} looked at can be read: {damaged[0]}", where=str(folder))
    looked = f" ({counted(len(some), 'file')} of them looked at)" if len(some) < len(files) else ""
    lines = [f"{counted(len(files), what.removesuffix('s'))} with captions{looked}", *found.remarks, *missing[1]]
    if damaged:
        lines.append(f"{counted(len(damaged), 'file')} cannot be read: {first_of(damaged, 2)}")
    settings = [*missing[0], *bad_fraction(len(damaged), len(some), "cannot be read")]
    captions = [caption for file in some for caption in file.captions]
    return FilesLook(len(files) - round(len(files) * len(damaged) / len(some)), captions, findings, settings, lines)


def _examined(files: Sequence[ImageFile], measure: Measure) -> tuple[list[Finding], list[str]]:
    """What can be read, and the name of each that cannot, with the reason."""

    def look(file: ImageFile) -> Finding | str:
        try:
            return measure(file.place, True)
        except DamagedImageError as error:
            return f"{shorten(file.name)} {error}"

    with ThreadPoolExecutor(4) as pool:
        looked: list[Any] = list(pool.map(look, files))
    return [one for one in looked if isinstance(one, Finding)], [one for one in looked if isinstance(one, str)]


def missing_captions(there: int, total: int, what: str, where: str) -> tuple[list[Setting], list[str]]:
    """The setting and the line for those that have none; UserError if all are without."""
    if not there:
        raise UserError(
            f"none of the {total:,} {what} has a caption ({where})",
            hint="`t2x data caption` writes some" if what == "images" else "write one for each",
        )
    if there == total:
        return [], []
    none = counted(total - there, what.removesuffix("s"), "have")
    why = f"{none} no caption; `empty` trains on them, too"
    return [Setting("missing_captions", "skip", why)], [f"{none} no caption, and will be left out"]


def enough(count: int, what: str) -> None:
    """UserError if there are too few."""
    if count < LEAST:
        raise UserError(
            f"{counted(count, what.removesuffix('s'), 'are')} too few to train on; {LEAST} are the least, and hundreds "
            f"teach something",
            hint="a few samples can fine-tune a trained model: set backbone.lora",
        )


def bad_fraction(bad: int, of: int, why: str) -> list[Setting]:
    """The setting that lets training begin all the same."""
    share = bad / of
    if share <= USUAL_BAD / 2:
        return []
    allowed = min(1.0, math.ceil(20 * 1.5 * share + 1) / 20)
    return [Setting("max_bad_fraction", allowed, f"{share:.0%} of those looked at {why}")]


def nothing_in(folder: Path, what: str) -> UserError:
    """The error of a folder without these, which names what it holds."""
    endings = Counter(Path(name).suffix.lower() for _, _, names in walk(folder) for name in names)
    for other, suffixes in OTHERS.items():
        if other != what and (there := sum(endings[ending] for ending in suffixes)):
            held = "JSON files" if other == "objects" else other
            return UserError(
                f"there are no {what} in {folder}, but {there:,} {held}", hint=f"t2x new {other} {folder}?"
            )
    for suffixes, key in ((SHARDS, "shards"), (TABLES, "manifest")):
        if any(endings[ending] for ending in suffixes):
            found = ", ".join(ending for ending in suffixes if endings[ending])
            return UserError(
                f"there are no {what} in {folder}, but {found} files", hint=f"name them as {key} in a recipe of yours"
            )
    held = (
        "it is empty" if not endings else f"it holds {first_of([e or 'no ending' for e, _ in endings.most_common()])}"
    )
    return UserError(f"there are no {what} in {folder}: {held}")
