"""Clips as the loader reads them, against decord alone on the same films: what the process between them costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2x_core.errors import UserError
from t2x_core.video import Choice, Films

FILMS = (".mp4", ".mov", ".webm", ".mkv")
HEIGHT, WIDTH, LENGTH, RATE = 360, 640, 96, 24
"""Of films that are made for the purpose: height and width in pixels, frames, frames a second."""


@dataclass(frozen=True)
class DataBenchmark:
    """Seconds per clip, block by block; the two took turns."""

    loader: list[float]
    bare: list[float]

    @property
    def ratio(self) -> float:
        """Median over neighbouring blocks of (loader / bare decord)."""
        return statistics.median(a / b for a, b in zip(self.loader, self.bare, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of that ratio."""
        low, _, high = statistics.quantiles((a / b for a, b in zip(self.loader, self.bare, strict=True)), n=4)
        return low, high


def bench_data(films: Sequence[Path], blocks: int, frames: int, stride: int, size: int) -> DataBenchmark:
    """Reads clips of all films in turns: as the loader does (`Films.clip`), and by decord in this process.

    Both open the film for each clip, find the times of its frames, and decode the same ones, scaled so that the shorter
    side has `size` pixels, and crop the square in the middle.
    """
    reader, choice = Films(), Choice(frames, stride=stride)
    paths = [str(film) for film in films]
    sizes = [_covering(reader, path, size) for path in paths]
    loader: list[float] = []
    bare: list[float] = []
    for block in range(blocks + 1):
        place = (block * 0.618) % 1
        began = time.perf_counter()
        for path, covering in zip(paths, sizes, strict=True):
            reader.clip(path, choice, place, covering, (size, size))
        switched = time.perf_counter()
        for path, covering in zip(paths, sizes, strict=True):
            _bare(path, choice, place, covering, size)
        finished = time.perf_counter()
        if block:  # the first one warms up
            loader.append((switched - began) / len(paths))
            bare.append((finished - switched) / len(paths))
    reader.close()
    return DataBenchmark(loader, bare)


def _covering(reader: Films, path: str, size: int) -> tuple[int, int]:
    film = reader.measure(path, whole=False)
    scale = size / min(film.height, film.width)
    return max(size, round(film.height * scale)), max(size, round(film.width * scale))


def _bare(path: str, choice: Choice, place: float, size: tuple[int, int], crop: int) -> np.ndarray:
    import decord

    film = decord.VideoReader(path, ctx=decord.cpu(0), height=size[0], width=size[1], num_threads=1)
    times = np.asarray(film.get_frame_timestamp(range(len(film))), dtype=np.float64)[:, 0]
    numbers, _ = choice(times, place)
    frames = film.get_batch(numbers).asnumpy()
    top, left = (round(0.5 * (side - crop)) for side in size)
    return np.ascontiguousarray(frames[:, top : top + crop, left : left + crop])


def find_films(folder: Path) -> list[Path]:
    """The films in a folder and those below it. UserError if there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FILMS)
    if not found:
        raise UserError(f"there are no films in {folder}", where="command line", hint=f"these are: {', '.join(FILMS)}")
    return found


def write_films(folder: Path, count: int = 8) -> list[Path]:
    """Films of a moving pattern with some noise, every other one H.264 in MP4, VP9 in WebM."""
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
                picture = (100 + 90 * np.stack(waves, -1) + np.roll(noise, 3 * n, 1)).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        made.append(path)
    return made
