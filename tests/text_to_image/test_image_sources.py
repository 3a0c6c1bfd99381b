"""Images from folders, manifests and shards: each epoch shows every good one once, and every damaged one is named."""

from __future__ import annotations

import itertools
import json
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from t2x_core.cli.main import main
from t2x_core.data.decode import decode
from t2x_core.data.identity import Identity
from t2x_core.data.loader import KeyedLoader
from t2x_core.data.order import MicroBatches, SampleOrder
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, Source
from t2x_core.media import TarMember
from t2x_core.runs import find_run
from t2x_core.types import SampleKey
from t2x_plugins.captioned.captioned_config import ColumnsConfig, PlaceConfig
from t2x_plugins.text_to_image import images as image_module
from t2x_plugins.text_to_image.image_config import ImagesConfig
from t2x_plugins.text_to_image.images import ImagesData
from tests.conftest import IMAGES as BLOCK
from tests.conftest import TINY_IMAGES
from tests.data.image_set import write_damaged
from tests.data.shard_set import KINDS, image_bytes, images, number_in, write, write_tar


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def data_of(batch: int = 4, **settings: object) -> ImagesData:
    config = ImagesConfig(**{"size": 32, **settings})
    data = ImagesData(config, DataContext(task="t", seed=3, pixel_multiple=4, global_batch=batch))
    data.prepare_data()
    return data


def shown_in(data: ImagesData, batch: int, steps: int, ranks: int, workers: int) -> list[str]:
    """Names of the samples of these steps, read by as many ranks, each with its loader."""
    source = data.train_source()
    names, pixels = [], []
    for rank in range(ranks):
        order = SampleOrder(3, {"t": (1.0, source.buckets())}, lambda *_: batch)
        share = MicroBatches(order, steps=steps, accumulation=1, rank=rank, ranks=ranks, first_step=lambda: 0)
        for read in KeyedLoader({"t": source}, share, workers):
            names += [source.name(key) for key in read.keys]
            pixels += list(read.pixels)
    if "parquet!" not in names[0]:  # where a name says which image it is: it is the one that was read
        numbers = [int((p[0, 0, 0, 0] + 1) * 127.5 + 0.5) for p in pixels]  # the red of `image_bytes`
        assert numbers == [int(Path(name.rpartition("!")[2]).stem) for name in names]
    return names


SIZES = (37, 64)
"""Images of each kind: odd, and a power of two."""
CASES = [
    pytest.param(*case, marks=() if case[1:] in ((1, 0), (2, 0), (2, 2)) else pytest.mark.slow)
    for case in itertools.product(KINDS, (1, 2, 4), (0, 2, 4))
]


@pytest.mark.parametrize(("kind", "ranks", "workers"), CASES)
def test_every_image_is_shown_exactly_once_an_epoch(tmp_path, kind, ranks, workers):
    for size in SIZES:
        data = data_of(4, **write(kind, tmp_path / str(size), images(size, ((40, 40),))))
        source = data.train_source()
        every = {file.name for _, files in source._buckets for file in files}
        held_out = {file.name for _, files in data.val_source()._buckets for file in files}
        assert len(every) + len(held_out) == size
        assert not every & held_out
        epochs = 4  # so that the batch divides what they show, whatever the size is
        counts = Counter(shown_in(data, 4, len(every), ranks, workers))
        assert set(counts) == every
        assert set(counts.values()) == {epochs}


def test_a_resume_on_other_ranks_goes_on_with_the_same_samples(tmp_path):
    data = data_of(4, **write("tar", tmp_path / "a", images(30, ((40, 40),))))
    source = data.train_source()
    order = SampleOrder(3, {"t": (1.0, source.buckets())}, lambda *_: 4)

    def steps(first: int, last: int, ranks: int) -> list[list[str]]:
        shares = [
            MicroBatches(order, steps=last, accumulation=1, rank=rank, ranks=ranks, first_step=lambda: first)
            for rank in range(ranks)
        ]
        return [[source.name(key) for keys in step for key in keys] for step in zip(*shares, strict=True)]

    assert steps(0, 5, 4) + steps(5, 11, 2) == steps(0, 11, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_damaged_image_is_named_with_its_reason_and_no_other_is_lost(tmp_path, kind):
    reasons = write_damaged(tmp_path / "bad")
    broken = {name: why for name, why in reasons.items() if name not in ("link.jpg", "folder.jpg")}
    files = images(100)
    for i, name in enumerate(broken):  # among the others, each a sample of its own
        files[f"{10 * i:04d}x_{name}"] = (tmp_path / "bad" / name).read_bytes(), ["damaged"]
    files = dict(sorted(files.items()))
    data = data_of(4, max_bad_fraction=0.2, **write(kind, tmp_path / kind, files))
    train, val = data.train_source(), data.val_source()
    assert len(train) + len(val) == 100
    named = data.context.quarantine.named("t")
    assert len(named) == len(broken)
    found = sorted(named.values())
    for mine, wanted in zip(found, sorted(broken.values()), strict=True):
        assert mine.startswith(wanted)
    good = {number_in(data) for name, (data, captions) in files.items() if captions != ["damaged"]}
    assert len(good) == 100
    if kind == "tar":
        assert all("!" in name for name in named)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_train_by_the_command_and_resume(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    place = write(kind, tmp_path / "data", images(40))["shards"]
    write_tar(Path(place) / "x.tar", {"bad.png": (b"", ["empty"])})
    settings = [*TINY_IMAGES, f"{BLOCK}.shards={place}", "trainer.workers=2", "trainer.max_steps=4"]
    assert main(["fit", "text_to_image/folder", *settings]) == 0
    run = find_run("text_to_image/folder")
    (line,) = (run / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "x.tar!bad.png"
    assert "images for training" in (run / "log.txt").read_text()
    settings[-1] = "trainer.max_steps=6"
    assert main(["fit", "text_to_image/folder", *settings, "--resume"]) == 0
    assert capsys.readouterr().err == ""


def test_several_places_with_repeats_and_names_that_stay(tmp_path):
    one, two, three = (write("folder", tmp_path / name / "pics", images(20)) for name in "abc")
    tar = write("tar", tmp_path / "tars", images(10))
    alone = data_of(2, **one)
    every = data_of(
        2,
        folder=None,
        sources=(PlaceConfig(**one), PlaceConfig(**two, repeat=3), PlaceConfig(**three), PlaceConfig(**tar)),
    )
    train = [file.name for _, files in every.train_source()._buckets for file in files]
    held_out = {file.name for _, files in every.val_source()._buckets for file in files}
    counts = Counter(train)
    assert not held_out & set(counts)
    assert {counts[name] for name in counts if name.startswith("pics~2:")} == {3}
    assert {counts[name] for name in counts if not name.startswith("pics~2:")} == {1}
    assert {name.split(":")[0] for name in counts if ":" in name} == {"pics~2", "pics~3", "tars"}
    assert len(set(counts) | held_out) == 70
    assert {name for name in counts if ":" not in name} <= {file.name for file in alone.files}
    listed = data_of(2, folder=(one["folder"], two["folder"]))
    assert len(listed.train_source()) + len(listed.val_source()) == 40
    twice = data_of(2, folder=(one["folder"], one["folder"]))  # a file is one, however often it is named
    assert len(twice.train_source()) + len(twice.val_source()) == 20


def test_a_tar_a_parquet_and_a_folder_of_the_same_images_give_the_same_pixels(tmp_path):
    found = []
    for kind in KINDS:
        source = data_of(2, **write(kind, tmp_path / kind, images(12, ((40, 40),)))).train_source()
        order = SampleOrder(3, {"t": (1.0, source.buckets())}, lambda *_: 1)
        samples = [source[order.keys(step)[0]] for step in range(len(source))]
        found.append({sample.caption: sample.pixels for sample in samples})
    for other in found[1:]:
        for caption in found[0].keys() & other.keys():
            assert torch.equal(found[0][caption], other[caption])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("shards: none-*.tar", r"there are no shards .*none-\*\.tar"),
        ("shards: 'none-{0..3}.tar'", "there is no shard .*none-0.tar"),
        ("shards: a.tar\n        folder: b", "there are both folder and shards"),
        ("sources: [{repeat: 2}]", "folder, manifest or shards is missing in entry 1"),
        ("folder: b\n        sources: [{shards: c}]", "there are both sources and a place of its own"),
        ("shards: text.tar", "text.tar is no tar file"),
        ("sources: [{folder: a, repeat: 0}]", "repeat must be at least 1"),
    ],
)
def test_mistakes_are_one_line_with_the_place_in_the_recipe(tmp_path, monkeypatch, capsys, lines, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.tar").write_text("no tar" * 200)
    recipe = f"base: text_to_image/folder\ntasks:\n  text-to-image:\n    data:\n      images:\n        {lines}\n"
    (tmp_path / "mine.yaml").write_text(recipe)
    assert main(["fit", "mine.yaml", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert "mine.yaml:" in error or "text.tar" in error


def test_columns_of_a_place_come_before_those_of_all(tmp_path):
    place = write("parquet", tmp_path / "p", images(8))
    own = PlaceConfig(**place, columns=ColumnsConfig(captions="captoin"))
    with pytest.raises(UserError, match='no column "captoin"'):
        data_of(2, sources=(own,), columns=ColumnsConfig(captions="caption"))
    assert len(data_of(2, sources=(PlaceConfig(**place),), columns=ColumnsConfig(path="image")).train_source())


def test_an_image_in_a_shard_is_decoded_as_the_file_is(tmp_path):
    (tmp_path / "x.png").write_bytes(image_bytes(300))
    tar = write_tar(tmp_path / "a.tar", {"x.png": (image_bytes(300), [])})
    member = TarMember(str(tar), "x.png", 512, len(image_bytes(300)))
    assert torch.equal(decode(member, (0, 0, 0)), decode(tmp_path / "x.png", (0, 0, 0)))


@pytest.mark.parametrize("kind", KINDS)
def test_with_an_index_no_file_is_opened_until_names_change_and_all_is_as_without(tmp_path, monkeypatch, kind):
    settings = write(kind, tmp_path / kind, images(40))
    plain, first = data_of(4, **settings), data_of(4, check="index", **settings)
    monkeypatch.setattr(image_module, "examine", lambda *_: pytest.fail("a file was looked at"))
    again = data_of(4, check="index", **settings)
    for one in (first, again):
        for mine, theirs in ((one.train_source(), plain.train_source()), (one.val_source(), plain.val_source())):
            assert [list(files) for _, files in mine._buckets] == [list(files) for _, files in theirs._buckets]
            assert Identity("t", mine).plain() == Identity("t", theirs).plain()
            assert Identity("t", mine).plain() == Identity("t", OneByOne(theirs)).plain()
        assert one.describe() == plain.describe()
    source = again.train_source()
    assert len(pickle.dumps(source)) < 20_000
    key = SampleKey("t", 0, 1, 2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(source))[key].pixels, plain.train_source()[key].pixels)
    monkeypatch.undo()
    if kind == "folder":
        (tmp_path / kind / "new.png").write_bytes(image_bytes(77))
        (tmp_path / kind / "new.txt").write_text("new")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        write_tar(tmp_path / kind / "new.tar", {"new.png": (image_bytes(77), ["new"])})
    more = data_of(4, check="index", **settings)
    assert len(more.train_source()) + len(more.val_source()) == 41


class OneByOne:
    """A source of which the hashes are those of the interface, one sample after the other."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)

    def hashes(self, bucket: int) -> object:
        return Source.hashes(self.source, bucket)


def test_the_index_command_names_what_is_left_out_and_training_then_looks_at_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = write("tar", tmp_path / "data", images(40))["shards"]
    write_tar(Path(place) / "x.tar", {"bad.png": (b"", ["empty"])})
    settings = [*TINY_IMAGES, f"{BLOCK}.shards={place}", f"{BLOCK}.check=index", "trainer.max_steps=2"]
    assert main(["data", "index", "text_to_image/folder", *settings]) == 0
    told = capsys.readouterr().out
    assert "left out   x.tar!bad.png is empty" in told
    assert re.search(r"3\d images for training", told)
    monkeypatch.setattr(image_module, "examine", lambda *_: pytest.fail("a file was looked at"))
    assert main(["fit", "text_to_image/folder", *settings]) == 0
    assert main(["data", "index", "nothing"]) == 2
