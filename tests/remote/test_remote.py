"""Files by URL: whole and right whatever the server does, kept within a limit, and without secrets in what is shown."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from t2x_core.data.content import content_hash
from t2x_core.media import TarMember, open_place, stamp
from t2x_core.remote import Url, fetch, file, public_url, store
from tests.remote.server import serving


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("T2X_REMOTE_CACHE", str(tmp_path_factory.mktemp("remote")))
    monkeypatch.setenv("T2X_REMOTE_SECONDS", "30")
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.01)
    fetch.retries.clear()
    monkeypatch.setattr(file, "_known", {})


def make(folder: Path, name: str, size: int) -> bytes:
    data = random.Random(name).randbytes(size)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return data


def read(url: str, start: int = 0, count: int = -1) -> bytes:
    with open_place(url) as stream:
        stream.seek(start)
        return stream.read(count)


def kept(folder: str | None = None) -> int:
    """Bytes of the blocks in the cache."""
    root = Path(folder or os.environ["T2X_REMOTE_CACHE"])
    return sum(each.stat().st_size for each in root.glob("[0-9a-f][0-9a-f]/*") if each.suffix != ".json")


SIZES = (0, 1, store.BLOCK - 1, store.BLOCK, store.BLOCK + 1, 5 * store.BLOCK + 12345)


@pytest.mark.parametrize("ranges", [True, False])
def test_every_stretch_is_right_however_bad_the_server_is(tmp_path, caplog, ranges):
    files = {f"{size}.bin": make(tmp_path, f"{size}.bin", size) for size in SIZES}
    before = fetch.retries.total()
    chance = random.Random(1)
    with serving(tmp_path, ranges=ranges, fails=3, drops=4, delay=0.002) as server, caplog.at_level("WARNING", "t2x"):
        for name, data in files.items():
            assert read(f"{server.url}/{name}") == data
            for _ in range(5):
                start, count = chance.randrange(len(data) + 1), chance.randrange(2 * store.BLOCK)
                assert read(f"{server.url}/{name}", start, count) == data[start : start + count]
        heads = sum(method == "HEAD" and status == 503 for method, _, status in server.requests)
        lost = server.count(503, "GET") + server.dropped
    assert lost > 3
    assert 3 < fetch.retries.total() - before <= lost + heads  # a HEAD that fails is asked again as a GET
    if ranges:  # without, an answer that breaks off may have been read as far as was wanted
        assert fetch.retries.total() - before >= lost
    assert kept() == sum(SIZES) if ranges else kept() >= sum(SIZES)  # a first block before it was known
    assert "trying again (retry" in caplog.text
    assert len(caplog.records) <= 6  # not a line for each


@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_there_is_not_asked_for_again_and_ranges_are_all_that_is_loaded(tmp_path, ranges):
    data = make(tmp_path, "a.bin", 20 * store.BLOCK)
    with serving(tmp_path, ranges=ranges) as server:
        place = TarMember(f"{server.url}/a.bin", "x.png", 7 * store.BLOCK + 100, 1000)
        with place.open() as stream:
            assert stream.read() == data[place.start : place.start + 1000]
        assert kept() == (store.BLOCK if ranges else len(data))
        asked = len(server.requests)
        with place.open() as stream:
            assert stream.read() == data[place.start : place.start + 1000]
        assert len(server.requests) == asked
        if ranges:  # in order, it takes few requests
            assert read(place.path) == data
            assert len(server.requests) - asked < 8


def test_a_file_that_is_another_is_loaded_anew(tmp_path, monkeypatch):
    with serving(tmp_path) as server:
        url = f"{server.url}/a.bin"
        first = make(tmp_path, "a.bin", 1000)
        assert read(url) == first
        before = stamp(url)
        assert content_hash(url) == content_hash(tmp_path / "a.bin")
        (tmp_path / "a.bin").write_bytes(first[::-1])
        monkeypatch.setattr(file, "FRESH_SECONDS", 0.0)
        assert stamp(url) != before
        assert read(url) == first[::-1]


@pytest.mark.parametrize(("name", "message"), [("none.bin", "is not there"), ("secret.bin", "may not be read")])
def test_what_will_not_pass_is_not_tried_again(tmp_path, name, message):
    make(tmp_path, "secret.bin", 10)
    with serving(tmp_path, token="" if name == "none.bin" else "good") as server:
        with pytest.raises(OSError, match=message):
            read(f"{server.url}/{name}?sig=bad")
        assert len(server.requests) == 2  # HEAD, and GET, since some servers know no HEAD


def test_a_server_that_stays_away_is_given_up_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("T2X_REMOTE_SECONDS", "0.3")
    make(tmp_path, "a.bin", 10)
    with serving(tmp_path, down=True) as server, pytest.raises(OSError, match=r"says 503, and so at .* attempts"):
        read(f"{server.url}/a.bin")
    with pytest.raises(OSError, match="attempts"):
        read(f"{server.url}/a.bin")  # nobody listens any more


def test_a_half_loaded_block_is_never_used_and_a_cut_one_is_loaded_again(tmp_path):
    data = make(tmp_path, "a.bin", store.BLOCK + 10)
    with serving(tmp_path) as server:
        url = f"{server.url}/a.bin"
        assert read(url) == data
        for block in Path(os.environ["T2X_REMOTE_CACHE"]).glob("[0-9a-f][0-9a-f]/*.[01]"):
            block.write_bytes(block.read_bytes()[:-3])
        assert read(url) == data
        assert not list(Path(os.environ["T2X_REMOTE_CACHE"]).glob("*/.*"))


def test_the_cache_stays_within_its_limit_and_keeps_what_was_used_last(tmp_path, monkeypatch):
    monkeypatch.setenv("T2X_REMOTE_CACHE_GB", str(10 * store.BLOCK / 1e9))
    files = {f"{i}.bin": make(tmp_path, f"{i}.bin", store.BLOCK) for i in range(30)}
    with serving(tmp_path) as server:
        for i, (name, data) in enumerate(files.items()):
            assert read(f"{server.url}/{name}") == data
            assert read(f"{server.url}/0.bin") == files["0.bin"]  # the one that is always in use
            assert kept() <= 10 * store.BLOCK, i
        asked = len(server.requests)
        read(f"{server.url}/0.bin")
        assert len(server.requests) == asked
        assert len([path for _, path, _ in server.requests if path == "/0.bin"]) == 2


def test_processes_share_the_cache_and_each_block_is_loaded_once(tmp_path):
    make(tmp_path, "a.bin", 12 * store.BLOCK)
    code = (
        "import sys, hashlib; from t2x_core.media import open_place\n"
        "with open_place(sys.argv[1]) as stream: print(hashlib.sha256(stream.read()).hexdigest())"
    )
    with serving(tmp_path, delay=0.01) as server:
        command = [sys.executable, "-c", code, f"{server.url}/a.bin"]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        answers = {process.communicate(timeout=120)[0] for process in running}
        assert len(answers) == 1
        assert server.sent == 12 * store.BLOCK


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h/a/b.tar", "https://h/a/b.tar"),
        ("https://h/b.tar?X-Amz-Signature=1&X-Amz-Date=2", "https://h/b.tar"),
        ("https://h/b.tar?sv=1&sr=c&sp=r&se=2&sig=x%3D", "https://h/b.tar"),
        ("s3://bucket/a@b/c?.tar", "s3://bucket/a@b/c?.tar"),
        ("hf://datasets/o/n@main/a.tar", "hf://datasets/o/n@main/a.tar"),
    ],
)
def test_urls_are_shown_without_what_is_secret(url, shown):
    assert public_url(url) == str(Url(url)) == shown
    assert fetch.without_secrets(f"404, url='{url}'") == f"404, url='{shown}'"


def test_a_query_that_names_the_file_still_does():
    names = {public_url(f"https://h/img?id={i}&sig={i}") for i in range(3)}
    assert len(names) == 3
    assert public_url("https://h/img?id=1&sig=2") in names
    assert {public_url(name) for name in names} == names
    assert all("id=" not in name for name in names)


def test_folders_and_paths_of_urls():
    url = Url("https://u:p@h/a/b.jsonl?sig=x")
    assert (url.name, url.stem, url.suffix) == ("b.jsonl", "b", ".jsonl")
    assert url.parent.full == "https://u:p@h/a?sig=x"
    assert url.parent.join("c/../d.png") == "https://u:p@h/a/d.png?sig=x"
    assert url.parent.join("s3://b/d.png") == "s3://b/d.png"
