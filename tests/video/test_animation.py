"""Animated images are clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from t2x_core.types import SampleKey
from t2x_core.video import Choice, Video, Videos, is_animation
from t2x_core.video.reader import reader_class
from tests.text_to_video.test_clips import data_of
from tests.video.corpus import HEIGHT, WIDTH, frame, number_of

SIZE = (HEIGHT, WIDTH)
KINDS = [".gif", ".apng", ".png", ".webp", *([".avif"] if features.check("avif") else [])]


def write(path: Path, count: int = 24, milliseconds: int | list[int] = 80) -> Path:
    """An animation whose frames carry their numbers."""
    images = [Image.fromarray(frame(n)) for n in range(count)]
    kind = {"format": "PNG"} if path.suffix == ".apng" else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0, **kind)
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_frames_are_those_shown_at_their_times(suffix: str, tmp_path: Path) -> None:
    path, videos = str(write(tmp_path / f"a{suffix}")), Videos(60)
    assert videos.measure(path, whole=True) == Video(*SIZE, 24, pytest.approx(23 * 0.08))
    frames, _ = videos.clip(path, Choice(8, fps=6.25), 0.0, SIZE, SIZE)
    assert [number_of(image) for image in frames] == list(range(0, 16, 2))
    frames, fps = videos.clip(path, Choice(5, stride=4), 1.0, SIZE, SIZE)
    assert [number_of(image) for image in frames] == list(range(7, 24, 4))
    assert fps == pytest.approx(12.5 / 4)


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp"])
def test_each_frame_has_its_own_duration_and_none_means_a_tenth(suffix: str, tmp_path: Path) -> None:
    video = reader_class("animation")(str(write(tmp_path / f"a{suffix}", 5, [100, 50, 0, 200, 10])), None)
    assert video.times.tolist() == pytest.approx([0, 0.1, 0.15, 0.25, 0.45])


def test_transparent_parts_show_the_background(tmp_path: Path) -> None:
    images = [Image.new("RGBA", (8, 8), (200, 0, 0, 0 if n else 255)) for n in range(2)]
    for suffix in (".png", ".webp"):
        images[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=images[1:], lossless=True, blend=0)
        video = reader_class("animation")(str(tmp_path / f"a{suffix}"), None, (1, 2, 3))
        assert [video.read([n])[0, 4, 4].tolist() for n in (0, 1)] == [[200, 0, 0], [1, 2, 3]]


def test_what_stands_still_is_no_animation(tmp_path: Path) -> None:
    for suffix in (".gif", ".png", ".webp"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"a{suffix}")
        assert not is_animation(tmp_path / f"a{suffix}")
    assert not is_animation(tmp_path / "absent.gif")


def write_folder(folder: Path) -> None:
    for i in range(8):
        write(folder / f"{i}{('.gif', '.png', '.webp')[i % 3]}", 24).with_suffix(".txt").write_text("moves")
    for i in range(4):
        Image.new("RGB", (96, 64), (50, 60, 20 * i)).save(folder / f"s{i}.png")
        (folder / f"s{i}.txt").write_text("stands still")


def test_a_folder_of_animations(tmp_path: Path) -> None:
    """Still images are passed over, even without captions, unless one frame is a length that is asked for."""
    write_folder(tmp_path)
    (tmp_path / "s0.txt").unlink()
    data = data_of(tmp_path, batch=2, max_aspect_ratio=1)
    assert [bucket.frames for bucket in data.train_source().buckets()] == [8]
    assert data.train_source().buckets()[0].count == 7
    assert any("4 still images are passed over" in line for line in data.describe())
    (tmp_path / "s0.txt").write_text("stands still")
    source = data_of(tmp_path, batch=2, frames=(1, 8), max_aspect_ratio=1).train_source()
    found: dict[str, set[int]] = {}
    for bucket, shape in enumerate(source.buckets()):
        for id in range(shape.count):
            sample = source[SampleKey("t", bucket, id, 0, 0)]
            found.setdefault(sample.caption, set()).add(sample.pixels.shape[1])
            moves = bool((sample.pixels[:, :1] != sample.pixels).any())
            assert moves == (sample.caption == "moves")
    assert found == {"moves": {8}, "stands still": {1}}
    assert torch.is_tensor(sample.pixels)
    assert np.isfinite(sample.pixels).all()
