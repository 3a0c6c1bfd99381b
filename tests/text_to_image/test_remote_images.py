"""Images by URL, from a server that is slow, breaks off and answers 503: every sample is right, once an epoch."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from t2x_core.cli.main import main
from t2x_core.data.loader import KeyedLoader
from t2x_core.data.order import MicroBatches, SampleOrder
from t2x_core.interfaces import DataContext
from t2x_core.remote import Url, fetch, file, store
from t2x_core.runs import find_run
from t2x_plugins.captioned.captioned_config import PlaceConfig
from t2x_plugins.text_to_image.image_config import ImagesConfig
from t2x_plugins.text_to_image.images import ImagesData
from tests.conftest import IMAGES as BLOCK
from tests.conftest import TINY_IMAGES
from tests.data.shard_set import images, write
from tests.remote.server import Server, serving

SECRET = "sig=s3cr3t"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.01)
    fetch.retries.clear()
    monkeypatch.setattr(file, "_known", {})


def write_kind(kind: str, place: Path, count: int) -> None:
    """Images by number, as shards of a kind or as files with a manifest."""
    files = images(count, ((40, 40),))
    if kind != "manifest":
        write(kind, place, files, shards=3)
        return
    write("folder", place, files)
    rows = [json.dumps({"path": name, "caption": captions}) for name, (_, captions) in files.items()]
    (place / "list.jsonl").write_text("\n".join(rows))


def settings_of(kind: str, server: Server, folder: str) -> dict[str, object]:
    base = f"{server.url}/{folder}"
    if kind == "manifest":
        return {"manifest": Url(f"{base}/list.jsonl?{SECRET}")}
    return {"shards": Url(f"{base}/{{000..002}}.{kind}?{SECRET}")}


def data_of(**settings: object) -> ImagesData:
    data = ImagesData(
        ImagesConfig(size=32, **settings), DataContext(task="t", seed=3, pixel_multiple=4, global_batch=4)
    )
    data.prepare_data()
    return data


def read_all(data: ImagesData, first: int, last: int, ranks: int, workers: int) -> list[tuple[str, int]]:
    """Caption and what the pixels are, of the samples of these steps."""
    source, read = data.train_source(), []
    for rank in range(ranks):
        order = SampleOrder(3, {"t": (1.0, source.buckets())}, lambda *_: 4)
        share = MicroBatches(order, steps=last, accumulation=1, rank=rank, ranks=ranks, first_step=lambda: first)
        for batch in KeyedLoader({"t": source}, share, workers):
            levels = ((batch.pixels[:, :2, 0, 0, 0] + 1) * 127.5 + 0.5).int().tolist()
            read += [(caption, red + 256 * green) for caption, (red, green) in zip(batch.captions, levels, strict=True)]
    return read


@pytest.mark.parametrize(
    ("kind", "ranges", "workers"), [("tar", True, 2), ("tar", False, 0), ("parquet", True, 0), ("manifest", True, 2)]
)
def test_every_sample_is_right_and_each_is_shown_once_an_epoch(tmp_path, kind, ranges, workers):
    write_kind(kind, tmp_path / "a", 33)
    with serving(tmp_path, ranges=ranges, fails=5, drops=7, delay=0.002, token=SECRET) as server:
        before = fetch.retries.total()
        data = data_of(**settings_of(kind, server, "a"))
        assert fetch.retries.total() > before
        count = len(data.train_source())
        assert count + len(data.val_source()) == 33
        counts = Counter(read_all(data, 0, count, 2, workers))  # four epochs
        assert all(caption == f"image {number}" for caption, number in counts)
        assert len(counts) == count
        assert set(counts.values()) == {4}
        assert not data.context.quarantine.named("t")
        # A resume on another number of ranks goes on with the same samples.
        once = sorted(read_all(data, 0, 9, 1, 0))
        assert sorted([*read_all(data, 0, 5, 2, 0), *read_all(data, 5, 9, 4, 0)]) == once
        # The index and the blocks are there: a second start asks what has changed, and loads nothing.
        loaded = server.count(206) + server.count(200, "GET")
        again = data_of(**settings_of(kind, server, "a"))
        assert [file.name for file in again.files] == [file.name for file in data.files]
        assert server.count(206) + server.count(200, "GET") == loaded


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_in_blocks_a_slow_server_is_asked_for_each_byte_once(tmp_path, monkeypatch, kind):
    """The cache holds a third of the shards. `pytest -s` shows the figures."""
    monkeypatch.setattr(store, "BLOCK", 2**15)
    monkeypatch.setenv("T2X_REMOTE_CACHE_GB", "0.001")
    noise = np.random.default_rng(0)
    files = {}
    for i in range(160):
        pixels = noise.integers(0, 256, (80, 70, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
        files[f"{i:04d}.png"] = stream.getvalue(), [f"image {i}"]
    write(kind, tmp_path / "a", files, shards=4)
    size = sum(each.stat().st_size for each in (tmp_path / "a").iterdir())
    sent, seconds = {}, {}
    for block in (None, 16):
        with serving(tmp_path, delay=0.002, rate=2e7) as server:
            data = data_of(shards=Url(f"{server.url}/a/{{000..003}}.{kind}"), block=block)
            steps, server.sent, began = len(data.train_source()) // 4, 0, time.monotonic()
            captions = [caption for caption, _ in read_all(data, 0, steps, 1, 0)]
            sent[block], seconds[block] = server.sent / size, time.monotonic() - began
        assert len(set(captions)) == len(captions) == 4 * steps
    print({block: f"{sent[block]:.2f} times the shards in {seconds[block]:.1f} s" for block in sent})
    assert sent[16] < (1.5 if kind == "tar" else 2.5)  # reading ahead in a cache that is too small
    assert sent[16] < sent[None] / 1.5


def test_a_server_that_goes_while_training_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("T2X_REMOTE_CACHE_GB", "1e-9")  # nothing is kept, so every read goes to the server
    write_kind("tar", tmp_path / "a", 24)
    with serving(tmp_path) as server:
        data = data_of(shards=Url(f"{server.url}/a/"), held_out=0.1)
        server.fails = 2
        before = fetch.retries.total()
        assert all(caption == f"image {number}" for caption, number in read_all(data, 0, 6, 1, 0))
        assert fetch.retries.total() - before >= 6


@pytest.mark.parametrize("kind", ["tar", pytest.param("manifest", marks=pytest.mark.slow)])
def test_the_command_trains_by_url_and_no_file_of_the_run_has_a_secret(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2X_REMOTE_CACHE_GB", "1e-9")  # nothing is kept, so the loader's process asks the server, too
    write_kind(kind, tmp_path / "data", 33)
    with serving(tmp_path, fails=9, drops=11, token=SECRET) as server:
        base = server.url.replace("http://", "http://user:passw0rd@")
        key, name = ("manifest", "list.jsonl") if kind == "manifest" else ("shards", "{000..002}.tar")
        place = f"{BLOCK}.{key}={base}/data/{name}?{SECRET}"
        settings = [*TINY_IMAGES, place, "trainer.workers=1"]
        assert main(["fit", "text_to_image/folder", *settings, "trainer.max_steps=3"]) == 0
        assert main(["fit", "text_to_image/folder", *settings, "trainer.max_steps=5", "--resume"]) == 0
    assert "trying again (retry 1 " in (find_run("text_to_image/folder") / "log.txt").read_text()
    shown = capsys.readouterr()
    texts = [shown.out.encode(), shown.err.encode()]
    texts += [each.read_bytes() for each in find_run("text_to_image/folder").rglob("*") if each.is_file()]
    for secret in ("s3cr3t", "passw0rd", quote(SECRET)):
        assert not any(secret.encode() in text for text in texts)
    assert any(b"/data/" in text for text in texts)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("shards={}/a/{{000..003}}.tar", "/a/003.tar: it is not there"),
        ("shards={}/none/", "there are no shards (.tar or .parquet) in http"),
        ("shards={}/empty/", "there are no shards (.tar or .parquet) in"),
        ("manifest={}/none.jsonl", "cannot read the manifest http"),
        ("folder={}/a", "single files are not listed by one; pack them into shards, or list them in a manifest"),
        ("shards=nonsense://a/b.tar", "nonsense://a/b.tar is no URL that can be read"),
        ("shards=s3://bucket/a.tar", "Install s3fs to access S3; with pip"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, setting, message):
    monkeypatch.chdir(tmp_path)
    write_kind("tar", tmp_path / "a", 9)
    (tmp_path / "empty").mkdir()
    with serving(tmp_path) as server:
        setting = setting.format(server.url)
        assert main(["fit", "text_to_image/folder", *TINY_IMAGES, f"{BLOCK}.{setting}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    write_kind("tar", tmp_path / "a", 9)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("T2X_REMOTE_CACHE", str(tmp_path / "file" / "cache"))
    with serving(tmp_path) as server:
        assert main(["fit", "text_to_image/folder", *TINY_IMAGES, f"{BLOCK}.shards={server.url}/a/000.tar"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "the cache of remote files cannot be in" in line
    assert line.endswith("set T2X_REMOTE_CACHE")


def test_a_sample_that_is_gone_is_named_and_replaced(tmp_path):
    write_kind("manifest", tmp_path / "a", 30)
    (tmp_path / "a" / "0003.png").unlink()
    with serving(tmp_path) as server:
        data = data_of(manifest=Url(f"{server.url}/a/list.jsonl"))
    assert data.context.quarantine.named("t") == {"0003.png": "is not there"}
    assert len(data.train_source()) + len(data.val_source()) == 29


def test_names_and_what_is_held_out_are_those_of_the_same_shards_on_disk(tmp_path):
    write_kind("tar", tmp_path / "a", 40)
    with serving(tmp_path) as server:
        remote = data_of(sources=(PlaceConfig(shards=Url(f"{server.url}/a/*.tar")),))
    local = data_of(shards=tmp_path / "a")
    names = [[file.name for _, files in data.val_source()._buckets for file in files] for data in (remote, local)]
    assert names[0] == names[1]
