"""Every row of a manifest is there, or the line that cannot be read is named."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.errors import UserError

PLAIN = Columns("path", ["caption"])
SIZED = Columns("path", ["caption"], ("h", "w"))


def read(manifest: Path, columns: Columns = PLAIN) -> list[tuple[str, tuple[str, ...]]]:
    return [(file.name, file.captions) for file in read_manifest(manifest, manifest.parent, columns).files]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", 'path,caption\na.png,"open\nb.png,x\nc.png,y\n', "m.csv:2: this row is not CSV (a quote is opened"),
        (
            "m.csv",
            'path,caption\na.png,x\nb.png,"y\nc.png,z"\n',
            'from here to line 4 and holds what looks like a row: "c',
        ),
        ("m.csv", 'caption,path\n"y,b.png\nz",c.png\n', 'holds what looks like a row: "y,b.png"'),
        ("m.csv", 'path,caption\na.png,"x" y\n', "m.csv:2: this row is not CSV"),
        ("m.csv", "path,caption\na.png,x\nb.png\n", "m.csv:3: this row has fewer cells"),
        ("m.csv", "path,caption,caption\na.png,x,y\n", 'm.csv:1: there are 2 columns "caption"'),
        ("m.csv", "a.png,x\nb.png,y\n", 'm.csv:1: there is no column "path"; there are: a.png, x'),
        ("m.csv", "", 'm.csv:1: there is no column "path"'),
        ("m.csv", b"path,caption\na.png,x\nb.png,caf\xe9\n", "m.csv:3: this line is not UTF-8"),
        ("m.csv", "path,caption\na.png,x\n".encode("utf-16"), "m.csv:1: this is UTF-16"),
        ("m.csv", b"path,caption\na.png,\0\n", "m.csv:2: this line holds the character NUL"),
        ("m.csv", f"path,caption\na.png,{'x' * 200_000}\n", "m.csv:2: this row is not CSV (field larger"),
        ("m.tsv", "path\tcaption\na.png\tx\ty\n", "m.tsv:2: this row has more cells"),
        ("m.tsv", "path\tcaption\na.png\n", "m.tsv:2: this row has fewer cells"),
        ("m.tsv", 'path\tcaption\na.png\t"say ""x"""\n', "m.tsv:2: the cell"),
        ("m.tsv", 'path\tcaption\na.png\t"one\ntwo\tthree"\n', "m.tsv:3: lines 2 to 3: this is quoted as in CSV"),
        ("m.tsv", '"path"\t"caption"\n"a.png"\t"x"\n', 'm.tsv:1: there is no column "path"'),
        ("m.jsonl", '{"path": "a.png", "caption": "x", "caption": "y"}\n', 'm.jsonl:1: "caption" stands twice'),
        ("m.jsonl", '{"path": "a.png", "caption": "\\ud83d"}\n', "m.jsonl:1: the column"),
        ("m.jsonl", '{"path": "a\\ud83d.png", "caption": "x"}\n', "holds half of a character"),
        ("m.jsonl", '{"path": "a\\u0000.png", "caption": "x"}\n', "holds the character NUL"),
        ("m.jsonl", '{"path": "a.png", "caption": NaN}\n', "holds no text but NaN"),
        ("m.jsonl", '{"path": "a.png", "caption": %s}\n' % ("[" * 5000 + "]" * 5000), "m.jsonl:1: "),
        ("m.jsonl", '{"path": "a.png", "caption": %s}\n' % ("9" * 5000), "m.jsonl:1: "),
        ("m.jsonl", '{"path": "a.png", "caption": {"text": "x"}}\n', 'holds no text but {"text": "x"}'),
        ("m.jsonl", '"a.png"\n', "m.jsonl:1: this line is no JSON object"),
        (
            "m.jsonl",
            '{"path": "a.png", "caption": "x"}, {"path": "b.png", "caption": "y"}\n',
            "m.jsonl:1: this line is not",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "value", ["1e999", "NaN", "-1", "0", "20.7", "true", "1" + "0" * 30, "9" * 400, '"9e3"', "[20]"]
)
def test_a_size_that_is_none_is_named(value, tmp_path):
    (tmp_path / "m.jsonl").write_text('{"path": "a.png", "caption": "x", "w": 20, "h": ' + value + "}\n")
    with pytest.raises(UserError, match=r"m\.jsonl:1: h × w is .*, which is no size in pixels") as caught:
        read(tmp_path / "m.jsonl", SIZED)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["20", "20.0", '"20"', '" 20 "'])
def test_a_size_may_be_a_float_without_fraction_or_text(value, tmp_path):
    (tmp_path / "m.jsonl").write_text('{"path": "a.png", "caption": "x", "w": 20, "h": ' + value + "}\n")
    assert read_manifest(tmp_path / "m.jsonl", tmp_path, SIZED).files[0].size == (20, 20)


def test_byte_order_mark_line_ends_blank_lines_and_literal_quotes(tmp_path):
    rows = [("a.png", '"a man'), ("b.png", 'a 5" disc'), ("c.png", '"quoted"'), ("d.png", "x")]
    text = "\ufeffpath\tcaption\r\n" + "".join(f"{path}\t{caption}\r\n\r\n" for path, caption in rows)
    (tmp_path / "m.tsv").write_bytes(text.replace('a 5" disc', 'a 5"" disc').encode())
    assert read(tmp_path / "m.tsv") == [(p, (c.replace('a 5" disc', 'a 5"" disc'),)) for p, c in rows]
    (tmp_path / "m.csv").write_bytes('\ufeffpath, caption\r\n\r\na.png,"x\r\ny"\r\nb.png,5" disc\r\n'.encode())
    assert read(tmp_path / "m.csv") == [("a.png", ("x\r\ny",)), ("b.png", ('5" disc',))]


def test_parquet_with_files_inside_is_refused_in_a_short_line(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    cell = {"bytes": os.urandom(100_000), "path": "x.jpg"}
    parquet.write_table(pyarrow.table({"image": [cell] * 3, "text": ["t"] * 3}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"the column \"image\" holds no text but struct<") as caught:
        read(tmp_path / "m.parquet", Columns("image", ["text"]))
    assert len(str(caught.value)) < 400


def test_a_pipe_for_a_manifest_is_named(tmp_path):
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        os.mkfifo(tmp_path / f"m.{suffix}")
        with pytest.raises(UserError, match=rf"m\.{suffix}: is a pipe, not a file"):
            read(tmp_path / f"m.{suffix}")


LETTERS = st.one_of(st.sampled_from(list("\"\t\n\r, ;\\'a{}[]:#\ufeff\u2028\x1c\x0c\0")), st.characters(codec="utf-8"))
CAPTIONS = st.text(LETTERS, max_size=12)
ROWS = st.lists(st.tuples(st.booleans(), CAPTIONS), min_size=1, max_size=6)


def expected(rows: list[tuple[bool, str]]) -> list[tuple[str, tuple[str, ...]]]:
    captions = [(f"{i}.png", caption.strip()) for i, (_, caption) in enumerate(rows)]
    return [(path, (caption,) if caption else ()) for path, caption in captions]


def rows_or_none(manifest: Path) -> list[tuple[str, tuple[str, ...]]] | None:
    """Its rows; None if an error names one of its lines."""
    try:
        return read(manifest)
    except UserError as error:
        if str(error).startswith(f"{manifest}:"):
            return None
        raise


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, ending=st.sampled_from(["\n", "\r\n"]), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_rows_that_pythons_csv_writes_are_all_there(rows, ending, quoting, tmp_path):
    for suffix, comma in (("csv", ","), ("tsv", "\t")):
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=comma, lineterminator=ending, quoting=quoting)
        writer.writerow(["path", "caption"])
        writer.writerows((f"{i}.png", caption) for i, (_, caption) in enumerate(rows))
        (tmp_path / f"m.{suffix}").write_bytes(stream.getvalue().encode())
        assert rows_or_none(tmp_path / f"m.{suffix}") in (None, expected(rows))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_lines_put_together_by_hand_are_all_there(rows, tmp_path):
    """No writer that quotes: what people and scripts write."""
    for suffix, comma in (("csv", ","), ("tsv", "\t")):
        plain = [(bare, caption.replace("\n", " ").replace("\r", " ")) for bare, caption in rows]
        text = f"path{comma}caption\n" + "".join(f"{i}.png{comma}{caption}\n" for i, (_, caption) in enumerate(plain))
        (tmp_path / f"m.{suffix}").write_bytes(text.encode())
        if suffix == "tsv" or not any('"' in caption for _, caption in plain):
            assert rows_or_none(tmp_path / f"m.{suffix}") in (None, expected(plain))
        else:  # CSV takes quotes at the beginning of a cell away; no row goes with them
            found = rows_or_none(tmp_path / "m.csv")
            assert found is None or len(found) == len(plain)


ANY_TEXT = st.text(st.one_of(LETTERS, st.characters()), max_size=12)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.booleans(), ANY_TEXT), min_size=1, max_size=6))
def test_rows_that_pythons_json_writes_are_all_there(rows, tmp_path):
    """Half characters included, which json can write."""
    lines = [
        json.dumps({"path": f"{i}.png", "caption": [caption] if in_list else caption})
        for i, (in_list, caption) in enumerate(rows)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n")
    assert rows_or_none(tmp_path / "m.jsonl") in (None, expected(rows))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(NAMES, min_size=1, max_size=4))
def test_any_file_name_is_found_again(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        (folder / f"x{name}.png").touch()
    (folder / "m.jsonl").write_text(
        "".join(json.dumps({"path": f"x{n}.png", "caption": n}) + "\n" for n in sorted(names))
    )
    files = read_manifest(folder / "m.jsonl", folder, Columns("path", ["caption"])).files
    assert {Path(file.place).name for file in files} == {f"x{name}.png" for name in names}
    assert all(os.path.exists(file.place) for file in files)
