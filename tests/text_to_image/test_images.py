"""Training on one's own images."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.data import decode as decoding
from t2x_core.data.order import SampleOrder
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext
from t2x_core.runs import find_run
from t2x_core.types import SampleKey
from t2x_plugins.captioned.captioned_config import ColumnsConfig
from t2x_plugins.text_to_image import images
from t2x_plugins.text_to_image.image_config import ImagesConfig, TextToImageConfig
from t2x_plugins.text_to_image.images import ImagesData
from t2x_plugins.text_to_image.plugin import TextToImage
from tests.conftest import IMAGES as BLOCK
from tests.conftest import TINY_IMAGES
from tests.data.image_set import make_image, write_damaged, write_good


def data_of(folder: Path | None, batch: int = 4, seed: int = 0, **settings: object) -> ImagesData:
    config = ImagesConfig(folder=folder, **{"size": 32, **settings})
    data = ImagesData(config, DataContext(task="t", seed=seed, pixel_multiple=4, global_batch=batch))
    data.prepare_data()
    data.setup("fit")
    return data


def key(id: int = 0, bucket: int = 0, step: int = 0, slot: int = 0) -> SampleKey:
    return SampleKey("t", bucket, id, step, slot)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], dict[str, str]]:
    """488 good files and 12 damaged ones: the folder, the names of the good, and what is wrong with the others."""
    folder = tmp_path_factory.mktemp("images")
    return folder, write_good(folder, 488), write_damaged(folder / "bad")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Twenty images of two shapes."""
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(20):
        make_image(48, 48 if i % 2 else 28, (10 * i, 0, 255)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"image {i}\nagain {i}\n")
    return folder


def test_an_epoch_shows_every_good_image_exactly_once(many, monkeypatch):
    folder, good, _ = many
    batch = 2
    # A share held out with which the batch divides what is left of each bucket.
    tried = (data_of(folder, batch, held_out=share / 500) for share in range(10, 100))
    data = next(d for d in tried if not any(bucket.count % batch for bucket in d.train_source().buckets()))
    source = data.train_source()
    read: list[str] = []
    real = decoding.decode
    monkeypatch.setattr(images, "decode", lambda path, *a, **k: read.append(path) or real(path, *a, **k))
    order = SampleOrder(0, {"t": (1.0, source.buckets())}, lambda *_: batch)
    for step in range(len(source) // batch):
        samples = [source[key] for key in order.keys(step)]
        assert len({sample.pixels.shape for sample in samples}) == 1
    shown = Counter(str(Path(path).relative_to(folder)) for path in read)
    held_out = {file.name for _, files in data.val_source()._buckets for file in files}
    assert set(shown.values()) == {1}
    assert set(shown) | held_out == set(good)
    assert len(shown) + len(held_out) == 488
    assert len(source.buckets()) == 4


def test_500_files_train_and_the_damaged_twelve_are_named_with_reasons(many, tmp_path, monkeypatch, capsys):
    folder, _, damaged = many
    monkeypatch.chdir(tmp_path)
    settings = [*TINY_IMAGES, f"{BLOCK}.folder={folder}", "trainer.workers=2", "trainer.max_steps=6"]
    assert main(["fit", "text_to_image/folder", *settings]) == 0
    run = find_run("text_to_image/folder")
    lines = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    named = {Path(line["file"]).name: line["reason"] for line in lines}
    assert len(lines) == 12
    assert named.keys() == damaged.keys()
    assert all(named[name].startswith(reason) for name, reason in damaged.items())
    told = (run / "log.txt").read_text()
    assert re.search(r"data +4\d\d images for training in 4 buckets \(.*: \d+, .*\), \d+ held out", told)
    assert re.search(r"12 files cannot be read and are left out: bad/\w+.\w+ .*, … \(all in quarantine.jsonl\)", told)
    assert "score" not in told
    settings[settings.index("trainer.max_steps=6")] = "trainer.max_steps=8"
    assert main(["fit", "text_to_image/folder", *settings, "--resume"]) == 0
    assert len((run / "quarantine.jsonl").read_text().splitlines()) == 12
    assert capsys.readouterr().err == ""


def test_a_file_that_breaks_later_is_replaced_from_its_bucket_by_the_key(few, tmp_path):
    one, same = data_of(few), data_of(few)
    source = one.train_source()
    (bucket,) = (i for i, b in enumerate(source.buckets()) if b.height == b.width)
    before = [source[key(i, bucket)].pixels for i in range(source.buckets()[bucket].count)]
    broken = source._buckets[bucket][1][0]
    Path(broken.place).write_bytes(b"")
    replacements = [source[key(0, bucket, step)] for step in range(30)]
    for step, found in enumerate(replacements):
        again = same.train_source()[key(0, bucket, step)]
        assert torch.equal(found.pixels, again.pixels)
        assert found.caption == again.caption
    chosen = {next(i for i, x in enumerate(before) if torch.equal(x, found.pixels)) for found in replacements}
    assert 0 not in chosen
    assert len(chosen) > 4
    quarantine = one.context.quarantine
    quarantine.write_to(tmp_path / "q.jsonl")
    (line,) = (tmp_path / "q.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == broken.name
    assert json.loads(line)["reason"] == "is empty"


def test_too_many_damaged_files_stop_the_run_with_the_list(few):
    for i in range(6):
        (few / f"{i:02d}.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        data_of(few, max_bad_fraction=0.25)
    message = str(caught.value)
    assert "6 of 20 images cannot be read, more than a share of 0.25: 00.png is empty; 01.png is empty" in message
    listed = Path(re.search(r"all in (.*?quarantine\.jsonl)", message)[1]).read_text()
    assert all(f"{i:02d}.png" in listed for i in range(6))
    assert len(data_of(few, max_bad_fraction=0.3).train_source()) < 14


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_while_training_stops_it_with_one_line(workers, few, tmp_path, monkeypatch, capsys):
    """Headers are right, the data is not: it shows when a loader reads it, and is still the user's mistake."""
    for file in few.glob("*.png"):
        file.write_bytes(file.read_bytes()[:-60])
    settings = [*TINY_IMAGES, f"{BLOCK}.folder={few}", f"{BLOCK}.check=headers", f"trainer.workers={workers}"]
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "text_to_image/folder", *settings]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"^t2x: .*[234] of 20 images cannot be read, more than a share of 0.05: .*is cut short", error)


def test_ctrl_c_reaches_the_workers_too_and_the_run_is_saved(few, tmp_path):
    settings = [*TINY_IMAGES, f"{BLOCK}.folder={few}", "trainer.workers=2", "trainer.max_steps=100000"]
    settings += ["logging.checkpoint_every=100000", "logging.sample_every=0"]
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "text_to_image/folder", *settings]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/best.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "saved at step" in out
    assert out.count("SIGINT: saving") == 1  # a worker that takes the signal for its own says it too


def test_no_bucket_is_left_too_small_and_the_log_says_where_its_images_went(few):
    data = data_of(few, batch=12)
    (bucket,) = data.train_source().buckets()
    assert bucket.count >= 12
    assert any(
        re.match(r"bucket .* has \d images and a batch needs 12: they go to \d+×\d+ \(", x) for x in data.describe()
    )
    with pytest.raises(UserError, match=r"buckets with fewer images than a batch of 12: \d+×\d+ \d"):
        data_of(few, batch=12, small_buckets="error")
    with pytest.raises(UserError, match=r"fewer than a batch of 64; set trainer.global_batch to at most 1\d, or add"):
        data_of(few, batch=64)


def test_small_images_are_enlarged_and_that_is_said(few):
    assert any("are smaller than the bucket, and enlarged" in line for line in data_of(few, size=64).describe())


def test_captions_are_drawn_in_training_and_fixed_in_validation(few):
    data = data_of(few)
    told = {data.train_source()[key(step=step)].caption for step in range(20)}
    assert len(told) == 2
    source = data.val_source()
    assert all(source[key(step=-1, slot=slot)].caption.startswith("image") for slot in range(10))
    conditions = data.val_conditions(5)
    assert len(conditions) == 5
    assert set(conditions.captions) <= {f"image {i}" for i in range(20)}


def test_held_out_images_are_never_trained_on(few):
    data = data_of(few, held_out=0.3)
    trained = {file.name for _, files in data.train_source()._buckets for file in files}
    held = {file.name for _, files in data.val_source()._buckets for file in files}
    assert len(trained) + len(held) == 20
    assert not trained & held
    assert len(data_of(few, held_out=0.3, val_count=1).val_source()) == 1


def test_crop_and_flip_follow_the_key_and_only_in_training(tmp_path):
    for i in range(8):
        make_image(90, 40).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("x")
    still = data_of(tmp_path, max_aspect_ratio=1.0)
    moved = data_of(tmp_path, max_aspect_ratio=1.0, crop="random", flip=0.5)
    assert len({still.train_source()[key(step=step)].pixels.sum().item() for step in range(9)}) == 1
    views = [moved.train_source()[key(step=step)].pixels for step in range(9)]
    assert len({view.sum().item() for view in views}) > 5
    assert torch.equal(views[3], moved.train_source()[key(step=3)].pixels)
    assert torch.equal(moved.val_source()[key(step=-1)].pixels, still.val_source()[key(step=-1)].pixels)


def test_a_manifest_trains_like_a_folder(few, tmp_path):
    rows = [{"img": f"few/{i:02d}.png", "a": f"image {i}", "b": [f"again {i}"]} for i in range(20)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = ColumnsConfig(path="img", captions=("a", "b"))
    data, plain = data_of(None, manifest=tmp_path / "m.jsonl", columns=columns), data_of(few)
    assert len(data.train_source()) + len(data.val_source()) == 20
    captions = {file.captions for _, files in data.train_source()._buckets for file in files}
    assert captions < {(f"image {i}", f"again {i}") for i in range(20)}
    assert data.train_source().buckets()[0].height == plain.train_source().buckets()[0].height
    (tmp_path / "m.jsonl").write_text(json.dumps({"img": "absent.png", "a": "x", "b": []}))
    with pytest.raises(UserError, match=r"1 of 1 images cannot be read.*absent.png is not there"):
        data_of(None, manifest=tmp_path / "m.jsonl", columns=columns)


def test_own_images_are_not_scored_by_the_shapes_checker(few):
    (few / "00.txt").write_text("a red circle")
    conditions = data_of(few, held_out=0.5).val_conditions(20)
    task = TextToImage(TextToImageConfig(data={"images": ImagesConfig(folder=few)}))
    task.source = images.Images(task.config.source)
    assert task.score(torch.zeros(20, 3, 1, 32, 32), conditions) is None
    metric = task.metrics()
    metric.update(torch.zeros(20, 3, 1, 32, 32), conditions)
    assert metric.compute() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], f"{BLOCK}: folder is missing"),
        ([f"{BLOCK}.folder=nowhere"], f"command line: {BLOCK}.folder: there is no folder"),
        ([f"{BLOCK}.folder=few/00.png"], "00.png is not a folder"),
        ([f"{BLOCK}.folder=empty"], f"{BLOCK}.folder: there are no captioned images in"),
        ([f"{BLOCK}.folder=bare"], "1 image has no caption (of 1): x.png"),
        ([f"{BLOCK}.manifest=few"], f"{BLOCK}.manifest: "),
        ([f"{BLOCK}.folder=few", f"{BLOCK}.size=30"], "30 pixels do not divide into tokens of 4"),
        ([f"{BLOCK}.folder=few", f"{BLOCK}.background=white"], 'must be a colour such as "#ffffff", not "white"'),
        ([f"{BLOCK}.folder=few", f"{BLOCK}.columns.height=h"], "height and width go together"),
        ([f"{BLOCK}.folder=few", "tasks.text-to-image.data.shapes={}"], "there are both images and shapes"),
        ([f"{BLOCK}=null"], "tasks.text-to-image.data names no source"),
        (
            [f"{BLOCK}.folder=few", "trainer.global_batch=64"],
            "fewer than a batch of 64; set trainer.global_batch to at",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_no_run_behind(settings, message, few, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    make_image(40, 40).save(tmp_path / "bare" / "x.png")
    assert main(["fit", "text_to_image/folder", *TINY_IMAGES, *settings]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "runs").exists()


def test_the_user_is_told_of_quickstart_with_images(few, capsys):
    assert main(["fit", "quickstart", f"{BLOCK}.folder={few}"]) == 2
    assert "there are both shapes and images; write shapes: null" in capsys.readouterr().err


def test_the_check_is_cheap_the_second_time(few, monkeypatch):
    assembly = load_assembly("text_to_image/folder", [*TINY_IMAGES, f"{BLOCK}.folder={few}"])
    data = build_data(assembly, build_module(assembly))
    data.check()
    monkeypatch.setattr(images, "examine", None)
    data.check()
    assert data.describe()[0].startswith("data       1")
