"""Every row of a Parquet file is there, or its number and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.data.parquet_shard import list_parquet
from t2x_core.errors import UserError
from t2x_core.media import open_place

CELLS = st.binary(max_size=6) | st.text(max_size=6).map(str.encode) | st.sampled_from([b"\xff", b" \n", b"a\0b"])
"""Captions as bytes, so that they may be no text."""
ROWS = st.lists(st.none() | st.lists(CELLS, max_size=3), min_size=1, max_size=8)


def is_text(cell: bytes) -> bool:
    try:
        return "\0" not in cell.decode()
    except UnicodeDecodeError:
        return False


def kept(cells: list[bytes] | None) -> tuple[str, ...]:
    return tuple(text for cell in cells or () if (text := cell.decode().strip()))


def as_text(cells: list[bytes | None]) -> pa.Array:
    """The bytes as Arrow's text, unchecked, as a faulty writer leaves them."""
    binary = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def listed(rows: list[list[bytes] | None]) -> pa.Array:
    """A column with a list of texts, or null, in each row."""
    flat = as_text([cell for cells in rows for cell in cells or ()])
    ends = [sum(len(cells or ()) for cells in rows[:i]) for i in range(len(rows) + 1)]
    nulls = pa.array([cells is None for cells in rows])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat, mask=nulls)


def single(rows: list[list[bytes] | None]) -> tuple[pa.Array, list[list[bytes] | None]]:
    """A column with one text, or null, in each row, and the captions that those are."""
    firsts = [cells[0] if cells else None for cells in rows]
    return as_text(firsts), [None if cell is None else [cell] for cell in firsts]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, in_lists=st.booleans(), group=st.integers(1, 5))
def test_rows_of_a_manifest_and_of_shards_are_all_there_or_named(rows, in_lists, group, tmp_path):
    column, captions = (listed(rows), rows) if in_lists else single(rows)
    data = [bytes([i]) * (i + 1) for i in range(len(rows))]
    table = pa.table({"path": [f"{i}.png" for i in range(len(rows))], "image": data, "caption": column})
    file = tmp_path / "m.parquet"
    pq.write_table(table, file, row_group_size=group)
    good = [i for i, cells in enumerate(captions) if all(map(is_text, cells or ()))]
    bad = [i for i in range(len(rows)) if i not in good]

    files, notes = list_parquet(str(file), Columns("image", ["caption"]), (".png",))
    assert [(one.name, one.captions) for one in files] == [(str(i), kept(captions[i])) for i in good]
    assert [(name, 'the column "caption"' in why) for name, why in notes["damaged"]] == [(str(i), True) for i in bad]
    for i, one in zip(good, files, strict=True):
        with open_place(one.place) as stream:
            assert stream.read() == data[i]

    if bad:
        with pytest.raises(UserError, match=rf'm\.parquet, row {bad[0] + 1}: the column "caption"'):
            read_manifest(file, tmp_path, Columns("path", ["caption"]))
    else:
        found = read_manifest(file, tmp_path, Columns("path", ["caption"])).files
        assert [(one.name, one.captions) for one in found] == [(f"{i}.png", kept(captions[i])) for i in good]


@pytest.mark.parametrize(
    "cells",
    [pa.array([2**31 - 1, 1], pa.int32()).cast(pa.date32()), pa.array([2**62, 1], pa.duration("s"))],
    ids=["date", "duration"],
)
def test_values_beyond_what_python_holds_are_named(cells, tmp_path):
    file = tmp_path / "m.parquet"
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "image": [b"x", b"y"], "caption": cells}), file)
    with pytest.raises(UserError, match=r'row 1: the column "caption" holds no text but (date32|duration)'):
        read_manifest(file, tmp_path, Columns("path", ["caption"]))
    files, notes = list_parquet(str(file), Columns("image", ["caption"]), (".png",))
    assert not files
    assert [name for name, _ in notes["damaged"]] == ["0", "1"]


def save(file: Path, names: list[str], *columns: object) -> str:
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names), file)
    return str(file)


def test_columns_that_stand_twice_or_hold_no_files_are_refused_and_odd_names_are_none(tmp_path):
    columns = Columns("image", ["caption"])
    twice = save(tmp_path / "twice.parquet", ["image", "caption", "caption"], [b"x"], ["a"], ["b"])
    with pytest.raises(UserError, match='there are 2 columns "caption"'):
        list_parquet(twice, columns, (".png",))
    for cell in ("text", 2**40):
        file = save(tmp_path / "no.parquet", ["image", "caption"], [{"bytes": cell, "path": "x.png"}], ["a"])
        with pytest.raises(UserError, match=r'"image" holds no files but struct<bytes: (string|int64)'):
            list_parquet(file, columns, (".png",))
    file = save(tmp_path / "odd.parquet", ["image", "caption"], [{"bytes": b"x", "path": 3}], ["a"])
    assert list_parquet(file, columns, (".png",))[0][0].place.name == ""
