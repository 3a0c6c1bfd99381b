"""Settings that tasks with captions share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Constraint, Range, SourceConfig
from t2x_core.remote import Url


class Colour(Constraint):
    """A text that is a colour, "#rrggbb"."""

    def requirement(self, value: str) -> str | None:
        return None if re.fullmatch("#[0-9a-fA-F]{6}", value) else str(self)

    def __str__(self) -> str:
        return 'a colour such as "#ffffff"'


class Pattern(Constraint):
    """A text that is a regular expression."""

    def requirement(self, value: str) -> str | None:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError):
            return str(self)
        return None

    def __str__(self) -> str:
        return "a regular expression"


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Which columns of a manifest hold what."""

    path: str = "path"
    """Path of the image or the video."""
    captions: str | tuple[str, ...] = "caption"
    """A column, or several; a cell is a text or a list of texts, and all of them are captions of it."""
    height: str | None = None
    """Height of the upright image in pixels, so that `check: headers` need not open the file; with `width` only."""
    width: str | None = None
    """Width of the upright image in pixels; with `height` only."""

    group: str | None = None
    """What a file is a piece of (the video that clips were cut from, the person on photos): files with the same text
    here are trained together or held out together; an empty cell: of itself."""

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: name both columns, or none")
        if not self.captions:
            raise UserError("name at least one column", key="captions")


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """How the caption reaches the backbone."""

    pooled: bool = True
    """Besides the text tokens, add one vector for the whole text to the timestep embedding (through a projection)."""
    null: Literal["learned", "empty"] = "learned"
    """What stands for "no caption": a `learned` token, or the `empty` prompt, as pretrained models want it."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss."""

    weighting: Literal["velocity", "clean", "epsilon", "min-snr"] = "velocity"
    """Squared error of the velocity, or of the `clean` latents or the noise (`epsilon`) that it implies, which weighs
    times otherwise; `min-snr`: that of the clean latents times the signal-to-noise ratio, at most `min_snr_gamma`."""
    min_snr_gamma: Annotated[float, Range(above=0)] = 5.0
    """Largest weight of the error of the clean latents (min-snr only)."""


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb", 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


Place = Url | Path
Paths = Place | tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """Where files with captions are: a folder, a manifest or shards."""

    folder: Paths | None = None
    """Folder of the files, or several, each file with its captions in a `.txt` of the same name; with a manifest, what
    its paths are relative to."""
    manifest: Place | None = None
    """Table with one file a row (`.jsonl`, `.csv`, `.tsv`, `.parquet`), or its URL; its paths are relative to it,
    or URLs."""
    shards: Paths | None = None
    """Files with the images or videos inside: `.tar` in WebDataset's convention, or `.parquet` as on the hub. A file, a
    folder, a pattern such as "train-*.tar" or "train-{000..123}.tar", the URL of such, or several of these."""
    columns: ColumnsConfig | None = None
    """Which columns of the manifest or of Parquet shards, or keys of `.json` members of tar shards, hold what."""
    repeat: Annotated[int, Range(min=1)] = 1
    """How often an epoch shows each of them (training only)."""

    def __post_init__(self) -> None:
        if self.shards is not None and (self.folder is not None or self.manifest is not None):
            other = "folder" if self.folder is not None else "manifest"
            raise UserError(f"there are both {other} and shards", hint="write sources, with an entry for each")
        if self.manifest is not None and isinstance(self.folder, tuple):
            raise UserError("with a manifest, folder is one folder: what its paths are relative to", key="folder")

    @property
    def named(self) -> bool:
        """Whether it says where files are."""
        return any(place is not None for place in (self.folder, self.manifest, self.shards))


@dataclass(frozen=True, kw_only=True)
class FilesConfig(PlaceConfig, SourceConfig):
    """Images or videos of one's own, and what is made of them whatever they are."""

    what: ClassVar[str] = "files"
    """What they are, for messages."""

    sources: tuple[PlaceConfig, ...] | None = None
    """Several places, each with its folder, manifest or shards, in place of one."""
    missing_captions: Literal["error", "empty", "skip"] = "error"
    """Files without a caption: `error` stops and names them, `empty` gives them an empty one, `skip` drops them."""
    size: Annotated[int, Range(min=1)] = 256
    """Height and width of the square bucket, in pixels; the other buckets have about as many pixels."""
    max_aspect_ratio: Annotated[float, Range(min=1)] = 2.0
    """Longer side over shorter side of the longest bucket; 1: squares only. What is longer is cropped."""
    bucket_step: Annotated[int, Range(min=1)] | None = None
    """Pixels by which the short sides of neighbouring buckets differ; `null`: about an eighth of the size."""
    small_buckets: Literal["merge", "error"] = "merge"
    """Buckets with fewer files than a batch: `merge` moves these to the next one, `error` stops and names them."""
    crop: Literal["center", "random"] = "center"
    """Which part is kept of what is longer than its bucket (training only)."""
    flip: Annotated[float, Range(min=0, max=1)] = 0.0
    """Chance that a sample is mirrored; then "left" in a caption is no longer true (training only)."""
    background: Annotated[str, Colour()] = "#ffffff"
    """Colour behind transparent pixels, as "#rrggbb"."""
    held_out: Annotated[float, Range(above=0, max=0.5)] = 0.05
    """Share of the files that is never trained on, at least one; chosen by the path (or the group), so
    that it stays the same."""
    block: Annotated[int, Range(min=1)] | None = None
    """Files in a row that are read near each other, of shards where random reads cost much: blocks of so many come in a
    random order, 16 of them mixed; about as many as a Parquet row group has, or some hundreds of a tar file. `null`:
    any file may follow any other."""
    group: Annotated[str, Pattern()] | None = None
    """Regular expression for the path below the folder: files in which it matches the same text (or the same groups in
    parentheses) are pieces of one source, and are held out together; `null`: each by itself."""
    max_bad_fraction: Annotated[float, Range(min=0, max=1)] = 0.05
    """Share of files that cannot be used (damaged, missing, too short) above which training stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sources is not None and self.named:
            raise UserError("there are both sources and a place of its own", hint="make it an entry of sources")

    @property
    def origin(self) -> str:
        """What is remembered of the files is kept by it."""
        if self.sources is None and self.shards is None and not isinstance(self.folder, tuple):
            return str(self.manifest or self.folder)
        return repr([(each.folder, each.manifest, each.shards) for each in self.sources or (self,)])

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        step = {} if self.bucket_step is None else {"bucket_step": (self.bucket_step, self.bucket_step)}
        return {"size": (self.size, self.size), **step}

    def check_trainable(self) -> None:
        """UserError if nothing says where one's own data is."""
        if self.sources is None and not self.named:
            raise UserError(
                f"folder is missing (the folder of your {self.what}, each with its caption in a .txt beside it), "
                "or else manifest (a .jsonl, .csv, .tsv or .parquet with a row for each), or shards (.tar or .parquet)"
            )
        for i, source in enumerate(self.sources or ()):
            if not source.named:
                raise UserError(f"folder, manifest or shards is missing in entry {i + 1}", key="sources")
