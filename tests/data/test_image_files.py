"""Folders and manifests."""

from __future__ import annotations

import json
import sys

import pytest

from t2x_core.data.image_files import hold_out, list_folder, settle_captions
from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.webp", ".hidden.jpg", ".cache/d.jpg", "phone.HEIC", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("first\n\n  second  \n")
    (tmp_path / "b.txt").write_text("﻿ein Bär\n")
    (tmp_path / "sub/c.txt").write_text(" \n")
    (tmp_path / "lost.txt").write_text("a caption alone")
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    return tmp_path


def test_a_folder_is_listed_with_its_sub_folders_and_captions(folder):
    found = list_folder(folder)
    assert [(file.name, file.captions) for file in found.files] == [
        ("a.PNG", ("first", "second")),
        ("b.jpg", ("ein Bär",)),
        ("sub/c.webp", ()),
    ]
    assert [remark.split()[:2] for remark in found.remarks] == [["1", ".heic"], ["1", ".txt"]]


def test_images_without_a_caption_are_never_dropped_in_silence(folder):
    found = list_folder(folder)
    with pytest.raises(UserError, match=r"1 image has no caption \(of 3\): sub/c.webp"):
        settle_captions(found, "error", "key")
    assert settle_captions(found, "empty", "key").files[2].captions == ("",)
    skipped = settle_captions(found, "skip", "key")
    assert len(skipped.files) == 2
    assert "1 image has no caption, left out: sub/c.webp" in skipped.remarks


def test_a_caption_that_is_not_utf_8_is_named(folder):
    (folder / "b.txt").write_bytes("Bär".encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.txt:1: this caption is not UTF-8"):
        list_folder(folder)


ROWS = [
    {"file": "x/a.jpg", "text": "one", "more": ["two", "three"], "h": 10, "w": 20},
    {"file": "b.jpg", "text": "", "more": [], "h": 30, "w": 40},
    {"file": "x/a.jpg", "text": "four", "more": None, "h": 10, "w": 20},
]
WANTED = [("x/a.jpg", ("one", "two", "three", "four"), (10, 20)), ("b.jpg", (), (30, 40))]


def read(manifest, captions=("text", "more")):
    found = read_manifest(manifest, manifest.parent, Columns("file", captions, ("h", "w")))
    assert all(file.place == str(manifest.parent / file.name) for file in found.files)
    return [(file.name, file.captions, file.size) for file in found.files]


def test_a_manifest_of_json_lines(tmp_path):
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    assert read(tmp_path / "m.jsonl") == WANTED


def test_a_manifest_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "m.parquet")
    assert read(tmp_path / "m.parquet") == WANTED


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'reading Parquet needs pyarrow; pip install "t2x\[parquet\]"'):
        read(tmp_path / "m.parquet")


@pytest.mark.parametrize(("suffix", "comma"), [("csv", ","), ("tsv", "\t")])
def test_a_manifest_in_csv(suffix, comma, tmp_path):
    rows = ["file text h w", "x/a.jpg one,_two 10 20", "b.jpg  30 40", "./x/a.jpg four 10 20"]
    quote = '"' if suffix == "csv" else ""
    lines = [comma.join(f"{quote}{cell}{quote}" for cell in row.split(" ")).replace("_", " ") for row in rows]
    (tmp_path / f"m.{suffix}").write_text("\n".join(lines))
    assert read(tmp_path / f"m.{suffix}", ["text"]) == [
        ("x/a.jpg", ("one, two", "four"), (10, 20)),
        ("b.jpg", (), (30, 40)),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path,txt\na.jpg,x\n", 'm.csv:1: there is no column "text"; did you mean "txt"? (set columns)'),
        ("m.csv", "path,text\na.jpg,x,y\n", "m.csv:2: this row has more cells than the first line has columns"),
        ("m.jsonl", '{"path": "a.jpg", "text": "x"}\n{"path"\n', "m.jsonl:2: this line is not JSON"),
        ("m.jsonl", "[1]\n", "m.jsonl:1: this line is no JSON object"),
        ("m.jsonl", '{"path": 3, "text": "x"}\n', 'm.jsonl:1: the column "path" holds no path but 3'),
        ("m.jsonl", '{"path": "a.jpg", "text": 3}\n', 'm.jsonl:1: the column "text" holds no text but 3'),
        ("m.jsonl", '{"path": "a.jpg"}\n', 'm.jsonl: there is no column "text"; there are: path'),
        ("m.jsonl", '{"image": "a.jpg"}\n', 'm.jsonl:1: there is no column "path"; there are: image'),
        ("m.parquet", "nonsense", "m.parquet is damaged or no Parquet file"),
        ("m.txt", "", "m.txt is no manifest; its ending must be one of .jsonl, .csv, .tsv, .parquet"),
        ("m.jsonl", None, "cannot read the manifest"),
    ],
)
def test_a_mistake_in_a_manifest_is_named_with_its_line(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / name, tmp_path, Columns("path", ["text"]))
    assert message in str(caught.value)


def test_what_is_held_out_stays_so_when_images_come():
    names = [f"{i}.jpg" for i in range(2000)]
    held = {names[i] for i in hold_out(names, 0.05)}
    more = [f"new{i}.jpg" for i in range(1000)] + names
    assert {more[i] for i in hold_out(more, 0.05)} & set(names) == held
    assert 60 < len(held) < 140
    assert len(hold_out(["only.jpg"], 0.01)) == 1
