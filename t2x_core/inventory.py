"""What a task's data consists of, file by file, for who looks at each of them (`t2x data check`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t2x_core.media import Place


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to train on."""

    place: Place
    name: str
    """What it is called in messages."""
    captions: tuple[str, ...] = ()
    group: str = ""
    """Files of one group show the same thing, and are held out together; "": of itself."""
    where: str = ""
    """The row of a manifest in which it stands, "file:line"."""
    source: int = 0
    """Number of the folder, the manifest or the shards in which it was found."""
    mask: bool = False
    """Whether it is the mask of another: it must be readable, and nothing else."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong that is known without decoding a file."""

    kind: Literal["damaged", "camera", "caption"]
    name: str
    """The file, the object, or the row of a manifest."""
    detail: str
    """As in "is cut short"."""
    where: str = ""


Write = Callable[[Sequence[Entry], Path], Sequence[str]]
"""(entries to keep, file) → writes manifests with them, and returns the settings (key=value, below the block of its
data) by which a recipe reads these. Raises FileExistsError: nothing is overwritten."""


@dataclass(frozen=True)
class Inventory:
    """All files of a task, good or not."""

    reads: Literal["images", "videos"]
    """How they are decoded. Among videos, images count as such unless they move."""
    entries: Sequence[Entry]
    problems: Sequence[Problem]
    hold_out: Callable[[Sequence[int]], Collection[int]]
    """Of the entries with these numbers, which can be read: those that are held out."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB behind transparent pixels."""
    size: int | None = None
    """Height and width of the square samples, in pixels."""
    max_aspect_ratio: float | None = None
    """Longer side over shorter side of the longest samples."""
    captioned: bool = True
    """Whether each entry should have a caption of its own."""
    views: bool = False
    """Whether entries of one group are views of one object: their captions are those of the object."""
    write: Write | None = None
    """None: no manifest can name them."""
