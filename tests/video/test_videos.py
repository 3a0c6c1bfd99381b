"""Reading videos: which frames, by which reader, and what becomes of videos that cannot be read."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from t2x_core.video import Choice, DamagedClipError, ShortClipError, Video, Videos
from t2x_core.video import videos as videos_module
from tests.video.video_set import CODECS, number_of, turn, write_damaged, write_video

UNEVEN = np.cumsum([0.0, *([0.04, 0.12] * 12)[:23]])
"""Times of 24 frames, two at a time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for suffix in CODECS:
        write_video(folder / f"even{suffix}")
    for suffix in (".mp4", ".webm"):
        write_video(folder / f"uneven{suffix}", times=UNEVEN.tolist())
    return folder


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("suffix", CODECS)
def test_frames_are_those_asked_for(folder: Path, suffix: str, reader: str) -> None:
    videos, path = Videos(20, [reader]), str(folder / f"even{suffix}")
    video = videos.measure(path, whole=True)
    assert video == Video(48, 64, 24, pytest.approx(23 / 12, abs=2e-3), exact=reader == "pyav")
    frames, fps = videos.clip(path, Choice(8, fps=6), 0.0, (48, 64), (48, 64))
    assert [number_of(frame) for frame in frames] == list(range(0, 16, 2))
    assert fps == 6
    frames, fps = videos.clip(path, Choice(8, stride=2), 1.0, (48, 64), (48, 64))
    assert [number_of(frame) for frame in frames] == list(range(9, 24, 2))
    assert fps == pytest.approx(6, rel=1e-2)
    (frame,), _ = videos.clip(path, Choice(1, fps=6), 0.5, (48, 64), (48, 64))
    assert number_of(frame) in (11, 12)


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_variable_frame_rate_is_read_by_its_clock(folder: Path, suffix: str, reader: str) -> None:
    videos, path = Videos(20, [reader]), str(folder / f"uneven{suffix}")
    frames, fps = videos.clip(path, Choice(8, fps=5), 0.0, (48, 64), (48, 64))
    shown = [int(np.flatnonzero(i / 5 + 1e-3 >= UNEVEN)[-1]) for i in range(8)]
    assert [number_of(frame) for frame in frames] == shown
    assert shown != list(range(0, 24, 3))  # as if it were even
    assert fps == 5
    _, fps = videos.clip(path, Choice(5, stride=2), 0.0, (48, 64), (48, 64))
    assert fps == pytest.approx(4 / UNEVEN[8], rel=0.02)


def test_frames_are_scaled_and_cropped(folder: Path) -> None:
    videos, path = Videos(20), str(folder / "even.mp4")
    whole, _ = videos.clip(path, Choice(1, fps=1), 0.0, (24, 32), (24, 32))
    assert whole.shape == (1, 24, 32, 3)
    left, _ = videos.clip(path, Choice(1, fps=1), 0.0, (24, 32), (24, 16), (0.5, 0.0))
    right, _ = videos.clip(path, Choice(1, fps=1), 0.0, (24, 32), (24, 16), (0.5, 1.0))
    assert np.array_equal(left, whole[:, :, :16])
    assert np.array_equal(right, whole[:, :, 16:])
    assert abs(whole[0, 4, 28].astype(int) - (220, 20, 20)).max() < 25  # red at the top right
    assert abs(whole[0, 20, 28].astype(int) - (20, 200, 20)).max() < 25


def test_what_a_telephone_has_turned_is_turned_upright(tmp_path: Path) -> None:
    """48 × 64, turned clockwise: the grey left half is at the top, the red top right corner at the bottom right."""
    path = write_video(tmp_path / "a.mp4")
    turn(path)
    videos = Videos(20)
    assert videos.measure(str(path), whole=True) == Video(64, 48, 24, pytest.approx(23 / 12, abs=2e-3))
    (frame,), _ = videos.clip(str(path), Choice(1, stride=1), 1.0, (64, 48), (64, 48))
    assert abs(frame[48, 36].astype(int) - (220, 20, 20)).max() < 25
    assert abs(frame[48, 12].astype(int) - (20, 200, 20)).max() < 25
    assert abs(frame[16, 24].astype(int) - 184).max() < 12  # the last frame's grey, 23 · 8


def test_where_a_clip_begins() -> None:
    """24 frames at 12 a second: sixteen leave room for 8 frames more, eight at 6 a second (14 / 12 s) for 9."""
    times = np.arange(24) / 12
    for place, first in ((0.0, 0), (0.5, 4), (0.999, 8), (1.0, 8)):
        assert Choice(16, stride=1)(times, place) == (list(range(first, first + 16)), pytest.approx(12))
    for place, first in ((0.0, 0), (0.5, 4), (1.0, 9)):
        assert Choice(8, fps=6)(times, place) == (list(range(first, first + 15, 2)), 6)


@pytest.mark.parametrize(
    ("choice", "frames", "fps", "message"),
    [
        (Choice(16, stride=2), 24, 12, "has 24 frames, fewer than the 31 needed"),
        (Choice(16, fps=6), 24, 12, r"lasts 1.92 s, less than the 2.5 s needed"),
        (Choice(8, fps=12), 24, 6, r"has 6 frames a second, fewer than the 12 asked for"),
    ],
)
def test_too_short_is_never_stretched(tmp_path: Path, choice: Choice, frames: int, fps: float, message: str) -> None:
    path = write_video(tmp_path / "a.mp4", frames=frames, fps=fps)
    with pytest.raises(ShortClipError, match=message):
        Videos(20).clip(str(path), choice, 0.0, (48, 64), (48, 64))


def test_damaged_videos_are_named_with_reasons(tmp_path: Path) -> None:
    videos = Videos(20)
    for name, reason in write_damaged(tmp_path).items():
        with pytest.raises(DamagedClipError) as caught:
            videos.measure(str(tmp_path / name), whole=True)
        assert str(caught.value).startswith(reason), name
        assert "\n" not in str(caught.value)
    with pytest.raises(DamagedClipError, match="is not there"):
        videos.measure(str(tmp_path / "nowhere.mp4"), whole=False)


HANGS = """
import sys, time
from t2x_core.video import child, decord_reader
class Hangs(decord_reader.DecordReader):
    def __init__(self, path, size, background=(0, 0, 0)):
        if "{name}" in path:
            {does}
        super().__init__(path, size)
decord_reader.DecordReader = Hangs
child.main()
"""


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Decoders in which decord does something bad at videos of a name."""

    def make(does: str, name: str) -> None:
        script = tmp_path / "decoder.py"
        script.write_text(HANGS.format(does=does, name=name))
        real = videos_module.subprocess.Popen

        def popen(command, **options):
            return real([command[0], str(script)], **options)

        monkeypatch.setattr(videos_module.subprocess, "Popen", popen)

    return make


@pytest.mark.parametrize("does", ["time.sleep(3600)", "import os; os.kill(os.getpid(), 11)"], ids=["hangs", "crashes"])
def test_a_decoder_that_hangs_or_crashes_is_replaced(folder: Path, decoder, does: str) -> None:
    decoder(does, "uneven")
    videos = Videos(4)
    path = str(folder / "uneven.mp4")
    began = time.monotonic()
    frames, _ = videos.clip(path, Choice(8, fps=5), 0.0, (48, 64), (48, 64), exact=True)  # the next reader can
    assert time.monotonic() - began < 20
    assert number_of(frames[-1]) == int(np.flatnonzero(UNEVEN <= 1.401)[-1])
    only = Videos(2, ["decord"])
    with pytest.raises(DamagedClipError, match=r"decoding hangs \(more than 2 s\)|makes the decoder crash"):
        only.measure(path, whole=False)
    assert only.measure(str(folder / "even.mp4"), whole=False).frames == 24  # and goes on


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_the_decoder_is_replaced_now_and_then_and_ends_with_its_owner(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(videos_module, "READS", 3)
    videos, pids = Videos(20), []
    for _ in range(7):
        videos.measure(str(folder / "even.mp4"), whole=False)
        pids.append(videos._decoder._process.pid)
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 1]
    assert not any(alive(pid) for pid in set(pids[:6]))
    videos.close()
    assert not alive(pids[-1])

    reader, writer = os.pipe()
    owner = os.fork()
    if not owner:
        Videos.measure(videos, str(folder / "even.mp4"), False)
        os.write(writer, str(videos._decoder._process.pid).encode())
        time.sleep(60)
        os._exit(0)
    child = int(os.read(reader, 20))
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    for _ in range(50):
        if not alive(child):
            break
        time.sleep(0.1)
    assert not alive(child)


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_clips(tmp_path: Path) -> None:
    """Of this process and of its decoder, which is replaced on the way."""
    paths = [str(write_video(tmp_path / f"{i}{suffix}", 60, 24, 240, 320)) for i, suffix in enumerate(CODECS)]
    videos, choice, seen = Videos(20), Choice(16, fps=12), []

    def resident() -> float:
        pids = (os.getpid(), videos._decoder._process.pid)
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    for i in range(2000):
        videos.clip(paths[i % 4], choice, (i * 0.618) % 1, (128, 171), (128, 128))
        if i % 100 == 99:
            seen.append(resident())
    print([round(m) for m in seen], "MiB")
    assert max(seen[10:]) < max(seen[:10]) + 30
