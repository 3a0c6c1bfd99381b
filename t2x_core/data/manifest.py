"""Manifests: a table with one file a row, as JSON lines, CSV, TSV or Parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2x_core.data.files import name_below
from t2x_core.data.image_files import ImageFile, ImageList, OneEach
from t2x_core.data.manifest_rows import READERS, no_column
from t2x_core.errors import Complain, UserError, stop
from t2x_core.remote import Url, is_url
from t2x_core.wording import quoted

LONGEST_SIDE = 1_000_000
"""Pixels of a side, at most: more is a mistake."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a manifest hold what."""

    path: str
    captions: Sequence[str]
    """A cell is a text, or a list of texts; an empty one is none."""
    size: tuple[str, str] | None = None
    """Height and width of the upright image, in pixels."""
    group: str | None = None
    """What a file is a piece of; an empty cell: of itself."""

    @property
    def names(self) -> list[str]:
        """All of them, that of the paths first."""
        return [self.path, *self.captions, *(self.size or ()), *([self.group] if self.group else [])]


def read_manifest(manifest: Path | Url, folder: Path | Url, columns: Columns, complain: Complain = stop) -> ImageList:
    """The files of a manifest, in its order; rows that name the same file are one file with several captions.

    Args:
        manifest: a `.jsonl`, `.csv`, `.tsv` or `.parquet` file.
        folder: what the paths in it are relative to; they may be URLs, too.
        complain: is told of rows that hold what they should not.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    reader = READERS.get(manifest.suffix.lower())
    if reader is None:
        raise UserError(f"{manifest} is no manifest", hint=f"its ending must be one of {', '.join(READERS)}")
    seen: set[str] = set()
    files = OneEach()
    try:
        for where, row in reader(manifest, columns.names, complain):
            if not seen.issuperset(row):
                seen.update(row)
            try:
                files.add(_file(where, row, folder, columns), where)
            except UserError as error:
                complain(error)
    except OSError as error:
        raise UserError(f"cannot read the manifest {manifest}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the manifest {manifest} is not UTF-8", hint="save it as UTF-8") from error
    for column in columns.names:
        if files and column not in seen:
            no_column(manifest, column, sorted(seen))
    return ImageList(files.files, files.remarks)


def _file(where: str, row: Mapping[str, Any], folder: Path | Url, columns: Columns) -> ImageFile:
    written = row.get(columns.path)
    if not (isinstance(written, str) and written.strip()):
        raise UserError(f'the column "{columns.path}" holds no path but {quoted(written)}', where=where)
    written = _text(where, columns.path, written)
    if isinstance(folder, Url) or is_url(written.strip()):
        path = folder.join(written.strip()) if isinstance(folder, Url) else written.strip()
    else:
        path = os.path.join(folder, written)
        if written != written.strip() and not os.path.lexists(path):
            path = os.path.join(folder, written.strip())
    name = name_below(path, str(folder))
    captions, size = captions_of(where, row, columns), size_of(where, row, columns)
    return ImageFile(path, name, captions, size, group_of(where, row, columns), where=where)


def captions_of(where: str, row: Mapping[str, Any], columns: Columns) -> tuple[str, ...]:
    """All captions of a row. Raises UserError if a cell holds no text."""
    captions: list[str] = []
    for column in columns.captions:
        cell = row.get(column)
        texts = cell if isinstance(cell, list) else [] if cell is None else [cell]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f'the column "{column}" holds no text but {quoted(cell)}', where=where)
        captions += [_text(where, column, text).strip() for text in texts if text.strip()]
    return tuple(captions)


def _text(where: str, column: str, text: str) -> str:
    """The text, if it is one: with neither NUL nor half of a character (JSON can write both)."""
    if "\0" in text:
        raise UserError(f'the column "{column}" holds the character NUL: {quoted(text)}', where=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        why = f'the column "{column}" holds half of a character (a lone surrogate): {quoted(text)}'
        raise UserError(why, where=where) from error
    return text


def size_of(where: str, row: Mapping[str, Any], columns: Columns) -> tuple[int, int] | None:
    """Height and width in pixels, if the row says them."""
    if columns.size is None or any(row.get(column) in (None, "") for column in columns.size):
        return None
    height, width = (_pixels(row[column]) for column in columns.size)
    if height is None or width is None:
        cells = " × ".join(quoted(row[column]) for column in columns.size)
        raise UserError(f"{' × '.join(columns.size)} is {cells}, which is no size in pixels", where=where)
    return height, width


def _pixels(cell: object) -> int | None:
    """A number of pixels: a whole number, as text too, or as a float (tables with gaps have those)."""
    if isinstance(cell, str) and cell.strip().isascii() and cell.strip().isdigit() and len(cell) < 20:
        cell = int(cell)
    if isinstance(cell, bool) or not isinstance(cell, (int, float)) or not 1 <= cell <= LONGEST_SIDE:
        return None
    return int(cell) if cell == int(cell) else None


def group_of(where: str, row: Mapping[str, Any], columns: Columns) -> str:
    """The group of a row, or ""."""
    cell = row.get(columns.group) if columns.group else None
    if isinstance(cell, bool) or not (cell is None or isinstance(cell, (str, int))):
        raise UserError(f'the column "{columns.group}" holds no group but {quoted(cell)}', where=where)
    return "" if cell is None else _text(where, str(columns.group), str(cell)).strip()
