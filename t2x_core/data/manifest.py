"""Manifests: a table with one picture a row, as JSON lines, CSV, TSV or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from t2x_core.data.picture_files import PictureFile, PictureList
from t2x_core.errors import UserError, did_you_mean

Row = tuple[str, Mapping[str, Any]]
"""Where it stands ("file:line"), and its cells."""


def read_manifest(
    manifest: Path,
    folder: Path,
    path: str,
    captions: Sequence[str],
    size: tuple[str, str] | None = None,
) -> PictureList:
    """The pictures of a manifest, in its order; rows with the same path are one picture with several captions.

    Args:
        manifest: a `.jsonl`, `.csv`, `.tsv` or `.parquet` file.
        folder: what the paths in it are relative to.
        path: name of the column with the paths.
        captions: columns with captions; a cell is a text, or a list of texts. An empty one is none.
        size: columns with the height and the width of the upright picture, in pixels.

    Raises:
        UserError: it cannot be read, a column is missing, or a cell holds what it should not.
    """
    if manifest.suffix.lower() not in READERS:
        raise UserError(f"{manifest} is no manifest", hint=f"its ending must be one of {', '.join(READERS)}")
    columns = [path, *captions, *(size or ())]
    seen: set[str] = set()
    files: dict[str, PictureFile] = {}
    try:
        for where, row in READERS[manifest.suffix.lower()](manifest, columns):
            if not seen.issuperset(row):
                seen.update(row)
            file = _picture(where, row, folder, path, captions, size)
            before = files.get(file.name)
            known = before.captions if before else ()
            files[file.name] = PictureFile(file.path, file.name, (*known, *file.captions), file.size)
    except OSError as error:
        raise UserError(f"cannot read the manifest {manifest}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the manifest {manifest} is not UTF-8", hint="save it as UTF-8") from error
    for column in columns:
        if files and column not in seen:
            _no_column(manifest, column, sorted(seen))
    return PictureList(list(files.values()))


def _picture(
    where: str, row: Mapping[str, Any], folder: Path, path: str, captions: Sequence[str], size: tuple[str, str] | None
) -> PictureFile:
    name = row.get(path)
    if path in row and not (isinstance(name, str) and name.strip()):
        raise UserError(f'the column "{path}" holds no path but {json.dumps(name, default=str)}', where=where)
    told: list[str] = []
    for column in captions:
        cell = row.get(column)
        texts = cell if isinstance(cell, list) else [] if cell is None else [cell]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f'the column "{column}" holds no text but {json.dumps(cell, default=str)}', where=where)
        told += [text.strip() for text in texts if text.strip()]
    name = os.path.normpath(str(name).strip())
    return PictureFile(os.path.join(folder, name), Path(name).as_posix(), tuple(told), _size(where, row, size))


def _size(where: str, row: Mapping[str, Any], columns: tuple[str, str] | None) -> tuple[int, int] | None:
    if columns is None or any(row.get(column) in (None, "") for column in columns):
        return None
    try:
        height, width = (int(row[column]) for column in columns)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        cells = " × ".join(json.dumps(row[column], default=str) for column in columns)
        raise UserError(f"{' × '.join(columns)} is {cells}, which is no size in pixels", where=where)
    return height, width


def _json_lines(manifest: Path, columns: Sequence[str]) -> Iterator[Row]:
    with manifest.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{manifest}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"this line is not JSON ({error})", where=where) from error
            if not isinstance(row, dict):
                raise UserError("this line is no JSON object", where=where, hint='write {"path": …, "caption": …}')
            if columns[0] not in row:
                _no_column(manifest, columns[0], sorted(row), where)
            yield where, row


def _csv(manifest: Path, columns: Sequence[str]) -> Iterator[Row]:
    delimiter = "\t" if manifest.suffix.lower() == ".tsv" else ","
    with manifest.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        for column in columns:
            if column not in (reader.fieldnames or ()):
                _no_column(manifest, column, reader.fieldnames or (), f"{manifest}:1")
        try:
            for row in reader:
                if None in row:
                    raise UserError(
                        f"this row has more cells than the first line has columns ({len(reader.fieldnames or ())})",
                        where=f"{manifest}:{reader.line_num}",
                        hint='put texts that hold a comma in "quotes"',
                    )
                yield f"{manifest}:{reader.line_num}", row
        except csv.Error as error:
            raise UserError(f"this is not CSV ({error})", where=f"{manifest}:{reader.line_num}") from error


def _parquet(manifest: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("reading Parquet needs pyarrow", hint='pip install "t2x[parquet]"') from error
    try:
        with parquet.ParquetFile(manifest) as file:
            for column in columns:
                if column not in file.schema_arrow.names:
                    _no_column(manifest, column, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{manifest}, row {number}", row
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{manifest} is damaged or no Parquet file ({error})") from error


def _no_column(manifest: Path, column: str, there: Sequence[str], where: str | None = None) -> NoReturn:
    known = did_you_mean(column, there) or f"there are: {', '.join(there) or 'none'}"
    raise UserError(f'there is no column "{column}"', where=where or str(manifest), hint=f"{known} (set columns)")


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
"""Ending → reader, which is told the columns that are wanted, that of the paths first."""
