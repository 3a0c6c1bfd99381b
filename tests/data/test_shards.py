"""Images in tar and Parquet shards: the same as other libraries read, found again by key, and no damage unnamed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from braceexpand import braceexpand

from t2x_core.cache.identity import by_bytes, by_time
from t2x_core.data import shards, tar_shard
from t2x_core.data.content import content_hash
from t2x_core.data.decode import SUFFIXES
from t2x_core.data.file_table import FileTable
from t2x_core.data.image_files import ImageFile
from t2x_core.data.manifest import Columns
from t2x_core.data.shards import braces, list_shards, shard_files
from t2x_core.errors import UserError
from t2x_core.media import ParquetCell, TarMember, from_plain, open_place, to_plain
from tests.data.shard_set import add, image_bytes, images, write, write_parquet, write_tar

COLUMNS = Columns("path", ["caption"])


def read(file: ImageFile) -> bytes:
    with open_place(file.place) as stream:
        return stream.read()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_tar_shards_hold_what_the_webdataset_library_reads(tmp_path):
    pattern = str(tmp_path / "train-%02d.tar")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as sink:
        for i in range(30):
            long = "a/very/long/name/" * 8 if i % 5 == 0 else ""
            sample = {"__key__": f"{long}{i:05d}", "jpg": image_bytes(i, kind="JPEG"), "cls": i}
            texts = {"json": {"caption": f"ä json {i}", "size": i}} if i % 2 else {"txt": f"text {i}\nsecond {i}"}
            sink.write({**sample, **texts})
    urls = str(tmp_path / "train-{00..04}.tar")
    theirs = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        texts = [json.loads(sample["json"])["caption"]] if "json" in sample else sample["txt"].decode().split("\n")
        theirs[f"{Path(sample['__url__']).name}!{sample['__key__']}.jpg"] = (sample["jpg"], texts)
    found = list_shards(Path(urls), COLUMNS, SUFFIXES)
    ours = {file.name: (read(file), list(file.captions)) for file in found.files}
    assert ours == theirs
    assert list(ours) == list(theirs)  # in the same order
    assert len(ours) == 30
    assert not found.damaged


def test_parquet_shards_hold_what_the_datasets_library_reads(tmp_path):
    rows = [{"image": {"bytes": image_bytes(i), "path": f"{i}.png"}, "text": f"ä {i}"} for i in range(25)]
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    for number in range(2):
        part = datasets.Dataset.from_list(rows[number::2], features=features)
        part.to_parquet(tmp_path / f"train-{number:05d}-of-00002.parquet", batch_size=4)
    files = sorted(map(str, tmp_path.glob("*.parquet")))
    theirs = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"), features=features)
    found = list_shards(tmp_path / "train-*.parquet", Columns("image", ["text"]), SUFFIXES)
    assert [(read(file), list(file.captions)) for file in found.files] == [
        (row["image"]["bytes"], [row["text"]]) for row in theirs
    ]
    # In any order, and the column of bytes is found if it is the only one.
    found = list_shards(tmp_path / "train-*.parquet", Columns("path", ["text"]), SUFFIXES)
    assert [read(found.files[i]) for i in (24, 3, 20, 0)] == [theirs[i]["image"]["bytes"] for i in (24, 3, 20, 0)]
    assert found.files[13].name == "train-00001-of-00002.parquet!0"


def test_bytes_without_a_struct_lists_of_captions_and_sizes(tmp_path):
    data = [image_bytes(i) for i in range(3)]
    table = {"picture": data, "caption": [["a", "b"], [], ["c"]], "h": [40, 41, 42], "w": [4, 4, 4], "of": [1, 1, 2]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = list_shards(tmp_path / "a.parquet", Columns("path", ["caption"], ("h", "w"), "of"), SUFFIXES)
    assert [read(file) for file in found.files] == data
    assert [file.captions for file in found.files] == [("a", "b"), (), ("c",)]
    assert [file.size for file in found.files] == [(40, 4), (41, 4), (42, 4)]
    assert [file.group for file in found.files] == ["1", "1", "2"]


@pytest.mark.parametrize(
    "pattern",
    ["a.tar", "a-{00..12}.tar", "{a,b}/{8..11}.tar", "x{3..1}-{c,d,}.tar", "{0..2}{000..002}", "{a}.tar"],
)
def test_braces_are_a_shells(pattern):
    assert braces(pattern) == list(braceexpand(pattern))


def test_a_folder_a_pattern_a_link_and_two_names_of_one_shard(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.tar", "sub/a.tar", ".hidden.tar"):
        write_tar(tmp_path / name, images(1))
    (tmp_path / "c.tar").symlink_to("b.tar")
    (tmp_path / "notes.txt").write_text("")
    assert shard_files(tmp_path) == (str(tmp_path), [str(tmp_path / name) for name in ("c.tar", "sub/a.tar")])
    assert shard_files(tmp_path / "**" / "a.tar")[1] == [str(tmp_path / "sub/a.tar")]
    for wrong in ("d-*.tar", "{b,z}.tar", "notes.txt", "sub/none"):
        with pytest.raises(UserError, match="shard"):
            shard_files(tmp_path / wrong)


def test_members_of_a_sample_hidden_ones_and_what_is_alone(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, "d/1.txt", b"first\n")  # before its image
        add(tar, "d/1.json", b'{"caption": ["first", "also"]}')
        add(tar, "d/._1.png", b"of the system")
        add(tar, "__index__", b"of a library")
        add(tar, "d/1.png", image_bytes(1))
        add(tar, "d/1.mask.png", image_bytes(2))
        add(tar, "1.PNG", image_bytes(3))  # of another folder, so of another sample
        add(tar, "alone.txt", b"words")
        add(tar, "d/1.png", image_bytes(4))  # once more: the later counts, as for `tar -x`
    found = list_shards(tmp_path / "a.tar", COLUMNS, SUFFIXES)
    assert {file.name: file.captions for file in found.files} == {
        "a.tar!d/1.png": ("first", "also"),
        "a.tar!1.PNG": (),
    }
    assert read(next(file for file in found.files if file.captions)) == image_bytes(4)
    assert "1 sample has no image beside the text" in found.remarks
    assert any("1 member passed over, since the sample has another" in remark for remark in found.remarks)


def test_only_shards_that_changed_are_indexed_again(tmp_path, monkeypatch):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", images(4))
    indexed = []
    real = tar_shard.list_tar
    monkeypatch.setitem(shards.KINDS, ".tar", lambda path, *rest: indexed.append(Path(path).name) or real(path, *rest))
    first = list_shards(tmp_path, COLUMNS, SUFFIXES)
    assert indexed == ["0.tar", "1.tar", "2.tar"]
    assert list_shards(tmp_path, COLUMNS, SUFFIXES).files == first.files
    assert len(indexed) == 3
    write_tar(tmp_path / "1.tar", images(6))
    write_tar(tmp_path / "3.tar", images(1))
    assert len(list_shards(tmp_path, COLUMNS, SUFFIXES).files) == 4 + 6 + 4 + 1
    assert indexed[3:] == ["1.tar", "3.tar"]
    list_shards(tmp_path, Columns("path", ["title"]), SUFFIXES)  # other captions: another index
    assert len(indexed) == 9
    for index in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.safetensors"):  # damaged, it is made again
        index.write_bytes(index.read_bytes()[:-9])
    assert len(list_shards(tmp_path, COLUMNS, SUFFIXES).files) == 15


def test_a_shard_that_is_cut_short_or_has_a_damaged_header_is_named_and_the_rest_is_read(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", images(9)).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        starts = {member.name: member.offset for member in tar}
    (tmp_path / "cut.tar").write_bytes(whole[: starts["0006.png"] + 600])
    header = bytearray(whole)
    header[starts["0003.png"] + 20] ^= 0xFF
    header[starts["0000.png"] + 20] ^= 0xFF  # the first of all
    (tmp_path / "header.tar").write_bytes(header)
    cut = list_shards(tmp_path / "cut.tar", COLUMNS, SUFFIXES)
    assert cut.damaged == [("cut.tar", "is cut short after 13 files")]
    assert [file.name for file in cut.files] == [f"cut.tar!{i:04d}.png" for i in range(7)]
    assert len(read(cut.files[6])) < len(read(list_shards(tmp_path / "whole.tar", COLUMNS, SUFFIXES).files[6]))
    found = list_shards(tmp_path / "header.tar", COLUMNS, SUFFIXES)
    assert [file.name for file in found.files] == [f"header.tar!{i:04d}.png" for i in range(9) if i not in (0, 3)]
    ((name, why),) = found.damaged
    assert name == "header.tar"
    assert "damaged header" in why


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no tar at all" * 1000, "is no tar file"),
        (b"\x1f\x8b" + bytes(600), r"is compressed \(gzip\)"),
    ],
)
def test_what_is_no_shard_stops_with_its_name(tmp_path, content, message):
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(UserError, match=f"bad.tar {message}"):
        list_shards(tmp_path, COLUMNS, SUFFIXES)
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"bad.parquet is damaged or no Parquet file"):
        list_shards(tmp_path / "bad.parquet", COLUMNS, SUFFIXES)


def test_texts_that_cannot_be_read_name_their_sample_and_cost_no_other(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        texts = {"1.json": b"{", "2.txt": b"\xff\xfe", "3.json": b'{"caption": 5}', "4.txt": b"good", "5.json": b"[1]"}
        for name, text in texts.items():
            add(tar, f"{name[0]}.png", image_bytes(int(name[0])))
            add(tar, name, text)
    found = list_shards(tmp_path, COLUMNS, SUFFIXES)
    assert [file.name for file in found.files] == ["a.tar!4.png"]
    assert [name for name, _ in found.damaged] == ["a.tar!1.json", "a.tar!2.txt:1", "a.tar!3.json", "a.tar!5.json"]


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", images(12), rows=4)
    with pq.ParquetFile(file) as opened:
        column = opened.metadata.row_group(1).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
    found = list_shards(file, COLUMNS, SUFFIXES).files
    whole = [read(one) for one in found]
    data = bytearray(file.read_bytes())
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    file.write_bytes(data)
    for i, one in enumerate(found):
        if i // 4 == 1:
            with pytest.raises(OSError, match="row group 1 of the Parquet file is damaged"):
                read(one)
        else:
            assert read(one) == whole[i]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_changed_member_is_noticed(tmp_path, kind):
    files = images(6)
    settings = write(kind, tmp_path / "a", files, shards=1)
    before = list_shards(settings["shards"], COLUMNS, SUFFIXES).files
    states = [(by_time(f.place), by_bytes(f.place), content_hash(f.place)) for f in before]
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    (tmp_path / "a").rmdir()
    files["0003.png"] = image_bytes(99), ["image 3"]
    write(kind, tmp_path / "a", files, shards=1)
    after = list_shards(settings["shards"], COLUMNS, SUFFIXES).files
    now = [(by_time(f.place), by_bytes(f.place), content_hash(f.place)) for f in after]
    assert [a[0] != b[0] for a, b in zip(states, now, strict=True)] == [True] * 6  # the shard's time
    assert [a[1] != b[1] for a, b in zip(states, now, strict=True)] == [i == 3 for i in range(6)]
    assert [a[2] != b[2] for a, b in zip(states, now, strict=True)] == [i == 3 for i in range(6)]


def test_a_member_can_be_sought_and_read_in_pieces_as_the_file_itself(tmp_path):
    data = bytes(range(256)) * 5000
    file = write_tar(tmp_path / "a.tar", {"0.png": (b"x" * 1000, []), "1.png": (data, []), "2.png": (b"y", [])})
    member = list_shards(file, COLUMNS, SUFFIXES).files[1].place
    with open_place(member) as ours, io.BytesIO(data) as theirs:
        for offset, whence, count in (
            (0, 0, 10),
            (5, 1, 70000),
            (-3, 2, 100),
            (600_000, 0, -1),
            (0, 0, -1),
            (9**9, 0, 4),
        ):
            assert ours.seek(offset, whence) == theirs.seek(offset, whence)
            assert ours.read(count) == theirs.read(count)
            assert ours.tell() == theirs.tell()


def test_places_pass_through_json_and_pickle():
    for place in ("a\udc80.png", TarMember("a.tar", "b\udc80", 3, 4), ParquetCell("p", "", 1, 2, "image.bytes")):
        assert from_plain(json.loads(json.dumps(to_plain(place)))) == place
        assert pickle.loads(pickle.dumps(place)) == place


def test_a_table_of_files_is_the_list_of_them(tmp_path):
    files = [
        ImageFile("x\udc80.png", "ä", ("a", "b\nc"), (3, 4), "g", "0123", 2),
        ImageFile(TarMember("s.tar", "m.png", 5, 6), "s!m", ()),
        ImageFile(ParquetCell("s.parquet", "", 7, 8, "image.bytes"), "s!8", ("",)),
    ]
    table = FileTable.of(files, {"note": [1]})
    table.save(tmp_path / "t.safetensors")
    opened = FileTable.open(tmp_path / "t.safetensors")
    for found in (table, opened, pickle.loads(pickle.dumps(opened)), pickle.loads(pickle.dumps(table))):
        assert list(found) == files
        assert found[-1] == files[2]
        assert list(found[1:]) == files[1:]
    assert opened.notes == {"note": [1]}
    assert len(pickle.dumps(opened)) < 1000
    assert list(FileTable.of([])) == []


def test_many_new_shards_are_indexed_in_several_processes_and_the_same_is_found(tmp_path, monkeypatch):
    for number in range(20):
        write_tar(tmp_path / f"{number:02d}.tar", {f"{number}_{name}": file for name, file in images(3).items()})
    (tmp_path / "07.tar").write_bytes((tmp_path / "07.tar").read_bytes()[:3000])
    processes = tmp_path / "processes.txt"
    real = tar_shard.list_tar

    def noting(path, *rest):
        with processes.open("a") as file:
            file.write(f"{os.getpid()} {Path(path).name}\n")
        return real(path, *rest)

    monkeypatch.setitem(shards.KINDS, ".tar", noting)
    found = list_shards(tmp_path, COLUMNS, SUFFIXES)
    lines = [line.split() for line in processes.read_text().splitlines()]
    assert sorted(name for _, name in lines) == [f"{number:02d}.tar" for number in range(20)]  # each once
    assert str(os.getpid()) not in {process for process, _ in lines}
    monkeypatch.setattr(shards, "FEW", 100)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "alone"))
    alone = list_shards(tmp_path, COLUMNS, SUFFIXES)
    assert found.files == alone.files
    assert found.damaged == alone.damaged
    assert len(found.damaged) == 1
    # A shard that stops the run does so as alone.
    monkeypatch.setattr(shards, "FEW", 2)
    (tmp_path / "11.tar").write_bytes(b"no tar file" * 100)
    (tmp_path / "12.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"11\.tar is no tar file"):
        list_shards(tmp_path, COLUMNS, SUFFIXES)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_table_of_files_is_none(seed, tmp_path):
    """Whatever byte is another: what is in it is never given for another file or caption."""
    file, rng = tmp_path / "t.safetensors", random.Random(seed)
    files = [ImageFile(f"{i}.png", f"{i}.png", (f"caption {i}",), (40, 50), "", f"c{i}") for i in range(6)]
    FileTable.of(files, {"stamp": [1]}).save(file)
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(20):
        data = bytearray(whole)
        place = rng.randrange(start, len(data)) if rng.random() < 0.8 else rng.randrange(start)
        data[place] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        try:
            found = FileTable.open(file)
        except (OSError, ValueError):
            continue
        assert list(found) == files  # blanks between the parts of the header
