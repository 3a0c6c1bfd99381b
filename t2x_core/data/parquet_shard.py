"""Images and videos inside a Parquet file, as the hub keeps data sets: {bytes, path}, or bytes, in a column."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from t2x_core.data.files import shown
from t2x_core.data.image_files import ImageFile
from t2x_core.data.manifest import Columns, captions_of, group_of, size_of
from t2x_core.data.manifest_rows import no_column, plain_rows
from t2x_core.errors import UserError
from t2x_core.media import ParquetCell, import_parquet, open_parquet, special_file
from t2x_core.wording import quoted, shorten

BYTES, PATH = "bytes", "path"
"""Fields of a struct that holds a file."""
BINARY, TEXT = ("binary", "large_binary", "binary_view"), ("string", "large_string", "string_view")
"""Types of Arrow."""


def list_parquet(path: str, columns: Columns, suffixes: Collection[str]) -> tuple[list[ImageFile], dict[str, Any]]:
    """The images or videos in a Parquet file with their captions, one a row; each is called by its number.

    Args:
        columns: its `path` is the column with the files; if there is none of that name, the only one that holds bytes.

    Returns:
        The files, and notes as `list_tar` has them.

    Raises:
        UserError: it cannot be read, or a column is missing.
    """
    if why := special_file(path):
        raise UserError(f"{shown(path)} {why}")
    pyarrow, _ = import_parquet()
    files: list[ImageFile] = []
    damaged: list[tuple[str, str]] = []
    try:
        with open_parquet(path) as file:
            column, inside = _media_column(path, file.schema_arrow, columns)
            is_named = str(inside.get(PATH)) in TEXT
            wanted = list(dict.fromkeys([*columns.names[1:], *([f"{column}.{PATH}"] if is_named else [])]))
            leaf, first = f"{column}.{BYTES}" if inside else column, 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                try:
                    rows = [*plain_rows(file.read_row_group(group, wanted))] if wanted else [{}] * count
                except (pyarrow.ArrowException, OSError) as error:
                    why = f"cannot be read ({shorten(str(error))})"
                    damaged.append((f"rows {first} to {first + count - 1}", why))
                    rows = []
                for number, row in enumerate(rows):
                    where = f"{first + number}"
                    if isinstance(row, str):
                        damaged.append((where, row))
                        continue
                    place = ParquetCell(path, (row.get(column) or {}).get(PATH) or "", group, number, leaf)
                    try:
                        captions = captions_of(where, row, columns)
                        files.append(
                            ImageFile(
                                place, where, captions, size_of(where, row, columns), group_of(where, row, columns)
                            )
                        )
                    except UserError as error:
                        damaged.append((where, error.message))
                first += count
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown(path)} is damaged or no Parquet file ({shorten(str(error), 200)})") from error
    return files, {"damaged": damaged, "remarks": [], "alone": 0}


def _media_column(path: str, schema: Any, columns: Columns) -> tuple[str, Mapping[str, Any]]:
    """The column with the files, and the types of the fields of its struct, {} if it is none."""
    import pyarrow

    kinds = {name: schema.field(i).type for i, name in enumerate(schema.names)}

    def fields(kind: Any) -> dict[str, Any]:
        return {field.name: field.type for field in kind} if pyarrow.types.is_struct(kind) else {}

    def holds_files(kind: Any) -> bool:
        return str(fields(kind).get(BYTES, kind)) in BINARY

    for column in columns.names[1:]:
        if column not in kinds:
            no_column(path, column, schema.names)
    found = [name for name, kind in kinds.items() if holds_files(kind)]
    column = columns.path if columns.path in kinds or len(found) != 1 else found[0]
    if column not in kinds:
        no_column(path, column, schema.names)
    if twice := next((name for name in (column, *columns.names[1:]) if schema.names.count(name) > 1), None):
        raise UserError(f"there are {schema.names.count(twice)} columns {quoted(twice)}", where=shown(path))
    if column not in found:
        raise UserError(
            f"the column {quoted(column)} holds no files but {shorten(str(kinds[column]))}",
            where=shown(path),
            hint="set columns.path to one that does, or, if it holds paths, write manifest instead of shards",
        )
    return column, fields(kinds[column])
