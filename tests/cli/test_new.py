"""`t2x new`: the recipe fits the data and the machine, and trains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from t2x_core.cli.main import main
from t2x_core.starting import command
from t2x_core.starting.machine import Machine
from t2x_core.starting.rules import Choice, first_choice, fit_to, max_aspect_ratio, rounded
from t2x_core.starting.summary import DataSummary, Setting
from t2x_core.starting.write import recipe_text
from t2x_plugins.text_to_image.look import look_at_images
from tests.data.image_set import make_image, write_good
from tests.text_to_video.test_clips import write_good as write_videos

CPU = Machine(cores=2, memory=8)
RTX = Machine(cores=16, memory=24, gpu="NVIDIA GeForce RTX 4090", gpus=1)
H100 = Machine(cores=32, memory=80, gpu="NVIDIA H100 80GB HBM3", gpus=8, pretrained=True)
SHORT = ["trainer.max_steps=2", "diffusion.sampler.steps=2", "logging.samples=1", "trainer.workers=0"]


def write_objects(folder: Path, count: int, views: int) -> None:
    """Objects whose cameras stand around them, as NeRF writes it."""
    for number in range(count):
        own = folder / f"o{number}"
        own.mkdir(parents=True)
        frames = []
        for view in range(views):
            angle = 2 * math.pi * view / views
            place = np.asarray([2 * math.cos(angle), 2 * math.sin(angle), 0.5])
            back = place / np.linalg.norm(place)
            right = np.cross([0, 0, 1], back) / np.linalg.norm(np.cross([0, 0, 1], back))
            pose = np.eye(4)
            pose[:3] = np.stack([right, np.cross(back, right), back, place], 1)
            make_image(40, 40, (view * 20, number, 90)).save(own / f"{view}.png")
            frames.append({"file_path": f"{view}.png", "transform_matrix": pose.tolist()})
        (own / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
        (own / "caption.txt").write_text(f"object number {number}\n")


def write(kind: str, folder: Path) -> None:
    folder.mkdir()
    if kind == "images":
        write_good(folder, 48)
    elif kind == "videos":
        write_videos(folder, 12)
    else:
        write_objects(folder, 9, views=5)


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("videos", "objects")]


@pytest.mark.parametrize("kind", ["images", *SLOW])
def test_the_recipe_passes_a_dry_run_and_trains(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "this_machine", lambda: CPU)
    write(kind, tmp_path / "mine")
    assert main(["new", kind, "mine", "--out", "here.yaml"]) == 0
    said = capsys.readouterr().out
    assert "t2x fit here.yaml --dry-run" in said
    assert "t2x sample here '" in said
    written = Path("here.yaml").read_text()
    assert all("#" in line or ":" in line for line in written.splitlines() if line)
    assert main(["fit", "here.yaml", "--dry-run"]) == 0
    assert "all is well up to the first step" in capsys.readouterr().out
    assert main(["fit", "here.yaml", *SHORT]) == 0
    (run,) = Path("runs/here").iterdir()
    assert (run / "checkpoints" / "step_00000002").is_dir()
    assert Path("here.yaml").read_text() == written
    capsys.readouterr()
    assert main(["new", kind, "mine", "--out", "here.yaml"]) == 2
    assert "here.yaml is there already; nothing is overwritten" in capsys.readouterr().err
    assert Path("here.yaml").read_text() == written


def block(file: Path, *path: str) -> Any:
    found = yaml.safe_load(file.read_text())
    for key in path:
        found = found[key]
    return found


def test_what_is_chosen_follows_from_the_files(tmp_path, monkeypatch):
    """Wide images of two sizes, a few without captions, some damaged."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my: images #1 'x'"
    folder.mkdir()
    for i in range(60):
        make_image(*((160, 90), (128, 72))[i % 2]).save(folder / f"{i:02}.jpg")
        if i < 50:
            (folder / f"{i:02}.txt").write_text("word " * (20 if i == 7 else 3))
    for i in range(5):
        file = folder / f"{10 * i:02}.jpg"
        file.write_bytes(file.read_bytes()[:200])
    lines = command.write_recipe(look_at_images, folder, Path("mine.yaml"), CPU)
    images = block(Path("mine.yaml"), "tasks", "text-to-image", "data", "images")
    assert (Path("mine.yaml").parent / images["folder"]).resolve() == folder
    assert images["max_aspect_ratio"] == 2.0  # 16:9
    assert images["size"] == 64
    assert images["missing_captions"] == "skip"
    assert 0.1 < images["max_bad_fraction"] < 0.3
    assert block(Path("mine.yaml"), "text_encoders", "bytes", "max_words") == 24
    trainer = block(Path("mine.yaml"), "trainer")
    assert trainer["accelerator"] == "cpu"
    assert trainer["global_batch"] == 8  # a third of 45 good ones less those held out, 14, as a power of two
    assert trainer["max_steps"] == 2000
    assert any("10 images have no caption" in line for line in lines)
    assert any("5 files cannot be read: 00.jpg" in line for line in lines)
    assert main(["fit", "mine.yaml", "--dry-run"]) == 0


def summary_of(side: int, count: int, frames: int = 1, ratio: float = 1.0) -> DataSummary:
    height, width = round(side / math.sqrt(ratio)), round(side * math.sqrt(ratio))
    recipes = {"pixels": "text_to_image/folder", "latents-256": "text_to_image/256", "latents-512": "text_to_image/512"}
    sizes = np.asarray([(height, width)] * 5)
    return DataSummary("text-to-image", "images", "image", count, sizes, 9, "a cat", recipes, frames)


@pytest.mark.parametrize(
    ("machine", "side", "count", "base", "size", "network", "batch", "steps"),
    [
        (CPU, 500, 400, "text_to_image/folder", 64, "", 16, 2_400),
        (CPU, 30, 400, "text_to_image/folder", 32, "", 16, 2_400),
        (CPU, 500, 10, "text_to_image/folder", 64, "", 2, 2_000),
        (CPU, 500, 10**6, "text_to_image/folder", 64, "", 16, 20_000),
        (RTX, 500, 1_000, "text_to_image/folder", 128, "S", 64, 5_000),
        (RTX, 60, 20_000, "text_to_image/folder", 64, "B", 64, 30_000),
        (H100, 400, 20_000, "text_to_image/256", 256, "B", 64, 30_000),
        (H100, 2000, 10**6, "text_to_image/512", 512, "XL", 64, 200_000),
        (H100, 100, 10**6, "text_to_image/folder", 64, "L", 64, 200_000),
    ],
)
def test_rules_of_thumb(machine, side, count, base, size, network, batch, steps):
    """As docs/new.md has them."""
    choice = first_choice(summary_of(side, count), machine)
    assert (choice.base, choice.size, choice.network, choice.batch) == (base, size, network, batch)
    assert choice.steps == pytest.approx(steps, rel=0.01)


@pytest.mark.parametrize(("ratio", "longest"), [(1.05, 1.0), (4 / 3, 1.5), (1.5, 1.5), (16 / 9, 2.0), (5.0, 3.0)])
def test_buckets_reach_as_far_as_the_images(ratio, longest):
    assert max_aspect_ratio(summary_of(300, 100, ratio=ratio)) == longest
    assert max_aspect_ratio(summary_of(300, 100, ratio=1 / ratio)) == longest


def test_it_is_made_to_fit():
    """A device of 24 GiB that needs 64 GiB for a batch in one go, and a second for each step."""

    def plan_of(choice: Choice) -> Any:
        need = {"B": 64, "S": 4}[choice.network] / choice.accumulation + {"B": 4, "S": 1}[choice.network]
        memory = SimpleNamespace(total=need * 2**30)
        return SimpleNamespace(memory=memory, devices=[SimpleNamespace(step_seconds=60.0)])

    start = first_choice(summary_of(60, 20_000), RTX)
    choice, _ = fit_to(start, plan_of)
    assert (choice.network, choice.accumulation) == ("B", 4)  # 64 / 4 + 4 is less than 0.9 · 24; 64 / 2 + 4 is not
    assert choice.steps == 4_300  # 72 hours of a minute a step, with two digits
    small, _ = fit_to(first_choice(summary_of(60, 20_000), Machine(16, 4.2, "NVIDIA L4", 1)), plan_of)
    assert (small.network, small.accumulation) == ("S", 2)
    assert fit_to(first_choice(summary_of(60, 20_000), H100), plan_of)[0].devices == 8


@pytest.mark.parametrize(("number", "two_digits"), [(12_345, 12_000), (7, 7), (99.6, 100), (0.4, 1)])
def test_numbers_are_round(number, two_digits):
    assert rounded(max(1, number)) == two_digits


def test_a_recipe_is_yaml_whatever_is_in_it():
    odd = "a: b # c\n'x' \"y\" \x1b[31m é"
    text = recipe_text(
        [odd], "some/base", [Setting("a.b", odd, odd), Setting("c", None), Setting("a.d", [1, 2], "two")]
    )
    assert yaml.safe_load(text) == {"base": "some/base", "a": {"b": odd, "d": [1, 2]}, "c": None}
    assert "\x1b" not in text


def test_a_gpu_gets_a_larger_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    write_good(folder, 48)
    lines = command.write_recipe(look_at_images, folder, Path("gpu.yaml"), RTX)
    assert any("on RTX 4090 at 40% (assumed)" in line for line in lines)
    assert block(Path("gpu.yaml"), "backbone", "preset") == "S"
    assert "accelerator" not in block(Path("gpu.yaml"), "trainer")
    assert main(["plan", "gpu.yaml", "--device", "RTX 4090"]) == 0


@pytest.mark.slow
def test_latents_where_there_are_vaes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(40):
        make_image(320, 240).save(folder / f"{i}.jpg")
        (folder / f"{i}.txt").write_text(f"image {i}")
    lines = command.write_recipe(look_at_images, folder, Path("gpu.yaml"), H100)
    assert any(line.strip().startswith("t2x cache gpu.yaml") for line in lines)
    assert yaml.safe_load(Path("gpu.yaml").read_text())["base"] == "text_to_image/256"
    assert main(["fit", "gpu.yaml", "--dry-run"]) == 0
    assert "tried      no step: pretrained weights are not on this machine" in capsys.readouterr().out


def bare(folder: Path) -> None:
    for i in range(9):
        make_image(40, 40).save(folder / f"{i}.png")


def three(folder: Path) -> None:
    bare(folder)
    for i in range(3):
        (folder / f"{i}.txt").write_text("one")


def damaged(folder: Path) -> None:
    for i in range(9):
        (folder / f"{i}.png").write_bytes(b"no image")
        (folder / f"{i}.txt").write_text("one")


def no_cameras(folder: Path) -> None:
    (folder / "shoe").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "shoe" / "a.png")


MISTAKES = [
    ("images", None, "mine is not there; name a folder of images"),
    ("image", bare, 'there is no kind of data "image"; did you mean "images"?'),
    ("images", lambda folder: None, "there are no images in mine: it is empty"),
    (
        "images",
        bare,
        "none of the 9 images has a caption (that of cat.jpg is in cat.txt); `t2x data caption` writes some",
    ),
    ("images", three, "3 images are too few to train on; 8 are the least"),
    ("images", damaged, "none of the images looked at can be read: 0.png"),
    ("images", lambda folder: (folder / "a.mp4").touch(), "but 1 videos; t2x new videos mine?"),
    ("images", lambda folder: (folder / "a.tar").touch(), "but .tar files; name them as shards in a recipe of yours"),
    ("images", lambda folder: (folder / "a.csv").touch(), "but .csv files; name them as manifest in a recipe of yours"),
    ("videos", bare, "there are no videos in mine, but 9 images; t2x new images mine?"),
    ("objects", no_cameras, "1 folder has images, but no camera file; put cameras.json"),
    ("objects", bare, "there are no objects in mine, but 9 images; t2x new images mine?"),
]


@pytest.mark.parametrize(("kind", "make", "says"), MISTAKES, ids=[says[:30] for _, _, says in MISTAKES])
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, kind, make, says):
    monkeypatch.chdir(tmp_path)
    if make is not None:
        (tmp_path / "mine").mkdir()
        make(tmp_path / "mine")
    assert main(["new", kind, "mine"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.yaml"))


def test_where_it_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    write_good(tmp_path / "mine", 12)
    assert main(["new", "images", "mine", "--out", "nowhere/x.yaml"]) == 2
    assert "cannot write nowhere/x.yaml: No such file" in capsys.readouterr().err
    assert main(["new", "images", "mine", "--out", "x.txt"]) == 2
    assert "x.txt must end in .yaml" in capsys.readouterr().err
