"""Training on clips of one's own."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext
from t2x_core.types import SampleKey
from t2x_core.video import Choice, ShortClipError
from t2x_plugins.text_to_video.clip_source import VideoMeasure
from t2x_plugins.text_to_video.clips import ClipsData
from t2x_plugins.text_to_video.clips_config import ClipsConfig
from tests.video.video_set import number_of, write_damaged, write_video

SUFFIXES = (".mp4", ".webm", ".mov")


def write_good(folder: Path, count: int, frames: int = 24) -> None:
    """Videos with captions, of two aspect ratios and two frame rates."""
    for i in range(count):
        size = (48, 64) if i % 2 else (64, 48)
        file = write_video(folder / f"{i:02d}{SUFFIXES[i % 3]}", frames, 12 if i % 4 < 2 else 24, *size)
        file.with_suffix(".txt").write_text(f"video number {i}\n")


def data_of(folder: Path | None, batch: int = 4, **settings: object) -> ClipsData:
    config = ClipsConfig(folder=folder, **{"size": 32, "frames": 8, "fps": 6, "max_bad_fraction": 0.3, **settings})
    data = ClipsData(config, DataContext(task="t", seed=0, pixel_multiple=8, global_batch=batch))
    data.prepare_data()
    data.setup("fit")
    return data


def key(id: int = 0, bucket: int = 0, step: int = 0) -> SampleKey:
    return SampleKey("t", bucket, id, step, 0)


def numbers(pixels: torch.Tensor) -> list[int]:
    """Which frames (3, F, H, W) are."""
    levels = ((pixels + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    return [number_of(frame) for frame in levels]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_good(folder, 14)
    return folder


def test_clips_come_in_buckets_at_their_frame_rate(good: Path) -> None:
    data = data_of(good, frames=5, held_out=0.2)
    source = data.train_source()
    shapes = [(b.frames, b.height, b.width) for b in source.buckets()]
    assert {frames for frames, *_ in shapes} == {5}
    assert len(shapes) >= 2
    starts = set()
    for bucket, shape in enumerate(source.buckets()):
        for id in range(shape.count):
            sample = source[key(id, bucket, step=id)]
            assert sample.pixels.shape == (3, 5, shape.height, shape.width)
            found = numbers(sample.pixels)
            number = int(sample.caption.split()[-1])
            step = 2 if number % 4 < 2 else 4  # 12 or 24 frames a second, read at 6
            assert np.diff(found).tolist() == [step] * 4, sample.caption
            assert sample.extra["fps"] == 6
            starts.add(found[0])
    assert len(starts) > 2  # they begin anywhere
    assert torch.equal(source[key(1, 0, 3)].pixels, source[key(1, 0, 3)].pixels)
    conditions = data.val_conditions(3)
    assert conditions.extra["fps"].tolist() == [6, 6, 6]


def test_videos_that_are_too_short_are_named_and_left_out(good: Path) -> None:
    """At 24 frames a second 24 frames last less than a second: too short for 8 frames at 6 a second."""
    data = data_of(good, max_bad_fraction=0.9)
    named = data.context.quarantine.named("t")
    assert len(named) == 6
    assert all(reason == "lasts 0.958 s, less than the 1.17 s needed" for reason in named.values())
    assert any(line.startswith("6 videos are too short and are left out: 02.mov") for line in data.describe())
    with pytest.raises(UserError, match=r"6 of 14 videos cannot be read, more than a share of 0.3"):
        data_of(good, max_bad_fraction=0.3)


def test_each_video_gives_the_longest_clip_it_can(good: Path) -> None:
    source = data_of(good, batch=2, frames=(4, 8)).train_source()
    assert {bucket.frames for bucket in source.buckets()} == {4, 8}
    for bucket, shape in enumerate(source.buckets()):
        for id in range(shape.count):
            sample = source[key(id, bucket)]
            assert shape.frames == (8 if int(sample.caption.split()[-1]) % 4 < 2 else 4)


def test_strides_and_images(good: Path, tmp_path: Path) -> None:
    write_good(tmp_path, 6)
    for i in range(6):
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(tmp_path / f"still_{i}.png")
        (tmp_path / f"still_{i}.txt").write_text("an image")
    source = data_of(tmp_path, batch=2, frames=(1, 5), fps=None, stride=3, max_aspect_ratio=1).train_source()
    frames = {bucket.frames: i for i, bucket in enumerate(source.buckets())}
    assert source[key(0, frames[1])].caption == "an image"
    assert source[key(0, frames[1])].pixels.shape == (3, 1, 32, 32)
    sample = source[key(0, frames[5])]
    assert np.diff(numbers(sample.pixels)).tolist() == [3] * 4
    assert sample.extra["fps"].item() == pytest.approx(4, rel=0.02) or sample.extra["fps"].item() == pytest.approx(
        8, rel=0.02
    )


def test_a_manifest_with_several_captions(good: Path, tmp_path: Path) -> None:
    rows = [{"video": f"{i:02d}{SUFFIXES[i % 3]}", "text": [f"a {i}", f"b {i}"]} for i in range(14) if i % 4 < 2]
    (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    from t2x_plugins.captioned.captioned_config import ColumnsConfig

    columns = ColumnsConfig(path="video", captions="text")
    data = data_of(good, manifest=tmp_path / "videos.jsonl", columns=columns)
    assert {data.train_source()[key(0, 0, step)].caption[0] for step in range(20)} == {"a", "b"}


def test_a_video_that_breaks_later_is_replaced_by_another_of_its_bucket(tmp_path: Path) -> None:
    write_good(tmp_path, 8, frames=40)
    data = data_of(tmp_path, batch=2, max_aspect_ratio=1)
    source = data.train_source()
    broken = source.name(key(0))
    (tmp_path / broken).write_bytes(b"")
    sample = source[key(0)]
    assert int(sample.caption.split()[-1]) != int(Path(broken).stem)
    assert torch.equal(sample.pixels, source[key(0)].pixels)
    assert data.context.quarantine.named("t") == {broken: "is empty"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": None}, "how frames are chosen is missing"),
        ({"stride": 2}, "there are both stride and fps"),
        ({"frames": ()}, "name at least one number of frames"),
    ],
)
def test_settings_that_cannot_be(good: Path, settings: dict, message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        data_of(**{"folder": good, **settings})


def test_a_recipe_without_videos_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="folder is missing"):
        ClipsConfig(fps=8).check_trainable()


def test_a_folder_without_videos_is_told_what_videos_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there are no captioned videos in {tmp_path}") as caught:
        data_of(tmp_path)
    assert caught.value.hint == (
        "videos are .3gp, .apng, .avi, .avif, .flv, .gif, .m2ts, .m4v, .mkv, .mov, .mp4, .mpeg, .mpg, .mts, .ogv, "
        ".png, .ts, .webm, .webp, .wmv, each with its caption in a .txt of the same name"
    )


def test_sixty_videos_of_which_seven_are_bad(tmp_path: Path) -> None:
    """A whole run: five damaged videos and two that are too short are named, and nothing stalls."""
    videos = tmp_path / "videos"
    uneven = np.cumsum([0.0, *([0.04, 0.12] * 20)[:39]]).tolist()
    for i in range(53):
        kind = (".mp4", ".webm")[i % 2]
        times = uneven if i % 10 == 3 else None
        file = write_video(videos / f"{i:02d}{kind}", 40, 12 if i % 4 < 2 else 24, 32, 32, times)
        file.with_suffix(".txt").write_text(f"video {i}")
    for i in range(2):
        write_video(videos / f"short_{i}.mp4", 6, 12, 32, 32).with_suffix(".txt").write_text("short")
    bad = write_damaged(videos)
    for name in bad:
        (videos / name).with_suffix(".txt").write_text("bad")
    command = [
        *(sys.executable, "-m", "t2x_core.cli.main", "fit", "text_to_video/quickstart", "--folder", "run"),
        *("tasks.text-to-video.data.moving-shapes=null", f"tasks.text-to-video.data.clips.folder={videos}"),
        *("tasks.text-to-video.data.clips.size=16", "tasks.text-to-video.data.clips.fps=6"),
        *("tasks.text-to-video.data.clips.frames=8", "tasks.text-to-video.data.clips.max_bad_fraction=0.15"),
        *(
            "backbone.width=32",
            "backbone.depth=1",
            "trainer.max_steps=12",
            "trainer.global_batch=4",
            "trainer.workers=2",
        ),
        *("logging.samples=2", "logging.final_score_samples=0", "diffusion.sampler.steps=2", "trainer.threads=1"),
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    named = {Path(row["file"]).name: row["reason"] for row in map(json.loads, lines)}
    assert named.keys() == {*bad, "short_0.mp4", "short_1.mp4"}
    for name, reason in bad.items():
        assert named[name].startswith(reason)
    assert named["short_0.mp4"] == "lasts 0.417 s, less than the 1.17 s needed"
    assert "5 videos cannot be read and are left out: broken.mp4 is damaged" in done.stdout
    assert "2 videos are too short and are left out: short_0.mp4 lasts 0.417 s" in done.stdout
    assert "trained 12 steps" in done.stdout
    assert list((tmp_path / "run" / "samples").glob("*.mp4"))
    assert list((tmp_path / "run" / "samples").glob("*.gif"))


@pytest.mark.parametrize("how", [{"stride": 3}, {"fps": 6.0}, {"fps": 24.0}])
@pytest.mark.parametrize("frames", [1, 5, 16])
def test_which_of_many_videos_are_long_enough_is_as_for_each(how: dict, frames: int) -> None:
    choice, chance = Choice(frames, **how), np.random.default_rng(0)
    counts = chance.integers(1, 200, 2000)
    seconds = np.round(counts / chance.choice([5, 12, 23.976, 24, 60], 2000), 3)
    fits = choice.fits(counts, seconds)
    for count, length, fit in zip(counts.tolist(), seconds.tolist(), fits.tolist(), strict=True):
        if fit:
            choice.check(count, length)
        else:
            with pytest.raises(ShortClipError):
                choice.check(count, length)
    assert fits.any()
    assert fits.all() == (frames == 1)


def test_with_an_index_no_video_is_opened_again_and_little_goes_to_a_loader_process(
    good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"frames": (5, 1), "fps": 6, "held_out": 0.2}
    plain, first = data_of(good, **settings), data_of(good, check="index", **settings)
    monkeypatch.setattr(VideoMeasure, "__call__", lambda *_: pytest.fail("a video was opened"))
    again = data_of(good, check="index", **settings)
    assert plain.describe() == first.describe() == again.describe()
    for one, other in ((plain, again), (first, again)):
        for mine, theirs in zip(
            (one.train_source(), one.val_source()), (other.train_source(), other.val_source()), strict=True
        ):
            assert mine.buckets() == theirs.buckets()
            for bucket in range(len(mine.buckets())):
                assert np.array_equal(mine.hashes(bucket), theirs.hashes(bucket))
    source = pickle.loads(pickle.dumps(again.train_source()))
    assert torch.equal(source[key(1)].pixels, plain.train_source()[key(1)].pixels)
    assert plain.fps == again.fps
    without = len(pickle.dumps(plain.train_source()))
    assert len(pickle.dumps(again.train_source())) < without
