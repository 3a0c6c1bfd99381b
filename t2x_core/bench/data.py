"""Clips as the loader reads them, against PyAV and decord alone on the same videos: which is right, which faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2x_core.errors import UserError
from t2x_core.video import Choice, DamagedClipError, ShortClipError, Video, Videos
from t2x_core.video.child import ALIKE, GLANCE, clip_of
from t2x_core.video.display import Display
from t2x_core.video.pyav_reader import decoded_times
from t2x_core.video.reader import WHITE, Frames, reader_class

VIDEOS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mpg")
HEIGHT, WIDTH, LENGTH, RATE = 360, 640, 96, 24
"""Of videos that are made for the purpose: height and width in pixels, frames, frames a second."""
PLACES = (0.03, 0.31, 0.5, 0.77, 1.0)
"""Where the clips begin whose content is checked."""
READERS = ("pyav", "decord")


@dataclass
class Content:
    """How many clips of a reader show what a full decode shows at these times."""

    right: int = 0
    clips: int = 0
    wrong: list[str] = field(default_factory=list)
    """Names of the videos of which it gave other frames, or none."""


@dataclass(frozen=True)
class DataBenchmark:
    """Seconds per clip, block by block; they took turns. `pyav` and `decord` run in this process."""

    loader: list[float]
    pyav: list[float]
    decord: list[float]
    content: dict[str, Content]
    """Reader ("loader", "pyav", "decord") → what it reads."""

    def ratio(self, reader: str = "pyav") -> float:
        """Median over neighbouring blocks of (loader / reader)."""
        return statistics.median(self._ratios(reader))

    def spread(self, reader: str = "pyav") -> tuple[float, float]:
        """The quartiles of that ratio."""
        low, _, high = statistics.quantiles(self._ratios(reader), n=4)
        return low, high

    def verdict(self) -> str:
        """Which reader is right, and the faster one of these."""
        right = [name for name in READERS if not self.content[name].wrong]
        if not right:
            return "neither reader is right about all of these"
        if len(right) == 1:
            return f"{right[0]}: alone right about all of these"
        fastest = min(right, key=lambda name: statistics.median(getattr(self, name)))
        return f"{fastest}: both are right about all of these, and it is the faster one"

    def _ratios(self, reader: str) -> list[float]:
        return [a / b for a, b in zip(self.loader, getattr(self, reader), strict=True)]


def bench_data(videos: Sequence[Path], blocks: int, frames: int, stride: int, size: int) -> DataBenchmark:
    """Reads clips of all videos in turns: as the loader does (`Videos.clip`), and by each reader in this process.

    All open the video for each clip, find the times of its frames, and decode those that are chosen, scaled so that the
    shorter side has `size` pixels, and crop the square in the middle. A video that decord cannot open costs it nothing.
    """
    reader, choice = Videos(), Choice(frames, stride=stride)
    measured = {str(video): reader.measure(str(video), whole=True) for video in videos}
    content = check_content(reader, measured, choice)
    taken: dict[str, list[float]] = {"loader": [], **{name: [] for name in READERS}}
    for block in range(blocks + 1):
        place = (block * 0.618) % 1
        for name, seconds in taken.items():
            began = time.perf_counter()
            for path, video in measured.items():
                scaled = _covering(video, size)
                if name == "loader":
                    reader.clip(path, choice, place, scaled, (size, size), exact=video.exact)
                else:
                    with suppress(DamagedClipError, ShortClipError):
                        _alone(name, path, choice, place, scaled, (size, size))
            if block:  # the first one warms up
                seconds.append((time.perf_counter() - began) / len(videos))
    reader.close()
    return DataBenchmark(**taken, content=content)


def check_content(loader: Videos, measured: dict[str, Video], choice: Choice) -> dict[str, Content]:
    """Compares clips of each reader with the frames that a decode of the whole video shows at these times."""
    found = {name: Content() for name in ("loader", *READERS)}
    for path, video in measured.items():
        times, shown = full_decode(path)
        for place in PLACES:
            expected = shown[choice(times, place)[0]].astype(np.int16)
            for name, content in found.items():
                content.clips += 1
                try:
                    if name == "loader":
                        frames, _ = loader.clip(path, choice, place, GLANCE, GLANCE, exact=video.exact)
                    else:
                        frames = _alone(name, path, choice, place, GLANCE, GLANCE)
                    same = np.abs(frames - expected).mean((1, 2, 3)).max() <= ALIKE
                except (DamagedClipError, ShortClipError):
                    same = False
                content.right += int(same)
                if not same and Path(path).name not in content.wrong:
                    content.wrong.append(Path(path).name)
    return found


def full_decode(path: str) -> tuple[np.ndarray, Frames]:
    """(F,) times in seconds and (F, *GLANCE, 3) frames of a whole video, decoded from its beginning to its end."""
    import av

    with av.open(path) as container:
        stream: Any = container.streams.best("video")
        show, stamps, frames = Display(stream.sample_aspect_ratio, GLANCE, WHITE), [], []
        frame: Any
        for frame in container.decode(stream):
            stamps.append((frame.pts, frame.dts))
            frames.append(show(frame))
        rate = stream.average_rate
        return decoded_times(stamps, float(stream.time_base), float(rate) if rate else None), np.stack(frames)


def _covering(video: Video, size: int) -> tuple[int, int]:
    scale = size / min(video.height, video.width)
    return max(size, round(video.height * scale)), max(size, round(video.width * scale))


def _alone(name: str, path: str, choice: Choice, place: float, size: tuple[int, int], crop: tuple[int, int]) -> Frames:
    """A clip by one reader in this process."""
    return clip_of(reader_class(name)(path, size), choice, place, crop)[1]


def find_videos(folder: Path) -> list[Path]:
    """The videos in a folder and those below it. UserError if there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS)
    if not found:
        raise UserError(
            f"there are no videos in {folder}", where="command line", hint=f"these are: {', '.join(VIDEOS)}"
        )
    return found


def write_videos(folder: Path, count: int = 8) -> list[Path]:
    """Videos of a moving pattern with some noise, every other one H.264 in MP4, VP9 in WebM."""
    import av

    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(0).integers(0, 24, (HEIGHT, WIDTH, 1))
    made = []
    for i in range(count):
        path = folder / f"{i}{('.mp4', '.webm')[i % 2]}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264" if i % 2 == 0 else "libvpx-vp9", rate=RATE)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            stream.options = {"preset": "veryfast"} if i % 2 == 0 else {"deadline": "realtime", "cpu-used": "8"}
            for n in range(LENGTH):
                waves = [np.sin((x * a + y * b) / 40 + n / 6 + i) for a, b in ((1, 0), (0, 1), (1, 1))]
                image = (100 + 90 * np.stack(waves, -1) + np.roll(noise, 3 * n, 1)).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        made.append(path)
    return made
