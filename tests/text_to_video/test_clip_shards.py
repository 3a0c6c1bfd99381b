"""Clips out of videos in tar and Parquet shards: the same frames as from the files, and damage named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from t2x_core.interfaces import DataContext
from t2x_core.types import SampleKey
from t2x_plugins.text_to_video.clips import ClipsData
from t2x_plugins.text_to_video.clips_config import ClipsConfig
from tests.data.shard_set import KINDS, write
from tests.text_to_video.test_clips import numbers
from tests.video.video_set import write_video


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def videos(folder: Path) -> dict[str, tuple[bytes, list[str]]]:
    """Six videos, an animated GIF and a video that is cut short."""
    folder.mkdir()
    files = [write_video(folder / f"{i}{suffix}", 16 + i) for i, suffix in enumerate((".mp4", ".webm", ".mkv") * 2)]
    frames = [Image.new("L", (64, 48), 8 * i) for i in range(16)]
    frames[0].save(folder / "6.gif", save_all=True, append_images=frames[1:], duration=80)
    (folder / "7.mp4").write_bytes(files[0].read_bytes()[:900])
    return {f.name: (f.read_bytes(), [f"video {f.stem}"]) for f in sorted(folder.iterdir())}


def test_the_frames_are_those_of_the_files(tmp_path):
    files, found = videos(tmp_path / "made"), {}
    for kind in KINDS:
        settings = write(kind, tmp_path / kind, files)
        config = ClipsConfig(size=32, frames=4, fps=6, max_bad_fraction=0.3, start="center", **settings)
        data = ClipsData(config, DataContext(task="t", seed=0, pixel_multiple=8, global_batch=1))
        data.prepare_data()
        ((bad, why),) = data.context.quarantine.named("t").items()
        assert bad.endswith({"folder": "7.mp4", "tar": "!7.mp4", "parquet": "!2"}[kind])
        assert "cut short" in why
        clips = {}
        for source in (data.train_source(), data.val_source()):
            for bucket, shape in enumerate(source.buckets()):
                for id in range(shape.count):
                    sample = source[SampleKey("t", bucket, id, 0, 0)]
                    clips[sample.caption] = (numbers(sample.pixels), sample.pixels.shape, float(sample.extra["fps"]))
        found[kind] = clips
    assert len(found["folder"]) == 7
    assert found["folder"] == found["tar"] == found["parquet"]
