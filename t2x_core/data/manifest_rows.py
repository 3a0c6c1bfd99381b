"""Rows of a manifest, by its kind: every row of the file is handed out, or the line that cannot be read is named."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from t2x_core.data.files import open_regular
from t2x_core.errors import Complain, UserError, did_you_mean
from t2x_core.media import import_parquet
from t2x_core.remote import Url
from t2x_core.wording import counted, quoted, shorten

Row = tuple[str, Mapping[str, Any]]
"""Where it stands ("file:line"), and its cells."""
LONGEST_LINE = 2**24
"""Bytes of a line, at most."""
LINES_OF_A_CELL = 8
"""Lines behind an opening quote of a TSV in which its end is looked for."""


def json_lines(manifest: Path | Url, columns: Sequence[str], complain: Complain) -> Iterator[Row]:
    for number, line in _lines(manifest):
        where = f"{manifest}:{number}"
        if line.strip():
            try:
                yield where, _json_row(line, where, manifest, columns[0])
            except UserError as error:
                complain(error)


def _json_row(line: str, where: str, manifest: Path | Url, path: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except UserError as error:
        error.where = where
        raise
    except RecursionError as error:
        raise UserError("this line is nested too deeply", where=where) from error
    except ValueError as error:
        raise UserError(f"this line is not JSON ({shorten(str(error))})", where=where) from error
    if not isinstance(row, dict):
        raise UserError("this line is no JSON object", where=where, hint='write {"path": …, "caption": …}')
    if path not in row:
        no_column(manifest, path, sorted(row), where)
    return row


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UserError(f"{quoted(twice)} stands twice in one object")
    return row


def comma_separated(manifest: Path | Url, columns: Sequence[str], complain: Complain) -> Iterator[Row]:
    """CSV as RFC 4180 has it: cells in "quotes" may hold commas, line breaks and doubled quotes."""
    reader = csv.reader((line for _, line in _lines(manifest)), strict=True)
    header: list[str] | None = None
    while True:
        first = reader.line_num + 1
        where = f"{manifest}:{first}"
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            why = shorten(str(error))
            if "unexpected end" in why:
                why = "a quote is opened and never closed"
            raise UserError(
                f"this row is not CSV ({why})", where=where, hint='a quote in a cell is written "", in quotes'
            ) from error
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            continue
        if header is None:
            header = _header(manifest, cells, columns, where)
            continue
        _count_cells(cells, header, where, 'put texts that hold a comma in "quotes"')
        if reader.line_num > first:
            _no_rows_inside(cells, header.index(columns[0]), where, reader.line_num)
        yield where, dict(zip(header, cells, strict=True))
    if header is None:
        no_column(manifest, columns[0], (), f"{manifest}:1")


def _no_rows_inside(cells: Sequence[str], path: int, where: str, last: int) -> None:
    """Raises UserError if a cell over several lines holds what looks like rows: an opening quote swallowed them."""
    suffix = os.path.splitext(cells[path].strip())[1].lower()
    for cell in cells:
        for line in cell.splitlines() if "\n" in cell or "\r" in cell else ():
            try:
                inside = next(csv.reader([line]), [])
            except csv.Error:
                continue
            if len(inside) == len(cells) and os.path.splitext(inside[path].strip())[1].lower() == suffix:
                raise UserError(
                    f"a cell in quotes runs from here to line {last} and holds what looks like a row: {quoted(line)}",
                    where=where,
                    hint="close the quote, or double it",
                )


def tab_separated(manifest: Path | Url, columns: Sequence[str], complain: Complain) -> Iterator[Row]:
    """TSV: cells between tabs, one row a line; a quote is a quote."""
    header: list[str] | None = None
    opened = 0
    for number, line in _lines(manifest):
        where, line = f"{manifest}:{number}", line.rstrip("\r\n")
        if not line.strip():
            continue
        if "\r" in line:
            raise UserError("there is a carriage return within the line", where=where, hint="end lines with \\n")
        cells = line.split("\t")
        if header is None:
            header = _header(manifest, cells, columns, where)
            continue
        _count_cells(cells, header, where, "quotes do not join lines or cells in a .tsv; a .csv has them")
        for cell in cells:
            odd = cell.count('"') % 2
            closes = odd and not cell.startswith('"') and opened and number - opened <= LINES_OF_A_CELL
            if closes or (len(cell) > 1 and cell[0] == cell[-1] == '"' and _doubled(cell[1:-1])):
                lines = f"lines {opened} to {number}" if closes else f"the cell {quoted(cell)}"
                raise UserError(
                    f"{lines}: this is quoted as in CSV, and in a .tsv quotes are part of the text",
                    where=where,
                    hint="save it as .csv or .jsonl, or without quoting",
                )
            if odd and cell.startswith('"'):
                opened = number
        yield where, dict(zip(header, cells, strict=True))
    if header is None:
        no_column(manifest, columns[0], (), f"{manifest}:1")


def _doubled(text: str) -> bool:
    """Whether it holds quotes, and all of them in pairs."""
    return '"' in text and '"' not in text.replace('""', "")


def _header(manifest: Path | Url, cells: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    for column in columns:
        if column not in header:
            no_column(manifest, column, header, where)
        if header.count(column) > 1:
            raise UserError(f"there are {header.count(column)} columns {quoted(column)}", where=where)
    return header


def _count_cells(cells: Sequence[str], header: Sequence[str], where: str, hint: str) -> None:
    if len(cells) != len(header):
        there, wanted = counted(len(cells), "cell"), counted(len(header), "column")
        raise UserError(
            f"this row has {'more' if len(cells) > len(header) else 'fewer'} cells than the first line has columns "
            f"({there}, {wanted})",
            where=where,
            hint=hint,
        )


def parquet_rows(manifest: Path | Url, columns: Sequence[str], complain: Complain) -> Iterator[Row]:
    pyarrow, parquet = import_parquet()
    try:
        with open_regular(manifest) as stream, parquet.ParquetFile(stream) as file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    no_column(manifest, column, names)
                if names.count(column) > 1:
                    raise UserError(f"there are {names.count(column)} columns {quoted(column)}", where=str(manifest))
                kind = file.schema_arrow.field(column).type
                if (
                    pyarrow.types.is_struct(kind)
                    or pyarrow.types.is_binary(kind)
                    or pyarrow.types.is_large_binary(kind)
                ):
                    raise UserError(
                        f"the column {quoted(column)} holds no text but {shorten(str(kind))}",
                        where=str(manifest),
                        hint="with the files themselves in it, it is no manifest: write shards instead",
                    )
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
                for row in plain_rows(batch):
                    number += 1
                    where = f"{manifest}, row {number}"
                    if isinstance(row, str):
                        raise UserError(row, where=where)
                    yield where, row
    except pyarrow.ArrowException as error:
        why = shorten(str(error), 200)
        raise UserError(f"{manifest} is damaged or no Parquet file ({why})") from error


def plain_rows(part: Any) -> Iterator[Mapping[str, Any] | str]:
    """The rows of a part of a Parquet file; in place of one that Python cannot hold, what is wrong with it."""
    try:
        rows = part.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date beyond all calendars: of one row, as a rule
        if part.num_rows > 1:
            rows = (row for i in range(part.num_rows) for row in plain_rows(part.slice(i, 1)))
        else:
            rows = [_why_not(part)]
    yield from rows


def _why_not(row: Any) -> str:
    """Which column of a row Python cannot hold."""
    for field, column in zip(row.schema, row.columns, strict=True):
        try:
            column.to_pylist()
        except UnicodeDecodeError:
            return f"the column {quoted(field.name)} is not UTF-8"
        except (ValueError, OverflowError):
            return f"the column {quoted(field.name)} holds no text but {shorten(str(field.type))} out of all range"
    return "it cannot be read"


def _lines(manifest: Path | Url) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, its end included. UserError where it is no UTF-8 text."""
    with open_regular(manifest) as stream:
        if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):  # type: ignore[attr-defined]
            raise UserError("this is UTF-16", where=f"{manifest}:1", hint="save it as UTF-8")
        for number in itertools.count(1):
            line = stream.readline(LONGEST_LINE + 1)
            if not line:
                return
            where = f"{manifest}:{number}"
            if len(line) > LONGEST_LINE:
                raise UserError(f"this line has more than {LONGEST_LINE:,} bytes", where=where)
            if b"\0" in line:
                raise UserError("this line holds the character NUL", where=where, hint="save the manifest as UTF-8")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError("this line is not UTF-8", where=where, hint="save the manifest as UTF-8") from error
            yield number, text


def no_column(manifest: str | Path | Url, column: str, there: Sequence[str], where: str | None = None) -> NoReturn:
    known = did_you_mean(column, there) or f"there are: {shorten(', '.join(there), 200) or 'none'}"
    raise UserError(f'there is no column "{column}"', where=where or str(manifest), hint=f"{known} (set columns)")


READERS: dict[str, Callable[[Path | Url, Sequence[str], Complain], Iterator[Row]]] = {
    ".jsonl": json_lines,
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".parquet": parquet_rows,
}
"""Ending → reader. It gets the names of the columns to read, that of the paths first, and whom to tell of a line that
cannot be read, where the next one can be told from it; else it raises UserError."""
