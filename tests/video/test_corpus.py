"""Clips of a generated corpus of videos, compared with what a full decode shows at each time."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t2x_core.video import Choice, Videos
from tests.video.corpus import HEIGHT, KINDS, WIDTH, Made, all_videos, number_of, write

SIZE = (HEIGHT, WIDTH)
CHOICES = (Choice(8, fps=9), Choice(8, stride=2), Choice(3, stride=1), Choice(1, fps=1), Choice(4, fps=3.5))


def full_decode(made: Made) -> tuple[list[int], np.ndarray]:
    """Numbers of all frames that a decoder shows, and their times; of AVI, which has none, those it was made with."""
    with av.open(str(made.path)) as container:
        shown = [(f.pts, f.time_base, number_of(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    if made.path.suffix == ".avi":
        return [number for *_, number in shown], made.times
    times = np.asarray([float(pts * base) for pts, base, _ in shown])
    return [number for *_, number in shown], times - times[0]


def wrong_clips(videos: Videos, made: Made, places: np.ndarray) -> tuple[int, list[str]]:
    """How many clips of a video were read, and those that are not what a full decode shows."""
    numbers, times = full_decode(made)
    path, wrong, count = str(made.path), [], 0
    if "refresh" not in made.name:  # cut in the midst of a refresh, its first frames cannot be decoded
        assert numbers == list(made.numbers), made.name
        assert np.abs(times - made.times).max() < 2e-3, made.name  # some containers round to milliseconds
    video = videos.measure(path, whole=True)
    assert video.frames == len(numbers), made.name
    assert video.seconds == pytest.approx(times[-1], abs=1e-3), made.name
    for exact in {False, video.exact}:
        for choice in CHOICES:
            for place in places:
                expected = [numbers[n] for n in choice(times, place)[0]]
                frames, _ = videos.clip(path, choice, float(place), SIZE, SIZE, exact=exact)
                found, count = [number_of(frame) for frame in frames], count + 1
                if found != expected:
                    wrong.append(f"{made.name} {choice} {place:.3f} exact={exact}: {found}, not {expected}")
    return count, wrong


def test_a_part_of_the_corpus(tmp_path: Path) -> None:
    videos, total, wrong = Videos(60), 0, []
    for made in all_videos(tmp_path, every=11):
        count, bad = wrong_clips(videos, made, np.asarray([0.0, 0.618]))
        total, wrong = total + count, wrong + bad
        made.path.unlink()
    assert not wrong
    assert total >= 150


@pytest.mark.slow
def test_the_whole_corpus(tmp_path: Path) -> None:
    videos, total, wrong, kinds = Videos(60), 0, [], 0
    for i, made in enumerate(all_videos(tmp_path)):
        count, bad = wrong_clips(videos, made, np.random.default_rng(i).random(3))
        total, wrong, kinds = total + count, wrong + bad, kinds + 1
        made.path.unlink()
    print(f"{total} clips of {kinds} videos, {len(wrong)} wrong")
    assert not wrong
    assert total >= 2000


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
@pytest.mark.parametrize("name", ["h264-open", "hevc-open-mkv", "mpeg4-avi", "vp8-alt-ref", "mpeg2-ts"])
def test_the_truth_is_also_that_of_the_ffmpeg_program(name: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    path = write(kind, tmp_path / f"a{kind.suffix}", Fraction(24), count=40)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, *SIZE, 3)
    found, _ = Videos(60).clip(str(path), Choice(40, stride=1), 0.0, SIZE, SIZE)
    assert [number_of(frame) for frame in frames] == list(range(40)) == [number_of(frame) for frame in found]


@pytest.mark.parametrize("name", ["h264-ts", "mpeg2-ts", "hevc-ts"])
def test_transport_streams_cut_together_and_cut_short_in_front(name: str, tmp_path: Path) -> None:
    """Where times begin anew the second part follows the first; what lacks its key frame is not shown."""
    kind = next(kind for kind in KINDS if kind.name == name)
    data = write(kind, tmp_path / "a.ts", Fraction(24), count=40).read_bytes()
    (tmp_path / "twice.ts").write_bytes(2 * data)
    videos = Videos(60)
    video = videos.measure(str(tmp_path / "twice.ts"), whole=True)
    assert (video.frames, video.exact) == (80, False)
    assert video.seconds == pytest.approx(79 / 24, abs=2e-3)
    frames, _ = videos.clip(str(tmp_path / "twice.ts"), Choice(8, fps=12), 0.5, SIZE, SIZE)
    assert [number_of(frame) for frame in frames] == [32, 34, 36, 38, 0, 2, 4, 6]
    (tmp_path / "cut.ts").write_bytes(data[len(data) // 3 // 188 * 188 :])
    frames, _ = videos.clip(str(tmp_path / "cut.ts"), Choice(8, fps=12), 1.0, SIZE, SIZE)
    found = [number_of(frame) for frame in frames]
    assert found == list(range(found[0], found[0] + 15, 2))
    assert found[-1] in (38, 39)
