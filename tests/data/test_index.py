"""What is found out about the files, and remembered."""

from __future__ import annotations

import itertools
import multiprocessing
import os

import pytest

from t2x_core.data import index
from t2x_core.data.image_files import ImageFile, list_folder
from t2x_core.data.index import Finding, examine, measure_image
from tests.data.image_set import make_image, write_damaged, write_good


@pytest.fixture
def files(tmp_path):
    write_good(tmp_path, 30)
    return list_folder(tmp_path).files


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are looked into."""
    names, real = [], index.image_size
    monkeypatch.setattr(index, "image_size", lambda path, whole: names.append(path) or real(path, whole))
    return names


def test_good_files_are_remembered_until_they_change(files, opened):
    first = examine(files, "x", whole=True)
    assert len(opened) == 30
    assert examine(files, "x", whole=True) == first
    assert len(opened) == 30
    make_image(20, 10).save(files[3].place)
    second = examine(files, "x", whole=True)
    assert opened[30:] == [files[3].place]
    assert second[3] == Finding(10, 20)
    assert [finding for i, finding in enumerate(second) if i != 3] == [f for i, f in enumerate(first) if i != 3]


def test_damaged_files_are_looked_at_each_time(tmp_path, opened):
    reasons = write_damaged(tmp_path)
    files = list_folder(tmp_path).files
    for _ in range(2):
        found = {file.name: finding.damage for file, finding in zip(files, examine(files, "x", True), strict=True)}
        assert found.keys() == reasons.keys()
        assert all(found[name].startswith(reason) for name, reason in reasons.items())
    assert len(opened) == 22  # a folder is never opened


def test_headers_are_enough_or_not_even_these(files, tmp_path, opened):
    (tmp_path / "short.png").write_bytes((tmp_path / files[0].name).read_bytes())
    told = ImageFile(str(tmp_path / "absent.jpg"), "absent.jpg", ("x",), size=(3, 4))
    assert examine([told], "x", whole=False) == [Finding(3, 4)]
    assert not opened
    assert examine([told], "x", whole=True)[0].damage == "is not there"
    assert examine(files, "x", whole=False) == examine(files, "x", whole=True)


def test_nothing_is_written_beside_the_images_and_no_cache_is_no_harm(files, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    blocked = tmp_path.parent / f"{tmp_path.name}_file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert len(examine(files, "x", whole=True)) == 30
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "garbage", [b"{", b"5", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"%s": 5}', b'{"%s": [1, 2, "x", 4, 5, 6.0, false]}']
)
def test_a_damaged_memory_is_forgotten(garbage, files, opened):
    first = examine(files, "x", whole=True)
    (memory,) = (index._memory("x", True).parent).glob("*.json")
    memory.write_bytes(garbage.replace(b"%s", files[0].name.encode()))
    assert examine(files, "x", whole=True) == first
    assert len(opened) == 60


def _examine_in_a_process(files, looked):
    real = index.image_size

    def counting(path, whole):
        with looked.get_lock():
            looked.value += 1
        return real(path, whole)

    index.image_size = counting
    examine(files, "x", whole=True)
    os._exit(0)


def test_processes_that_start_together_look_at_each_file_once(files):
    context = multiprocessing.get_context("fork")
    looked = context.Value("i", 0)
    processes = [context.Process(target=_examine_in_a_process, args=(files, looked)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert looked.value == 30


def test_a_look_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    write_good(tmp_path, 24)
    files = list_folder(tmp_path).files
    monkeypatch.setattr(index, "CHUNK", 8)
    monkeypatch.setattr(index, "KEEP", -1.0)
    turns = itertools.count()

    def killed(place, whole):
        if next(turns) >= 19:
            raise KeyboardInterrupt
        return measure_image(place, whole)

    with pytest.raises(KeyboardInterrupt):
        examine(files, "x", True, killed)
    looked = []
    findings = examine(files, "x", True, lambda *how: looked.append(how) or measure_image(*how))
    assert all(finding.damage is None for finding in findings)
    assert sorted(place for place, _ in looked) == sorted(file.place for file in files[16:])
