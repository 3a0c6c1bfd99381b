"""`t2x bench data`: both sides read the same frames, and the figures come out."""

from __future__ import annotations

import json
import tarfile
from fractions import Fraction

import pytest

from t2x_core.bench import images
from t2x_core.bench.data import PLACES, Content, DataBenchmark, check_content
from t2x_core.cli.main import main
from t2x_core.video import Choice, Videos
from tests.video.corpus import KINDS, edit, write
from tests.video.video_set import write_video


def test_content_is_compared_with_a_full_decode(tmp_path):
    """decord counts packets of an edit list that hides some, and is found out; the loader is right."""
    plain = write_video(tmp_path / "plain.mp4", frames=40)
    kind = next(kind for kind in KINDS if kind.name == "h264-closed")
    write(kind, tmp_path / "edited.mp4")
    edit(tmp_path / "edited.mp4", 17, 50, Fraction(24))
    loader = Videos()
    measured = {str(path): loader.measure(str(path), True) for path in (plain, tmp_path / "edited.mp4")}
    assert [video.exact for video in measured.values()] == [True, False]
    content = check_content(loader, measured, Choice(8, stride=2))
    assert content["loader"].wrong == content["pyav"].wrong == []
    assert content["loader"].right == content["loader"].clips == 2 * len(PLACES)
    assert content["decord"].wrong == ["edited.mp4"]


def test_the_ratio_is_the_median_over_neighbouring_blocks():
    content = {name: Content(4, 4) for name in ("loader", "pyav", "decord")}
    result = DataBenchmark([1.1, 2.0, 3.3], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0], content)
    assert result.ratio() == pytest.approx(1.1)
    low, high = result.spread()
    assert low < 1.1 <= high
    assert result.verdict().startswith("decord: both are right")
    content["decord"].wrong.append("a.mp4")
    assert result.verdict().startswith("pyav: alone right")


def test_the_command_prints_and_writes_its_figures(tmp_path, capsys):
    for i in range(2):
        write_video(tmp_path / f"{i}.mp4", frames=20)
    command = [
        "bench",
        "data",
        str(tmp_path),
        "--blocks",
        "2",
        "--frames",
        "4",
        "--size",
        "32",
        "--images",
        "0",
        "--json",
    ]
    assert main([*command, str(tmp_path / "x.json")]) == 0
    printed = capsys.readouterr().out
    assert "2 turns of 2 clips of 4 frames" in printed
    assert "10 of 10 clips are what a full decode shows" in printed
    assert "both are right about all of these" in printed
    written = json.loads((tmp_path / "x.json").read_text())
    assert len(written["loader"]) == len(written["pyav"]) == len(written["decord"]) == 2
    assert written["content"]["loader"] == {"right": 10, "clips": 10, "wrong": []}
    assert main(["bench", "data", str(tmp_path), "--blocks", "2", "--frames", "40", "--images", "0"]) == 2
    assert "has 20 frames, fewer than the 79 needed" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["bench", "data", str(tmp_path / "empty")]) == 2
    assert "there are no videos in" in capsys.readouterr().err


def test_images_from_files_and_shards_take_turns(tmp_path, capsys):
    """All read the same 96 images as tensors of one shape; the speed is the baseline's time over that of t2x."""
    result = images.bench_images(tmp_path, 96, turns=2, workers=1)
    assert list(result.seconds) == ["folder", "bare loop", "tar", "webdataset"]
    assert all(len(turns) == 2 and min(turns) > 0 for turns in result.seconds.values())
    bare = images._Bare(tmp_path / "folder")
    assert len(bare) == 96
    assert bare[0].shape == (3, 224, 224)
    with tarfile.open(tmp_path / "tar" / "0000.tar") as tar:
        member = tar.extractfile("000000.jpg")
        assert member is not None
        assert member.read() == (tmp_path / "folder" / "000000.jpg").read_bytes()
    made = images.ImagesBenchmark({"folder": [1.0, 2.0, 4.0], "bare loop": [2.0, 2.0, 2.0]})
    assert made.ratio("folder", "bare loop") == 1.0
    assert made.speed("folder", "bare loop") == [2.0, 1.0, 0.5]
    assert main(["bench", "data", "--images", "5"]) == 2
    assert "--images must be 0, or at least 64, not 5" in capsys.readouterr().err
