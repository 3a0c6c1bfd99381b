"""Videos of many kinds whose frames carry their number in pixels; it is known by construction what a player shows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 64, 96
COUNT = 90
"""Frames of a video before it is trimmed."""
BITS = 8
MPEG4 = {"b": "2000000", "bf": "2"}
X265 = "log-level=none:pools=none"


def frame(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3): the number in binary, below it its complement, and waves that move."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        columns = slice(bit * width // BITS, (bit + 1) * width // BITS)
        pixels[: height // 4, columns] = 235 if number >> bit & 1 else 20
        pixels[height // 4 : height // 2, columns] = 20 if number >> bit & 1 else 235
    y, x = np.mgrid[: height - height // 2, :width]
    waves = 128 + 60 * np.sin((x + 3 * number) / 7) + 40 * np.sin((y - 2 * number) / 5)
    pixels[height // 2 :] = waves[..., None].astype(np.uint8)
    return pixels


def number_of(image: np.ndarray) -> int:
    """Which frame an image (h, w, 3) is; -1: none."""
    height, width = image.shape[:2]
    grey, number = image.astype(float).mean(-1), 0
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        columns = slice(left + (right - left) // 4, right - (right - left) // 4)
        upper = grey[height // 16 : height // 4 - height // 16, columns].mean()
        lower = grey[height // 4 + height // 16 : height // 2 - height // 16, columns].mean()
        if abs(upper - lower) < 80:
            return -1
        number |= int(upper > lower) << bit
    return number


@dataclass(frozen=True)
class Kind:
    """A codec with a structure of its groups of images, in a container."""

    name: str
    suffix: str
    codec: str
    gop: int = 12
    options: dict[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    container: dict[str, str] = field(default_factory=dict)


def x264(more: str = "") -> dict[str, str]:
    return {"x264-params": f"threads=1:{more}".rstrip(":"), "crf": "16"}


def x265(more: str) -> dict[str, str]:
    return {"x265-params": f"{X265}:{more}", "crf": "14"}


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
VPX = {"b": "800000", "deadline": "realtime", "cpu-used": "6"}
ALT_REF = {"b": "400000", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4"}
KINDS = (
    Kind("h264-closed", ".mp4", "libx264", options=x264("bframes=3")),
    Kind("h264-closed-mkv", ".mkv", "libx264", options=x264("bframes=3")),
    Kind("h264-no-b", ".mov", "libx264", options=x264("bframes=0")),
    Kind("h264-open", ".mp4", "libx264", options=x264("open-gop=1:bframes=3")),
    Kind("h264-open-mkv", ".mkv", "libx264", options=x264("open-gop=1:bframes=3:b-pyramid=normal")),
    Kind("h264-refresh", ".mp4", "libx264", options=x264("intra-refresh=1")),
    Kind("h264-refresh-mkv", ".mkv", "libx264", options=x264("intra-refresh=1:bframes=2")),
    Kind("h264-long", ".mp4", "libx264", gop=250, options=x264("bframes=3")),
    Kind("h264-interlaced", ".mp4", "libx264", options=x264("tff=1")),
    Kind("h264-fragmented", ".mp4", "libx264", options=x264("bframes=3"), container=FRAGMENTS),
    Kind("h264-open-fragmented", ".mp4", "libx264", options=x264("open-gop=1"), container=FRAGMENTS),
    Kind("h264-10-bit", ".mp4", "libx264", options=x264(), pixels="yuv420p10le"),
    Kind("h264-ts", ".ts", "libx264", options=x264("bframes=3")),
    Kind("h264-avi", ".avi", "libx264", options=x264("bframes=2")),
    Kind("h264-flv", ".flv", "libx264", options=x264("bframes=2")),
    Kind("hevc-open", ".mp4", "libx265", options=x265("open-gop=1:bframes=4")),
    Kind("hevc-open-mkv", ".mkv", "libx265", options=x265("open-gop=1:bframes=3")),
    Kind("hevc-closed", ".mp4", "libx265", options=x265("open-gop=0:bframes=3")),
    Kind("hevc-radl", ".mp4", "libx265", options=x265("open-gop=0:radl=2:bframes=4:b-adapt=0")),
    Kind("hevc-fragmented", ".mp4", "libx265", options=x265("open-gop=1"), container=FRAGMENTS),
    Kind("hevc-ts", ".ts", "libx265", options=x265("open-gop=1")),
    Kind("mpeg2", ".mpg", "mpeg2video", options=MPEG4),
    Kind("mpeg2-ts", ".ts", "mpeg2video", options=MPEG4),
    Kind("mpeg2-mkv", ".mkv", "mpeg2video", options=MPEG4),
    Kind("mpeg2-mp4", ".mp4", "mpeg2video", options=MPEG4),
    Kind("mpeg1", ".mpg", "mpeg1video", options=MPEG4),
    Kind("mpeg4-mp4", ".mp4", "mpeg4", options=MPEG4),
    Kind("mpeg4-mkv", ".mkv", "mpeg4", options=MPEG4),
    Kind("mpeg4-avi", ".avi", "mpeg4", options=MPEG4),
    Kind("mpeg4-avi-no-b", ".avi", "mpeg4", options={"b": "2000000"}),
    Kind("mpeg4-mov-long", ".mov", "mpeg4", gop=250, options=MPEG4),
    Kind("vp8", ".webm", "libvpx", options=VPX),
    Kind("vp8-alt-ref", ".webm", "libvpx", gop=60, options=ALT_REF),
    Kind("vp9", ".webm", "libvpx-vp9", options=VPX),
    Kind("vp9-alt-ref", ".webm", "libvpx-vp9", gop=60, options=ALT_REF),
    Kind("vp9-mp4", ".mp4", "libvpx-vp9", gop=30, options=ALT_REF),
    Kind("av1", ".mp4", "libsvtav1", gop=24, options={"preset": "10", "crf": "20"}),
    Kind("av1-webm", ".webm", "libsvtav1", gop=24, options={"preset": "10", "crf": "20"}),
    Kind("mjpeg", ".avi", "mjpeg", pixels="yuvj420p", options={"q": "3"}),
    Kind("mjpeg-mov", ".mov", "mjpeg", pixels="yuvj420p", options={"q": "3"}),
    Kind("prores", ".mov", "prores_ks", pixels="yuv422p10le"),
    Kind("ffv1", ".mkv", "ffv1"),
    Kind("huffyuv", ".avi", "huffyuv", pixels="yuv422p"),
    Kind("qtrle", ".mov", "qtrle", pixels="rgb24"),
    Kind("png-mov", ".mov", "png", pixels="rgb24"),
    Kind("wmv2", ".wmv", "wmv2", options={"b": "2000000"}),
    Kind("utvideo", ".avi", "utvideo", pixels="yuv422p"),
    Kind("flv1", ".flv", "flv", options={"b": "2000000"}),
    Kind("raw", ".avi", "rawvideo"),
)
MP4 = tuple(kind for kind in KINDS if kind.suffix in (".mp4", ".mov") and kind.codec != "libsvtav1")


@dataclass(frozen=True)
class Made:
    """A video, and what a player shows of it."""

    name: str
    path: Path
    numbers: Sequence[int]
    """The frames that are shown, in order."""
    times: np.ndarray
    """(frames,) when, in seconds after the first."""


def even(fps: Fraction, count: int = COUNT) -> list[int]:
    """Milliseconds at which frames are shown."""
    return [round(1000 * n / fps) for n in range(count)]


def uneven(count: int = COUNT) -> list[int]:
    """Milliseconds of a variable frame rate."""
    steps = np.random.default_rng(3).choice([20, 33, 40, 80, 120], count - 1)
    return [0, *np.cumsum(steps).tolist()]


def write(
    kind: Kind,
    path: Path,
    fps: Fraction = Fraction(24),
    stamps: Sequence[int] | None = None,
    prepare: Callable[[av.VideoStream], None] = lambda stream: None,
    count: int = COUNT,
) -> Path:
    """Encodes `count` frames; `stamps`: when each is shown, in milliseconds, instead of a frame rate."""
    with av.open(str(path), "w", options=kind.container) as container:
        stream = container.add_stream(kind.codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt, stream.options = HEIGHT, WIDTH, kind.pixels, kind.options
        stream.codec_context.gop_size = kind.gop
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for n in range(count):
            image = av.VideoFrame.from_ndarray(frame(n), format="rgb24")
            if stamps is not None:
                image.pts, image.time_base = stamps[n], Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path


def trim_start(source: Path, target: Path, first: int, fps: Fraction) -> int:
    """Cuts without encoding anew, so that frame `first` is to be the first one shown; returns which one is.

    As players and `ffmpeg -ss -c copy` do it: packets begin at the key frame before, with times below zero, and an MP4
    hides these by an edit list.
    """
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        base = packets[0].time_base
        begin = min(packet.pts for packet in packets)
        cut = begin + round(first / fps / base)
        start = max(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= cut)
        with av.open(str(target), "w") as out:
            copy = out.add_stream_from_template(stream)
            for packet in packets[start:]:
                packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, copy
                out.mux(packet)
    return first


def edit(path: Path, first: int, count: int, fps: Fraction) -> None:
    """Writes an edit list into an MP4 that has one: `count` frames from `first` on are to be shown."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # version 0: duration in the movie's units, start in the track's, rate
    movie = struct.unpack(">I", data[data.index(b"mvhd") + 16 :][:4])[0]
    track = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    _, start, _ = struct.unpack(">IiI", data[entry : entry + 12])
    new = struct.pack(">IiI", round(count / fps * movie), start + round(first / fps * track), 1 << 16)
    data[entry : entry + 12] = new
    path.write_bytes(data)


def all_videos(folder: Path, every: int = 1) -> Iterator[Made]:
    """The corpus; `every`: only each n-th of it."""
    for place, (name, make) in enumerate(_recipes(folder)):
        if place % every == 0:
            numbers, times, path = make()
            yield Made(name, path, numbers, np.asarray(times, float) - times[0])


Recipe = Callable[[], tuple[Sequence[int], Sequence[float], Path]]


def _recipes(folder: Path) -> Iterator[tuple[str, Recipe]]:
    rates = (Fraction(24), Fraction(30000, 1001), Fraction(12))
    for i, kind in enumerate(KINDS):
        fps = rates[i % 3] if kind.codec not in ("mpeg1video", "mpeg2video") else rates[i % 2]
        yield kind.name, _whole(kind, folder / f"{kind.name}{kind.suffix}", fps)
        yield f"{kind.name} short", _whole(kind, folder / f"{kind.name}-short{kind.suffix}", fps, 31)
    for kind in KINDS:
        if kind.suffix in (".mp4", ".mov", ".mkv", ".webm") and kind.codec != "mpeg2video":  # which knows few rates
            yield f"{kind.name} uneven", _uneven(kind, folder / f"{kind.name}-uneven{kind.suffix}")
    for kind in MP4:
        if not kind.container:
            yield f"{kind.name} trimmed", _trimmed(kind, folder, 20)
            yield f"{kind.name} trimmed late", _trimmed(kind, folder, 31)
    for kind in MP4:
        if kind.codec in ("libx264", "libx265", "mpeg4") and not kind.container:
            yield f"{kind.name} edited", _edited(kind, folder / f"{kind.name}-edited{kind.suffix}")


def _whole(kind: Kind, path: Path, fps: Fraction, count: int = COUNT) -> Recipe:
    return lambda: (range(count), [n / float(fps) for n in range(count)], write(kind, path, fps, count=count))


def _uneven(kind: Kind, path: Path) -> Recipe:
    return lambda: (range(COUNT), [t / 1000 for t in uneven()], write(kind, path, stamps=uneven()))


def _trimmed(kind: Kind, folder: Path, first: int) -> Recipe:
    def make() -> tuple[Sequence[int], Sequence[float], Path]:
        fps = Fraction(24)
        source = write(kind, folder / f"{kind.name}-before{kind.suffix}", fps)
        path = folder / f"{kind.name}-from-{first}{kind.suffix}"
        trim_start(source, path, first, fps)
        numbers = range(first, COUNT)
        return numbers, [n / float(fps) for n in numbers], path

    return make


def _edited(kind: Kind, path: Path) -> Recipe:
    def make() -> tuple[Sequence[int], Sequence[float], Path]:
        fps, first, count = Fraction(24), 17, 50
        write(kind, path, fps)
        edit(path, first, count, fps)
        numbers = range(first, first + count)
        return numbers, [n / float(fps) for n in numbers], path

    return make
